"""Documents -> an index that can be searched offline, one file; what changed is brought up to date.

    llmc index handbook/ --out handbook.index
    llmc index --out handbook.index --ask "how is a valve changed?"

The index holds what the files named hold now: files that are as they were are not read again, those
that are no longer there, or not named, are taken out. A file's documents come in at once or not at
all: a run that is killed has lost the file that it read, and the next one goes on. It can be
searched meanwhile.
"""
from __future__ import annotations

import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from llmc import cli, disk, documents
from llmc.documents import Source
from llmc.progress import progress
from llmc.terminal import printable
from llmc.tools.passages import passages, words
from llmc.tools.search import (APPLICATION, VERSION, Index, connected, explained, made_by_us,
                               one_line)
from llmc.tools.web_search import opened

KINDS = documents.KINDS | dict.fromkeys((".html", ".htm", ".xhtml"), "page")
LONGEST_TITLE = 200             # characters
BEGINNING = 60                  # characters of a row without a title that stand for one
RACY = 2_000_000_000            # nanoseconds in which a file may change again and look the same
NAMED = 5                       # bad rows that are shown

# `searched` holds the words of titles and texts, as passages.words tells them; they are texts with
# spaces to it. Its content is not kept twice: what is taken out is told to it again.
LAYOUT = """
CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT UNIQUE, size INTEGER, mtime INTEGER,
                    sha256 TEXT, keys TEXT, bad INTEGER);
CREATE TABLE documents (id INTEGER PRIMARY KEY, file INTEGER, title TEXT, source TEXT);
CREATE INDEX documents_of_a_file ON documents (file);
CREATE TABLE passages (id INTEGER PRIMARY KEY, document INTEGER, text TEXT);
CREATE INDEX passages_of_a_document ON passages (document);
CREATE VIRTUAL TABLE searched USING fts5(title, text, content='', tokenize='ascii');
CREATE VIRTUAL TABLE vocabulary USING fts5vocab(searched, row);
"""


@dataclass
class MakeIndex:
    """Make an index of documents that can be searched offline, or search one."""
    out: Path                   # the index, a file; with --ask alone also a .json file that says
                                # how a web API is searched
    documents: list[Path] = cli.positional(())  # files and folders: .txt, .md, .html, .jsonl,
                                # .parquet, also compressed; all that the index shall hold
    ask: str = ""               # show what it has on this
    results: Annotated[int, cli.Range(1, 1000)] = 5     # how many of them
    characters: Annotated[int, cli.Range(1, 10**6)] = 400   # of each, at most
    text_key: str = "text"      # of rows, the key or column with the text
    title_key: str = "title"    # the one with the title, where a row has it
    source_key: str = "url"     # the one with the link; without it file and row are cited
    skip_bad: bool = False      # leave out what cannot be read, and name it


@dataclass
class Tally:
    """What became of the files."""
    read: int = 0
    unchanged: int = 0
    removed: int = 0
    bad: list[str] = field(default_factory=list)
    bad_count: int = 0

    def leave_out(self, sentence: str, count: int = 1) -> None:
        self.bad_count += count
        if len(self.bad) < NAMED:
            self.bad.append(sentence)


def run(config: MakeIndex) -> None:
    """Make it or bring it up to date, and ask it."""
    if not config.documents and not config.ask.strip():
        raise ValueError("neither documents nor --ask are given; wanted files and folders to be "
                         "indexed, a question, or both")
    if config.documents:
        begin = time.monotonic()
        tally = update(config)
        with Index(config.out) as index:
            count, parts = index.size()
        print(f"saved {config.out}: {count:,} documents in {parts:,} passages; files: "
              f"{tally.read:,} read, {tally.unchanged:,} unchanged, {tally.removed:,} taken out; "
              f"{time.monotonic() - begin:.1f} s")
        if tally.bad_count:
            print(f"left out as unreadable: {tally.bad_count:,} rows or lines", file=sys.stderr)
            print(*map(printable, tally.bad), sep="\n", file=sys.stderr)
    if config.ask.strip():
        show(config)


def show(config: MakeIndex) -> None:
    """What the index has on a question."""
    results = opened(config.out).search(config.ask, config.results, config.characters)
    if not results:
        print("nothing found")
    for number, result in enumerate(results, 1):
        print(printable(f"[{number}] {result.title}  ({result.score:.2f})\n"
                        f"    {result.snippet}\n    {result.source}"))


