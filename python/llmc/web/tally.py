"""What the report counts, of documents kept and of those each step dropped: a block of datatrove's
that reads what the phases before wrote, and writes a JSON a task; those are added up in order.

Memory is bounded however many documents there are: counts of many different things are those of
sketch.Frequent, samples are the documents whose hashes are the smallest.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from llmc import disk
from llmc.tokenizer import Tokenizer
from llmc.web import marks
from llmc.web.decontaminate import ngrams
from llmc.web.extract import HTML
from llmc.web.phases import reader
from llmc.web.sketch import Frequent, Smallest

N_GRAM = 5                      # words
SCORES = 20                     # bins of a language's score, 0 to 1
EXCERPT = 700                   # characters of a sample
ROOM = {"languages": 4096, "domains": 4096, "ngrams": 1 << 15}     # keys
ADDING = {"ngrams": 1 << 17}    # of those while a task counts: few of the n-grams come twice
SAMPLES = 8                     # documents shown, of those kept and those dropped for each reason
ENCODED = 200                   # documents of each step's that are cut into tokens
KEPT = "kept"


class Tally:
    """Of one folder of documents. Its text is counted in characters and UTF-8 bytes; pages that
    are HTML still are counted apart."""

    def __init__(self, found: dict[str, Any] | None = None) -> None:
        found = found or {}
        self.counts: dict[str, int] = found.get("counts", dict.fromkeys(
            ("documents", "characters", "bytes", "html_documents", "html_bytes"), 0))
        self.lengths: dict[str, int] = found.get("lengths", {})
        self.reasons: dict[str, int] = found.get("reasons", {})
        self.frequent = {key: Frequent(room, **found.get(key, {}), adding=ADDING.get(key, 0))
                         for key, room in ROOM.items()}
        self.samples = {reason: Smallest(SAMPLES, items)
                        for reason, items in found.get("samples", {}).items()}
        self.encoded = Smallest(ENCODED, found.get("encoded", ()))

    def add(self, doc: Document) -> None:
        size = len(doc.text.encode("utf-8", "replace"))
        self.counts["documents"] += 1
        if doc.metadata.get(HTML):
            self.counts["html_documents"] += 1
            self.counts["html_bytes"] += size
        else:
            self.counts["characters"] += len(doc.text)
            self.counts["bytes"] += size
            _one_more(self.lengths, str(half_octave(len(doc.text))))
        if label := _language(doc.metadata):
            self.frequent["languages"].add([label])
        if domain := domain_of(doc.metadata.get("url")):
            self.frequent["domains"].add([domain])

    def merge(self, other: Tally) -> None:
        for mine, theirs in ((self.counts, other.counts), (self.lengths, other.lengths),
                             (self.reasons, other.reasons)):
            for key, value in theirs.items():
                mine[key] = mine.get(key, 0) + value
        for key, sketch in self.frequent.items():
            sketch.merge(other.frequent[key])
        for reason, sample in other.samples.items():
            mine = self.samples.setdefault(reason, Smallest(SAMPLES))
            for order, thing in sample.items():
                mine.add(order, thing)
        for order, pair in other.encoded.items():
            self.encoded.add(order, pair)

    def as_json(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {"counts": self.counts, "lengths": self.lengths, "reasons": self.reasons,
                "samples": {reason: sample.items() for reason, sample in self.samples.items()},
                "encoded": self.encoded.items(),
                **{key: sketch.as_json() for key, sketch in self.frequent.items()}}


class Gather(PipelineStep):
    """Writes work/report/TASK.json: of work/kept and of each folder under work/dropped the tally of
    the files that are this task's. Reads them itself; nothing goes in or comes out."""
    name = "Report"
    type = "REPORT"

    def __init__(self, work: Path, tokenizer: str, seed: int):
        super().__init__()
        self.work, self.tokenizer, self.seed = work, tokenizer, seed

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        self.cut = Tokenizer.load(self.tokenizer)
        self.steps = marks.steps_of(self.work)
        tallies = {}
        for name, folder in folders(self.work).items():
            tally = tallies[name] = Tally()
            documents = reader(folder)
            for file in files(self.work)[rank::world_size]:
                if (folder / file).exists():
                    for doc in documents.read_file(file):
                        self._add(tally, name, doc)
            for sample in tally.samples.values():
                sample.change(lambda doc: self._shown(name, doc))
        raw = json.dumps({name: tally.as_json() for name, tally in tallies.items()})
        (self.work / "report").mkdir(exist_ok=True)
        disk.write_whole(self.work / "report" / f"{rank:06d}.json", raw.encode())
        yield from ()

    def _add(self, tally: Tally, name: str, doc: Document) -> None:
        tally.add(doc)
        order = order_of(doc, self.seed)
        reason = KEPT
        if name == KEPT:
            tally.frequent["ngrams"].add({gram for gram, _, _ in ngrams(doc.text, N_GRAM)})
        else:
            reason = marks.reason_of(name.partition("_")[2], doc.metadata)
            _one_more(tally.reasons, reason)
            if not doc.metadata.get(HTML) and tally.encoded.wants(order):
                raw = doc.text.encode("utf-8", "replace")
                ids = len(self.cut.encode(raw.decode())) + (self.cut.eot is not None)
                tally.encoded.add(order, (len(raw), ids))
        tally.samples.setdefault(reason, Smallest(SAMPLES)).add(order, doc)

    def _shown(self, name: str, doc: Document) -> dict[str, Any]:
        """What the report shows of a sample."""
        if name == KEPT:
            found = marks.masked(self.steps.values(), doc.text)
        elif name in self.steps:
            found = marks.explain(self.steps[name], doc)
        else:
            found = marks.Finding(marks.reason_of(name.partition("_")[2], doc.metadata))
        data = doc.metadata
        return {"id": str(doc.id)[:EXCERPT], "url": str(data.get("url") or "")[:EXCERPT],
                "language": str(data.get("language") or "")[:20], "score": language_score(data),
                "characters": len(doc.text), "why": found.why[:EXCERPT],
                "text": marks.excerpt(doc.text, found.parts, EXCERPT)}


