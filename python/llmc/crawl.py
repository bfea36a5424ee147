"""A crawler for one's own sites: web pages, as they were sent, into a WARC file.

It reads robots.txt and obeys it (RFC 9309, and Crawl-delay), asks one host for one page at a time,
says who it is, and keeps only HTML. Killed and started again it goes on where it was.
"""
from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urljoin

from llmc import cli
from llmc.__main__ import version
from llmc.progress import EVERY
from llmc.web.extra import needed
from llmc.web.frontier import PAGE, Frontier
from llmc.web.links import found_in, host_of, joined, normal
from llmc.web.page_writer import PageWriter

AGENT = "llmc-crawl"            # what robots.txt may name
HTML = ("text/html", "application/xhtml+xml")
TRIES = 3                       # of a page that did not come, or that is to come later
LOST = 10                       # failures in a row after which a host counts as gone
LATER, LONGEST_WAIT = 60.0, 3600.0      # seconds to wait where a host says "later" but not when
HOPS = 10                       # redirects in a row that are followed
ROBOTS_SIZE = 512_000           # bytes of robots.txt that count: RFC 9309, 2.5, at least 500 KiB


@dataclass
class Crawl:
    """Fetch the pages of web sites into a WARC file, politely."""
    urls: list[str] = cli.positional()  # where to start: https://example.com/docs/
    out: Path = field(kw_only=True)     # the file: NAME.warc.gz or NAME.warc; beside it,
                                # .frontier.jsonl says what came of each URL
    max_pages: cli.Count = 1000     # pages to write at most
    depth: cli.CountOrZero = 100    # links to follow from the first page, one after another
    delay: Annotated[float, cli.Range(0, 3600)] = 1.0   # seconds between requests to one host, if
                                # its robots.txt asks for no more
    hosts: list[str] = field(default_factory=list)      # hosts to follow links to, besides those of
                                # the first pages: www.example.com localhost:8000
    contact: str = ""           # how to reach you, told to the sites: an e-mail address or URL
    max_bytes: cli.Count = 10_000_000   # pages larger than this, packed or unpacked, are left out
    timeout: Annotated[float, cli.Range(0.1, 600)] = 30.0   # seconds to wait for an answer; for a
                                # whole page ten times that


@dataclass
class Host:
    """What is known of one."""
    delay: float                # seconds between two requests
    rules: Any = None           # of its robots.txt, once that is read
    ready: float = 0.0          # when the next request may be made (time.monotonic)
    failures: int = 0           # in a row


class Answer(NamedTuple):
    """What came of asking for a page."""
    outcome: str                # page, redirect, or why it is not kept
    links: list[str] = []
    later: float | None = None  # seconds after which to ask again


def run(config: Crawl) -> None:
    """Crawl until nothing is left or enough is there, and say what came of it."""
    start = [_start_url(url) for url in config.urls]
    if not config.out.name.endswith((".warc", ".warc.gz")):
        raise ValueError(f"--out {config.out} is to end in .warc.gz or .warc")
    if not config.contact.isprintable() or not config.contact.isascii():
        raise ValueError(f"--contact {config.contact!r} is to be an e-mail address or a URL")
    log = config.out.with_name(config.out.name + ".frontier.jsonl")
    if config.out.exists() and not log.exists():
        raise ValueError(f"{config.out} is there already, and no {log.name} to go on from; give "
                         "another --out")
    with ExitStack() as stack:
        web = stack.enter_context(_web(config))
        hosts: dict[str, Host] = {}
        for url in start:                       # before anything is written
            _meet(web, config, hosts, url, first=True)
        config.out.parent.mkdir(parents=True, exist_ok=True)
        frontier = stack.enter_context(Frontier(log, config.depth))
        warc = stack.enter_context(PageWriter(config.out, frontier.end, {
            "software": f"llmc {version()}", "format": "WARC File Format 1.1",
            "http-header-user-agent": _agent(config), "robots": "obeyed (RFC 9309)",
            "operator": config.contact}))
        frontier.start(start)
        if frontier.outcomes[PAGE] >= config.max_pages or not frontier.hosts():
            raise ValueError(f"{config.out} has {frontier.outcomes[PAGE]} pages already and is "
                             "complete; ask for more by --max_pages or --depth, or give another "
                             "--out")
        with _display(frontier) as show:
            _crawl(config, web, hosts, frontier, warc, show)
    _report(config, frontier)


