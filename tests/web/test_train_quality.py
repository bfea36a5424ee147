"""train_quality: what it learns, what it reports, and that a recipe keeps by it."""
from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc import cli, train_quality
from llmc.prepare_fineweb import PrepareFineWeb
from llmc.prepare_fineweb import run as prepare
from llmc.train_quality import TrainQuality, measured, roc_auc, run
from llmc.web import quality, recipes

LESSON = "the energy of a cell is held in molecules which enzymes split and join as plants and animals grow".split()
CHATTER = "omg lol win free click here best deal ever wow so cute follow me share this sale ends today hot".split()


def text(grade: int, random: Random) -> str:
    """Of ten words two for each grade from a lesson, the others chatter."""
    words = [random.choice(LESSON if at < 2 * grade else CHATTER) for at in range(10)] * 2
    return " ".join(random.sample(words, 20)) + f", page {random.randrange(10**6)}."


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    random = Random(3)
    grades = [random.choice([0, 0, 1, 1, 2, 3, 4, 5]) for _ in range(1500)]
    return [{"text": text(grade, random), "score": grade + random.uniform(-0.4, 0.4)} for grade in grades]


def put(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(run, config: type, *args: object) -> int:
    return cli.guarded(lambda: run(cli.parse(config, list(map(str, args)))))


def learn(*args: object) -> int:
    return command(run, TrainQuality, *args)


def test_what_is_good_is_learned_and_reported(rows, tmp_path, capsys):
    assert learn("--source", put(tmp_path / "a.jsonl", [*rows, {"text": "none", "score": None}]), "--out",
                 tmp_path / "model") == 0, capsys.readouterr().err
    about = json.loads((tmp_path / "model/quality.json").read_text())
    report, printed = about["held_out"], capsys.readouterr().out
    assert 100 < report["documents"] < 200 and sum(map(sum, report["confusion"])) == report["documents"]
    assert sum(about["trained_on"]["documents"].values()) + report["documents"] == 1500
    assert set(about["labels"]) == set(range(6)) and about["threshold"] == 2.5
    assert report["good"] == sum(map(sum, report["confusion"][3:]))
    assert report["f1"] > 0.85 and report["roc_auc"] > 0.95 and report["correlation"] > 0.9
    assert f"precision {report['precision']:.3f}" in printed and "1 documents have no score" in printed
    raw = (tmp_path / "model/model.bin").read_bytes()
    assert about["model"]["sha256"] == hashlib.sha256(raw).hexdigest()
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.bin", "quality.json"]


def test_the_same_documents_give_the_same_file_in_any_order(rows, tmp_path):
    put(tmp_path / "a.jsonl", rows)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows[::-1])
    for name in ("a.jsonl", "b.jsonl.gz"):
        assert learn("--source", tmp_path / name, "--out", tmp_path / name[0], "--epochs", 3) == 0
    assert (tmp_path / "a/model.bin").read_bytes() == (tmp_path / "b/model.bin").read_bytes()
    assert learn("--source", tmp_path / "a.jsonl", "--out", tmp_path / "c", "--epochs", 3, "--seed", 2) == 0
    assert (tmp_path / "a/model.bin").read_bytes() != (tmp_path / "c/model.bin").read_bytes()


def test_two_piles_are_told_apart_and_a_recipe_keeps_by_the_score(rows, tmp_path, capsys):
    put(tmp_path / "good.jsonl", [row for row in rows if row["score"] > 3.5])
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    parquet.write_table(pyarrow.table({"text": [row["text"] for row in rows if row["score"] < 1.5]}),
                        tmp_path / "bad.parquet")
    assert learn("--good", tmp_path / "good.jsonl", "--bad", tmp_path / "bad.parquet", "--out", tmp_path / "model"
                 ) == 0, capsys.readouterr().err
    about = json.loads((tmp_path / "model/quality.json").read_text())
    assert set(about["labels"]) == {0, 1} and about["threshold"] == 0.5 and about["held_out"]["accuracy"] > 0.95

    random = Random(9)
    pages = [{"text": text(grade, random), "id": f"{grade} {at}"} for at in range(50) for grade in (0, 5)]
    argv = ["--source", put(tmp_path / "pages.jsonl", pages), "--recipe", "edu-scores", "--val_fraction", 0,
            "--out", tmp_path / "out", "--workers", 1, "--set", f"quality.model={tmp_path / 'model'}"]
    assert command(prepare, PrepareFineWeb, *argv) == 0, capsys.readouterr().err
    prepared = json.loads((tmp_path / "out/prepared.json").read_text())
    assert prepared["funnel"][1]["step"] == "quality" and abs(prepared["funnel"][1]["reasons"]["low_score"] - 50) <= 2
    kept = documents(tmp_path / "out/work/kept")
    assert sum(row["id"].startswith("5") for row in kept) >= len(kept) - 1
    model = quality._classifier(tmp_path / "model/model.bin")
    for row in kept:
        assert row["metadata"]["quality_score"] == round(quality.expected(model, quality.line(row["text"])), 4) >= 0.5

    assert learn("--good", tmp_path / "good.jsonl", "--bad", tmp_path / "bad.parquet", "--out", tmp_path / "model",
                 "--overwrite", "--seed", 5) == 0
    assert command(prepare, PrepareFineWeb, *argv) == 1
    assert "was begun with other option files" in capsys.readouterr().err


