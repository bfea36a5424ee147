"""The crawler against a server on loopback: what it asks for, what it writes, and that it goes on."""
from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import brotli
import pytest
from llmc import cli, crawl
from llmc.crawl import Crawl
from llmc.web.links import found_in, normal
from llmc.web.pages import ArchiveReader
from warcio.archiveiterator import ArchiveIterator


class Site:
    """A server; `pages` maps a path to (status, headers, body), and `asked` is what was asked for."""

    def __init__(self):
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        self.agents: set[str] = set()
        self.cookies: list[str | None] = []
        self.stop_at: str | None = None         # a path that is not answered
        self.stopped, self.free = threading.Event(), threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                site.asked.append(self.path)
                site.agents.add(self.headers["User-Agent"])
                site.cookies.append(self.headers["Cookie"])
                if self.path == site.stop_at:
                    site.stopped.set()
                    site.free.wait(60)
                    self.close_connection = True
                    return
                status, headers, body = site.pages.get(self.path, (404, {"Content-Type": "text/html"}, b"no"))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if headers.get("Transfer-Encoding") != "chunked":
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:                 # whoever asked has left
                    self.close_connection = True

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def page(self, path: str, *links: str, text: str = "", **headers: str) -> None:
        """A page with links, its own path its text."""
        body = f"<!DOCTYPE html>\n<html><body><p>this is {path} {text}</p>" + "".join(
            f'<a href="{link}">x</a>' for link in links) + "</body></html>"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[path] = (200, {"Content-Type": "text/html; charset=utf-8"} | named, body.encode())

    def close(self) -> None:
        self.free.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.close()


@pytest.fixture
def other_site():
    site = Site()
    yield site
    site.close()


def fetch(site: Site, out: Path, *paths: str, **options) -> dict[str, str]:
    """Crawl; what came of each path."""
    crawl.run(Crawl(urls=[site.url + path for path in paths or ("/",)], out=out, **({"delay": 0.0} | options)))
    return outcomes(out)


def outcomes(out: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (out.parent / f"{out.name}.frontier.jsonl").open()]
    urls = [line["url"] for line in lines if "url" in line]
    assert len(urls) == len(set(urls))
    return {"/" + line["url"].split("/", 3)[3]: line["outcome"] for line in lines if "url" in line}


def documents(out: Path) -> dict[str, str]:
    """Our reader's texts, by path; the file is whole, and warcio's checker finds no fault."""
    checked = subprocess.run([sys.executable, "-m", "warcio.cli", "check", "-v", str(out)], capture_output=True,
                             text=True)
    assert checked.returncode == 0 and "digest pass" in checked.stdout, checked.stdout + checked.stderr
    step = ArchiveReader(str(out.parent), glob_pattern=out.name)
    found = [("/" + d.metadata["url"].split("/", 3)[3], d.text) for d in step.run()]
    assert step.stats["problem"].total == 0 and len(found) == len(dict(found))
    assert step.stats["skipped_warcinfo"].total == 1 and step.stats["skipped_request"].total == len(found)
    return dict(found)


