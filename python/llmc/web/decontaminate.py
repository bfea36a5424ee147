"""Evaluation sets kept out: documents that share 13 words in a row with one are dropped.

T. Brown et al., "Language Models are Few-Shot Learners", 2020, appendix C,
https://arxiv.org/abs/2005.14165: 13 words in which case and punctuation do not count. There the
surroundings of a match are cut out, and what is found in many documents is let pass; here the whole
document goes, as with datatrove's NGramsDecontFilter (12 words). That one's index comes out of
lighteval's tasks alone, its reason names no set, and it does not know where in the text a match is.

An item of fewer than n words has no n-gram, and is not found; Index.counts says how many those are.
Nor are items found in languages that put no blanks between words.
"""
from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from llmc import disk, documents
from llmc.documents import Source

N = 13                          # words
ASKED = ("context", "context_options", "ctx", "question", "query", "prompt", "instruction")
ANSWERED = ("choices", "endings", "options", "answer", "continuation", "solution")
FORMAT = "llmc n-gram index 1"  # another number for other words or hashes
TOKEN = re.compile(r"\S+")


class Overlap(NamedTuple):
    """text[start:end] is an n-gram of the set, as which it reads `ngram`."""
    name: str
    ngram: str
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Index:
    """The n-grams of evaluation sets: their hashes (N,) in order, and beside each which set's it
    is (N,). One that several sets have is there for each. counts: a set's items, and how many of
    them are too short to have any."""
    n: int
    names: tuple[str, ...]
    counts: tuple[tuple[int, int], ...]
    hashes: np.ndarray
    sets: np.ndarray

    @classmethod
    def build(cls, sets: Iterable[Path] | Mapping[str, Path], n: int = N) -> Index:
        """Of files and folders: .txt and .md, a text each, and .jsonl, an item a line; compressed,
        too. A set without a name is called as its file is, without the suffixes. An item is what
        its keys among ASKED hold, strings or lists to choose from, with each string of ANSWERED
        behind it."""
        found: dict[str, list[np.ndarray]] = {}
        counts: dict[str, list[int]] = {}
        for name, source in _sources(sets):
            count = counts.setdefault(name, [0, 0])
            arrays = found.setdefault(name, [np.array([], np.uint64)])
            for texts in _items(source):
                hashes = hashed(ngram for text in texts for ngram, _, _ in ngrams(text, n))
                arrays.append(hashes)
                count[0] += 1
                count[1] += not len(hashes)
        each = {name: np.unique(np.concatenate(arrays)) for name, arrays in found.items()}
        if not sum(map(len, each.values())):
            raise ValueError(f"no item of {', '.join(counts)} has {n} words, so none can be found")
        hashes = np.concatenate(list(each.values()))
        whose = np.repeat(np.arange(len(each), dtype=np.uint16), list(map(len, each.values())))
        order = np.lexsort((whose, hashes))
        return cls(n, tuple(each), tuple((counts[name][0], counts[name][1]) for name in each),
                   hashes[order], whose[order])

    def save(self, path: Path) -> None:
        """One line of JSON, the hashes, the sets; little-endian."""
        header = {"format": FORMAT, "n": self.n, "names": self.names, "counts": self.counts,
                  "ngrams": len(self.hashes)}
        disk.write_whole(path, b"\n".join((json.dumps(header).encode(), b"".join(
            (self.hashes.astype("<u8").tobytes(), self.sets.astype("<u2").tobytes())))))

    @classmethod
    def load(cls, path: Path) -> Index:
        """What save wrote; a ValueError if it is anything else."""
        head, _, raw = Path(path).read_bytes().partition(b"\n")
        wanted = {"format": str, "n": int, "names": list, "counts": list, "ngrams": int}
        header = disk.parse_json(head, f"{path}, first line", wanted)
        if header["format"] != FORMAT:
            raise ValueError(f"{path} is {header['format']!r}, wanted {FORMAT!r}; build it again")
        count = header["ngrams"]
        if len(raw) != 10 * count:
            raise ValueError(f"{path} is damaged: {len(raw):,} bytes for {count:,} n-grams, wanted "
                             f"{10 * count:,}; build it again")
        hashes, sets = np.frombuffer(raw, "<u8", count), np.frombuffer(raw, "<u2", count, 8 * count)
        if (hashes[1:] < hashes[:-1]).any() or (sets >= len(header["names"])).any():
            raise ValueError(f"{path} is damaged: its hashes are in no order; build it again")
        return cls(header["n"], tuple(header["names"]), tuple(map(tuple, header["counts"])), hashes,
                   sets)

    def overlaps(self, text: str) -> list[Overlap]:
        """Every n-gram that the text shares with a set, in order. That another n-gram of 10,000 has
        a hash of a million by chance is to be expected once in 10**9 such texts."""
        here = list(ngrams(text, self.n))
        wanted = hashed(ngram for ngram, _, _ in here)
        first = np.searchsorted(self.hashes, wanted, "left")
        last = np.searchsorted(self.hashes, wanted, "right")
        return [Overlap(self.names[self.sets[place]], *here[at])
                for at in np.flatnonzero(first < last) for place in range(first[at], last[at])]