def documents(folder: Path) -> list[dict]:
    import zstandard

    return [json.loads(line) for path in sorted(folder.glob("*.zst"))
            for line in zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines()]


@pytest.mark.parametrize("metadata, field, score", [
    ({"int_score": 3, "score": 2.6}, None, 3), ({"score": 2.6}, None, 3), ({"score": 2.5}, None, 2), ({}, None, None),
    ({"score": "3"}, None, None), ({"score": True}, None, None), ({"score": float("nan")}, None, None),
    ({"int_score": None, "score": 4.2}, None, 4), ({"score": 2.6}, "score", 2.6), ({"score": 2.6}, "edu", None)])
def test_the_score_that_a_document_carries(metadata, field, score):
    assert quality.score_of(metadata, field) == score


def test_documents_are_kept_by_the_score_they_carry_as_fineweb_edu_does():
    step = recipes.load("fineweb-edu")[-1]
    assert step.name == "quality"
    assert [each.name for each in recipes.load("fineweb-edu")[:-1]] == [each.name for each in recipes.load("fineweb")]
    block = step.block(None)
    rows = [{"score": score, "int_score": round(max(0, min(score, 5)))} for score in np.arange(0, 5.2, 0.1).tolist()]
    kept = list(block.run(Document("t", "0", metadata=row) for row in [*rows, {}, {"score": "4"}]))
    assert [document.metadata for document in kept] == [row for row in rows if row["int_score"] >= 3]
    assert block.stats["dropped_low_score"].total == len(rows) - len(kept)
    assert block.stats["dropped_no_score"].total == 2
    finer = recipes.load("edu-scores", ["quality.field=score", "quality.threshold=3.4"])[0].block(None)
    assert [finer.filter(Document("t", "0", metadata=row)) is True for row in rows] == [
        row["score"] >= 3.4 for row in rows]


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60) | st.lists(st.sampled_from(
    ["__label__1", "</s>", "a", "_", "\n", "\r", " ", "\x85", "\u2028", "\0", "\ud800", "B."])).map("".join))
def test_no_word_of_a_text_is_a_label_or_ends_its_line(text):
    line = quality.line(text)
    assert len(line.splitlines()) <= 1 and "__label__" not in line and "</s>" not in line
    assert line.encode().decode() == quality.line(line)


@settings(max_examples=200, deadline=None)
@given(pairs=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2).filter(
    lambda pairs: len({good for good, _ in pairs}) == 2))
def test_roc_auc_counts_pairs(pairs):
    wins = [(a > b) + (a == b) / 2 for good, a in pairs for other, b in pairs if good and not other]
    good, scores = map(np.array, zip(*pairs))
    assert roc_auc(good, scores.astype(float)) == pytest.approx(sum(wins) / len(wins))


def test_the_report_by_hand():
    report = measured(np.array([0, 1, 2.6, 3, 5, 4]), np.array([0.2, 2.7, 2.5, 2.4, 4.6, 3.1]), 3, 2.5)
    assert (report["good"], report["kept"]) == (4, 4)
    assert report["precision"] == report["recall"] == report["f1"] == 0.75 and report["accuracy"] == 4 / 6
    assert report["roc_auc"] == 6 / 8 and report["grades"] == [0, 1, 2, 3, 4, 5]
    assert report["confusion"] == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0] * 6, [0, 0, 2, 0, 0, 0],
                                   [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]


@pytest.mark.parametrize("change, args, sentence", [
    (lambda row: {"text": row["text"]}, [], "no document of 1,500 has a number as its int_score or score; --field"),
    (lambda row: row, ["--field", "edu"], "no document of 1,500 has a number as its edu; --field names another"),
    (lambda row: row | {"score": 4}, [], "learn from score 3 or more and 0 less, of those"),
    (lambda row: row, ["--threshold", "6"], "0 documents to learn from score 6 or more and 1,3"),
    (lambda row: row | {"score": len(row["text"]) * row["score"]}, [], "scores, -"),
    (lambda row: row, ["--good", "x"], "wanted --source, or else --good and --bad"),
    (lambda row: row, ["--lr", "1e-9"], "--lr is 1e-09, wanted 1e-06 to 10"),
    (lambda row: row, ["--lr", "10", "--epochs", "100"], "fastText could not learn: Encountered NaN; a smaller --lr"),
])
def test_what_cannot_be_learned_from_is_one_sentence(rows, tmp_path, capsys, change, args, sentence):
    put(tmp_path / "a.jsonl", list(map(change, rows)))
    assert learn("--source", tmp_path / "a.jsonl", "--out", tmp_path / "model", *args) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and not (tmp_path / "model").exists()


