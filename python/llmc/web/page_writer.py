"""Pages into a WARC 1.1 file: of each what was asked and what was answered, as it was sent.

ISO 28500:2017, https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/
"""
from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any


class PageWriter:
    """A WARC file that pages are added to, from byte `end` on; what is behind it is cut off.

    Args:
        path: NAME.warc, or NAME.warc.gz with a gzip member for each record
        end: bytes of the file that stay; 0 begins it, with a record of `about`
        about: the fields of that record
    """

    def __init__(self, path: Path, end: int, about: dict[str, str]):
        from warcio.warcwriter import WARCWriter

        if end and (not path.exists() or path.stat().st_size < end):
            raise ValueError(f"{path} is smaller than the {end} bytes that were written to it; "
                             "remove it and its .frontier.jsonl to crawl anew")
        self._file = path.open("r+b" if end else "wb")
        self._file.truncate(end)
        self._file.seek(end)
        self._writer = WARCWriter(self._file, gzip=path.suffix == ".gz", warc_version="1.1")
        if not end:
            self._writer.write_record(self._writer.create_warcinfo_record(path.name, about))

    def __enter__(self) -> PageWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def end(self) -> int:
        """The file's size."""
        return self._file.tell()

    def response(self, url: str, response: Any, address: str, body: bytes) -> Any:
        """The record (warcio's) of httpx's response, from this IP address, with this body, which is
        still packed as it was sent."""
        reason = response.extensions.get("reason_phrase", b"").decode("latin-1")
        headers = _headers(response.headers)
        # the body comes without its chunks; Common Crawl names the header so then
        headers = [(f"X-Crawler-{name}" if name.lower() == "transfer-encoding" else name, value)
                   for name, value in headers]
        return self._record("response", url, body, f"{response.status_code} {reason}", headers,
                            response.http_version, {"WARC-IP-Address": address})

    def add(self, record: Any, request: Any) -> None:
        """Write a response and httpx's request for it; on disk when this returns."""
        url = record.rec_headers.get_header("WARC-Target-URI")
        target = request.url.raw_path.decode("ascii")
        asked = self._record("request", url, b"", f"{target} HTTP/1.1", _headers(request.headers),
                             request.method, {})
        record.raw_stream.seek(0)
        self._writer.write_request_response_pair(asked, record)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _record(self, kind: str, url: str, body: bytes, status: str, headers: list,
                protocol: str, warc_headers: dict[str, str]) -> Any:
        from warcio.statusandheaders import StatusAndHeaders

        http = StatusAndHeaders(status, headers, protocol)
        return self._writer.create_warc_record(url, kind, BytesIO(body), len(body),
                                               http_headers=http, warc_headers_dict=warc_headers)


def _headers(headers: Any) -> list[tuple[str, str]]:
    """httpx's headers as they were sent, in order."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.raw]