def _crawl(config: Crawl, web: Any, hosts: dict[str, Host], frontier: Frontier, warc: PageWriter,
           show: Callable[[], None]) -> None:
    """Page by page, each time of the host that may be asked first."""
    allowed = {host_of(url) for url, depth in frontier.depth.items() if depth == 0}
    allowed |= {host.lower() for host in config.hosts}
    tries: dict[str, int] = {}
    hops: dict[str, int] = {}           # redirects in a row that led to a URL
    while frontier.outcomes[PAGE] < config.max_pages and (left := frontier.hosts()):
        name = min(left, key=lambda name: hosts[name].ready if name in hosts else 0)
        url = frontier.pop(name)
        host = _meet(web, config, hosts, url)
        if not host.rules.can_fetch(url, AGENT):
            frontier.finish(url, "forbidden by robots.txt", warc.end, [])
            continue
        answer = _ask(web, config, host, url, warc)
        if answer.later is not None:
            tries[url] = tries.get(url, 0) + 1
            host.ready = time.monotonic() + max(host.delay, answer.later)
            if host.failures >= LOST:
                raise ValueError(f"{name} does not answer any more ({answer.outcome}); what was "
                                 "fetched is saved, the same command goes on")
            if tries[url] < TRIES:
                frontier.put_back(url)
                continue
        depth = frontier.depth[url] + (answer.outcome == PAGE)
        if frontier.depth[url] == 0 and answer.outcome == "redirect":
            allowed |= {host_of(link) for link in answer.links if _same_site(link, url)}
        found = [(link, depth) for link in answer.links if host_of(link) in allowed]
        if answer.outcome == "redirect":
            found = found if hops.get(url, 0) < HOPS else []
            for link, _ in found:
                hops.setdefault(link, hops.get(url, 0) + 1)
        frontier.finish(url, answer.outcome, warc.end, found)
        show()


def _ask(web: Any, config: Crawl, host: Host, url: str, warc: PageWriter) -> Answer:
    """One request. A page is in the WARC file when this returns."""
    import httpx

    time.sleep(max(0.0, host.ready - time.monotonic()))
    try:
        with web.stream("GET", url) as response:
            answer = _take(response, config, url, warc)
        host.failures = 0
    except httpx.InvalidURL as error:
        answer = Answer(f"no URL: {error}")
    except httpx.TransportError as error:
        host.failures += 1
        answer = Answer(f"failed: {error or type(error).__name__}", later=host.delay)
    host.ready = time.monotonic() + host.delay
    return answer


def _take(response: Any, config: Crawl, url: str, warc: PageWriter) -> Answer:
    """Read the answer as far as it is wanted."""
    status, headers = response.status_code, response.headers
    if status in (429, 503):
        wait = headers.get("Retry-After", "")
        return Answer(f"status {status}", later=min(float(wait), LONGEST_WAIT)
                      if wait.isdecimal() else LATER)
    if 300 <= status < 400:
        target = joined(url, headers.get("Location", ""))
        return Answer("redirect", [target] if target else [])
    if status != 200:
        return Answer(f"status {status}")
    kind = headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind not in HTML:
        return Answer(f"no HTML: {kind or 'of no type'}")
    # asked for before the body is read, after which the connection may be closed
    address = response.extensions["network_stream"].get_extra_info("server_addr")[0]
    body = _body(response, config)
    if body is None:
        return Answer("too large")
    record = warc.response(url, response, address, body)
    page = record.content_stream().read(config.max_bytes + 1)
    if len(page) > config.max_bytes:
        return Answer("too large")
    warc.add(record, response.request)
    from w3lib.encoding import html_to_unicode

    return Answer(PAGE, list(found_in(html_to_unicode(headers.get("Content-Type"), page)[1], url)))


def _body(response: Any, config: Crawl) -> bytes | None:
    """The bytes that were sent, still packed; None if they are too many."""
    parts, size = [], 0
    for part in _in_time(response.iter_raw(), config):
        parts.append(part)
        size += len(part)
        if size > config.max_bytes:
            return None
    return b"".join(parts)


def _in_time(parts: Iterator[bytes], config: Crawl) -> Iterator[bytes]:
    """The parts, or httpx's ReadTimeout where they do not end."""
    import httpx

    ends = time.monotonic() + 10 * config.timeout
    for part in parts:
        yield part
        if time.monotonic() > ends:
            raise httpx.ReadTimeout(f"not there after {10 * config.timeout:.0f} s")


