"""prepare_text: what the shards hold, what is set aside for validation, and what is refused."""
from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmc import cli, documents
from llmc.encodings import EOT, GPT4_PATTERN
from llmc.prepare_text import PrepareText, Plan, is_val, plan, run
from llmc.prepared import put_in_place
from llmc.shards import read_shard
from llmc.tokenizer import Tokenizer
from llmc.train_tokenizer import TrainTokenizer, learn_bpe
from llmc.word_counts import words_of
from llmc.train_tokenizer import run as train_tokenizer

WORDS = "the quick brown fox jumps over 13 lazy dogs; and naïve 한국어 🤷🏽‍♀️ sleeps.\n"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Tokenizer:
    """A tokenizer of few merges, which loads fast."""
    folder = tmp_path_factory.mktemp("small")
    words = words_of([WORDS, "document 0 1 2 3 4 5 other\n"], GPT4_PATTERN)
    encoding = learn_bpe(words, 300, GPT4_PATTERN)
    encoding.special[EOT] = len(encoding.ranks)
    (folder / "tokenizer.json").write_bytes(Tokenizer("small", encoding).to_json())
    return Tokenizer.load(folder)


@pytest.fixture
def llmc(small):
    """The command: its exit status."""
    def command(*args: object) -> int:
        argv = ["--tokenizer", small.name, *map(str, args)]
        return cli.guarded(lambda: run(cli.parse(PrepareText, argv)))
    return command


def tokens(folder: Path, split: str) -> list[int]:
    """All of a split's tokens, and its shards' headers agree with prepared.json."""
    prepared = json.loads((folder / "prepared.json").read_text())
    ids: list[int] = []
    for name in prepared[f"{split}_shards"]:
        part, header = read_shard(folder / name)
        assert f"{header.fingerprint:016x}" == prepared["fingerprint"]
        eot = -1 if prepared["eot"] is None else prepared["eot"]
        assert (header.vocab_size, header.eot) == (prepared["vocab_size"], eot)
        ids += part.tolist()
    assert len(ids) == prepared[f"{split}_tokens"]
    return ids


