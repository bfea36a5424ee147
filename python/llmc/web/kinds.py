"""What kinds of files documents are read from, by their names."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from llmc import documents

KINDS = {".warc": "archive", ".arc": "archive", ".html": "html", ".htm": "html", ".xhtml": "html",
         ".wet": "wet"} | documents.KINDS
LOG = ".frontier.jsonl"         # of llmc crawl, beside its pages
PAGES = ("archive", "html")     # whose documents are HTML


def kind_of(path: str | PurePath, kinds: Mapping[str, str] = KINDS) -> str | None:
    """By the ending that says how a file is compressed, or the one before it; None if neither is
    known, or it is a crawl's log."""
    if str(path).endswith(LOG):
        return None
    return kinds.get(documents.endings(PurePath(path))[0])
