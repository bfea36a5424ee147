"""Search by somebody's web API, for an index; how it is asked stands in a JSON file.

    {"url": "https://api.example.com/search?q={query}&count={n}", "results": "web.results",
     "title": "title", "source": "url", "snippet": "description",
     "headers": {"X-Token": "{key}"}, "key": "EXAMPLE_KEY"}

The key itself is in the environment variable that "key" names. "results" is the path of the list
in the answer, the three below it the paths in each of its objects, keys or numbers with dots.
"""
from __future__ import annotations

import html
import json
import os
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from llmc import disk
from llmc.tools.passages import words
from llmc.tools.search import Index, Result, Searching, one_line, snippet

TIMEOUT = 10.0                  # seconds, of each try
LARGEST = 1 << 22               # bytes of an answer
MARKED = re.compile(r"</?(?:b|em|strong|mark)\b[^>]*>")     # as APIs mark what was looked for


@dataclass(frozen=True)
class WebSearch:
    """A web API that can be searched as an index can."""
    url: str                    # with {query}, and {n} and {key} where it takes them
    results: str
    title: str = "title"
    source: str = "url"
    snippet: str = "snippet"
    headers: Mapping[str, str] = field(default_factory=dict)    # with {key} where it is sent so
    key: str = ""               # the environment variable that holds it

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or "{query}" not in self.url:
            raise ValueError(f"the url of a web search is {self.url!r}, wanted one of http or "
                             "https with {query} in it")

    @staticmethod
    def load(path: Path) -> WebSearch:
        """As a file describes it."""
        given = disk.read_json(path, {"url": str, "results": str}, "see llmc/tools/web_search.py")
        known = WebSearch.__dataclass_fields__
        for name, value in given.items():
            kind = dict if name == "headers" else str
            if name not in known or not isinstance(value, kind):
                raise ValueError(f"{path}: {name!r} is {type(value).__name__}, wanted an object of "
                                 f"headers and texts for {', '.join(sorted(known))}")
        if not all(isinstance(value, str) for value in given.get("headers", {}).values()):
            raise ValueError(f"{path}: a header is no text")
        return WebSearch(**given)

    def search(self, query: str, n: int = 3, characters: int = 300) -> list[Result]:
        """What the API answers; nothing is asked where the query has no word."""
        from llmc.patience import ASKS, patiently

        if not (looked_for := dict.fromkeys(words(query), 1.0)):
            return []
        host = urlsplit(self.url).hostname
        key = os.environ.get(self.key, "") if self.key else ""
        if self.key and not key:
            raise ValueError(f"the key of the web search at {host} is not set; it is to be in the "
                             f"environment variable {self.key}")
        answer = patiently(lambda: self._ask(query, n, key), f"the web search at {host}", ASKS)
        found = _at(_json(answer, host), self.results)
        if not isinstance(found, list):
            raise ValueError(f"the web search at {host} has no list at {self.results!r}")
        results = []
        for each in found[:n]:
            title, source, text = (_text(_at(each, path)) for path in
                                   (self.title, self.source, self.snippet))
            results.append(Result(title, snippet(text, looked_for, characters), source))
        return results

    def _ask(self, query: str, n: int, key: str) -> bytes:
        request = urllib.request.Request(
            _filled(self.url, query=quote(query.encode(errors="replace"), safe=""), n=str(n),
                    key=quote(key, safe="")),
            headers={"Accept": "application/json", "User-Agent": "llmc"}
            | {name: _filled(value, key=key) for name, value in self.headers.items()})
        opener = urllib.request.build_opener(StaysThere)
        with opener.open(request, timeout=TIMEOUT) as answer:
            return answer.read(LARGEST + 1)


class StaysThere(urllib.request.HTTPRedirectHandler):
    """The key is sent to no other place."""

    def redirect_request(self, *_: Any) -> None:
        return None


def opened(path: Path) -> Searching:
    """What --search names: an index, or a web API that a .json file describes."""
    return WebSearch.load(path) if path.suffix == ".json" else Index(path)


def _filled(template: str, **values: str) -> str:
    """Each {name} replaced, in one pass: a value that holds another's name stays as it is."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), template)


def _json(raw: bytes, host: str) -> Any:
    if len(raw) > LARGEST:
        raise ValueError(f"the web search at {host} answered more than {LARGEST:,} bytes")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the web search at {host} answered no JSON "
                         f"({disk.json_fault(error)})") from error


def _at(data: Any, path: str) -> Any:
    """What lies there, None if nothing does."""
    for part in filter(None, path.split(".")):
        if isinstance(data, list) and part.isdecimal() and int(part) < len(data):
            data = data[int(part)]
        else:
            data = data.get(part) if isinstance(data, dict) else None
    return data


def _text(value: Any) -> str:
    """A text as it is to be read: JSON may hold halves of characters, APIs mark words in HTML."""
    text = value if isinstance(value, str) else ""
    text = html.unescape(MARKED.sub("", text)).encode(errors="replace").decode()
    return one_line(text)