def test_pages_are_found_and_written_as_they_were_sent(site, tmp_path):
    site.page("/", "/a", "b/", "/a#part", "#here", "mailto:x@example.com", "javascript:void(0)", "http://[", "/ü b")
    site.page("/a", "/", "/a", Set_Cookie="session=1")           # loops
    site.page("/b/", "c.html", Connection="close")
    site.page("/b/c.html", "../a", "/missing", "/pic.png")
    site.page("/%C3%BC%20b")
    site.pages["/pic.png"] = (200, {"Content-Type": "image/png"}, b"\x89PNG")
    site.page("/packed", "/chunked", text="é" * 999)
    status, headers, body = site.pages["/packed"]
    site.pages["/packed"] = (status, headers | {"Content-Encoding": "gzip"}, gzip.compress(body))
    first, second = b"<html><p>in two chunks, ", b"this and that</p></html>"
    site.pages["/chunked"] = (200, {"Content-Type": "application/xhtml+xml", "Transfer-Encoding": "chunked"}, b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (first, second, b"")))
    out = tmp_path / "site.warc.gz"
    came = fetch(site, out, "/", "/packed", contact="me@example.com")
    assert came == {path: "page" for path in ("/", "/a", "/b/", "/b/c.html", "/packed", "/chunked", "/%C3%BC%20b")} | {
        "/missing": "status 404", "/pic.png": "no HTML: image/png"}
    texts = documents(out)
    assert set(texts) == {path for path, outcome in came.items() if outcome == "page"}
    assert texts["/packed"] == body.decode() and texts["/a"] == site.pages["/a"][2].decode()
    assert texts["/chunked"] == (first + second).decode()
    assert Counter(site.asked)["/a"] == 1 and site.asked[0] == "/robots.txt"
    assert all(agent.startswith("llmc-crawl/") and "+me@example.com" in agent for agent in site.agents)
    assert set(site.cookies) == {None}
    with out.open("rb") as file:
        for record in ArchiveIterator(file):
            assert record.rec_headers.protocol == "WARC/1.1"
            path = (record.rec_headers.get("WARC-Target-URI") or "").removeprefix(site.url)
            if record.rec_type == "response" and path == "/packed":
                assert record.http_headers.get("Content-Encoding") == "gzip"
                assert record.raw_stream.read() == site.pages["/packed"][2]
                assert record.rec_headers.get("WARC-IP-Address") == "127.0.0.1"
            if record.rec_type == "request" and path == "/b/c.html":
                assert record.http_headers.statusline == "/b/c.html HTTP/1.1" and record.http_headers.protocol == "GET"
                assert record.http_headers.get("Host") == site.host


def test_robots_txt_is_obeyed(site, tmp_path):
    site.pages["/robots.txt"] = (200, {"Content-Type": "text/plain"},
                                 b"User-agent: *\nDisallow: /\n\nUser-agent: llmc-crawl\nDisallow: /private\n")
    site.page("/", "/private/x", "/open")
    site.page("/open", "/no", '/y" rel="nofollow')
    site.page("/private/x")
    site.page("/no", "/z")
    site.pages["/no"] = (*site.pages["/no"][:2], b"<meta name='robots' content='NoFollow'>" + site.pages["/no"][2])
    assert fetch(site, tmp_path / "a.warc.gz") == {
        "/": "page", "/open": "page", "/no": "page", "/private/x": "forbidden by robots.txt"}
    assert "/private/x" not in site.asked
    with pytest.raises(ValueError, match=r"the robots.txt of .* forbids .*/private/x to llmc-crawl"):
        fetch(site, tmp_path / "b.warc.gz", "/private/x")
    site.pages["/robots.txt"] = (503, {}, b"")
    with pytest.raises(ValueError, match="cannot give its robots.txt now"):
        fetch(site, tmp_path / "b.warc.gz")
    site.pages["/robots.txt"] = (200, {"Content-Encoding": "gzip"}, b"User-agent: *\nDisallow:\n")
    with pytest.raises(ValueError, match="cannot give its robots.txt now"):
        fetch(site, tmp_path / "b.warc.gz")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.warc.gz", "a.warc.gz.frontier.jsonl"]


