"""Links: what a page points to, each in one spelling."""
from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit, urlunsplit

PORTS = {"http": 80, "https": 443}
LINKS = "//a[@href] | //area[@href] | //frame[@src] | //iframe[@src]"


def normal(url: str) -> str | None:
    """The URL as browsers send it, without its fragment; None where it is none of the web."""
    from w3lib.url import safe_url_string

    try:
        parts = urlsplit(safe_url_string(url.strip()))
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in PORTS or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    host += "" if port in (None, PORTS[parts.scheme]) else f":{port}"
    return urlunsplit((parts.scheme, host, parts.path or "/", parts.query, ""))


def joined(base: str, link: str) -> str | None:
    """Where a link on a page at this URL leads to."""
    try:
        return normal(urljoin(base, link.strip()))
    except ValueError:                          # as http://[
        return None


def host_of(url: str) -> str:
    """Host, and port where it is not the scheme's own: example.com, localhost:8000."""
    return urlsplit(url).netloc


def found_in(html: str, url: str) -> Iterator[str]:
    """Where the page at this URL links to, in order, but for what says nofollow."""
    from lxml import etree
    from lxml.html import HTMLParser, document_fromstring

    try:
        page = document_fromstring(html.encode("utf-8", "replace"), HTMLParser(encoding="utf-8"))
    except (etree.LxmlError, ValueError):       # nothing of HTML is in it
        return
    said = {meta.get("name", "").lower(): meta.get("content", "").lower()
            for meta in page.iterfind(".//meta")}
    if "nofollow" in said.get("robots", "") or "none" in said.get("robots", ""):
        return
    base = page.find(".//base[@href]")
    base_url = (None if base is None else joined(url, base.get("href"))) or url
    for element in page.xpath(LINKS):
        if "nofollow" in (element.get("rel") or "").lower().split():
            continue
        link = joined(base_url, element.get("href", element.get("src", "")))
        if link:
            yield link
