"""Files and folders to documents: .txt, .md, .jsonl, .ndjson and .parquet, each also compressed.

A text file is one document, a row of the others is one. They are read in blocks of about a
megabyte, so that files may be of any size, and only at places where every tokenizer of ours cuts
too: the ids of the blocks are the ids of the whole.
"""
from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from llmc import disk

KINDS = {".txt": "text", ".md": "text", ".jsonl": "rows", ".ndjson": "rows",
         ".parquet": "parquet"}
COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
AS_BYTES = {"string": "binary", "large_string": "large_binary", "string_view": "binary_view"}
BLOCK = 1 << 20                 # bytes read at a time, about
LONGEST = 1 << 23               # characters kept while waiting for a place to cut at

# Between a letter and a space before a letter; and also after a line's end that follows no space
# and comes before a letter or digit. No piece of our patterns reaches across, so nor does a token.
BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])")
CUT = re.compile(r"(?<=\S)\n(?=[^\W_])|" + BETWEEN_WORDS.pattern)


@dataclass(frozen=True)
class Source:
    """A file with documents."""
    path: Path
    kind: str                   # "text", "rows" or "parquet", or what else was looked for
    compression: str            # ".gz", …, or ""


@dataclass
class Block:
    """Some of a file: a part of a text, or some rows."""
    source: Source
    at: int = 1                 # line or row that rows begin at, from 1
    rows: list[Any] | None = None   # JSON lines, or dicts of what lay in parquet's columns
    text: str = ""              # of a text file
    ends: bool = True           # the text's document ends here, or is split here
    tail: bool = False          # the text lies behind the place where its file was to be split
    bad: int = 0                # lines left out because they were not UTF-8; 1 for a file's rest


class BadRow(ValueError):
    """A row that holds no text."""


class Damaged(ValueError):
    """A parquet file that cannot be read."""


