"""Archives of web pages for the tests: good ones, written by warcio."""
from __future__ import annotations

from io import BytesIO
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

DATE = "2024-05-06T07:08:09Z"


def html(number: int, words: int = 40) -> bytes:
    """A page, no two of them alike."""
    text = " ".join(f"word{number}-{i}" for i in range(words))
    return f"<!DOCTYPE html>\n<html><head><title>{number}</title></head><body><p>{text}</p></body></html>".encode()


def record_bytes(number: int, body: bytes | None = None, kind: str = "response", gzip: bool = False,
                 content_type: str = "text/html; charset=utf-8", encoding: str = "", **headers: str) -> bytes:
    """One record with HTTP headers, its id and URL made of its number; header names take _ for -."""
    out = BytesIO()
    writer = WARCWriter(out, gzip=gzip)
    sent = [("Content-Type", content_type)] + [("Content-Encoding", encoding)] * bool(encoding)
    http = StatusAndHeaders("GET / HTTP/1.1" if kind == "request" else "200 OK", [] if kind == "request" else sent,
                            "" if kind == "request" else "HTTP/1.1", is_http_request=kind == "request")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    record = writer.create_warc_record(
        f"http://example.com/{number}", kind, payload=BytesIO(html(number) if body is None else body),
        http_headers=http if kind in ("response", "request", "revisit") else None,
        warc_content_type="text/plain" if kind == "conversion" else "",
        warc_headers_dict={"WARC-Date": DATE, "WARC-Record-ID": f"<urn:uuid:{number:032x}>"} | named)
    writer.write_record(record)
    return out.getvalue()


def arc_bytes(pages: list[bytes]) -> bytes:
    """An ARC file of version 1, as the Internet Archive's format description has it."""
    about = b"1 0 test\nURL IP-address Archive-date Content-type Archive-length\n"
    parts = [b"filedesc://test.arc 0.0.0.0 20080102030405 text/plain %d\n" % len(about), about, b"\n"]
    for number, body in enumerate(pages):
        block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body
        parts += [b"http://example.com/%d 127.0.0.1 20080102030405 text/html %d\n" % (number, len(block)), block, b"\n"]
    return b"".join(parts)


def put(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder
