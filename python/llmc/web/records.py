"""A WARC, WET or ARC file's records: each that can be read, and what is wrong with the others.

warcio parses a record; its own iterator ends at the first thing it does not understand. This one
names it and goes on where the next record begins, also where a Content-Length reaches into it.
"""
from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

from llmc.web.compressed import Gap, Piece, pieces

LARGEST = 1 << 28               # bytes of a record that are read into memory
LONGEST_LINE = 1 << 20
AFTER = 1 << 10                 # bytes behind a record that are looked at to find the next one
WARC_LINE = rb"(?i:WARC)/(?:1\.[01]|0\.1[78])[ \t\r]*\n"     # the versions that warcio reads
# ARC version 1: URL, IP address, date, content type, length
ARC_LINE = rb"[a-z][a-z0-9+.-]*:[^\s][^\n]* \S+ \d{12,18} \S+ \S+\r*\n"
FORMATS = {"warc": re.compile(WARC_LINE), "arc": re.compile(ARC_LINE)}
WARC_AT_END = re.compile(WARC_LINE + rb"\Z")
# where a record begins within the bytes of another: behind a blank line, in ARC behind a line's end
INNER = {"warc": re.compile(rb"\r*\n\r*\n(?=" + WARC_LINE + rb"[\w-]+:)"),
         "arc": re.compile(rb"\r*\n(?=" + ARC_LINE + rb")")}


class Record(NamedTuple):
    """One that can be read."""
    number: int                 # from 0, those that cannot be read included
    offset: int                 # of its first byte in the file, or of the member that has it
    record: Any                 # warcio's ArcWarcRecord; its stream is in memory


class Problem(NamedTuple):
    """What could not be read, or not as it says."""
    number: int | None          # of the record, or of the next one; None of a whole file
    offset: int | None
    kind: str                   # one word, to count by
    what: str                   # a sentence


def records(file: BinaryIO) -> Iterator[Record | Problem]:
    """Everything that is in the file, compressed or not. An Unreadable where reading it fails."""
    from warcio.recordloader import ArcWarcRecordLoader

    loader = ArcWarcRecordLoader(verify_http=False, arc2warc=False)     # as in warcio's iterator
    stream = _Stream(pieces(file, lambda data: format_of(data) is not None))
    number, empty = 0, True
    while True:
        place = stream.place
        line = stream.readline()
        if stream.ended and not line:
            break
        if not line:
            yield Problem(number, *stream.go_on())
        elif line.strip():
            if kind := format_of(line):
                yield from _record(stream, loader, line, kind, number, stream.offset(place))
                number += 1
            else:
                stream.unread(line)
                yield _junk(stream, number, place)
        empty = empty and not line.strip() and bool(line)
    if empty:
        yield Problem(0, 0, "empty", "there is nothing in the file")


def format_of(line: bytes) -> str | None:
    """warc or arc, where a record of it begins so."""
    return next((name for name, head in FORMATS.items() if head.match(line)), None)