def find(paths: Iterable[Path], kinds: Mapping[str, str] = KINDS) -> list[Source]:
    """The files named, and those in the folders named, in order; a ValueError if there are none.
    `kinds` says which endings are wanted, and what each is."""
    sources: dict[Source, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
        else:
            path.stat()                         # the system's own sentence, if it is not there
            inside = [path]
        found = [source for each in inside if (source := _source(each, kinds))]
        if not found:
            wanted = ", ".join(kinds)
            raise ValueError(f"{path} {'holds no' if path.is_dir() else 'is none of the'} files "
                             f"llmc reads: {wanted}, or one of them with {', '.join(COMPRESSED)}")
        sources.update(dict.fromkeys(found))
    return list(sources)


def count(source: Source, limit: int, text_key: str) -> int:
    """How many documents a file has, counted no further than `limit`."""
    if source.kind == "text":
        return 1
    with opened(source) as file:
        if source.kind == "parquet":
            try:
                return min(_parquet(file, source, text_key).metadata.num_rows, limit)
            except Damaged:             # reading it says so, or leaves it out
                return 0
        return sum(1 for _, line in zip(range(limit), file) if line.strip())


def text_size(source: Source) -> int:
    """A text file's bytes once decompressed; that means reading it, where it is compressed."""
    if not source.compression:
        return source.path.stat().st_size
    with opened(source) as file:
        return sum(len(chunk) for chunk in iter(lambda: file.read(BLOCK), b""))


def blocks(source: Source, text_key: str = "text", skip_bad: bool = False,
           split: float | None = None, on_read: Callable[[int], None] = lambda n: None,
           also: Sequence[str] = ()) -> Iterator[Block]:
    """A file's blocks. `split` asks text files to be cut where that share of their bytes is read;
    on_read hears of the file's bytes as they are read; `also` names what else is wanted of rows."""
    at = int(text_size(source) * split) if split and source.kind == "text" else None
    with opened(source, on_read) as file:
        if source.kind == "text":
            yield from _text_blocks(file, source, skip_bad, at)
        elif source.kind == "rows":
            yield from _row_blocks(file, source)
        else:
            yield from _parquet_blocks(file, source, text_key, skip_bad, also)


def texts(block: Block, text_key: str, skip_bad: bool) -> Iterator[str | None]:
    """A block's documents in order, None for each that is bad: BadRow unless skip_bad."""
    if block.rows is None:
        yield block.text
        return
    for found in rows(block, text_key, skip_bad):
        yield None if found is None else found[0]


def rows(block: Block, text_key: str, skip_bad: bool, also: Sequence[str] = (),
         on_bad: Callable[[str], None] = lambda sentence: None,
         ) -> Iterator[tuple[str, dict[str, str]] | None]:
    """The same of rows, each with what of `also` it has as text; on_bad hears what is bad."""
    for at, row in enumerate(block.rows or (), block.at):
        try:
            yield _row_text(row, block.source.kind, text_key, also)
        except BadRow as error:
            bad = f"{block.source.path}:{at}: {error}"
            if not skip_bad:
                raise BadRow(f"{bad}; --skip_bad leaves such rows out") from error
            on_bad(bad)
            yield None


def split_text(text: str, share: float) -> tuple[str, str]:
    """A text's first `share` of its bytes, and what is left."""
    raw = text.encode()
    at = int(len(raw) * share)
    while at < len(raw) and raw[at] & 0xC0 == 0x80:
        at += 1
    return raw[:at].decode(), raw[at:].decode()


def last_cut(text: str) -> int:
    """The last place where a text may be cut without changing its ids; 0 if there is none."""
    for begin in (max(0, len(text) - 4096), 0):
        ends = [match.end() for match in CUT.finditer(text, begin)]
        if ends:
            return ends[-1]
    return 0


@contextmanager
def opened(source: Source, on_read: Callable[[int], None] = lambda n: None) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed. Damage is a ValueError that names the file."""
    import gzip
    import lzma
    import zlib

    import zstandard

    damage = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
    with open(source.path, "rb", buffering=0) as raw:
        try:
            yield decompressed(io.BufferedReader(_Counted(raw, on_read)), source.compression)
        except damage as error:
            raise ValueError(f"{source.path} is damaged or cut off: {error}") from error
        except OSError as error:
            if error.filename is None and source.compression == ".bz2":     # all bz2 can say
                raise ValueError(f"{source.path} is damaged: {error}") from error
            raise


def decompressed(file: BinaryIO, compression: str) -> BinaryIO:
    """A file's bytes out of one of COMPRESSED, or as they are. Reading damage raises what the
    library for that compression raises, and EOFError where the end is missing."""
    import bz2
    import gzip
    import lzma

    if compression == ".gz":
        return gzip.GzipFile(fileobj=file)
    if compression == ".xz":
        return lzma.LZMAFile(file)
    if compression == ".bz2":
        return bz2.BZ2File(file)
    return io.BufferedReader(_Zstd(file)) if compression == ".zst" else file


def endings(path: PurePath) -> tuple[str, str]:
    """How a file's name ends, before what says how it is compressed, and that: .txt and .gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else ""
    return suffixes[-1] if suffixes else "", compression


def _source(path: Path, kinds: Mapping[str, str]) -> Source | None:
    suffix, compression = endings(path)
    kind = kinds.get(suffix)
    return Source(path, kind, compression) if kind else None


def _text_blocks(file: BinaryIO, source: Source, skip_bad: bool,
                 split_at: int | None) -> Iterator[Block]:
    line, mark = 1, "\ufeff"            # a byte order mark, if it is the file's first character
    for limit, tail in ((split_at, False), (None, True)) if split_at else ((None, False),):
        pending, bad, begun = "", 0, False
        for text, dropped, lines in _decoded(file, source, skip_bad, limit, line):
            pending += text.removeprefix(mark)
            bad, line, mark = bad + dropped, line + lines, mark if not text else ""
            cut = last_cut(pending) if len(pending) >= BLOCK else 0
            cut = cut or (len(pending) if len(pending) > LONGEST else 0)
            if cut:
                yield Block(source, text=pending[:cut], ends=False, tail=tail, bad=bad)
                pending, bad, begun = pending[cut:], 0, True
        if pending or bad or begun:
            yield Block(source, text=pending, ends=bool(pending or begun), tail=tail, bad=bad)


def _decoded(file: BinaryIO, source: Source, skip_bad: bool, limit: int | None,
             line: int) -> Iterator[tuple[str, int, int]]:
    """Up to `limit` bytes and the rest of the character there, as text, how many lines of it were
    no UTF-8 and are left out, and how many lines that were. `line` is the number of the first."""
    left = b""
    for chunk in _chunks(file, limit):
        raw = left + chunk
        whole = len(raw) if not chunk else raw.rfind(b"\n") + 1 or _last_character(raw)
        raw, left = raw[:whole], raw[whole:]
        lines = raw.count(b"\n")
        try:
            yield raw.decode(), 0, lines
        except UnicodeDecodeError:
            good = []
            for number, part in enumerate(io.BytesIO(raw), line):
                try:
                    good.append(part.decode())
                except UnicodeDecodeError as error:
                    if not skip_bad:
                        raise ValueError(f"{source.path}:{number}: not UTF-8 ({error.reason}); "
                                         "--skip_bad leaves such lines out") from error
            yield "".join(good), number - line + 1 - len(good), lines
        line += lines


def _chunks(file: BinaryIO, limit: int | None) -> Iterator[bytes]:
    """Up to `limit` bytes and the rest of the character there; the last chunk is empty."""
    done = 0
    while limit is None or done < limit:
        chunk = file.read(BLOCK if limit is None else min(BLOCK, limit - done))
        if not chunk:
            break
        done += len(chunk)
        yield chunk
    while limit is not None and b"\x80" <= file.peek(1)[:1] < b"\xc0":
        yield file.read(1)
    yield b""


def _last_character(raw: bytes) -> int:
    """Where the last character begins, which may not be whole."""
    at = len(raw) - 1
    while at > len(raw) - 4 and at > 0 and raw[at] & 0xC0 == 0x80:
        at -= 1
    return max(at, 0)


def _row_blocks(file: BinaryIO, source: Source) -> Iterator[Block]:
    rows: list[bytes] = []
    at, size = 1, 0
    for line in file:
        rows.append(line)
        size += len(line)
        if size >= BLOCK:
            yield Block(source, at, rows=rows)
            rows, at, size = [], at + len(rows), 0
    if rows:
        yield Block(source, at, rows=rows)


def _row_text(row: Any, kind: str, text_key: str,
              also: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The text of a JSON line or of a row of parquet's, nothing of an empty line, and what of
    `also` it has as text."""
    if kind == "rows":
        if not row.strip():
            return "", {}
        try:
            data = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise BadRow(f"no JSON ({disk.json_fault(error)})") from error
        if not isinstance(data, dict):
            raise BadRow(f"{type(data).__name__}, wanted an object with the key {text_key!r}")
        if text_key not in data:
            raise BadRow(f"no key {text_key!r} among {', '.join(map(repr, data)) or 'none'}")
    else:
        data = row
    return _as_text(data[text_key], text_key), {key: _as_text(data[key], key) for key in also
                                                if isinstance(data.get(key), (str, bytes))}


def _as_text(value: Any, key: str) -> str:
    if not isinstance(value, (str, bytes)):
        raise BadRow(f"{key!r} is {type(value).__name__}, wanted a string")
    try:
        return (value.encode() if isinstance(value, str) else value).decode()
    except UnicodeError as error:               # JSON may hold halves of surrogate pairs
        raise BadRow(f"{key!r} is not UTF-8 ({error.reason})") from error


def _parquet(file: BinaryIO, source: Source, text_key: str) -> Any:
    """The open ParquetFile, which is known to have a column of strings called text_key."""
    import pyarrow
    from pyarrow import parquet

    if source.compression:                      # parquet is read from its end
        whole = tempfile.TemporaryFile()
        shutil.copyfileobj(file, whole)
        file = whole
    try:
        table = parquet.ParquetFile(file)
        kinds = {field.name: field.type for field in table.schema_arrow}
    except (pyarrow.ArrowException, OSError) as error:
        raise Damaged(f"it is no whole parquet file: {error}") from error
    if text_key not in kinds:
        raise ValueError(f"{source.path} has no column {text_key!r}; it has {', '.join(kinds)}")
    if str(kinds[text_key]) not in AS_BYTES:
        raise ValueError(f"{source.path}: column {text_key!r} is {kinds[text_key]}, wanted strings")
    return table


def _parquet_blocks(file: BinaryIO, source: Source, text_key: str, skip_bad: bool,
                    also: Sequence[str]) -> Iterator[Block]:
    import pyarrow

    at = 1
    try:
        table = _parquet(file, source, text_key)
        kinds = {field.name: str(field.type) for field in table.schema_arrow}
        wanted = [key for key in dict.fromkeys((text_key, *also)) if kinds.get(key) in AS_BYTES]
        for batch in table.iter_batches(256, columns=wanted):
            columns = [batch.column(key).cast(AS_BYTES[kinds[key]]).to_pylist()
                       for key in wanted]       # as bytes: strings would have to be UTF-8
            rows = [dict(zip(wanted, values)) for values in zip(*columns)]
            yield Block(source, at, rows=rows)
            at += len(rows)
    except (Damaged, pyarrow.ArrowException, OSError) as error:
        if not skip_bad:
            raise ValueError(f"{source.path} is damaged near row {at}: {error}; --skip_bad leaves "
                             "the rest of it out") from error
        yield Block(source, at, rows=[], bad=1)


class _Counted(io.RawIOBase):
    """A file that tells how many bytes are read from it."""

    def __init__(self, file: io.RawIOBase, on_read: Callable[[int], None]):
        self._file, self._on_read = file, on_read

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self._on_read(count)
        return count


class _Zstd(io.RawIOBase):
    """Decompressed zstandard frames; unlike the package's own reader, it misses a cut-off end."""

    def __init__(self, file: BinaryIO):
        import zstandard

        self._new = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        self._file, self._frame = file, self._new()
        self._ready, self._begun = memoryview(b""), False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = self._file.read(1 << 14)
            if not chunk:
                if self._begun:
                    raise EOFError("it ends within a frame")
                return 0
            self._ready = memoryview(self._decompress(chunk))
        part, self._ready = self._ready[:len(buffer)], self._ready[len(buffer):]
        buffer[:len(part)] = part
        return len(part)

    def _decompress(self, chunk: bytes) -> bytes:
        parts = []
        while chunk:
            self._begun = True
            parts.append(self._frame.decompress(chunk))
            chunk = self._frame.unused_data
            if self._frame.eof:
                self._frame, self._begun = self._new(), False
        return b"".join(parts)
