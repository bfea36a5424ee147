"""Text in: JSON lines, parquet and text files to datatrove's documents.

What becomes a document, and its text, id and metadata, is decided as in datatrove's own readers.
Those pass over a bad line without a word, or end at it; here it is counted, named, and reading goes
on.
"""
from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import Any, BinaryIO

import orjson
from datatrove.data import Document
from datatrove.pipeline.readers import ParquetReader

from llmc import disk
from llmc.documents import COMPRESSED, decompressed
from llmc.patience import Unreachable
from llmc.web.compressed import Unreadable, must_open
from llmc.web.extract import HTML
from llmc.web.pages import PageReader
from llmc.web.records import LARGEST, Problem

PLAIN = (str, int, float, bool, type(None))
MARK = b"\xef\xbb\xbf"          # a byte order mark, which some write before the first line


class Rows(PageReader):
    """What makes a document of each row; a row whose text is no string is named."""

    def row(self, data: dict, path: str, number: int, id_in_file: int) -> Document | None:
        """The document of a row, the number-th of its file; datatrove makes an id of id_in_file."""
        given = data.get(self.text_key)
        missing = "" if self.text_key in data else ", ".join(map(repr, data)) or "none"
        document = super().get_document_from_dict(data, path, id_in_file)
        if document:
            document.metadata.pop(HTML, None)       # of ours, which no one else may set
        if document is None and given == "":
            self.stat_update("dropped_empty")
            return None
        if document is None or not isinstance(document.text, str):
            what = (f"no key {self.text_key!r} among {missing}" if missing else
                    f"{self.text_key!r} is {type(given).__name__}, wanted a string")
            self.name_problem(path, Problem(number, None, "text", what))
            return None
        return document


class RowReader(Rows):
    """Reads files of JSON lines, also compressed by gzip, zstandard, xz or bzip2: a line is a
    document, empty lines are none. Options as PageReader's.

    Kinds of problems: json, object, text, encoding, row (datatrove cannot make a document of it),
    large (a line of more than 256 MiB), damaged and cut_off (the rest of the file), array (it is
    one JSON array).
    """

    name = "🐿 JSON lines"
    _requires_dependencies = ["orjson"]

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Every row of one file."""
        number = 0
        try:
            with _opened(self.data_folder, filepath) as file:
                while line := file.readline(LARGEST):
                    line = line.removeprefix(MARK) if number == 0 else line
                    with self.track_time():
                        document = self._document(line, filepath, number, file)
                    number += 1
                    if document:
                        yield document
        except Unreachable:
            raise
        except Exception as error:      # every file system and every compression has its own kinds
            must_open(error, self.data_folder.resolve_paths(filepath))
            self.name_problem(filepath, _rest(error, number))

    def _document(self, line: bytes, path: str, number: int, file: BinaryIO) -> Document | None:
        if len(line) == LARGEST and not line.endswith(b"\n"):
            return self._large(path, number, file)
        try:
            if not line.strip():
                return None
            data = orjson.loads(line)
            if isinstance(data, dict):
                for media in data.get("media", []):     # as datatrove's reader does
                    if media["media_bytes"] is not None:
                        media["media_bytes"] = base64.b64decode(media["media_bytes"])
                return self.row(data, path, number, number)
            kind, what = "object", f"{type(data).__name__}, wanted an object"
        except orjson.JSONDecodeError as error:
            if number == 0 and line.lstrip().startswith(b"["):
                raise Unreadable("it begins with [; wanted lines, each an object") from error
            kind, what = "json", f"no JSON: {disk.json_fault(error)}"
            try:
                line.decode()
            except UnicodeDecodeError as wrong:
                kind, what = "encoding", f"no UTF-8: {wrong.reason} at byte {wrong.start}"
        except Exception as error:      # of an adapter, or where datatrove wants other types
            kind, what = "row", f"no document: {type(error).__name__}: {error}"
        self.name_problem(path, Problem(number, None, kind, what))
        return None

    def _large(self, path: str, number: int, file: BinaryIO) -> None:
        while (part := file.readline(LARGEST)) and not part.endswith(b"\n"):
            pass
        self.name_problem(path, Problem(number, None, "large", f"a line of more than {LARGEST} "
                                        "bytes"))


class TextReader(PageReader):
    """Reads text files in UTF-8, also compressed as those of RowReader: a file is a document. One
    that is damaged or in another encoding is left out and named. Options as PageReader's."""

    name = "📄 Text files"
    _requires_dependencies = []

    def read_file(self, filepath: str) -> Iterator[Document]:
        """The document that the file is."""
        try:
            with _opened(self.data_folder, filepath) as file, self.track_time():
                document = self._document(file, filepath)
        except Unreachable:
            raise
        except UnicodeDecodeError as error:
            document = None
            self.name_problem(filepath, Problem(None, None, "encoding",
                                                f"it is not in UTF-8: {error.reason}"))
        except Exception as error:      # every file system and every compression has its own kinds
            must_open(error, self.data_folder.resolve_paths(filepath))
            document = None
            self.name_problem(filepath, _rest(error, 0))
        if document:
            yield document

    def _document(self, file: BinaryIO, path: str) -> Document | None:
        text = io.TextIOWrapper(file, "utf-8-sig").read(LARGEST)
        if len(text) == LARGEST:
            self.name_problem(path, Problem(None, None, "large", f"a text of {LARGEST} characters "
                                            "or more"))
            return None
        document = self.get_document_from_dict({"text": text}, path, 0)
        if document is None:
            self.stat_update("dropped_empty")
        return document