class Decontaminate(BaseFilter):
    """Drops documents that share an n-gram with an evaluation set (reason contaminated_SET), and
    notes with them the first that they share: contaminated_ngram, contaminated_task, as
    NGramsDecontFilter does, and contaminated_at, the characters it lies between.

    index: a file that Index.save wrote; read when the first document comes.
    """
    type = "🦠 - DECONT"
    name = "💥 evaluation sets"

    def __init__(self, index: Path, exclusion_writer: Any = None) -> None:
        super().__init__(exclusion_writer)
        self.path = Path(index)
        self._index: Index | None = None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if self._index is None:
            self._index = Index.load(self.path)
        overlaps = self._index.overlaps(doc.text)
        if not overlaps:
            return True
        for name in dict.fromkeys(overlap.name for overlap in overlaps):
            self.stat_update(f"overlaps_{name}")
        first = overlaps[0]
        doc.metadata |= {"contaminated_ngram": first.ngram, "contaminated_task": first.name,
                         "contaminated_at": [first.start, first.end]}
        return False, f"contaminated_{first.name}"


def ngrams(text: str, n: int) -> Iterator[tuple[str, int, int]]:
    """A text's n-grams, words with blanks between, and the characters that each lies between. Words
    are what has blanks around it, without case, accents, and all that is no letter or digit."""
    words, spans = [], []
    for match in TOKEN.finditer(text):
        if word := _word(match[0]):
            words.append(word)
            spans.append(match.span())
    for at in range(len(words) - n + 1):
        yield " ".join(words[at:at + n]), spans[at][0], spans[at + n - 1][1]


def hashed(grams: Iterable[str]) -> np.ndarray:
    """Their xxhash64, (N,)."""
    from xxhash import xxh64_intdigest

    return np.fromiter((xxh64_intdigest(gram.encode()) for gram in grams), np.uint64)


@lru_cache(maxsize=1 << 16)
def _word(token: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", token.lower())))


def _sources(sets: Iterable[Path] | Mapping[str, Path]) -> Iterator[tuple[str, Source]]:
    if isinstance(sets, Mapping):
        for name, path in sets.items():
            yield from ((name, source) for source in documents.find([path]))
    else:
        yield from ((source.path.name.split(".")[0], source) for source in documents.find(sets))


def _items(source: Source) -> Iterator[list[str]]:
    """The texts of each item: a question with one of its answers behind it, or a whole file."""
    if source.kind == "parquet":
        raise ValueError(f"{source.path}: evaluation sets are read from .jsonl, .txt and .md; "
                         "write it as one of them")
    with documents.opened(source) as file:
        if source.kind == "text":
            yield [file.read().decode("utf-8", "replace")]
            return
        for at, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = disk.parse_json(line, f"{source.path}:{at}", {})
            asked = [texts for key in ASKED if (texts := _strings(row.get(key)))]
            answered = [text for key in ANSWERED for text in _strings(row.get(key))]
            if not asked and not answered:
                raise ValueError(f"{source.path}:{at}: no question or answer among "
                                 f"{', '.join(row) or 'no keys'}; wanted one of "
                                 f"{', '.join(ASKED + ANSWERED)}")
            yield ["\n".join(parts) for parts in product(*asked, answered or [""])]


def _strings(value: Any) -> list[str]:
    value = value.get("text") if isinstance(value, dict) else value     # ARC's choices are there
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]
