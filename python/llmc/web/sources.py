"""Where documents come from: files and folders, each read by the reader for its kind."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.readers.base import BaseDiskReader

from llmc.web.extract import HTML
from llmc.web.pages import ArchiveReader, HtmlReader

KINDS = {"archive": (".warc", ".arc"), "html": (".html", ".htm", ".xhtml"), "wet": (".wet",),
         "jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet",), "text": (".txt", ".md")}
PAGES = ("archive", "html")     # whose documents are HTML
PACKED = (".gz", ".zst")


class TextReader(BaseDiskReader):
    """A file is a document."""
    name = "Text"

    def read_file(self, filepath: str) -> Iterator[Document]:
        with self.data_folder.open(filepath, "rt", encoding="utf-8", compression="infer") as file:
            document = self.get_document_from_dict({"text": file.read()}, filepath, 0)
        if document:
            yield document


READERS = {"archive": ArchiveReader, "html": HtmlReader, "wet": ArchiveReader,
           "jsonl": JsonlReader, "parquet": ParquetReader, "text": TextReader}


@dataclass
class Found:
    """Files of one kind, in order; paths without the / they begin with, as datatrove has them."""
    kind: str
    paths: list[str]

    def reader(self, work: Path, declared: bool) -> Any:
        """datatrove's, which finds the paths in a file under work/. What it cannot read of pages is
        named in work/problems; declared: see Extract."""
        listed = work / "sources" / f"{self.kind}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"{path}\n" for path in self.paths), encoding="utf-8")
        options: dict[str, Any] = {"paths_file": str(listed)}
        if self.kind in (*PAGES, "wet"):
            options["problems"] = str(work / "problems" / self.kind)
        if self.kind in PAGES:
            options["default_metadata"] = {HTML: True}
        if self.kind == "archive":
            options["declared"] = declared
        return READERS[self.kind]("/", **options)


def find(places: Iterable[str]) -> list[Found]:
    """The files, and those in folders below whose kind is known; a ValueError if there are none."""
    files: dict[str, set[str]] = {}
    for place in places:
        path = Path(place)
        if not path.exists():
            raise ValueError(f"--source {place}: there is no such file or folder")
        inside = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
        kinds = {each: kind for each in inside if (kind := kind_of(each))}
        if not kinds:
            known = " ".join(suffix for suffixes in KINDS.values() for suffix in suffixes)
            raise ValueError(f"--source {place}: no file of a known kind; wanted {known}, also "
                             f"compressed as {' or '.join(PACKED)}")
        for each, kind in kinds.items():
            files.setdefault(kind, set()).add(str(each.resolve()).lstrip("/"))
    return [Found(kind, sorted(files[kind])) for kind in KINDS if kind in files]


def kind_of(path: Path) -> str | None:
    """By its name: one of KINDS, or None."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    last = [suffix for suffix in suffixes if suffix not in PACKED][-1:]
    return next((kind for kind, known in KINDS.items() if last and last[0] in known), None)