def test_few_documents_pages_and_half_a_pair_of_piles_are_refused(rows, tmp_path, capsys):
    put(tmp_path / "few.jsonl", rows[:60])
    (tmp_path / "page.html").write_text("<p>page</p>")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    for args, sentence in [
            (["--source", tmp_path / "few.jsonl"], "wanted at least 50 of either, and one held out"),
            (["--good", tmp_path / "few.jsonl"], "wanted --source, or else --good and --bad"),
            (["--good", tmp_path / "few.jsonl", "--bad", tmp_path / "page.html"], "--bad: /"),
            (["--source", tmp_path], "model lies in --source"),
            (["--good", "/nowhere", "--bad", tmp_path / "few.jsonl"], "--good /nowhere: there is no such file or folder"),
            (["--source", tmp_path / "broken.parquet"], "arquet")]:
        assert learn(*args, "--out", tmp_path / "model") == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1 and not (tmp_path / "model").exists()


def test_a_classifier_is_not_replaced_unasked_and_a_damaged_one_not_used(rows, tmp_path, capsys):
    argv = ["--source", put(tmp_path / "a.jsonl", rows), "--out", tmp_path / "model", "--epochs", 1]
    assert learn(*argv) == 0
    assert learn(*argv) == 1 and "is there already; --overwrite replaces it" in capsys.readouterr().err
    with (tmp_path / "model/model.bin").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="is not the one that .*quality.json describes"):
        quality.about(tmp_path / "model")
    with pytest.raises(ValueError, match="wanted a folder that llmc train_quality wrote"):
        quality.about(tmp_path)
    assert learn(*argv, "--overwrite") == 0 and quality.about(tmp_path / "model")["threshold"] == 2.5


def test_a_library_that_only_predicts_is_named(rows, tmp_path, capsys, monkeypatch):
    import fasttext

    monkeypatch.delattr(fasttext, "train_supervised")
    assert learn("--source", put(tmp_path / "a.jsonl", rows), "--out", tmp_path / "model") == 1
    assert "can predict, but not learn; pip install" in capsys.readouterr().err


def test_sources_that_cannot_carry_a_score_want_a_classifier(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a text")
    assert command(prepare, PrepareFineWeb, "--source", tmp_path / "a.txt", "--out", tmp_path / "out", "--recipe",
                   "fineweb-edu") == 1
    error = capsys.readouterr().err
    assert "without a score" in error and "quality.model=DIR" in error and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.shared
def test_books_of_knowledge_are_told_from_novels(shared, tmp_path, capsys):
    """Grades 0 to 5: of five paragraphs so many are of non-fiction. None of the books is in both halves."""
    def paragraphs(name: str, skip: int) -> list[str]:
        with lzma.open(shared / f"data/corpora/{name}_train.jsonl.xz", "rt") as file:
            books = [json.loads(line)["text"] for line in islice(file, skip, skip + 20)]
        parts = [re.sub(r"\s+", " ", part)[:300] for book in books for part in re.split(r"\n\s*\n", book)
                 if len(part) > 200]
        return Random(skip).sample(parts, min(len(parts), 3000))

    def graded(skip: int, count: int) -> list[dict]:
        random, piles = Random(skip), [paragraphs(name, skip) for name in ("english_novels", "nonfiction")]
        rows = []
        for _ in range(count):
            grade = random.choices(range(6), [30, 30, 20, 10, 6, 4])[0]
            parts = [random.choice(piles[at < grade]) for at in range(5)]
            rows.append({"text": "\n".join(random.sample(parts, 5)), "int_score": grade})
        return rows

    assert learn("--source", put(tmp_path / "a.jsonl", graded(0, 6000)), "--out", tmp_path / "model") == 0
    held_out = json.loads((tmp_path / "model/quality.json").read_text())["held_out"]
    rows, model = graded(40, 1000), quality._classifier(tmp_path / "model/model.bin")
    report = measured(np.array([row["int_score"] for row in rows]),
                      np.array([quality.expected(model, quality.line(row["text"])) for row in rows]), 3, 2.5)
    with capsys.disabled():
        for name, each in (("same books", held_out), ("other books", report)):
            print(f"\n{name}: {train_quality.described(each)}")
    assert held_out["f1"] > 0.85 and held_out["roc_auc"] > 0.95 and held_out["correlation"] > 0.9
    assert report["f1"] > 0.7 and report["roc_auc"] > 0.9 and report["correlation"] > 0.75
