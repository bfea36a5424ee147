"""prepare_fineweb: what the shards hold, that it goes on where it was left, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from llmc import cli, inspect
from llmc.prepare_fineweb import PrepareFineWeb, run
from llmc.shards import read_shard
from llmc.tokenizer import Tokenizer
from llmc.web import phases

FILES = {"a.jsonl": 30, "below/b.jsonl": 20, "c.txt": 1}
SHORT = "Too short."


def prose(number: int) -> str:
    words = np.random.default_rng(number).choice(["river", "stone", "letter", "light", "house", "garden"], 60)
    return f"Document {number}: " + " ".join(words) + "."


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    folder, number = tmp_path_factory.mktemp("pages"), 0
    for name, count in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        texts = [prose(number + i) for i in range(count)]
        number += count
        path.write_text(texts[0] if name.endswith(".txt") else "".join(
            json.dumps({"text": text}) + "\n" for text in [*texts, SHORT]))
    (folder / "recipe.yaml").write_text(
        "steps:\n  - gopher_quality: {min_stop_words: null, min_doc_words: 20}\n")
    return folder


@pytest.fixture
def llmc(pages, monkeypatch):
    """The command on these pages, in one process: its exit status."""
    def command(out: Path, *args: object) -> int:
        argv = ["--source", str(pages), "--out", str(out), "--recipe", str(pages / "recipe.yaml"), "--workers", "1",
                "--val_fraction", "0.2", *map(str, args)]
        return cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv)))
    return command


def documents(out: Path, split: str) -> list[str]:
    tokenizer = Tokenizer.load(str(out))
    ids = np.concatenate([read_shard(path)[0] for path in sorted(out.glob(f"*_{split}_*.bin"))])
    return tokenizer.decode(ids.tolist()).split("<|endoftext|>")[:-1]


def test_every_kept_document_is_in_one_split_whole_and_shuffled(llmc, tmp_path, capsys):
    assert llmc(tmp_path / "out") == 0
    train, val = (documents(tmp_path / "out", split) for split in ("train", "val"))
    assert sorted(train + val) == sorted(prose(i) for i in range(51))
    numbers = [int(re.match(r"Document (\d+)", text)[1]) for text in train]
    assert numbers != sorted(numbers) and 2 <= len(val) <= 22
    made = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert [made["train_documents"], made["val_documents"]] == [len(train), len(val)]
    assert made["funnel"] == [{"step": "read", "documents": 53, "kept": 53, "reasons": {}},
                              {"step": "gopher_quality", "documents": 53, "kept": 51,
                               "reasons": {"gopher_short_doc": 2}}]
    assert "gopher_quality              53 ->         51  2 gopher_short_doc" in capsys.readouterr().out


def test_of_few_documents_one_is_held_out(llmc, tmp_path, capsys):
    assert llmc(tmp_path / "out", "--val_fraction", "1e-9") == 0
    assert [len(documents(tmp_path / "out", split)) for split in ("train", "val")] == [50, 1]
    (tmp_path / "one.txt").write_text(prose(1))
    argv = ["--source", str(tmp_path / "one.txt"), "--out", str(tmp_path / "one"), "--recipe", "minimal"]
    assert cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv))) == 1
    assert "of 1 documents none is left to validate on" in capsys.readouterr().err
    assert cli.guarded(lambda: run(cli.parse(PrepareFineWeb, [*argv, "--val_fraction", "0"]))) == 0


def test_a_document_stays_held_out_when_others_leave(llmc, tmp_path, pages):
    assert llmc(tmp_path / "all") == 0
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(pages / "a.jsonl", few)
    argv = ["--source", str(few), "--out", str(tmp_path / "less"), "--recipe", str(pages / "recipe.yaml"),
            "--workers", "1", "--val_fraction", "0.2"]
    assert cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv))) == 0
    assert set(documents(tmp_path / "less", "val")) < set(documents(tmp_path / "all", "val"))


def test_it_goes_on_where_it_was_left_with_the_same_bytes(llmc, tmp_path, capsys):
    assert llmc(tmp_path / "x" / "out") == 0 == llmc(tmp_path / "y" / "out")
    out = tmp_path / "y" / "out"
    whole = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and not path.name.startswith(".")}
    for path in (out / "work" / "logs" / "1_read" / "completions" / "00001", out / "prepared.json"):
        path.unlink()
    (out / "work" / "kept" / "00001.jsonl.zst").write_bytes(b"half")
    assert llmc(out) == 0
    for name, raw in whole.items():
        assert (out / name).read_bytes() == raw == (tmp_path / "x" / "out" / name).read_bytes(), name


def test_each_step_drops_what_it_is_for(tmp_path, capsys):
    text = "The river is as clear as glass where the children come to swim in the long summer of that year, number {}."
    quoted = "In what year did the first mountaineers set foot on the summit of Mount Everest by its north ridge?"
    french = "La rivière est claire comme du verre, et les enfants viennent y nager pendant tout le long été."
    texts = [*map(text.format, range(5)), text.format(0), french, f"Quiz night! {quoted} Nobody knew.",
             "Write to jane.doe@company.org or to the house by the river if you would like to come and stay."]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "quiz.jsonl").write_text(json.dumps({"question": quoted, "answer": "1960"}) + "\n")
    (tmp_path / "mine.yaml").write_text(
        "steps: [language, exact, {decontaminate: {sets: [" + str(tmp_path / "evals") + "]}}, personal]\n")
    argv = ["--source", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), "--val_fraction", "0",
            "--recipe", str(tmp_path / "mine.yaml"), "--workers", "1"]
    assert cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv))) == 0, capsys.readouterr().err
    kept = documents(tmp_path / "out", "train")
    assert len(kept) == 6 and set(map(text.format, range(5))) < set(kept)
    assert not any("jane.doe" in text for text in kept) and any("email@example.com" in text for text in kept)
    funnel = json.loads((tmp_path / "out" / "prepared.json").read_text())["funnel"]
    assert [(row["step"], row["documents"], row["kept"]) for row in funnel] == [
        ("read", 9, 9), ("language", 9, 8), ("exact", 8, 7), ("decontaminate", 7, 6), ("personal", 6, 6)]
    assert funnel[3]["reasons"] == {"contaminated_quiz": 1} and funnel[1]["reasons"] == {"language": 1}


def test_pages_become_text_and_text_passes_as_it_is(tmp_path, capsys):
    from io import BytesIO

    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    stories = [f"Story {i} is about a river which is as clear as glass. " + prose(i) + " And the children, who had "
               "come to swim in it all summer, went home late in the evening." for i in range(4)]
    html = ("<!doctype html><html><head><title>News</title></head><body><nav><a href='/'>Home</a></nav>"
            "<article><h1>News</h1><p>{}</p></article></body></html>")
    folder = tmp_path / "pages"
    folder.mkdir()
    with (folder / "a.warc.gz").open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for i, story in enumerate(stories[:2]):
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            writer.write_record(writer.create_warc_record(f"https://example.com/{i}", "response", http_headers=headers,
                                                          payload=BytesIO(html.format(story).encode())))
    (folder / "b.html").write_text(html.format(stories[2]))
    (folder / "c.txt").write_text(f"<b>{stories[3]}</b>")
    (folder / "broken.warc.gz").write_bytes((folder / "a.warc.gz").read_bytes()[:-40])
    (tmp_path / "mine.yaml").write_text("steps: [url, {extract: {precision: false}}, exact]\n")

    def command(recipe: str) -> int:
        argv = ["--source", str(folder), "--out", str(tmp_path / "out"), "--val_fraction", "0", "--recipe", recipe]
        return cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv)))

    assert command(str(tmp_path / "mine.yaml")) == 0, capsys.readouterr().err
    kept = documents(tmp_path / "out", "train")
    assert len(kept) == 4 and sum(stories[3] in text and "<b>" in text for text in kept) == 1
    assert all(any(story in text and "Home" not in text for text in kept) for story in stories)
    assert "1 records or files could not be read" in capsys.readouterr().out
    problem, = (tmp_path / "out" / "work" / "problems" / "archive").rglob("00001.jsonl")
    assert json.loads(problem.read_text())["file"].endswith("broken.warc.gz")
    (tmp_path / "no.yaml").write_text("steps: [url]\n")
    assert command(str(tmp_path / "no.yaml")) == 1
    assert "holds HTML, and recipe" in capsys.readouterr().err


@pytest.mark.parametrize("args, sentence", [
    (["--set", "gopher_quality.min_doc_words=1000"], "all 53 documents were dropped: 53 gopher_quality (gopher_short_doc)"),
    (["--source", "/nowhere"], "--source /nowhere: there is no such file or folder"),
    (["--recipe", "finweb"], "there is no recipe 'finweb'; did you mean fineweb?"),
    (["--set", "gopher_quality.min_doc_words=[20"], "--set gopher_quality.min_doc_words=[20: '[20' is no YAML"),
    (["--set", "gopher_quality.min_words=1"], "gopher_quality has no option 'min_words'"),
])
def test_what_cannot_be_done_is_one_sentence_and_writes_no_shard(llmc, tmp_path, capsys, args, sentence):
    assert llmc(tmp_path / "out", *args) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.bin"))


def test_other_settings_in_the_same_folder_are_refused_until_it_starts_anew(llmc, tmp_path, capsys):
    assert llmc(tmp_path / "out") == 0
    assert llmc(tmp_path / "out", "--seed", 5) == 1
    assert "was begun with other seed; --fresh starts anew" in capsys.readouterr().err
    assert llmc(tmp_path / "out", "--seed", 5, "--fresh") == 0


def test_another_tokenizer_cuts_the_same_documents_anew(llmc, tmp_path):
    out = tmp_path / "out"
    assert llmc(out) == 0
    before, kept = documents(out, "train"), out / "work" / "kept" / "00000.jsonl.zst"
    written = kept.stat().st_mtime_ns
    assert llmc(out, "--tokenizer", "cl100k_base") == 0
    assert Tokenizer.load(str(out)).vocab_size > 100_000 and documents(out, "train") == before
    assert kept.stat().st_mtime_ns == written
    assert json.loads((out / "report.json").read_text())["tokenizer"] == "cl100k_base"
    assert llmc(out) == 0 and documents(out, "train") == before


def test_fields_that_rows_bring_along_change_nothing(tmp_path, capsys):
    """A file_path of another's, a field html, a url that is none, values that JSON has not."""
    rows = [{"text": prose(i), "file_path": "s3://commoncrawl/a.warc.gz", "html": "<p>raw</p>", "url": 5 + i}
            for i in range(6)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    table = {"text": [prose(10)], "raw": [b"\x00\xff"], "price": [Decimal("1.50")], "parts": [[{"bytes": b"abc"}]]}
    parquet.write_table(pyarrow.table(table), tmp_path / "b.parquet")
    (tmp_path / "mine.yaml").write_text("steps: [url, {extract: {by: resiliparse}}, exact]\n")
    argv = ["--source", str(tmp_path / "a.jsonl"), str(tmp_path / "b.parquet"), "--out", str(tmp_path / "out"),
            "--recipe", str(tmp_path / "mine.yaml"), "--val_fraction", "0", "--workers", "1"]
    assert cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv))) == 0, capsys.readouterr().err
    assert sorted(documents(tmp_path / "out", "train")) == sorted([*map(prose, range(6)), prose(10)])
    kept = list(phases.reader(tmp_path / "out" / "work" / "kept").run())
    origins = {doc.metadata.get("original_file_path") for doc in kept}
    assert origins == {"s3://commoncrawl/a.warc.gz", None}
    raw, = (doc.metadata for doc in kept if "raw" in doc.metadata)
    assert (raw["raw"], raw["price"], raw["parts"]) == ("<2 bytes>", "1.50", [{"bytes": "<3 bytes>"}])


