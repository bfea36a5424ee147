"""Search in an index that llmc index made, and results as a model reads and cites them.

A passage's score is Okapi BM25 over the words of the query, the title's counted TITLE_WEIGHT times
(S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework", 2009), as SQLite's FTS5 has
it. A model gets "[1] Title: snippet" a line and cites [1]; cited() finds what it means.
"""
from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from llmc.tools.passages import sentences, words

APPLICATION, VERSION = 0x6C6C6D63, 1    # what an index says of itself: "llmc", and its layout
TITLE_WEIGHT = 3.0              # of a word in the title, as if it stood there so often
MOST_WORDS = 32                 # of a query: the rarest
NOTHING = "No results."

NUMBERS = re.compile(r"\[(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\]")


@dataclass(frozen=True)
class Result:
    """What was found."""
    title: str
    snippet: str                # the sentences with the query's words
    source: str                 # a link, or the file and row
    score: float = 0.0          # BM25's, the higher the better; 0 of what others searched


class Searching(Protocol):
    """An index, or something else that can be searched."""

    def search(self, query: str, n: int = 3, characters: int = 300) -> list[Result]:
        """The n best results, best first, each snippet of at most so many characters."""


class Index:
    """An index that is open to be searched, from any thread; it may be written to meanwhile."""

    def __init__(self, path: Path):
        self.path, self._lock = path, Lock()
        self._base = connected(path, write=False)
        with explained(path):
            made_by_us(path, self._base)

    def close(self) -> None:
        self._base.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size(self) -> tuple[int, int]:
        """How many documents and how many passages there are."""
        with self._reading() as base:
            return base.execute("SELECT (SELECT count(*) FROM documents), count(*) "
                                "FROM passages").fetchone()

    def passages(self) -> Iterator[tuple[str, str]]:
        """The title and the text of every passage."""
        with self._reading() as base:
            yield from base.execute(
                "SELECT documents.title, passages.text FROM passages JOIN documents "
                "ON documents.id = passages.document ORDER BY passages.id").fetchall()

    def search(self, query: str, n: int = 3, characters: int = 300) -> list[Result]:
        """Any text is a query: passages that have more and rarer words of it come first. Of
        passages with the same words and title only the first is given."""
        if n < 1 or characters < 1:
            raise ValueError(f"search for {n} results of {characters} characters, wanted 1 or more "
                             "of each")
        found: dict[tuple[str, str], Result] = {}
        with self._reading() as base:
            weights = _weights(base, query)
            for title, text, source, score in _ranked(base, weights, n) if weights else ():
                if len(found) < n and (title, text) not in found:
                    found[title, text] = Result(title, snippet(text, weights, characters), source,
                                                score)
        return list(found.values())

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One state of the index throughout."""
        with self._lock, explained(self.path):
            self._base.execute("BEGIN")
            try:
                yield self._base
            finally:
                self._base.execute("ROLLBACK")


def as_text(results: Sequence[Result], first: int = 1) -> str:
    """What a model is given: a line a result, numbered from `first`. No other number stands in
    square brackets, so that a note's mark in a document is not taken for a result's."""
    lines = []
    for number, result in enumerate(results, first):
        body = f"{result.title}: {result.snippet}" if result.title else result.snippet
        lines.append(f"[{number}] " + NUMBERS.sub(r"(\1)", one_line(body)))
    return "\n".join(lines) or NOTHING


def cited(answer: str, results: Sequence[Result], first: int = 1) -> dict[int, Result | None]:
    """The numbers that an answer cites, as [1] or [1, 2], in its order, each with its result; None
    where there is no such result."""
    numbers = [int(number) for group in NUMBERS.findall(answer)
               for number in re.findall(r"\d+", group)]
    return {number: results[number - first] if first <= number < first + len(results) else None
            for number in numbers}


def snippet(text: str, weights: dict[str, float], characters: int) -> str:
    """The sentences next to each other whose words weigh most together, each word once, in at most
    so many characters; the first ones of several that are as good."""
    if len(whole := one_line(text)) <= characters:
        return whole
    parts = [one_line(part) for part in sentences(text)]
    hits = [{word for word in words(part) if word in weights} for part in parts]
    best, best_weight = "", -1.0
    for begin in range(len(parts)):
        end, length = begin + 1, len(parts[begin])
        while end < len(parts) and length + 1 + len(parts[end]) <= characters:
            length += 1 + len(parts[end])
            end += 1
        weight = sum(weights[word] for word in set().union(*hits[begin:end]))
        if weight > best_weight:
            best, best_weight = " ".join(parts[begin:end]), weight
    return best if len(best) <= characters else _window(best, weights, characters)


def one_line(text: str) -> str:
    """The text with one space for any stretch of white space."""
    return " ".join(text.split())


def connected(path: Path, write: bool) -> sqlite3.Connection:
    """A data base with FTS5, to be read alone or written too."""
    if not write:
        path.stat()                             # the system's own sentence, if it is not there
    with explained(path):
        base = sqlite3.connect(f"{path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}",
                               uri=True, isolation_level=None, check_same_thread=False)
    try:
        base.execute("CREATE VIRTUAL TABLE temp.tried USING fts5(word)")
        base.execute("DROP TABLE temp.tried")
    except sqlite3.Error as error:
        base.close()
        if "no such module" not in str(error):
            raise ValueError(f"{path} is no index of llmc's ({error}); llmc index makes one"
                             ) from error
        raise ValueError(f"SQLite {sqlite3.sqlite_version}, which this Python has, is built "
                         "without FTS5, which search needs; use another Python") from error
    return base


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What SQLite complains of as a ValueError that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise ValueError(f"{path}: another program is writing to it; wait for it") from error
        raise ValueError(f"{path}: {error}; if it is damaged, delete it and make it again"
                         ) from error


def made_by_us(path: Path, base: sqlite3.Connection) -> None:
    """A ValueError unless it is an index of this layout."""
    found = [base.execute(f"PRAGMA {name}").fetchone()[0]
             for name in ("application_id", "user_version")]
    if found[0] != APPLICATION:
        raise ValueError(f"{path} is no index of llmc's; llmc index makes one")
    if found[1] != VERSION:
        raise ValueError(f"{path} is an index of version {found[1]}, wanted {VERSION}; delete it "
                         "and make it again")


def inverse_frequency(passages: int, having: int) -> float:
    """What FTS5 gives a word that so many of the passages have."""
    weight = math.log((passages - having + 0.5) / (having + 0.5))
    return weight if weight > 0 else 1e-6


def _weights(base: sqlite3.Connection, query: str) -> dict[str, float]:
    """The query's words that the index has, each with its weight: the rarest, and no word that most
    passages have if there is another, as it would count next to nothing and take long."""
    passages = base.execute("SELECT count(*) FROM passages").fetchone()[0]
    having = {}
    for word in dict.fromkeys(words(query)):
        if row := base.execute("SELECT doc FROM vocabulary WHERE term = ?", [word]).fetchone():
            having[word] = row[0]
    rarest = sorted(having, key=having.__getitem__)[:MOST_WORDS]
    rare = [word for word in rarest if 2 * having[word] < passages]
    return {word: inverse_frequency(passages, having[word]) for word in rare or rarest}


def _ranked(base: sqlite3.Connection, weights: dict[str, float],
            n: int) -> list[tuple[str, str, str, float]]:
    """Title, text, source and score of the best passages. Some more than n, as there may be equal
    ones; equal scores are in the order of files and rows, whenever each was read."""
    query = " OR ".join(f'"{word}"' for word in weights)
    return base.execute(
        "SELECT d.title, p.text, d.source, -found.score FROM "
        "(SELECT rowid, bm25(searched, ?, 1.0) AS score FROM searched WHERE searched MATCH ? "
        "ORDER BY score LIMIT ?) AS found "
        "JOIN passages AS p ON p.id = found.rowid JOIN documents AS d ON d.id = p.document "
        "JOIN files AS f ON f.id = d.file ORDER BY found.score, f.path, p.id",
        [TITLE_WEIGHT, query, 4 * n + 16]).fetchall()


def _window(text: str, weights: dict[str, float], characters: int) -> str:
    """Of a sentence that is too long, a stretch that begins a little before its first hit."""
    places = [match for match in re.finditer(r"\S+", text)]
    hit = next((match.start() for match in places if any(word in weights
                                                         for word in words(match[0]))), 0)
    begin = 0 if hit < characters // 2 else hit - characters // 3
    if begin:
        begin = next((m.start() for m in places if begin <= m.start() <= hit), hit)
    before = "…" if begin else ""
    if len(before) + len(text) - begin <= characters:
        return before + text[begin:]
    end = begin + characters - len(before) - 1
    last = max((m.end() for m in places if begin < m.end() <= end), default=end)
    return (before + text[begin:last] + "…")[:characters]