class TableReader(Rows, ParquetReader):
    """datatrove's reader of parquet files; what it cannot read of one is named, and it goes on with
    the next. Options as those of both."""

    name = "📒 Parquet"
    _requires_dependencies = ["pyarrow"]

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Every row of one file, up to the group of rows that is damaged."""
        self._rows = 0
        try:
            yield from super().read_file(filepath)
        except Unreachable:
            raise
        except Exception as error:      # of pyarrow, of Python, of a file system
            must_open(error, self.data_folder.resolve_paths(filepath))
            what = str(error) if isinstance(error, Unreadable) else (
                f"rows from number {self._rows} on cannot be read: {type(error).__name__}: {error}")
            self.name_problem(filepath, Problem(self._rows or None, None, "damaged" if self._rows
                                                else "file", " ".join(what.split())))

    def get_document_from_dict(self, data: dict, source_file: str,
                               id_in_file: int) -> Document | None:
        """The document of a row."""
        if self._rows == 0 and self.text_key not in data:
            raise Unreadable(f"there is no column {self.text_key!r} among {', '.join(data)}")
        self._rows += 1
        text = data.pop(self.text_key)
        if isinstance(text, bytes):             # as some write strings
            with suppress(UnicodeDecodeError):
                text = text.decode()
        data = {key: value if isinstance(value, PLAIN) else orjson.loads(orjson.dumps(
            value, default=_as_text)) for key, value in data.items()}
        return self.row({self.text_key: text} | data, source_file, self._rows - 1, id_in_file)


def _as_text(value: Any) -> str:
    """Of what a table may hold and JSON not: bytes, decimal numbers, spans of time."""
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)


@contextmanager
def _opened(folder: Any, path: str) -> Iterator[BinaryIO]:
    suffix = PurePath(path).suffix.lower()
    with folder.open(path, "rb") as raw:
        with decompressed(raw, suffix if suffix in COMPRESSED else "") as file:
            yield file


def _rest(error: Exception, number: int) -> Problem:
    """What is wrong with a file from its number-th row on."""
    if isinstance(error, Unreadable):
        return Problem(None, None, "array", str(error))
    return Problem(number, None, "cut_off" if isinstance(error, EOFError) else "damaged",
                   f"what follows is lost: {type(error).__name__}: {error}")