def test_what_a_step_leaves_nothing_of_is_dropped_by_it(tmp_path, capsys):
    texts = [prose(1), "The cookies of this site.\nRead more.", prose(2)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "mine.yaml").write_text("steps: [{c4: {min_num_sentences: -1, min_words_per_line: 6}}, exact]\n")
    argv = ["--source", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), "--recipe",
            str(tmp_path / "mine.yaml"), "--val_fraction", "0", "--workers", "1"]
    assert cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv))) == 0, capsys.readouterr().err
    funnel = json.loads((tmp_path / "out" / "prepared.json").read_text())["funnel"]
    assert [(row["step"], row["documents"], row["kept"], row["reasons"]) for row in funnel] == [
        ("read", 3, 3, {}), ("c4", 3, 2, {"no_text": 1}), ("exact", 2, 2, {})]


def test_pages_without_text_are_in_the_report_and_shown(tmp_path, capsys):
    for name, text in (("a", prose(1)), ("b", ""), ("c", prose(2))):
        (tmp_path / f"{name}.html").write_text(f"<html><body><article><p>{text}</p></article></body></html>")
    (tmp_path / "mine.yaml").write_text("steps: [{extract: {by: resiliparse}}, exact]\n")
    out = tmp_path.parent / f"{tmp_path.name}_out"
    argv = ["--source", str(tmp_path), "--out", str(out), "--recipe", str(tmp_path / "mine.yaml"),
            "--val_fraction", "0", "--workers", "1"]
    assert cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv))) == 0, capsys.readouterr().err
    found = json.loads((out / "report.json").read_text())["dropped"]["2_extract"]
    assert (found["documents"], found["reasons"]) == (1, {"no_text": 1})
    assert cli.guarded(lambda: inspect.run(cli.parse(inspect.Inspect, [str(out), "--show", "no_text"]))) == 0
    assert "b.html" in capsys.readouterr().out
    assert cli.guarded(lambda: inspect.run(cli.parse(inspect.Inspect, [str(out), "--show", "exact"]))) == 1
    assert "holds no such document" in capsys.readouterr().err