def test_requests_are_as_far_apart_as_asked(site, tmp_path, monkeypatch):
    now, slept = [1000.0], []

    def sleep(seconds):
        slept.append(round(seconds, 6))
        now[0] += seconds

    monkeypatch.setattr(crawl, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    site.page("/", "/a", "/b")
    site.page("/a")
    site.page("/b")
    fetch(site, tmp_path / "a.warc.gz", delay=1.5)
    assert slept == [1.5] * 3               # robots.txt is a request too
    slept.clear()
    site.pages["/robots.txt"] = (200, {}, b"User-agent: *\nCrawl-delay: 7\n")
    site.pages["/b"] = (503, {"Retry-After": "120"}, b"later")
    came = fetch(site, tmp_path / "b.warc.gz", delay=1.5)
    assert slept == [7, 7, 7, 120, 120] and came["/b"] == "status 503"


def test_redirects_are_followed_once_and_on_the_site_only(site, other_site, tmp_path):
    for path, target in (("/", "/home"), ("/loop", "/loop2"), ("/loop2", "/loop"), ("/away", other_site.url + "/x"),
                         ("/bad", "http://[")):
        site.pages[path] = (302, {"Location": target}, b"")
    site.page("/home", "/loop", "/away", other_site.url + "/y")
    other_site.page("/x")
    other_site.page("/y")
    came = fetch(site, tmp_path / "a.warc.gz", depth=1)
    assert came == {"/": "redirect", "/home": "page", "/loop": "redirect", "/loop2": "redirect", "/away": "redirect"}
    assert not other_site.asked
    came = fetch(site, tmp_path / "b.warc.gz", hosts=[other_site.host])
    assert came["/x"] == came["/y"] == "page" and other_site.asked[0] == "/robots.txt"
    assert set(documents(tmp_path / "b.warc.gz")) == {"/home", "/x", "/y"}


def test_a_body_in_brotli_that_was_not_asked_for_is_read(site, tmp_path):
    site.page("/", "/next", Content_Encoding="br")
    site.page("/next")
    site.pages["/"] = (*site.pages["/"][:2], brotli.compress(site.pages["/"][2]))
    assert set(fetch(site, tmp_path / "a.warc.gz").values()) == {"page"}
    kept = {doc.metadata["url"].removeprefix(site.url) for doc in ArchiveReader(str(tmp_path)).read_file("a.warc.gz")}
    assert kept == {"/", "/next"}


def test_redirects_that_do_not_end_are_left(site, tmp_path):
    for number in range(crawl.HOPS + 5):
        site.pages["/" + "x" * number] = (302, {"Location": "/x" + "x" * number}, b"")
    assert set(fetch(site, tmp_path / "new" / "a.warc.gz").values()) == {"redirect"}
    assert len(site.asked) == crawl.HOPS + 2            # with robots.txt, and the first


def test_a_log_without_its_pages_is_refused(site, tmp_path):
    site.page("/")
    fetch(site, tmp_path / "a.warc.gz")
    (tmp_path / "a.warc.gz").unlink()
    with pytest.raises(ValueError, match="remove it and its .frontier.jsonl to crawl anew"):
        fetch(site, tmp_path / "a.warc.gz", max_pages=9)


def test_limits_hold_and_a_larger_one_goes_on(site, tmp_path):
    site.page("/", *(f"/{n}" for n in range(9)))
    for n in range(9):
        site.page(f"/{n}", f"/{n}/deep")
        site.page(f"/{n}/deep")
    site.page("/3", "/3/deep", text="x" * 50_000)
    status, headers, body = site.pages["/3"]
    site.pages["/4"] = (200, headers | {"Content-Encoding": "gzip"}, gzip.compress(body))
    out = tmp_path / "site.warc"
    came = fetch(site, out, max_pages=4, depth=1, max_bytes=20_000)
    assert list(came.values()).count("page") == 4 and came["/0"] == "page"
    came = fetch(site, out, max_pages=100, depth=1, max_bytes=20_000)
    assert came["/3"] == came["/4"] == "too large" and list(came.values()).count("page") == 8
    with pytest.raises(ValueError, match="has 8 pages already and is complete"):
        fetch(site, out, depth=1, max_bytes=20_000)
    came = fetch(site, out, depth=2, max_bytes=20_000)
    assert set(documents(out)) == {path for path, outcome in came.items() if outcome == "page"}
    assert set(came) == set(site.pages) - {"/3/deep", "/4/deep"} and max(Counter(site.asked[4:]).values()) <= 4


@pytest.mark.parametrize("suffix", [".warc.gz", ".warc"])
def test_killed_and_started_again_no_page_is_lost_or_doubled(site, tmp_path, suffix):
    count = 30
    for n in range(count):
        site.page(f"/{n}", f"/{2 * n + 1}", f"/{2 * n + 2}", "/0", text="word " * n * 100)
    out = tmp_path / f"site{suffix}"
    command = [sys.executable, "-m", "llmc", "crawl", f"{site.url}/0", "--out", str(out), "--delay", "0"]
    for at in ("/7", "/20"):
        site.stop_at = at
        site.stopped.clear()
        program = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert site.stopped.wait(60)
        program.kill()
        program.wait()
        program.stderr.close()
    with out.open("ab") as file:                # a page that was being written
        file.write(out.read_bytes() + bytes(1 << 20))
    with open(f"{out}.frontier.jsonl", "ab") as file:
        file.write(b'{"url": "http://half a li')
    site.stop_at = None
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{count} pages in" in done.stdout
    came = outcomes(out)
    assert {path: "page" for path in site.pages} == {p: o for p, o in came.items() if o == "page"}
    texts = documents(out)
    assert texts == {path: page[2].decode() for path, page in site.pages.items()}
    asked = Counter(site.asked)
    assert asked["/7"] == asked["/20"] == 2 and all(asked[f"/{n}"] == 1 for n in range(count) if n not in (7, 20))


def test_a_host_that_falls_silent_ends_the_crawl_and_can_be_gone_on_with(site, tmp_path):
    site.page("/", *(f"/{n}" for n in range(15)))
    for n in range(15):
        site.page(f"/{n}")
    out, good = tmp_path / "a.warc.gz", site.pages.copy()
    for n in range(5, 15):                      # answers that end too early
        status, headers, body = site.pages[f"/{n}"]
        site.pages[f"/{n}"] = (status, headers | {"Transfer-Encoding": "chunked", "Connection": "close"},
                                b"ffff\r\n" + body)
    with pytest.raises(ValueError, match="does not answer any more .*the same command goes on"):
        fetch(site, out)
    assert len(outcomes(out)) == 6
    site.pages = good
    assert set(fetch(site, out).values()) == {"page"} and len(documents(out)) == 16


@pytest.mark.parametrize("urls, out, says", [
    (["example.com"], "a.warc.gz", "'example.com' is no URL of the web"),
    (["ftp://example.com/"], "a.warc.gz", "is no URL of the web"),
    (["http://[::1"], "a.warc.gz", "is no URL of the web"),
    (["http://127.0.0.1:1/"], "a.warc.gz", "127.0.0.1:1 does not answer: .*refused.*nothing was fetched"),
    (["http://127.0.0.1:1/"], "a.html", "a.html is to end in .warc.gz or .warc"),
    (["http://127.0.0.1:1/"], "there.warc.gz", "there.warc.gz is there already")])
def test_bad_input_is_one_sentence(tmp_path, capsys, urls, out, says):
    (tmp_path / "there.warc.gz").write_bytes(b"mine")
    assert cli.guarded(lambda: crawl.run(Crawl(urls=urls, out=tmp_path / out))) == 1
    line, = capsys.readouterr().err.splitlines()
    assert re.search(says, line), line
    assert [path.name for path in tmp_path.iterdir()] == ["there.warc.gz"]
    assert (tmp_path / "there.warc.gz").read_bytes() == b"mine"


def test_two_crawls_do_not_write_one_file(site, tmp_path):
    site.page("/", "/wait")
    site.stop_at = "/wait"
    out = tmp_path / "a.warc.gz"
    command = [sys.executable, "-m", "llmc", "crawl", site.url, "--out", str(out), "--delay", "0"]
    program = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
    assert site.stopped.wait(60)
    before = out.read_bytes()
    with pytest.raises(ValueError, match="another crawl is writing there"):
        fetch(site, out)
    assert out.read_bytes() == before
    program.kill()
    program.wait()


@pytest.mark.parametrize("url, same", [
    ("HTTP://Example.COM", "http://example.com/"), ("https://example.com:443/a#b", "https://example.com/a"),
    ("http://example.com:8000/ü?q=1 2", "http://example.com:8000/%C3%BC?q=1%202"),
    ("http://[::1]:80/", "http://[::1]/"),
    ("mailto:x@example.com", None), ("/path", None), ("http://", None), ("http://example.com:x/", None)])
def test_a_url_has_one_spelling(url, same):
    assert normal(url) == same


def test_links_are_found_in_any_html():
    page = """<?xml version="1.0" encoding="utf-16"?><html><head><base href="/docs/"></head>
    <body><a href=" one ">1</a><a>none</a><a href="">self</a><map><area href="two?x=1&amp;y=2"></map>
    <frameset><frame src="//other.org/3"></frameset><p><a href="\ud800">half</a></body>"""
    assert list(found_in(page, "https://example.com/a/b")) == [
        "https://example.com/docs/one", "https://example.com/docs/", "https://example.com/docs/two?x=1&y=2",
        "https://other.org/3", "https://example.com/docs/"]
    assert list(found_in("", "https://example.com/")) == list(found_in("\0\0", "https://example.com/")) == []