class _Stream:
    """The pieces as one stream of bytes up to the next gap, with a way back."""

    def __init__(self, parts: Iterator[Piece | Gap]):
        self._parts = parts
        self._buffer, self._at = b"", 0
        self._base = 0                          # place of the buffer's first byte
        self._members: list[tuple[int, int]] = []       # place and offset in the file where each
        self.gap: Gap | None = None                     # begins

    @property
    def place(self) -> int:
        """How many bytes came out before."""
        return self._base + self._at

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more, not even behind a gap."""
        return not self._fill() and self.gap is None

    def offset(self, place: int) -> int:
        """Where in the file the member begins that has this place; in one that is not compressed,
        the place itself."""
        if not self._members:
            return place
        return self._members[bisect_right(self._members, place, key=lambda m: m[0]) - 1][1]

    def read(self, count: int) -> bytes:
        parts = []
        while count > 0 and self._fill():
            part = self._buffer[self._at:self._at + count]
            self._at, count = self._at + len(part), count - len(part)
            parts.append(part)
        return b"".join(parts)

    def readline(self, limit: int = LONGEST_LINE) -> bytes:
        parts: list[bytes] = []
        while limit > 0 and not (parts and parts[-1].endswith(b"\n")) and self._fill():
            end = self._buffer.find(b"\n", self._at, self._at + limit) + 1 or self._at + limit
            part = self._buffer[self._at:end]
            self._at, limit = self._at + len(part), limit - len(part)
            parts.append(part)
        return b"".join(parts)

    def unread(self, data: bytes) -> None:
        self._base = self.place - len(data)
        self._buffer, self._at = data + self._buffer[self._at:], 0

    def skip(self, count: int) -> int:
        """How many of these bytes there were."""
        done = 0
        while done < count and (part := self.read(min(count - done, LONGEST_LINE))):
            done += len(part)
        return done

    def go_on(self) -> tuple[int, str, str]:
        """Beyond the gap; what it is."""
        gap, self.gap = self.gap, None
        return gap

    def _fill(self) -> bool:
        """Whether there are bytes to take."""
        while self._at == len(self._buffer) and self.gap is None:
            part = next(self._parts, None)
            if part is None:
                return False
            if isinstance(part, Gap):
                self.gap = part
                return False
            self._base, self._buffer, self._at = self.place, part.data, 0
            if part.offset is not None and (not self._members
                                            or self._members[-1][1] != part.offset):
                self._members.append((self._base, part.offset))
        return self._at < len(self._buffer)


def _record(stream: _Stream, loader: Any, line: bytes, kind: str, number: int,
            offset: int) -> Iterator[Record | Problem]:
    record = loader.parse_record_stream(stream, line, known_format=kind, no_record_parse=True)
    headers = record.rec_headers
    length = headers.get_header("Content-Length" if kind == "warc" else "length")
    if record.rec_type != "arc_header" and not re.fullmatch(r"[0-9]{1,18}", length or ""):
        what = f"its Content-Length is {length!r}" if length else "there is no Content-Length"
        yield Problem(number, offset, "header",
                      f"{what}; {_to_next_record(stream)} bytes up to the next record are left out")
        return
    if record.length > LARGEST:
        done = stream.skip(record.length)
        yield Problem(number, offset, "large", f"{done} of {record.length} bytes are left out; "
                      f"records of up to {LARGEST} are read")
        return
    block, problem = _block(stream, kind, number, offset, record.length)
    if problem:
        yield problem
    if block is None:
        return
    record.raw_stream = BytesIO(block)
    problem = _http(loader, record, len(block))
    yield Problem(number, offset, "header", problem) if problem else Record(number, offset, record)


def _block(stream: _Stream, kind: str, number: int, offset: int,
           size: int) -> tuple[bytes | None, Problem | None]:
    """A record's bytes, if they can be had, and what is wrong about them."""
    block = stream.read(size)
    after = stream.read(AFTER)
    gap = stream.gap if not after.strip() else None
    broken = gap and gap.kind == "damaged" and gap.offset == offset     # a checksum fails last
    if len(block) == size and not broken and (not after.strip() or format_of(after.lstrip())):
        stream.unread(after)
        return block, None
    inner = INNER[kind].search(block + after)
    if inner and inner.start() < size:
        stream.unread((block + after)[inner.end():])
        return block[:inner.start()], Problem(
            number, offset, "content_length", f"its Content-Length is {size}, but the next record "
            f"begins after {inner.start()} bytes; it is taken to end there")
    if len(block) == size and not broken:
        stream.unread(after)                    # what follows is named when it is come to
        return block, None
    kind, what = stream.go_on()[1:] if stream.gap else ("cut_off", "the file ends within it")
    return None, Problem(number, offset, kind, f"{what}; of this record {len(block)} of {size} "
                         "bytes are there")


def _http(loader: Any, record: Any, size: int) -> str | None:
    """Give the record its HTTP headers, if it is to have some; what is wrong."""
    name = "WARC-Target-URI" if record.format == "warc" else "uri"
    if not record.rec_type:
        return "there is no WARC-Type"
    if record.rec_type != "response":
        return None
    uri = record.rec_headers.get_header(name)
    if not uri:
        return "there is no WARC-Target-URI"
    try:
        record.http_headers = loader.load_http_headers("response", uri, record.raw_stream, size)
    except EOFError:
        return "a response without a line of HTTP"
    return None


def _junk(stream: _Stream, number: int, place: int) -> Problem:
    """Go to where the next record begins; what lies before it."""
    first = stream.readline(40)
    stream.unread(first)
    size = _to_next_record(stream)
    offset = stream.offset(place)
    if number == 0 and stream.ended:
        return Problem(0, offset, "format", f"it is neither WARC nor ARC; it begins with {first!r}")
    return Problem(number, offset, "junk", f"{size} bytes belong to no record, the first of them "
                   f"{first!r}; it is damaged here, or the Content-Length before it is too small")


def _to_next_record(stream: _Stream) -> int:
    """Go there, or to the next gap or the end; how many bytes lie before it. Of WARC it may begin
    within a line: what was before it need not end with one."""
    size = 0
    while line := stream.readline():
        begin = 0 if format_of(line) else WARC_AT_END.search(line)
        if begin is not None:
            begin = begin and begin.start()
            stream.unread(line[begin:])
            return size + begin
        size += len(line)
    return size