def test_a_work_folder_that_was_half_removed_is_begun_anew(llmc, tmp_path, capsys):
    out = tmp_path / "out"
    assert llmc(out) == 0
    whole = (out / "prepared.json").read_bytes()
    shutil.rmtree(out / "work" / "logs")                # as --fresh begins
    next((out / "work" / "tokens").rglob("*.tokens")).unlink()
    assert llmc(out) == 0 and (out / "prepared.json").read_bytes() == whole
    next((out / "work" / "tokens").rglob("*.tokens")).unlink()
    capsys.readouterr()
    assert llmc(out) == 1 and "something is missing; --fresh starts anew" in capsys.readouterr().err
    assert (out / "prepared.json").read_bytes() == whole
    assert llmc(out, "--source", out / "work" / "kept", "--fresh") == 1
    assert "lies in what --out" in capsys.readouterr().err and (out / "work" / "kept").exists()


def test_a_folder_work_of_someone_else_stays_as_it_is(llmc, tmp_path, capsys):
    notes = tmp_path / "out" / "work" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("precious")
    for more in ((), ("--fresh",)):
        assert llmc(tmp_path / "out", *more) == 1
        assert "was not made here" in capsys.readouterr().err and notes.read_text() == "precious"


def test_settings_of_something_else_are_not_ours(llmc, tmp_path, capsys):
    settings = tmp_path / "out" / "work" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"theme": "dark"}')
    assert llmc(tmp_path / "out", "--fresh") == 1
    assert "was not made here" in capsys.readouterr().err and settings.read_text() == '{"theme": "dark"}'
    settings.write_text('{// dark\n}')
    assert llmc(tmp_path / "out", "--fresh") == 1 and settings.exists()
    settings.unlink()
    assert llmc(tmp_path / "out") == 0
    settings.write_text("{")                    # a run's, damaged
    capsys.readouterr()
    assert llmc(tmp_path / "out") == 1
    assert "--fresh starts anew" in capsys.readouterr().err
    assert llmc(tmp_path / "out", "--fresh") == 0


