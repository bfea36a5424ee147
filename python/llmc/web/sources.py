"""Where documents come from: files and folders here, data sets of the Hugging Face hub, crawls of
Common Crawl; each file is read by the reader for its kind."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

from llmc import disk, documents, hub
from llmc.web import common_crawl
from llmc.web.extract import HTML
from llmc.web.kinds import KINDS, PAGES, kind_of
from llmc.web.pages import ArchiveReader, HtmlReader
from llmc.web.remote import RemoteFolder
from llmc.web.rows import RowReader, TableReader, TextReader

READERS = {"archive": ArchiveReader, "html": HtmlReader, "wet": ArchiveReader, "rows": RowReader,
           "parquet": TableReader, "text": TextReader}
WITH_FIELDS = ("rows", "parquet")   # whose documents may carry more than their text
REMOTE = ("hf:", "cc:")         # how places that are not here begin
RANGE = re.compile(r"(?P<place>.*?)(?::(?P<first>\d+)(?:-(?P<last>\d+))?)?")


@dataclass
class Found:
    """Files of one kind, in order; paths in the folder root, for files here without the / they
    begin with, as datatrove has them. Sizes in bytes, None where they are not known."""
    kind: str
    sizes: dict[str, int | None]
    root: str = "/"
    place: str = ""             # of the sources, where it is not here
    name: str = ""              # of what is written about it under work/

    @property
    def paths(self) -> list[str]:
        return list(self.sizes)

    def full(self, path: str) -> str:
        """The URL of a file, or its path."""
        return f"{self.root.rstrip('/')}/{path}"

    def reader(self, work: Path, declared: bool) -> Any:
        """datatrove's, which finds the paths in a file under work/. What it cannot read is named in
        work/problems; declared: see Extract."""
        listed = work / "sources" / f"{self.name}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        disk.write_whole(listed, "".join(f"{path}\n" for path in self.paths).encode())
        options: dict[str, Any] = {"paths_file": str(listed),
                                   "problems": str(work / "problems" / self.name)}
        if self.kind in PAGES:
            options["default_metadata"] = {HTML: True}
        if self.kind == "archive":
            options["declared"] = declared
        return READERS[self.kind](RemoteFolder(self.root) if self.place else self.root, **options)


def find(places: Sequence[str], config: str = "", cc_base: str = common_crawl.BASE,
         noted: Mapping[str, Any] | None = None, flag: str = "--source") -> list[Found]:
    """The files: those named, those in folders below whose kind is known, and those that other
    machines list. A ValueError if a place has none.

    config: which of its configurations is read of a data set of the hub
    cc_base: where Common Crawl is read
    noted: what `listing` gave before; a place that it names is not asked again, so that a run goes
        on with the same files
    flag: what gave the places
    """
    for option, of, given in (("--config", "hf:", config),
                              ("--cc_base", "cc:", cc_base != common_crawl.BASE)):
        if given and not any(place.startswith(of) for place in places):
            raise ValueError(f"{option} is for a {flag} that begins with {of}, and there is none")
    local: dict[str, set[str]] = {}
    remote: list[Found] = []
    for place in dict.fromkeys(places):
        if place.startswith(REMOTE):
            remote += _remote(place, config, cc_base, noted or {}, flag)
            continue
        for path, kind in _local(place, flag).items():
            local.setdefault(kind, set()).add(str(path.resolve()).lstrip("/"))
    for number, each in enumerate(remote, 1):
        each.name = f"{each.kind}_{number}"
    return [Found(kind, {path: Path(f"/{path}").stat().st_size for path in sorted(local[kind])},
                  name=kind) for kind in READERS if kind in local] + remote


def apart(out: Path, places: Sequence[str], flag: str = "--source") -> None:
    """A ValueError where out lies in one of the places, which would be read again with what is
    written there, or one of the paths is none."""
    if "" in places:
        raise ValueError(f"{flag} has an empty name; wanted files and folders, hf:OWNER/NAME or "
                         "cc:CRAWL")
    if has_magic(str(out.resolve())):
        raise ValueError(f"--out {out}: its path has one of * ? [, which make a pattern of it; "
                         "choose another --out")
    if around := [place for place in places if out.resolve().is_relative_to(Path(place).resolve())]:
        raise ValueError(f"--out {out} lies in {flag} {around[0]}, which would be read again with "
                         "what is written there; choose another --out")


def listing(found: Iterable[Found]) -> dict[str, Any]:
    """What the files are: sizes and times of change, in ns, of those here, and of each other place
    the root and its files."""
    noted: dict[str, Any] = {}
    for each in found:
        if each.place:
            files = noted.setdefault(each.place, {"root": each.root, "files": {}})["files"]
            files.update(each.sizes)
        else:
            noted |= {path: [size, Path(f"/{path}").stat().st_mtime_ns]
                      for path, size in each.sizes.items()}
    return noted


def noted(settings: Path) -> dict[str, Any]:
    """What `listing` gave when a run began, out of the file with its settings; nothing where there
    is none."""
    if not settings.exists():
        return {}
    return disk.read_json(settings, {"files": dict}, "--fresh starts anew")["files"]


def listed(files: Mapping[str, Any]) -> list[str]:
    """The paths and URLs of a listing."""
    return [name for place, each in files.items() for name in
            ([f"{each['root']}/{path}" for path in each["files"]] if isinstance(each, dict)
             else [f"/{place}"])]


def _local(place: str, flag: str) -> dict[Path, str]:
    path = Path(place)
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{flag} {place}: there is no such file or folder")
    kinds = {each: kind for each in (_inside(path) if path.is_dir() else [path])
             if (kind := kind_of(each))}
    if not kinds:
        raise ValueError(f"{flag} {place}: no file of a known kind; wanted {' '.join(KINDS)}, "
                         f"also compressed as {' '.join(documents.COMPRESSED)}")
    if odd := [str(each) for each in kinds if not _one_line(str(each.resolve()))]:
        raise ValueError(f"{flag} {place}: the name {odd[0]!r} has a line end or is not in UTF-8, "
                         "and names are listed a line each; rename it")
    return kinds


def _one_line(name: str) -> bool:
    try:
        return len(name.encode().splitlines()) == 1
    except UnicodeEncodeError:
        return False


def _inside(folder: Path) -> Iterator[Path]:
    """The files below. An OSError for a folder that may not be read."""
    def refused(error: OSError) -> None:
        raise error

    for below, _, names in os.walk(folder, onerror=refused):
        yield from (path for name in names if (path := Path(below, name)).is_file())


def _remote(place: str, config: str, cc_base: str, noted: Mapping[str, Any],
            flag: str) -> list[Found]:
    """What another machine has, or had when it was asked before."""
    match = RANGE.fullmatch(place[3:])
    known, name = KINDS, place
    if place.startswith("hf:"):
        known, name = hub.KINDS, f"{place} --config {config}" if config else place
    elif cc_base != common_crawl.BASE:
        name = f"{place} --cc_base {cc_base}"
    if name in noted:
        root, files = noted[name]["root"], noted[name]["files"]
    else:
        root, files = (hub.listing(match["place"], config) if place.startswith("hf:")
                       else common_crawl.listing(match["place"], cc_base))
        files = _part(files, match, f"{flag} {place}")
    kinds = {path: kind_of(path, known) for path in files}
    return [Found(kind, {path: size for path, size in files.items() if kinds[path] == kind}, root,
                  name) for kind in READERS if kind in kinds.values()]


def _part(files: dict[str, int | None], match: re.Match, place: str) -> dict[str, int | None]:
    """Those of the range that the place ends with."""
    if match["first"] is None:
        return files
    first, last = int(match["first"]), int(match["last"] or match["first"])
    if not first <= last < len(files):
        raise ValueError(f"{place}: files {first} to {last} are wanted, and it has 0 to "
                         f"{len(files) - 1}")
    return dict(list(files.items())[first:last + 1])
