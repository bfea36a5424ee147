"""A file's bytes, decompressed, with a gap where they are damaged: .gz and .zst, told by content.

Archives of the web hold a member (gzip) or a frame (zstandard) for each record, so that there is a
next one to go on with after damage. A .zst may begin with the dictionary of all its frames:
https://iipc.github.io/warc-specifications/specifications/warc-zstd/
"""
from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from llmc.patience import Unreachable

GZIP, ZSTD, ZSTD_DICTIONARY = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x5d\x2a\x4d\x18"
OTHERS = {b"\x04\x22\x4d\x18": "lz4", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\3\4": "zip"}
CHUNK = 1 << 16                 # bytes read at a time
SLICE = 1 << 12                 # and decompressed at a time: what damage takes along, at most
HELD = 1 << 22                  # bytes of a member kept, to look for the next one where it breaks
BEGINNING = 1 << 9              # bytes that must come out of a member to know what it begins with


class Piece(NamedTuple):
    """Some bytes, and where in the file the member they belong to begins."""
    offset: int | None          # None where the file is not compressed
    data: bytes


class Gap(NamedTuple):
    """Bytes of the file that give nothing; what comes after it does not continue what was."""
    offset: int                 # of the member that broke
    kind: str                   # cut_off or damaged
    what: str


class Unreadable(Exception):
    """A file that cannot be read (further), with the reason."""


def must_open(error: Exception, path: str) -> None:
    """An Unreachable for what the system says of a file, such as that it is gone or that it may
    not be read: the same run may read it later. Not for what is wrong in the file."""
    if isinstance(error, OSError) and error.errno:
        raise Unreachable(f"{path} cannot be read: {error.strerror}") from error


def pieces(file: BinaryIO, is_beginning: Callable[[bytes], bool]) -> Iterator[Piece | Gap]:
    """What is in the file. After a gap it goes on at the next member that begins as is_beginning
    wants it."""
    source = _Source(file)
    source.want(CHUNK)
    for magic, name in OTHERS.items():
        if source.raw.startswith(magic):
            raise Unreadable(f"it is compressed by {name}; gzip and zstandard are read")
    codec = _codec(source, is_beginning)
    if codec:
        yield from _members(source, codec, is_beginning)
        return
    while source.want(1):
        yield Piece(None, source.raw)
        source.drop(len(source.raw))


class _Source:
    """Bytes read and not yet used (`raw`), and their place in the file (`at`)."""

    def __init__(self, file: BinaryIO):
        self._file, self.raw, self.at = file, b"", 0

    def want(self, count: int) -> bool:
        """Read until `raw` has so many bytes; whether it has."""
        while len(self.raw) < count:
            try:
                more = self._file.read(CHUNK)
            except Unreachable:
                raise
            except Exception as error:          # every file system of fsspec has its own kinds
                raise Unreadable(f"reading stopped at byte {self.at + len(self.raw)}: "
                                 f"{type(error).__name__}: {error}") from error
            if not more:
                return False
            self.raw += more
        return True

    def drop(self, count: int) -> None:
        self.raw, self.at = self.raw[count:], self.at + count

    def go_back(self, data: bytes) -> None:
        """To where these bytes begin, the last that were dropped."""
        self.raw, self.at = data + self.raw, self.at - len(data)


class _Gzip:
    magic, damage, name = GZIP, (zlib.error,), "gzip member"

    def new(self) -> Any:
        return zlib.decompressobj(16 + zlib.MAX_WBITS)

    def beginning(self, raw: bytes) -> bytes:
        return self.new().decompress(raw, BEGINNING)


class _Zstd:
    magic, name = ZSTD, "zstandard frame"

    def __init__(self, source: _Source):
        import zstandard

        self.damage = (zstandard.ZstdError,)
        dictionary = self._dictionary(source)
        self._decompressor = zstandard.ZstdDecompressor(
            dict_data=dictionary and zstandard.ZstdCompressionDict(dictionary),
            max_window_size=1 << 31)
        self.new = self._decompressor.decompressobj

    def beginning(self, raw: bytes) -> bytes:
        return self._decompressor.stream_reader(raw).read(BEGINNING)

    def _dictionary(self, source: _Source) -> bytes | None:
        """What the skippable frame at the file's begin holds, itself compressed or not."""
        import zstandard

        if not source.raw.startswith(ZSTD_DICTIONARY) or not source.want(8):
            return None
        size = 8 + int.from_bytes(source.raw[4:8], "little")
        if not source.want(size):
            raise Unreadable(f"the file ends within its zstandard dictionary of {size - 8} bytes")
        data = source.raw[8:size]
        source.drop(size)
        if data.startswith(ZSTD):
            try:
                data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
            except zstandard.ZstdError as error:
                raise Unreadable(f"its zstandard dictionary is damaged: {error}") from error
        return data


def _codec(source: _Source, is_beginning: Callable[[bytes], bool]) -> _Gzip | _Zstd | None:
    """How the file is compressed, also where its first bytes are damaged."""
    if source.raw.startswith(GZIP):
        return _Gzip()
    if source.raw.startswith((ZSTD, ZSTD_DICTIONARY)):
        return _Zstd(source)
    if not is_beginning(source.raw):
        for codec in (_Gzip(), _Zstd(source)):
            if _member_at(source.raw, codec, is_beginning) is not None:
                return codec
    return None


def _members(source: _Source, codec: _Gzip | _Zstd,
             is_beginning: Callable[[bytes], bool]) -> Iterator[Piece | Gap]:
    while source.want(1):
        begin, inflate, held = source.at, codec.new(), bytearray()
        try:
            while not inflate.eof:
                if not source.want(1):
                    raise EOFError("the file ends within it")
                part = source.raw[:SLICE]
                data = inflate.decompress(part)
                used = len(part) - len(inflate.unused_data)
                source.drop(used)
                held += part[:used]
                del held[:-HELD]
                if data:
                    yield Piece(begin, data)
        except (EOFError, *codec.damage) as error:
            source.go_back(bytes(held))
            source.drop(1)
            _find_member(source, codec, is_beginning)
            cut_off = isinstance(error, EOFError) and not source.raw
            yield Gap(begin, "cut_off" if cut_off else "damaged",
                      f"damaged {codec.name}: {error}; what bytes {begin} to {source.at} of the "
                      "file hold is lost, or some of it")


def _find_member(source: _Source, codec: _Gzip | _Zstd,
                 is_beginning: Callable[[bytes], bool]) -> None:
    """Go to the next member whose first bytes come out as they should, or to the file's end."""
    while True:
        more = source.want(2 * CHUNK)
        found = _member_at(source.raw, codec, is_beginning)
        if found is not None:
            source.drop(found)
            return
        source.drop(len(source.raw) - CHUNK if more else len(source.raw))
        if not more:
            return


def _member_at(raw: bytes, codec: _Gzip | _Zstd,
               is_beginning: Callable[[bytes], bool]) -> int | None:
    at = raw.find(codec.magic)
    while at >= 0:
        try:
            if is_beginning(codec.beginning(raw[at:at + CHUNK])):
                return at
        except codec.damage:
            pass
        at = raw.find(codec.magic, at + 1)
    return None