def _meet(web: Any, config: Crawl, hosts: dict[str, Host], url: str, first: bool = False) -> Host:
    """The host of a URL, its robots.txt read. Where that cannot be had, nothing is allowed (RFC
    9309, 2.3.1.4), and a ValueError says so if it is a host to start from."""
    import httpx
    from protego import Protego

    name = host_of(url)
    if name not in hosts:
        try:
            text, problem = _robots(web, config, urljoin(url, "/robots.txt")), ""
        except httpx.TooManyRedirects:
            text, problem = "", ""
        except httpx.DecodingError:
            text, problem = None, ""
        except httpx.TransportError as error:
            text, problem = "", f"{name} does not answer: {error or type(error).__name__}"
        if text is None:
            problem = f"{name} cannot give its robots.txt now, and nothing may be fetched without"
        if problem and first:
            raise ValueError(f"{problem}; nothing was fetched")
        rules = Protego.parse("User-agent: *\nDisallow: /" if problem else text)
        delay = max(config.delay, rules.crawl_delay(AGENT) or 0)
        if delay > config.delay:
            print(f"{name} asks for {delay:g} s between requests", file=sys.stderr)
        hosts[name] = Host(delay, rules, time.monotonic() + delay)
    if first and not hosts[name].rules.can_fetch(url, AGENT):
        raise ValueError(f"the robots.txt of {name} forbids {url} to {AGENT}; nothing was fetched")
    return hosts[name]


def _robots(web: Any, config: Crawl, url: str) -> str | None:
    """What it says; nothing where there is none, None where the server fails."""
    with web.stream("GET", url, follow_redirects=True) as response:
        if response.status_code >= 500 or response.status_code == 429:
            return None
        if response.status_code != 200:
            return ""
        text = b""
        for part in _in_time(response.iter_bytes(), config):
            text += part
            if len(text) > ROBOTS_SIZE:
                break
        return text[:ROBOTS_SIZE].decode("utf-8", "replace")


def _web(config: Crawl) -> Any:
    """The client, which keeps no cookies: every page is asked for as by a stranger."""
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    with needed("crawling"):
        import httpx
        import lxml             # noqa: F401  what is needed later is said now
        import protego          # noqa: F401
        import w3lib            # noqa: F401
        import warcio           # noqa: F401

        from llmc.web import brotli_bodies      # noqa: F401  some send what was not asked for

    headers = {"User-Agent": _agent(config), "Accept": ", ".join(HTML), "Accept-Encoding": "gzip"}
    return httpx.Client(headers=headers, timeout=config.timeout,
                        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])))


def _agent(config: Crawl) -> str:
    """Who asks."""
    contact = f" (+{config.contact})" if config.contact else ""
    return f"{AGENT}/{version().strip('()').replace(' ', '-')}{contact}"


def _start_url(url: str) -> str:
    found = normal(url)
    if found is None:
        raise ValueError(f"{url!r} is no URL of the web; one is https://example.com/docs/")
    return found


def _same_site(url: str, other: str) -> bool:
    """Whether two hosts differ by www. alone."""
    return host_of(url).removeprefix("www.") == host_of(other).removeprefix("www.")


@contextmanager
def _display(frontier: Frontier) -> Iterator[Callable[[], None]]:
    """How far it is, on stderr: on a terminal a line that changes, elsewhere one at times."""
    begin, before = time.monotonic(), frontier.outcomes[PAGE]

    def line() -> str:
        pages = frontier.outcomes[PAGE]
        rate = (pages - before) / max(time.monotonic() - begin, 1e-3)
        return f"{pages:,} pages, {rate:.1f} a second, {len(frontier):,} in the queue"

    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(line()) as status:
            yield lambda: status.update(line())
        return
    said = begin

    def show() -> None:
        nonlocal said
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            print(line(), file=sys.stderr)

    yield show


def _report(config: Crawl, frontier: Frontier) -> None:
    """What came of it, for people."""
    size = config.out.stat().st_size
    print(f"{frontier.outcomes[PAGE]:,} pages in {config.out}, {size / 1e6:.1f} MB")
    for outcome, count in frontier.outcomes.most_common():
        if outcome != PAGE:
            print(f"{count:>7,} {outcome}")
    if len(frontier):
        print(f"{len(frontier):>7,} are left; the same command with a larger --max_pages goes on")


if __name__ == "__main__":
    cli.main(run)