def rows(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_one_text_gives_its_end_to_validation(llmc, small, tmp_path):
    text = WORDS * 50
    (tmp_path / "in.txt").write_text(text)
    assert llmc("--input", tmp_path / "in.txt", "--out", tmp_path / "set",
                "--val_fraction", "0.1") == 0
    train, val = documents.split_text(text, 0.9)
    assert tokens(tmp_path / "set", "train") == small.encode(train) + [small.eot]
    assert tokens(tmp_path / "set", "val") == small.encode(val) + [small.eot]
    prepared = json.loads((tmp_path / "set/prepared.json").read_text())
    assert prepared["train_bytes"] + prepared["val_bytes"] == len(text.encode())
    assert prepared["val_bytes"] == len(val.encode())
    assert sorted(files(tmp_path / "set")) == ["prepared.json", "set_train_000001.bin",
                                               "set_val_000001.bin", "tokenizer.json"]
    assert Tokenizer.load(tmp_path / "set").encode(WORDS) == small.encode(WORDS)


def test_many_documents_are_set_aside_whole_and_evenly(llmc, small, tmp_path):
    texts = [f"document {i}" for i in range(100)]
    rows(tmp_path / "x.jsonl", texts)
    assert llmc("--input", tmp_path, "--out", tmp_path / "set", "--val_fraction", "0.05") == 0
    cut = {"train": [], "val": []}
    for i, text in enumerate(texts):
        cut["val" if i % 20 == 9 else "train"] += small.encode(text) + [small.eot]
    assert tokens(tmp_path / "set", "train") == cut["train"]
    assert tokens(tmp_path / "set", "val") == cut["val"]


def test_few_rows_give_each_its_end(llmc, small, tmp_path):
    rows(tmp_path / "x.jsonl", [WORDS * 9, WORDS.upper() * 9])
    assert llmc("--input", tmp_path, "--out", tmp_path / "set", "--val_fraction", "0.25") == 0
    ends = [documents.split_text(text, 0.75)[1] for text in (WORDS * 9, WORDS.upper() * 9)]
    assert tokens(tmp_path / "set", "val") == [
        id for end in ends for id in small.encode(end) + [small.eot]]


@pytest.mark.parametrize("fraction", [0.01, 0.03, 0.1, 0.3, 0.5])
def test_the_share_set_aside_is_the_fraction_of_any_run(fraction):
    chosen = np.cumsum([is_val(i, fraction) for i in range(3000)])
    assert np.abs(chosen - fraction * np.arange(1, 3001)).max() <= 1
    assert not any(is_val(i, 0) for i in range(100)) and all(is_val(i, 1) for i in range(100))


@pytest.mark.parametrize("count, whole", [(9, False), (10, True)])
def test_documents_stay_whole_when_one_is_a_share(count, whole, tmp_path):
    sources = documents.find([rows(tmp_path / "x.jsonl", ["a"] * count)])
    assert plan(sources, 0.1, "text") == Plan(0.1, whole)


def test_validation_text_of_ones_own_leaves_the_input_whole(llmc, small, tmp_path):
    (tmp_path / "a.txt").write_text(WORDS)
    (tmp_path / "b.txt").write_text("other\n")
    assert llmc("--input", tmp_path / "a.txt", "--val", tmp_path / "b.txt",
                "--out", tmp_path / "set") == 0
    assert tokens(tmp_path / "set", "train") == small.encode(WORDS) + [small.eot]
    assert tokens(tmp_path / "set", "val") == small.encode("other\n") + [small.eot]


def test_no_validation_where_none_is_wanted(llmc, small, tmp_path):
    (tmp_path / "a.txt").write_text(WORDS)
    assert llmc("--input", tmp_path, "--out", tmp_path / "set", "--val_fraction", 0) == 0
    assert tokens(tmp_path / "set", "train") == small.encode(WORDS) + [small.eot]
    assert tokens(tmp_path / "set", "val") == []


def test_the_shards_do_not_depend_on_workers_or_block_size(llmc, tmp_path, monkeypatch):
    source = tmp_path / "in"
    source.mkdir()
    (source / "long.txt").write_text(WORDS * 400)
    rows(source / "rows.jsonl", [WORDS * (i % 7) for i in range(300)])
    made = []
    for workers, block in ((1, 1 << 20), (3, 1 << 20), (5, 1000), (2, 4096)):
        monkeypatch.setattr(documents, "BLOCK", block)
        out = tmp_path / f"{workers}" / "set"
        assert llmc("--input", source, "--out", out, "--workers", workers, "--shard_tokens", 5000,
                    "--val_fraction", "0.02") == 0
        made.append({name: raw for name, raw in files(out).items() if name != "prepared.json"})
    assert len(made[0]) > 5 and all(other == made[0] for other in made)


def test_characters_without_end_of_text(llmc, tmp_path):
    (tmp_path / "a.txt").write_text("hello there, hello")
    train_tokenizer(TrainTokenizer([tmp_path / "a.txt"], tmp_path / "chars", kind="bytes",
                                   eot=False))
    assert llmc("--input", tmp_path / "a.txt", "--out", tmp_path / "set", "--tokenizer",
                tmp_path / "chars", "--val_fraction", "0.5") == 0
    letters = sorted(set("hello there, hello"))
    assert [letters[id] for id in tokens(tmp_path / "set", "train")] == list("hello the")
    assert [letters[id] for id in tokens(tmp_path / "set", "val")] == list("re, hello")
    (tmp_path / "b.txt").write_text("hellö")
    assert llmc("--input", tmp_path / "b.txt", "--out", tmp_path / "other", "--tokenizer",
                tmp_path / "chars") == 1
    assert not (tmp_path / "other").exists()


def test_bad_rows_stop_it_or_are_counted(llmc, small, tmp_path, capsys):
    path = rows(tmp_path / "x.jsonl", ["one", "two"])
    path.write_text(path.read_text() + "oops\n" + '{"text": 3}\n' + '{"text": ""}\n')
    assert llmc("--input", path, "--out", tmp_path / "set", "--val_fraction", 0) == 1
    assert capsys.readouterr().err == (
        f"llmc: {path}:3: no JSON (Expecting value at column 1); --skip_bad leaves "
        "such rows out\n")
    assert not (tmp_path / "set").exists()
    assert llmc("--input", path, "--out", tmp_path / "set", "--val_fraction", 0, "--skip_bad") == 0
    assert "2 bad rows left out" in capsys.readouterr().out
    assert json.loads((tmp_path / "set/prepared.json").read_text())["skipped"] == 2
    assert small.decode(tokens(tmp_path / "set", "train")) == "one<|endoftext|>two<|endoftext|>"


def test_old_shards_stay_unless_they_may_be_overwritten(llmc, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(WORDS * 99)
    out = tmp_path / "set"
    assert llmc("--input", tmp_path / "a.txt", "--out", out, "--shard_tokens", 500) == 0
    before = files(out)
    (tmp_path / "a.txt").write_text(WORDS * 20)
    assert llmc("--input", tmp_path / "a.txt", "--out", out) == 1
    assert f"{out}/set_train_000001.bin is there already; --overwrite" in capsys.readouterr().err
    assert files(out) == before
    (out / "set_train_eval.txt").write_text("mine")
    assert llmc("--input", tmp_path / "a.txt", "--out", out, "--overwrite") == 0
    assert sorted(files(out)) == ["prepared.json", "set_train_000001.bin", "set_train_eval.txt",
                                  "set_val_000001.bin", "tokenizer.json"]


def test_a_failure_while_overwriting_keeps_the_old_shards(llmc, tmp_path):
    (tmp_path / "a.txt").write_text(WORDS * 9)
    out = tmp_path / "set"
    assert llmc("--input", tmp_path / "a.txt", "--out", out) == 0
    before = files(out)
    (tmp_path / "a.txt").write_bytes(WORDS.encode() * 9 + b"\xff")
    assert llmc("--input", tmp_path / "a.txt", "--out", out, "--overwrite") == 1
    assert files(out) == before


def test_one_program_writes_to_a_folder_at_a_time(llmc, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(WORDS * 9)
    code = ("import pathlib, sys; from llmc import disk\n"
            "with disk.locked(pathlib.Path(sys.argv[1])): print('in', flush=True); input()")
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path / "set"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    other.stdout.readline()
    assert llmc("--input", tmp_path / "a.txt", "--out", tmp_path / "set") == 1
    assert "set: another program is writing there; wait for it" in capsys.readouterr().err
    other.communicate(b"\n")
    assert llmc("--input", tmp_path / "a.txt", "--out", tmp_path / "set") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_unfinished(small, number, tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")             # its end does not come
    process = subprocess.Popen(
        [sys.executable, "-m", "llmc.prepare_text", "--input", tmp_path / "a.jsonl", "--out",
         tmp_path / "set", "--tokenizer", small.name, "--val_fraction", "0", "--workers", "1"],
        stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    with open(tmp_path / "a.jsonl", "wb", buffering=0) as fifo:
        line = json.dumps({"text": WORDS}).encode() + b"\n"
        for _ in range(6 * documents.BLOCK // len(line)):       # more than waits to be cut
            fifo.write(line)
        assert list((tmp_path / "set/.set.unfinished").glob("*.tmp"))
        process.send_signal(number)
        process.communicate()
    assert process.returncode in (130, 128 + number)
    assert os.listdir(tmp_path) == ["a.jsonl"]


@pytest.mark.parametrize("most", [1 << 14, 1 << 10])
def test_a_full_disk_is_named_and_leaves_the_folder_as_it_was(llmc, most, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(WORDS * 4000)
    assert llmc("--input", tmp_path / "a.txt", "--out", tmp_path / "set", "--shard_tokens", 999) == 0
    before, limits = files(tmp_path / "set"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))       # as a full disk is
    try:
        status = llmc("--input", tmp_path / "a.txt", "--out", tmp_path / "set", "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1 and files(tmp_path / "set") == before
    assert capsys.readouterr().err == (
        f"llmc: {tmp_path}/set/.set.unfinished/set_train_000001.bin.tmp: File too large\n")


def test_prepared_json_comes_last(tmp_path):
    """Where it is, the set is whole."""
    for name in ("zoo_train_000001.bin", "prepared.json", "tokenizer.json"):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / name).touch()
    (tmp_path / "zoo_train_000001.bin").mkdir()         # cannot be replaced by a file
    (tmp_path / "prepared.json").write_text("old")
    with pytest.raises(OSError):
        put_in_place(tmp_path / "new", tmp_path, [])
    assert not (tmp_path / "prepared.json").exists()


def test_two_data_sets_do_not_mix_in_a_folder(llmc, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(WORDS * 9)
    assert llmc("--input", tmp_path / "a.txt", "--out", tmp_path / "set") == 0
    before = files(tmp_path / "set")
    for more in ([], ["--overwrite"]):
        assert llmc("--input", tmp_path / "a.txt", "--out", tmp_path / "set", "--name", "se",
                    *more) == 1
        assert "is of another data set" in capsys.readouterr().err
    assert files(tmp_path / "set") == before


def test_a_tokenizer_that_lies_there_is_not_replaced(llmc, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(WORDS * 9)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/tokenizer.json").write_text("{}")
    assert llmc("--input", tmp_path / "a.txt", "--out", tmp_path / "set") == 1
    assert "tokenizer.json is another tokenizer than" in capsys.readouterr().err
    assert files(tmp_path / "set") == {"tokenizer.json": b"{}"}


def test_the_same_tokenizer_written_otherwise_is_not_rewritten_unasked(small, llmc, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(WORDS * 9)
    (tmp_path / "set").mkdir()
    path = tmp_path / "set/tokenizer.json"
    path.write_text(json.dumps(json.loads(small.to_json()), indent=2))
    before = files(tmp_path / "set")
    args = ("--input", tmp_path / "a.txt", "--out", tmp_path / "set")
    for name in (path, tmp_path / "set"):               # the file, and the folder that holds it
        assert llmc(*args, "--tokenizer", name) == 1
        assert (f"{path} is another tokenizer than {name}, or the same written otherwise; --overwrite "
                "replaces it, another --out keeps it") in capsys.readouterr().err
        assert files(tmp_path / "set") == before
    assert llmc(*args, "--tokenizer", path, "--overwrite") == 0
    assert path.read_bytes() == small.to_json()


@pytest.mark.parametrize("args, message", [
    (["--tokenizer", "gpt9"], "gpt9 is no file or folder, and no encoding"),
    (["--val_fraction", "0.6"], "--val_fraction is 0.6, wanted 0 to 0.5"),
    (["--val_fraction", "nan"], "--val_fraction: 'nan' is no number"),
    (["--val_fraction", "5e-324"], "no text is left to validate on"),
    (["--name", "a/b"], "shards cannot be called 'a/b', as a part of a file's name; give another --name"),
    (["--shard_tokens", "0"], "--shard_tokens is 0, wanted 1 to"),
    (["--workers", "3e9"], "--workers is 3000000000, wanted 0 to 4096"),
    (["--workers", "-1"], "--workers is -1"),
    (["--text_key", "body"], ":1: no key 'body' among 'text'"),
    (["--val", "none.txt"], "none.txt: No such file"),
    (["--val_frction", "0.1"], "unknown flag --val_frction; did you mean --val_fraction?")])
def test_wrong_use_is_one_line_and_leaves_nothing(llmc, args, message, tmp_path, capsys):
    rows(tmp_path / "x.jsonl", ["a"])
    assert llmc("--input", tmp_path, "--out", tmp_path / "set", *args) == 1
    err = capsys.readouterr().err
    assert message in err and err.startswith("llmc: ") and err.count("\n") == 1
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_an_input_without_text_is_a_sentence(llmc, tmp_path, capsys):
    for texts, use in (["", ""], "train"), (["a"] * 4 + [""] + ["a"] * 5, "validate"):
        rows(tmp_path / "x.jsonl", texts)
        assert llmc("--input", tmp_path, "--out", tmp_path / "set", "--val_fraction", "0.1") == 1
        assert f"no text is left to {use} on" in capsys.readouterr().err


def test_special_names_in_text_stay_text(llmc, small, tmp_path):
    (tmp_path / "a.txt").write_text("a<|endoftext|>b")
    assert llmc("--input", tmp_path, "--out", tmp_path / "set", "--val_fraction", 0) == 0
    assert tokens(tmp_path / "set", "train").count(small.eot) == 1


@pytest.mark.shared
def test_shakespeare_splits_as_published(llmc, shared, tmp_path):
    assert llmc("--input", shared / "data/tinyshakespeare", "--out", tmp_path / "set",
                "--tokenizer", "gpt2", "--val_fraction", "0.1") == 0
    prepared = json.loads((tmp_path / "set/prepared.json").read_text())
    assert (prepared["train_tokens"], prepared["val_tokens"]) == (301_966 + 1, 36_059 + 1)
    assert (prepared["train_bytes"], prepared["val_bytes"]) == (1_003_854, 111_540)
