"""Pages in: WARC, WET and ARC files, or folders of HTML files, to datatrove's documents.

What becomes a document, and its text, id, url and date, is decided by datatrove's own reader of
WARC files (process_record), so that a recipe keeps the ids of the published set. It drops what it
does not want without a word and ends at the first damage; here both are counted, the second is
named, and reading goes on.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any, NamedTuple
from urllib.parse import quote

from llmc.documents import COMPRESSED
from llmc.patience import Unreachable
from llmc.web import brotli_bodies  # noqa: F401  warcio unpacks them with it
from llmc.web.compressed import Unreadable, must_open
from llmc.web.extra import needed, same_library_path
from llmc.web.records import LARGEST, Problem, Record, records

with needed("reading web pages"):
    with same_library_path():
        import pylibmagic       # noqa: F401  the libmagic that python-magic finds is this one

        import magic
    from datatrove.data import Document
    from datatrove.io import get_datafolder
    from datatrove.pipeline.readers.base import BaseDiskReader
    from datatrove.pipeline.readers.warc import process_record
    from datatrove.utils.logging import logger
    from w3lib.encoding import html_body_declared_encoding, http_content_type_encoding, to_unicode
    from warcio.statusandheaders import StatusAndHeaders

HTML = ("text/html", "application/xhtml+xml")
HTML_FILES = (".html", ".htm", ".xhtml")
IDENTIFIED = "WARC-Identified-Payload-Type"
KINDS = ("response", "conversion")      # of records that hold pages; those of WET are conversions


class Page(NamedTuple):
    """As much of a record as process_record looks at."""
    rec_type: str
    rec_headers: StatusAndHeaders
    body: bytes

    def content_stream(self) -> BytesIO:
        return BytesIO(self.body)


class PageReader(BaseDiskReader):
    """What reads pages and names what it cannot read.

    Args:
        data_folder: a folder, local or remote, as datatrove's readers take it
        problems: a folder in which task R writes R.jsonl, one object a problem: file, record
            (counted from 0; None if it is about the file), offset (bytes into the file, where
            compressed the begin of the member), kind, problem. Without it they are warnings in
            the task's log.
        options: those of datatrove's BaseDiskReader

    Statistics: problem and problem_KIND; skipped_TYPE: records that are no pages; what datatrove's
    reader drops: dropped_mime_TYPE, dropped_charset, dropped_empty.
    """

    _requires_dependencies = ["warcio", ("cchardet", "faust-cchardet"), ("magic", "python-magic")]

    def __init__(self, data_folder: Any, problems: Any = None, **options: Any):
        super().__init__(data_folder, **options)
        self.problems = None if problems is None else get_datafolder(problems)
        self._log: Any = None

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        if self.problems is None:
            yield from super().run(data, rank, world_size)
            return
        with self.problems.open(f"{rank:05d}.jsonl", "wt", encoding="utf-8") as self._log:
            yield from super().run(data, rank, world_size)

    def get_document_from_dict(self, data: dict, source_file: str,
                               id_in_file: int) -> Document | None:
        """datatrove's. A file_path that the data has is another one, such as that of the archive
        which a row of FineWeb comes from: it is kept as original_file_path."""
        document = super().get_document_from_dict(data, source_file, id_in_file)
        if document and self.add_file_path:
            ours = self.data_folder.resolve_paths(source_file)
            if (theirs := document.metadata["file_path"]) != ours:
                document.metadata |= {"file_path": ours, "original_file_path": theirs}
        return document

    def name_problem(self, path: str, problem: Problem) -> None:
        """Count it and write it down, at once: a task may be killed."""
        self.stat_update("problem", f"problem_{problem.kind}")
        file = self.data_folder.resolve_paths(path)
        line = {"file": file[1:] if file.startswith("//") else file, "record": problem.number,
                "offset": problem.offset, "kind": problem.kind, "problem": problem.what}
        if self._log is None:
            logger.warning("{file}, record {record} at byte {offset}: {problem}", **line)
            return
        self._log.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._log.flush()

    def document(self, data: dict, path: str, number: int) -> Document | None:
        """The document of what process_record gave; a record without an id, as in ARC, gets the
        one that datatrove gives to data without."""
        if data["id"] is None:
            del data["id"]
        document = self.get_document_from_dict(data, path, number)
        if document is None:
            self.stat_update("dropped_empty")
        return document


class ArchiveReader(PageReader):
    """Reads WARC, WET and ARC (version 1) files, plain or compressed by gzip or zstandard, each
    told by its content. Options as PageReader's, and:

    Args:
        declared: where datatrove's reader would lose a page, believe what is said of it: that it is
            HTML (Content-Type of HTTP), and its charset (the same, or a meta tag); bytes that are
            wrong in it become U+FFFD, as in browsers. Pages gained are counted as kept_declared.
            libmagic takes HTML that begins with blank lines for JavaScript, for example.
    """

    name = "🕷 WARC, WET, ARC"

    def __init__(self, data_folder: Any, problems: Any = None, declared: bool = False,
                 **options: Any):
        super().__init__(data_folder, problems, **options)
        self.declared = declared

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Every page of one file."""
        try:
            with _opened(self.data_folder, filepath, None) as file:
                for found in records(file):
                    with self.track_time():
                        document = self._document(found, filepath)
                    if document:
                        yield document
        except Unreadable as error:
            self.name_problem(filepath, Problem(None, None, "file", str(error)))

    def _document(self, found: Record | Problem, path: str) -> Document | None:
        if isinstance(found, Problem):
            self.name_problem(path, found)
            return None
        record = found.record
        if record.rec_type not in KINDS:
            self.stat_update(f"skipped_{record.rec_type}")
            return None
        problem = Problem(found.number, found.offset, "large",
                          f"decompressed it is more than {LARGEST} bytes")
        try:
            page = Page(record.rec_type, record.rec_headers,
                        record.content_stream().read(LARGEST + 1))
            if len(page.body) <= LARGEST:
                data = process_record(page) or self._lost(page, record.http_headers)
                return self.document(data, path, found.number) if data else None
        except KeyError as error:               # its own, where a header of ARC is not there either
            problem = problem._replace(kind="header", what=f"there is no header for {error}")
        except Exception as error:              # libraries fail on strange bytes in strange ways
            problem = problem._replace(kind="page", what=f"{type(error).__name__}: {error}")
        self.name_problem(path, problem)
        return None

    def _lost(self, page: Page, http: StatusAndHeaders | None) -> dict | None:
        """Count why process_record dropped it, or find it after all."""
        data = _as_declared(page, http) if self.declared else None
        if data and data["text"]:
            self.stat_update("kept_declared")
            return data
        mime = page.rec_headers.get(IDENTIFIED)
        mime = magic.from_buffer(page.body, mime=True) if mime is None else mime
        wanted = mime in HTML or page.rec_type == "conversion" and mime == "text/plain"
        self.stat_update("dropped_charset" if wanted else f"dropped_mime_{mime or 'unnamed'}")
        return None