def order_of(doc: Document, seed: int) -> int:
    """A hash of the document, 64 bits: its place in a random order."""
    import xxhash

    whole = "\0".join((str(doc.id), str(doc.metadata.get("url")), doc.text))
    return xxhash.xxh64_intdigest(whole.encode("utf-8", "replace"), seed)


def folders(work: Path) -> dict[str, Path]:
    """kept, and then by its name each folder of dropped documents, in the order of the steps."""
    dropped = [path for path in (work / "dropped").glob("*_*") if path.is_dir()]
    dropped.sort(key=lambda path: int(path.name.partition("_")[0]))
    return {KEPT: work / "kept"} | {path.name: path for path in dropped}


def files(work: Path) -> list[str]:
    """The names of the files in all these folders: those of one task have the same."""
    return sorted({path.name for folder in folders(work).values()
                   for path in folder.glob("*.jsonl.zst")})


def merged(work: Path) -> dict[str, Tally]:
    """The tallies of all tasks, added up in their order, one task in memory at a time."""
    whole: dict[str, Tally] = {}
    for path in sorted((work / "report").glob("[0-9]*.json")):
        for name, found in disk.read_json(path, {KEPT: dict}, "--fresh starts anew").items():
            if name in whole:
                whole[name].merge(Tally(found))
            else:
                whole[name] = Tally(found)
    return whole


def half_octave(length: int) -> int:
    """2 log2(length), rounded down; without floats."""
    return (length * length).bit_length() - 1


@lru_cache(maxsize=1 << 14)
def _registered(host: str) -> str:
    found = _extractor()(host)
    return f"{found.domain}.{found.suffix}" if found.domain and found.suffix else host


@lru_cache(maxsize=1)
def _extractor() -> Any:
    from llmc.web.urls import extractor

    return extractor()


def domain_of(url: Any) -> str | None:
    """example.co.uk of https://www.example.co.uk/a; None where there is no such address."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts and parts.scheme in ("http", "https") and parts.hostname:
            return _registered(parts.hostname[:253])
    except ValueError:                          # such as http://[x
        pass
    return None


def language_score(metadata: dict[str, Any]) -> float | None:
    """The score of a document's language, 0 to 1, if it has one."""
    score = metadata.get("language_score")
    return round(score, 3) if isinstance(score, float) and 0 <= score <= 1 else None


def _language(metadata: dict[str, Any]) -> str | None:
    """"07 en": the bin of the score, and the language."""
    language, score = metadata.get("language"), language_score(metadata)
    if not isinstance(language, str) or score is None:
        return None
    return f"{min(int(metadata['language_score'] * SCORES), SCORES - 1):02d} {language[:20]}"


def _one_more(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1