def emptied(folder: Path) -> None:
    for path in folder.glob("*.*"):
        path.write_bytes(b"")


def cut(folder: Path) -> None:
    path = next(folder.rglob("*.tokens"))
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm, place, again, sentence", [
    (emptied, "kept", "tokens", "0 of 51 documents kept were found in "),
    (shutil.rmtree, "tokens", "", "0 of 51 documents kept were found in "),
    (shutil.rmtree, "report", "", "work/report is not whole"),
    (emptied, "logs/1_read/stats", "", "00000.json is damaged ("),
    (cut, "tokens", "", ".tokens is cut off")])
def test_what_is_missing_of_the_work_is_noticed(llmc, tmp_path, capsys, harm, place, again, sentence):
    work = tmp_path / "out" / "work"
    assert llmc(tmp_path / "out") == 0
    whole = (tmp_path / "out" / "prepared.json").read_bytes()
    harm(work / place)
    if again:
        shutil.rmtree(work / "logs" / again)
        shutil.rmtree(work / again)
    capsys.readouterr()
    assert llmc(tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert sentence in error and error.endswith("--fresh starts anew\n"), error
    assert (tmp_path / "out" / "prepared.json").read_bytes() == whole


def test_a_source_that_changed_meanwhile_is_not_taken_for_the_one_that_was_read(llmc, tmp_path, capsys):
    changed = tmp_path / "more.txt"
    changed.write_text(prose(100))
    assert llmc(tmp_path / "out", "--source", changed) == 0
    changed.write_text(prose(100)[::-1])
    assert llmc(tmp_path / "out", "--source", changed) == 1
    assert "was begun with other files: " in (error := capsys.readouterr().err) and "has another size or date; --fresh" in error


def test_how_far_it_is_is_told_where_one_process_does_it_all(llmc, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llmc.web.watch.EVERY", 0)
    monkeypatch.setattr("llmc.web.watch.LOOK", 0.01)
    assert llmc(tmp_path / "out") == 0
    assert re.search("^1_read: [0-4] of [0-9] tasks", capsys.readouterr().err, re.M)


def test_what_others_made_and_sources_that_changed_are_not_mixed_in(llmc, pages, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "out_train_000001.bin").write_bytes(b"another's")
    assert llmc(out) == 1 and (out / "out_train_000001.bin").read_bytes() == b"another's"
    assert "is there already; --fresh replaces it" in capsys.readouterr().err
    few = tmp_path / "few.jsonl"
    few.write_text((pages / "a.jsonl").read_text())
    assert llmc(tmp_path / "new", "--source", few) == 0
    with few.open("a") as file:
        file.write(json.dumps({"text": prose(99)}) + "\n")
    capsys.readouterr()
    assert llmc(tmp_path / "new", "--source", few) == 1
    assert "was begun with other files: " in (error := capsys.readouterr().err) and "has another size or date; --fresh" in error
    assert llmc(tmp_path / "sources" / "out", "--source", tmp_path) == 1
    assert "lies in --source" in capsys.readouterr().err


def test_a_damaged_file_is_named_and_what_was_done_is_kept(llmc, pages, tmp_path, capsys):
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 and no more")
    assert llmc(tmp_path / "out", "--source", pages, damaged) == 0
    assert "1 records or files could not be read" in capsys.readouterr().out
    assert len([*documents(tmp_path / "out", "train"), *documents(tmp_path / "out", "val")]) == 51
    problem, = (tmp_path / "out" / "work" / "problems" / "parquet").rglob("00000.jsonl")
    assert json.loads(problem.read_text())["file"].endswith(str(damaged))
