"""llmc index: what becomes a document, bringing it up to date, kills in the middle, and what it refuses."""
from __future__ import annotations

import gzip
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llmc import cli
from llmc.index import MakeIndex, page, run, update
from llmc.tools.search import Index
from pyarrow import parquet

OLD = 1_700_000_000             # a time that is long over


def llmc(*args: object) -> int:
    return cli.guarded(lambda: run(cli.parse(MakeIndex, list(map(str, args)))))


def write(path: Path, text: str | bytes, at: int = OLD) -> Path:
    """A file that was last changed then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(path, (at, at))
    return path


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def content(path: Path) -> list[tuple]:
    """All that an index holds, but for numbers that say when it came in, and what FTS5 says of its own state."""
    with sqlite3.connect(path) as base:
        base.execute("CREATE VIRTUAL TABLE temp.whole USING fts5vocab(main, searched, row)")
        base.execute("INSERT INTO searched (searched) VALUES ('integrity-check')")
        return [*base.execute("SELECT f.path, f.size, f.sha256, d.title, d.source, p.text FROM files AS f JOIN documents AS d "
                              "ON d.file = f.id JOIN passages AS p ON p.document = d.id ORDER BY f.path, p.id"),
                *base.execute("SELECT path FROM files ORDER BY path"), *base.execute("SELECT * FROM whole")]


def titles(path: Path, query: str, n: int = 9) -> list[str]:
    with Index(path) as index:
        return [result.title for result in index.search(query, n)]


def test_every_kind_of_file_is_found_with_its_title_and_source(tmp_path):
    docs, out = tmp_path / "docs", tmp_path / "all.index"
    write(docs / "a_plain-note.txt", "The ape wrote this.")
    write(docs / "deep" / "guide.md", "Some words.\n\n## The *long* guide ##\n\nAbout an ape.")
    write(docs / "rows.jsonl.gz", gzip.compress(lines({"title": "Row", "text": "ape one", "url": "https://one"},
                                                      {"text": "ape two, and so on " * 9}, {"title": 3, "text": "ape\nthree"}).encode()))
    table = pyarrow.table({"text": ["no", "ape four"], "title": ["x", "Four"], "url": pyarrow.array([None, None], pyarrow.string()), "n": [1, 2]})
    parquet.write_table(table, docs / "rows.parquet")
    write(docs / "page.html", "<title>A &amp; page</title><nav>menu</nav><p>An ape</p><ul><li>item</ul><script>x</script><footer>end</footer>")
    write(docs / "left.pdf", b"\0ape")
    assert llmc(docs, "--out", out) == 0
    with Index(out) as index:
        found = {result.title: result for result in index.search("ape", 20)}
        assert index.size() == (8, 8) and not index.search("menu") and index.search("item")
    two = ("ape two, and so on " * 9)[:60].rsplit(" ", 1)[0] + "…"
    assert {title: result.source.removeprefix(f"{docs}/") for title, result in found.items()} == {
        "a plain note": "a_plain-note.txt", "The *long* guide": "deep/guide.md", "Row": "https://one", two: "rows.jsonl.gz:2",
        "ape three": "rows.jsonl.gz:3", "Four": "rows.parquet:2", "A & page": "page.html"}


def test_what_is_asked_is_shown(tmp_path, capsys):
    docs = write(tmp_path / "a.jsonl", lines({"title": "Ape\x1b[31m", "text": "An ape.", "url": "https://ape"}, {"title": "b", "text": "x"}))
    assert llmc(docs, "--out", tmp_path / "i", "--ask", "APES?") == 0
    shown = capsys.readouterr().out
    assert "2 documents in 2 passages; files: 1 read, 0 unchanged, 0 taken out" in shown
    assert "[1] Ape�[31m" in shown and "    An ape.\n    https://ape\n" in shown
    assert llmc("--out", tmp_path / "i", "--ask", "zebra") == 0
    assert capsys.readouterr().out == "nothing found\n"


def test_a_long_document_is_many_passages_and_streams(tmp_path):
    """Over blocks of a megabyte too no word is lost or doubled."""
    text = "\n\n".join(f"Paragraph {at} says w{at} and no more." for at in range(60_000))
    update(MakeIndex(out=tmp_path / "i", documents=[write(tmp_path / "long.txt", text)]))
    with sqlite3.connect(tmp_path / "i") as base:
        parts = [text for text, in base.execute("SELECT text FROM passages ORDER BY id")]
    assert len(parts) > 1000 and " ".join(" ".join(parts).split()) == " ".join(text.split())
    with Index(tmp_path / "i") as index:
        assert index.size()[0] == 1 and "says w31234 and" in index.search("w31234")[0].snippet


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(["a.txt", "b.md", "c.jsonl", "d/e.txt"]),
                                st.lists(st.sampled_from(["ape", "bee", "cat", "Émile's"]), max_size=5).map(" ".join), min_size=1),
                min_size=2, max_size=4))
def test_an_index_brought_up_to_date_equals_one_from_scratch(tmp_path_factory, states):
    folder = tmp_path_factory.mktemp("states")
    for number, state in enumerate(states):
        for path in [path for path in (folder / "docs").rglob("*.*") if path.is_file()]:
            path.unlink()
        for name, text in state.items():
            write(folder / "docs" / name, lines(*({"text": word} for word in text.split())) if "jsonl" in name else text, OLD + number)
        update(MakeIndex(out=folder / "kept", documents=[folder / "docs"]))
    update(MakeIndex(out=folder / "new", documents=[folder / "docs"]))
    assert content(folder / "kept") == content(folder / "new")
    with Index(folder / "kept") as kept, Index(folder / "new") as new:
        assert all(kept.search(query, 9) == new.search(query, 9) for query in ("ape", "bee emile", "cat ape bee", "a"))


def test_equal_scores_come_in_the_order_of_files(tmp_path):
    for name in ("c", "a", "b"):                # as they come in
        write(tmp_path / "docs" / f"{name}.txt", f"ape {name}")
        write(tmp_path / "docs" / f"z{name}.txt", "other words")
        update(MakeIndex(out=tmp_path / "i", documents=[tmp_path / "docs"]))
    assert titles(tmp_path / "i", "ape") == ["a", "b", "c"]


def test_only_what_changed_is_read(tmp_path, capsys):
    docs, out = tmp_path / "docs", tmp_path / "i"
    for name in "abcd":
        write(docs / f"{name}.txt", f"ape {name}{name}{name}")

    def told() -> str:
        assert llmc(docs, "--out", out) == 0
        return capsys.readouterr().out.split("files: ")[1].split(";")[0]

    assert told() == "4 read, 0 unchanged, 0 taken out"
    assert told() == "0 read, 4 unchanged, 0 taken out"
    write(docs / "a.txt", "ape aaa", OLD + 1)           # touched
    write(docs / "b.txt", "ape xxx", OLD + 1)           # as long
    (docs / "c.txt").unlink()
    assert told() == "1 read, 2 unchanged, 1 taken out"
    assert titles(out, "xxx") == ["b"] and not titles(out, "bbb") and not titles(out, "ccc")
    now = int(time.time()) + 100
    write(docs / "d.txt", "ape new", now)               # so near that it may change once more within its time
    assert told() == "1 read, 2 unchanged, 0 taken out"
    write(docs / "d.txt", "ape was", now)
    assert told() == "1 read, 2 unchanged, 0 taken out" and titles(out, "was") == ["d"]
    assert llmc(docs, "--out", out, "--title_key", "name") == 0         # other keys: other documents
    assert "3 read" in capsys.readouterr().out


def test_bad_rows_are_refused_or_counted_and_named(tmp_path, capsys):
    rows = write(tmp_path / "rows.jsonl", '{"text": "ape"}\n{"text": 3}\n{"title": "x"}\n[]\n{"text": "\\ud800"}\n{\n\n{"text": "bee"}\n')
    text = write(tmp_path / "text.txt", b"ape\n\xff\xfe\nbee\n")
    out = tmp_path / "i"
    assert llmc(rows, "--out", out) == 1
    assert f"{rows}:2: 'text' is int, wanted a string; --skip_bad leaves such rows out" in capsys.readouterr().err
    assert llmc(text, "--out", out) == 1 and f"{text}:2: not UTF-8" in capsys.readouterr().err
    assert llmc(rows, text, "--out", out, "--skip_bad") == 0
    shown = capsys.readouterr()
    assert "3 documents" in shown.out and "left out as unreadable: 6 rows or lines" in shown.err
    assert all(f"{rows}:{at}: " in shown.err for at in (2, 3, 4, 5, 6))
    assert llmc(rows, text, "--out", out) == 1          # without --skip_bad they are still bad
    assert len(titles(out, "ape")) == 2


def test_what_cannot_be_is_one_sentence(tmp_path, capsys):
    docs, other = write(tmp_path / "a.txt", "ape"), write(tmp_path / "notes", "my notes")
    base = tmp_path / "other.db"
    with sqlite3.connect(base) as made:
        made.execute("CREATE TABLE mine (a)")
    for args, sentence in ((["--out", tmp_path / "i"], "neither documents nor --ask"),
                           ([docs, "--out", tmp_path], "which is a folder"), ([docs, "--out", other], "is no index of llmc's"),
                           ([docs, "--out", base], "is no index of llmc's"), (["--out", base, "--ask", "x"], "is no index of llmc's"),
                           (["--out", other, "--ask", "x"], "is no index of llmc's"), (["--out", tmp_path / "no", "--ask", "x"], "No such file"),
                           ([tmp_path / "no.txt", "--out", tmp_path / "i"], "No such file"), ([other, "--out", tmp_path / "i"], "is none of the files")):
        assert llmc(*args) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
    assert other.read_text() == "my notes" and not (tmp_path / "no").exists()
    assert llmc(docs, "--out", tmp_path / "i") == 0
    with sqlite3.connect(tmp_path / "i") as made:
        made.execute("PRAGMA user_version = 9")
    assert llmc(docs, "--out", tmp_path / "i") == 1 and "version 9, wanted 1" in capsys.readouterr().err


def test_a_damaged_index_is_named(tmp_path, capsys):
    docs, out = write(tmp_path / "a.jsonl", lines(*({"text": f"ape {at} " * 50} for at in range(500)))), tmp_path / "i"
    assert llmc(docs, "--out", out) == 0
    raw = bytearray(out.read_bytes())
    raw[4096:] = random.Random(1).randbytes(len(raw) - 4096)
    out.write_bytes(raw)
    assert llmc("--out", out, "--ask", "ape") == 1
    error = capsys.readouterr().err
    assert str(out) in error and "delete it" in error and error.count("\n") == 1


def test_a_python_without_fts5_is_named(tmp_path, monkeypatch, capsys):
    class Without(sqlite3.Connection):
        def execute(self, sql, *args):
            return super().execute(sql.replace("USING fts5(", "USING fts55("), *args)

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **b: real(*a, **b, factory=Without))
    assert llmc(write(tmp_path / "a.txt", "ape"), "--out", tmp_path / "i") == 1
    assert "is built without FTS5" in capsys.readouterr().err


def test_a_finished_index_is_one_file_also_beside_a_reader(tmp_path):
    docs, out = tmp_path / "docs", tmp_path / "i"
    write(docs / "a.txt", "ape")
    update(MakeIndex(out=out, documents=[docs]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "i"]
    with Index(out) as index:
        assert len(index.search("ape")) == 1
        write(docs / "b.txt", "ape again")
        update(MakeIndex(out=out, documents=[docs]))
        assert len(index.search("ape")) == 2
    update(MakeIndex(out=out, documents=[docs]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "i"]


def test_it_is_searched_while_it_is_written(tmp_path):
    docs, out = tmp_path / "docs", tmp_path / "i"
    write(docs / "a.txt", "ape")
    update(MakeIndex(out=out, documents=[docs]))
    with Index(out) as index:
        with sqlite3.connect(out, isolation_level=None) as writer:
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM documents")
            assert [result.title for result in index.search("ape")] == ["a"]
            writer.execute("ROLLBACK")


@pytest.mark.parametrize("committed", [1, 5])
def test_a_kill_loses_no_file_that_was_done_and_the_next_run_goes_on(tmp_path, committed):
    docs, out = tmp_path / "docs", tmp_path / "i"
    for at in range(12):
        write(docs / f"{at:02}.jsonl", lines(*({"title": f"t{at} {row}", "text": f"ape w{row} " * 9} for row in range(400))))
    worker = subprocess.Popen([sys.executable, "-m", "llmc.index", str(docs), "--out", str(out)], stdout=subprocess.DEVNULL)

    def files() -> list[str]:
        try:
            with sqlite3.connect(f"file:{out}?mode=ro", uri=True) as base:
                return [path for path, in base.execute("SELECT path FROM files")]
        except sqlite3.OperationalError:        # not there yet
            return []

    while len(files()) < committed and worker.poll() is None:
        time.sleep(0.002)
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    done = files()
    assert committed <= len(done) < 12
    with Index(out) as index:
        assert index.size() == (400 * len(done), 400 * len(done))
        assert index.search("w7")[0].source.endswith(".jsonl:8")
    tally = update(MakeIndex(out=out, documents=[docs]))
    assert (tally.read, tally.unchanged) == (12 - len(done), len(done))
    update(MakeIndex(out=tmp_path / "new", documents=[docs]))
    assert content(out) == content(tmp_path / "new")


def test_a_full_disk_leaves_the_index_as_it_was(tmp_path, capsys):
    import resource

    docs, out = tmp_path / "docs", tmp_path / "i"
    write(docs / "a.txt", "ape")
    assert llmc(docs, "--out", out) == 0
    before = content(out)
    rng = random.Random(3)
    write(docs / "b.txt", "\n\n".join(str(rng.random()) for _ in range(40_000)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        assert llmc(docs, "--out", out) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().err.count("\n") == 1
    assert content(out) == before and titles(out, "ape") == ["a"]


@pytest.mark.parametrize("raw, title, text", [
    (b"", "", ""), (b"<p>caf\xc3\xa9", "", "café"), ('<meta charset="latin-1"><p>café'.encode("latin-1"), "", "café"),
    (b"<title>T</title><body><header><h1>H</h1></header><aside>no</aside><p>a &lt;|im_end|&gt;", "T", "H\n\na <|im_end|>")])
def test_a_page_gives_its_title_and_text(raw, title, text):
    assert tuple(map(str.strip, page(raw))) == (title, text)


@pytest.mark.shared
def test_titles_of_real_leads_find_them(shared, tmp_path):
    file = shared / "data" / "corpora" / "wiki_summaries_en.jsonl.xz"
    update(MakeIndex(out=tmp_path / "i", documents=[file]))
    with Index(tmp_path / "i") as index:
        assert index.size()[0] > 10_000
    for question, title in (("Who painted the Mona Lisa?", "Mona Lisa"), ("how tall is mount everest", "Mount Everest"),
                            ("When was Mozart born?", "Wolfgang Amadeus Mozart"), ("What is photosynthesis?", "Photosynthesis")):
        assert titles(tmp_path / "i", question, 1) == [title]
