"""Servers of files for the tests: one of plain files, as Common Crawl's, and one that speaks as much of the Hugging
Face hub as huggingface_hub asks of a data set."""
from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit


class Files:
    """path -> bytes; asked: each request's method, path and range; failures: path -> what is answered first, each time
    one: a status, or the number of bytes after which the connection ends; ranges: whether it gives parts of files."""

    def __init__(self, files: dict[str, bytes]):
        self.files, self.asked, self.failures = files, [], {}
        self.url, self.ranges = "", True

    def answer(self, method: str, path: str, query: dict, body: bytes) -> tuple[int, dict, bytes]:
        if path in self.files:
            return 200, {}, self.files[path]
        return 404, {}, b""


class Hub(Files):
    """A data set, its README's YAML as an object, at commits: sha -> path -> bytes; main is the last one."""

    def __init__(self, name: str, card: dict, commits: dict[str, dict[str, bytes]]):
        super().__init__({})
        self.name, self.card, self.commits = name, card, commits

    def answer(self, method, path, query, body):
        if not (match := re.fullmatch(rf"/(api/)?datasets/{self.name}(?:/([\w-]+)/([^/]+)(?:/(.*))?)?", path)):
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        api, verb, revision, rest = match.groups()
        sha = list(self.commits)[-1] if revision in (None, "main") else unquote(revision)
        if sha not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = self.commits[sha]
        if not api:
            found = files.get(unquote(rest))
            if found is None:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            return 200, {"X-Repo-Commit": sha}, found
        if verb in (None, "revision"):
            made = {"id": self.name, "sha": sha, "cardData": self.card, "private": False, "tags": []}
        elif verb == "paths-info":
            form = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
            made = [each for each in self.entries(files) if each["path"] in form["paths"]]
        else:
            prefix = f"{unquote(rest)}/" if rest else ""
            deep = query.get("recursive", ["false"])[0].lower() == "true"
            made = [each for each in self.entries(files) if each["path"].startswith(prefix)
                    and (deep or "/" not in each["path"][len(prefix):])]
            if not made:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"Content-Type": "application/json"}, json.dumps(made).encode()

    @staticmethod
    def entries(files: dict[str, bytes]) -> list[dict]:
        folders = {path[:at.start()] for path in files for at in re.finditer("/", path)}
        return [{"type": "directory", "oid": "0", "size": 0, "path": path} for path in sorted(folders)] + [
            {"type": "file", "oid": "0", "size": len(data), "path": path} for path, data in files.items()]


@contextmanager
def served(files: Files) -> Iterator[Files]:
    """Serves them at files.url while it is open."""
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def handle_any(self):
            url, span = urlsplit(self.path), self.headers.get("Range", "")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            files.asked.append((self.command, url.path, span))
            planned = files.failures.get(url.path, [])
            failure = planned.pop(0) if planned else None
            status, headers, data = files.answer(self.command, url.path, parse_qs(url.query), body)
            if failure in (403, 429, 500, 503):
                status, headers, data, failure = failure, {}, b"SlowDown", None
            if status == 200:
                headers.setdefault("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            if status == 200 and files.ranges and (match := re.fullmatch(r"bytes=(\d+)-(\d*)", span)):
                first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                status, data = 206, data[first:last + 1]
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data if failure is None else data[:failure])
            if failure is not None:
                self.close_connection = True

        do_GET = do_HEAD = do_POST = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *args: None        # one that is asked no more cannot send
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