def update(config: MakeIndex) -> Tally:
    """The index as the files are now."""
    sources = {str(source.path.resolve()): source
               for source in documents.find(config.documents, KINDS)}
    if config.out.is_dir():
        raise ValueError(f"--out is {config.out}, which is a folder; give the name of a file")
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with closing(connected(config.out, write=True)) as base, explained(config.out):
        _prepare(base, config.out)
        writer, tally = Writer(base, config), Tally()
        for path in set(writer.paths()) - set(sources):
            with writer.transaction():
                writer.remove(path)
            tally.removed += 1
        total = sum(source.path.stat().st_size for source in sources.values())
        with progress("indexing", total) as advance:
            for path, source in sources.items():
                with writer.transaction():
                    if writer.is_new(path, source):
                        writer.replace(path, source, tally, advance)
                        tally.read += 1
                    else:
                        advance(source.path.stat().st_size)
                        tally.unchanged += 1
        _one_file(base)
    return tally


class Writer:
    """Puts files into an index and takes them out."""

    def __init__(self, base: sqlite3.Connection, config: MakeIndex):
        self.base, self.config = base, config
        self.keys = "\n".join((config.text_key, config.title_key, config.source_key))

    def transaction(self) -> Transaction:
        return Transaction(self.base)

    def paths(self) -> list[str]:
        return [path for path, in self.base.execute("SELECT path FROM files")]

    def is_new(self, path: str, source: Source) -> bool:
        """Whether a file has to be read. Where time and size are as they were it is not looked
        into; where the bytes are, the time is noted."""
        before = self.base.execute("SELECT size, mtime, sha256, keys, bad FROM files "
                                   "WHERE path = ?", [path]).fetchone()
        size, mtime = _stamp(source.path)
        if not before or before[3] != self.keys or before[4] and not self.config.skip_bad:
            return True
        if mtime and before[:2] == (size, mtime):
            return False
        if before[0] != size or before[2] != disk.sha256(source.path):
            return True
        self.base.execute("UPDATE files SET mtime = ? WHERE path = ?", [mtime, path])
        return False

    def remove(self, path: str) -> None:
        """Take a file's documents out, if it is there."""
        for file, in self.base.execute("SELECT id FROM files WHERE path = ?", [path]).fetchall():
            for document, title in self.base.execute("SELECT id, title FROM documents "
                                                     "WHERE file = ?", [file]).fetchall():
                rows = self.base.execute("SELECT id, text FROM passages WHERE document = ?",
                                         [document]).fetchall()
                self.base.executemany(
                    "INSERT INTO searched (searched, rowid, title, text) "
                    "VALUES ('delete', ?, ?, ?)",
                    [(id, _spaced(title), _spaced(text)) for id, text in rows])
                self.base.execute("DELETE FROM passages WHERE document = ?", [document])
            self.base.execute("DELETE FROM documents WHERE file = ?", [file])
            self.base.execute("DELETE FROM files WHERE id = ?", [file])

    def replace(self, path: str, source: Source, tally: Tally,
                advance: Callable[[int], None]) -> None:
        """Put a file's documents in, for what was there of it."""
        self.remove(path)
        size, mtime = _stamp(source.path)       # before it is read: a change meanwhile shows
        digest, bad_before = disk.sha256(source.path), tally.bad_count
        file = self.base.execute(
            "INSERT INTO files (path, size, mtime, sha256, keys) VALUES (?, ?, ?, ?, ?)",
            [path, size, mtime, digest, self.keys]).lastrowid
        for title, link, parts in self._documents(source, tally, advance):
            document = 0
            for text in parts:
                document = document or self.base.execute(
                    "INSERT INTO documents (file, title, source) VALUES (?, ?, ?)",
                    [file, title, link]).lastrowid
                id = self.base.execute("INSERT INTO passages (document, text) VALUES (?, ?)",
                                       [document, text]).lastrowid
                self.base.execute("INSERT INTO searched (rowid, title, text) VALUES (?, ?, ?)",
                                  [id, _spaced(title), _spaced(text)])
        self.base.execute("UPDATE files SET bad = ? WHERE id = ?",
                          [tally.bad_count - bad_before, file])

    def _documents(self, source: Source, tally: Tally, advance: Callable[[int], None],
                   ) -> Iterator[tuple[str, str, Iterator[str]]]:
        """A file's documents: title, link and passages."""
        config = self.config
        if source.kind == "page":
            with documents.opened(source, advance) as file:
                title, text = page(file.read())
            yield _title(title) or _name(source.path), str(source.path), iter(passages(text)[0])
            return
        keys = (config.title_key, config.source_key)
        blocks = documents.blocks(source, config.text_key, config.skip_bad, on_read=advance,
                                  also=keys)
        if source.kind == "text":
            beginning = next(blocks, None)
            if beginning:
                title = _heading(source, beginning.text) or _name(source.path)
                yield title, str(source.path), _long_text(beginning, blocks, tally)
            return
        for block in blocks:
            if block.bad:
                tally.leave_out(f"{source.path}: damaged behind row {block.at - 1}")
            rows = documents.rows(block, config.text_key, config.skip_bad, keys, tally.leave_out)
            for at, row in enumerate(rows, block.at):
                if row is not None:
                    text, others = row
                    title = others.get(config.title_key) or _beginning(text)
                    link = others.get(config.source_key) or f"{source.path}:{at}"
                    yield _title(title), one_line(link), iter(passages(text)[0])