class HtmlReader(PageReader):
    """Reads HTML files (.html, .htm, .xhtml, also compressed): a file is a document, its id its
    path in the folder. Options as PageReader's, and:

    Args:
        base_url: what comes before the path in a page's url; otherwise it is the file's own URL
    """

    name = "📄 HTML files"

    def __init__(self, data_folder: Any, problems: Any = None, base_url: str = "", **options: Any):
        super().__init__(data_folder, problems, **options)
        self.base_url = base_url

    def read_file(self, filepath: str) -> Iterator[Document]:
        """The page that the file is."""
        name = filepath.lower()
        for suffix in COMPRESSED:
            name = name.removesuffix(suffix)
        if not name.endswith(HTML_FILES):
            self.stat_update("skipped_file")
            return
        try:
            with _opened(self.data_folder, filepath, "infer") as file, self.track_time():
                body = _read(file)
                base = self.base_url or self.data_folder.fs.unstrip_protocol(self.data_folder.path)
                headers = StatusAndHeaders("", [
                    (IDENTIFIED, "text/html"), ("WARC-Record-ID", filepath), ("archive-date", ""),
                    ("WARC-Target-URI", f"{base.rstrip('/')}/{quote(filepath)}")])
                data = process_record(Page("response", headers, body))
                if data is None:
                    self.stat_update("dropped_charset")
                    return
                del data["date"]                # a file's time is that of its last copy
                document = self.document(data, filepath, 0)
            if document:
                yield document
        except Unreadable as error:
            self.name_problem(filepath, Problem(None, None, "file", str(error)))


def _as_declared(page: Page, http: StatusAndHeaders | None) -> dict | None:
    """What process_record gives when it is told that the page is HTML, and in UTF-8."""
    content_type = (http and http.get_header("Content-Type")) or ""
    if not page.rec_headers.get(IDENTIFIED):
        if page.rec_type != "response" or content_type.split(";")[0].strip().lower() not in HTML:
            return None
        headers = [(IDENTIFIED, HTML[0]), *page.rec_headers.headers]
        page = page._replace(rec_headers=StatusAndHeaders("", headers))
        if data := process_record(page):
            return data
    charset = http_content_type_encoding(content_type) or html_body_declared_encoding(page.body)
    return process_record(page._replace(body=to_unicode(page.body, charset).encode())
                          ) if charset else None


def _opened(folder: Any, path: str, compression: str | None) -> Any:
    try:
        return folder.open(path, "rb", compression=compression)
    except Unreachable:
        raise
    except Exception as error:                  # every file system of fsspec has its own kinds
        must_open(error, folder.resolve_paths(path))
        raise Unreadable(f"it cannot be opened: {type(error).__name__}: {error}") from error


def _read(file: Any) -> bytes:
    try:
        body = file.read(LARGEST + 1)
    except Exception as error:                  # and every compression
        raise Unreadable(f"it cannot be read: {type(error).__name__}: {error}") from error
    if len(body) > LARGEST:
        raise Unreadable(f"it is larger than {LARGEST} bytes")
    return body
