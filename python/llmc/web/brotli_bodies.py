"""Bodies that were sent in br, for warcio, whose own way ends with every brotli since 1.1."""
from __future__ import annotations

from llmc.web.extra import needed
from llmc.web.records import LARGEST

with needed("reading web pages"):
    import brotli
    from warcio.bufferedreaders import BufferedReader


class Brotli:
    """A decompressor as warcio asks for it."""
    unused_data = b""

    def __init__(self) -> None:
        self._packed = brotli.Decompressor()

    def decompress(self, data: bytes) -> bytes:
        """At most one byte more than a page may have."""
        return self._packed.process(data, output_buffer_limit=LARGEST + 1)

    def flush(self) -> bytes:
        return b""


BufferedReader.DECOMPRESSORS["br"] = Brotli