class Transaction:
    """All that is done meanwhile, or nothing."""

    def __init__(self, base: sqlite3.Connection):
        self.base = base

    def __enter__(self) -> None:
        self.base.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.base.in_transaction:            # a full disk ends it
            self.base.execute("ROLLBACK" if kind else "COMMIT")


def page(raw: bytes) -> tuple[str, str]:
    """Title and text of a page of HTML, without what leads to others."""
    from llmc.web.extra import needed

    with needed("an index of HTML files"):
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import detect_encoding
        from resiliparse.parse.html import HTMLTree
    try:                                        # what is UTF-8 is hardly ever something else
        tree = HTMLTree.parse(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        tree = HTMLTree.parse_from_bytes(raw, detect_encoding(raw))
    return tree.title or "", extract_plain_text(tree, main_content=False, alt_texts=False,
                                                comments=False,
                                                skip_elements=["nav", "footer", "aside", "form"])


def _prepare(base: sqlite3.Connection, path: Path) -> None:
    """An index with nothing in it, where there is none."""
    if base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        made_by_us(path, base)
    else:
        base.executescript(f"BEGIN IMMEDIATE; {LAYOUT} PRAGMA application_id = {APPLICATION}; "
                           f"PRAGMA user_version = {VERSION}; COMMIT;")
    base.execute("PRAGMA journal_mode = WAL")       # it can be searched while it is written
    base.execute("PRAGMA synchronous = NORMAL")


def _one_file(base: sqlite3.Connection) -> None:
    """All in the one file, which can then be read where nothing may be written; if others have it
    open it stays in two, which is as good to them."""
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    try:
        base.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise


def _stamp(path: Path) -> tuple[int, int]:
    """A file's size and time; 0 for a time so near that it may change once more within it."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns if found.st_mtime_ns < time.time_ns() - RACY else 0


def _long_text(block: documents.Block, more: Iterator[documents.Block],
               tally: Tally) -> Iterator[str]:
    """The passages of a text file, of which this is the first block."""
    rest = ""
    while block:
        if block.bad:
            tally.leave_out(f"{block.source.path}: {block.bad} lines that are not UTF-8", block.bad)
        parts, rest = passages(rest + block.text, block.ends)
        yield from parts
        block = next(more, None)


def _spaced(text: str) -> str:
    return " ".join(words(text))


def _heading(source: Source, text: str) -> str:
    """The first heading of a Markdown file."""
    found = re.search(r"^#{1,6}[ \t]+(.*\S)", text, re.MULTILINE)
    return _title(found[1].rstrip("# ")) if found and ".md" in source.path.suffixes else ""


def _name(path: Path) -> str:
    """A file's name without its endings, as a title."""
    return _title(re.sub(r"[_-]+", " ", path.name.split(".")[0] or path.name))


def _beginning(text: str) -> str:
    """What stands for the title of a row without one."""
    text = one_line(text)
    return text if len(text) <= BEGINNING else text[:BEGINNING].rsplit(" ", 1)[0] + "…"


def _title(text: str) -> str:
    return one_line(text)[:LONGEST_TITLE]


if __name__ == "__main__":
    cli.main(run)
