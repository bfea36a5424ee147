"""The files of a crawl of Common Crawl, https://commoncrawl.org/get-started, by its lists."""
from __future__ import annotations

import gzip
import re
import sys
import zlib

from llmc.web.kinds import kind_of
from llmc.patience import ASKS, Missing
from llmc.web.remote import RemoteFolder

BASE = "https://data.commoncrawl.org"
PLACE = re.compile(r"(?P<crawl>CC-NEWS/\d{4}/\d{2}|[\w-]+)(?:/(?P<kind>warc|wet))?")


def listing(place: str, base: str) -> tuple[str, dict[str, int | None]]:
    """Of CC-MAIN-2024-10, or CC-MAIN-2024-10/wet for its text: the URL of the folder that the paths
    are in, and the paths in the order of the crawl's list; sizes are not in it.

    base: https://data.commoncrawl.org, s3://commoncrawl or a folder that holds the same."""
    match = PLACE.fullmatch(place)
    if not match:
        raise ValueError(f"cc:{place} is no crawl; wanted one like cc:CC-MAIN-2024-10 (pages), "
                         "cc:CC-MAIN-2024-10/wet (text) or cc:CC-NEWS/2024/03")
    if not base:
        raise ValueError(f"--cc_base is empty; wanted {BASE}, or a folder that holds the same")
    path = f"crawl-data/{match['crawl']}/{match['kind'] or 'warc'}.paths.gz"
    try:
        folder = RemoteFolder(base, ASKS, lambda said: print(said, file=sys.stderr))
    except ValueError as error:         # fsspec knows no such protocol
        raise ValueError(f"--cc_base {base}: {error}; wanted a URL or a folder") from error
    except ImportError as error:
        raise ValueError(f"--cc_base {base} needs a package that is not installed ({error}); "
                         "https://data.commoncrawl.org needs none") from error
    try:
        with folder.open(path) as file:
            packed = file.read()
    except Missing as error:
        raise ValueError(f"there is no crawl {match['crawl']}: {base} has no {path}; "
                         "https://index.commoncrawl.org/collinfo.json names them") from error
    try:
        paths = gzip.decompress(packed).decode().split()
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(f"{base}/{path} is no list of paths: {error}") from error
    if odd := [each for each in paths if kind_of(each) is None or ".." in each.split("/")]:
        raise ValueError(f"{base}/{path} names {odd[0]!r}, which is no archive of a crawl")
    if not paths:
        raise ValueError(f"{base}/{path} names no files")
    return base.rstrip("/"), dict.fromkeys(paths)
