"""tokenizer_report: the figures of every table, the merges in their order, and what is refused."""
from __future__ import annotations

import json
import lzma

import pytest
import tiktoken

from llmc import cli, encodings
from llmc.encodings import EOT, GPT4_PATTERN, Encoding
from llmc.tokenizer import Tokenizer
from llmc.tokenizer_report import PROBES, TokenizerReport, merges_of, run
from llmc.tokenizer_samples import SAMPLES
from llmc.train_tokenizer import learn_bpe
from llmc.word_counts import words_of


def llmc(*args: object) -> int:
    return cli.guarded(lambda: run(cli.parse(TokenizerReport, [str(arg) for arg in args])))


@pytest.fixture
def small(tmp_path) -> str:
    """A folder with a tokenizer learned from a few words."""
    words = words_of(["the theory of the theatre, then the thesis " * 9, SAMPLES["Korean"] * 3], GPT4_PATTERN)
    encoding = learn_bpe(words, 300, GPT4_PATTERN)
    encoding.special[EOT] = 300
    (tmp_path / "small").mkdir()
    (tmp_path / "small/tokenizer.json").write_bytes(Tokenizer("small", encoding).to_json())
    return str(tmp_path / "small")


def report(tmp_path, *args: object) -> dict:
    assert llmc(*args, "--json", tmp_path / "report.json") == 0
    return json.loads((tmp_path / "report.json").read_text())


def test_bytes_a_token_are_tiktokens(tmp_path):
    figures = report(tmp_path, "gpt2", "--against", "cl100k_base")["bytes_per_token"]
    assert list(figures) == list(SAMPLES) and {"English", "Korean", "numbers", "Python"} < figures.keys()
    for name in ("gpt2", "cl100k_base"):
        pattern, ranks, special, _ = encodings.load(name)
        theirs = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
        for sample, text in SAMPLES.items():
            assert figures[sample]["bytes"] == len(text.encode())
            assert figures[sample][name] == pytest.approx(len(text.encode()) / len(theirs.encode_ordinary(text)))


def test_files_of_the_users_own_are_rows(small, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the [b]theory[/b] " * 70)
    with lzma.open(tmp_path / "b.jsonl.xz", "wt") as file:
        file.write('{"body": "the"}\n{"body": ""}\n{"body": "theory"}\n')
    (tmp_path / "empty.txt").write_text("")
    figures = report(tmp_path, small, "--files", tmp_path / "a.txt", tmp_path / "b.jsonl.xz", tmp_path / "empty.txt",
                     "--text_key", "body")["bytes_per_token"]
    assert list(figures)[len(SAMPLES):] == [str(tmp_path / name) for name in ("a.txt", "b.jsonl.xz", "empty.txt")]
    row = figures[str(tmp_path / "b.jsonl.xz")]
    tokenizer = Tokenizer.load(small)
    assert row["bytes"] == 9
    assert row[small] == pytest.approx(9 / (len(tokenizer.encode("the")) + len(tokenizer.encode("theory"))))
    assert figures[str(tmp_path / "empty.txt")] == dict.fromkeys(
        [small, "gpt2", "cl100k_base", "o200k_base"], None) | {"bytes": 0}
    assert "1,260" in capsys.readouterr().out


def test_probes_show_how_digits_spaces_and_capitals_are_cut(tmp_path, capsys):
    cuts = report(tmp_path, "gpt2", "--against", "cl100k_base", "o200k_base")["cuts"]
    assert {group: tuple(rows) for group, rows in cuts.items()} == PROBES
    assert cuts["digits"]["1000000"]["cl100k_base"] == ["100", "000", "0"]
    assert cuts["spaces"]["    x"]["gpt2"] == ["·", "·", "·", "·x"]
    assert cuts["capitals"]["don't"] == {"gpt2": ["don", "'t"], "cl100k_base": ["don", "'t"], "o200k_base": ["don't"]}
    out = capsys.readouterr().out
    assert "100|000|0" in out and "↵↵····x" in out


@pytest.mark.parametrize("name", ["gpt2", "p50k_base", "cl100k_base", "o200k_base"])
def test_the_merges_of_a_text_end_in_its_tokens(name):
    tokenizer = Tokenizer.load(name)
    for text in (*SAMPLES.values(), "aaaaaaaaaaa bananas", "                x\n\n\n", "ab"):
        text = text[:300]
        steps = merges_of(tokenizer, text)
        ids = [step.id for step in steps]
        assert steps[-1].tokens == [tokenizer.token_bytes(id) for id in tokenizer.encode(text)]
        assert ids == sorted(set(ids))
        assert all(tokenizer.token_bytes(step.id) == step.left + step.right for step in steps)
        before = [len(text.encode()), *(len(step.tokens) for step in steps)]
        assert [a - b for a, b in zip(before, before[1:])] == [step.places for step in steps]


def test_merges_are_shown_in_the_order_they_were_found(small, tmp_path, capsys):
    shown = report(tmp_path, small, "--text", "the theory")["merges"]
    assert [(step["left"], step["right"], step["places"]) for step in shown[:2]] == [("h", "e", 2), ("t", "he", 2)]
    assert shown[0]["tokens"] == ["t", "he", "·", "t", "he", "o", "r", "y"]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["10", "t|h|e|·|t|h|e|o|r|y"] in lines
    assert ["256", "h", "+", "e", "2", "8", "t|he|·|t|he|o|r|y"] in lines


def test_a_vocabulary_of_few_bytes_has_no_figure_where_it_lacks_some(tmp_path, capsys):
    few = Encoding(encodings.EACH_CHARACTER, {bytes([b]): b - 32 for b in range(32, 127)}, {})
    (tmp_path / "tokenizer.json").write_bytes(Tokenizer("few", few).to_json())
    figures = report(tmp_path, tmp_path, "--against", "gpt2")
    assert figures["bytes_per_token"]["English"][str(tmp_path)] == 1
    assert figures["bytes_per_token"]["Korean"][str(tmp_path)] is None
    assert figures["cuts"]["spaces"]["\tx"][str(tmp_path)] is None
    assert "–" in capsys.readouterr().out


@pytest.mark.parametrize("args, message", [
    ([], "missing: TOKENIZER"), (["gtp2"], "gtp2 is no file or folder"),
    (["gpt2", "--against", "gtp2"], "gtp2 is no file or folder"),
    (["gpt2", "--files", "nowhere.txt"], "nowhere.txt: No such file"),
    (["gpt2", "--text", "x" * 1001], "--text has 1,001 characters, wanted at most 1,000"),
    (["gpt2", "--json", "nowhere/report.json"], "nowhere/report.json: No such file"),
    (["{bad}", "--against", "gpt2"], "is no JSON"), (["gpt2", "--files", "{bad}"], "is none of the files llmc reads"),
    (["gpt2", "--files", "{bytes}"], "a.txt:1: not UTF-8")])
def test_wrong_use_is_one_line(args, message, tmp_path, capsys):
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "a.txt").write_bytes(b"\xff\n")
    places = {"{bad}": tmp_path / "tokenizer.json", "{bytes}": tmp_path / "a.txt"}
    assert llmc(*(places.get(arg, arg) for arg in args)) == 1
    out, err = capsys.readouterr()
    assert message in err and err.startswith("llmc: ") and err.count("\n") == 1 and not out


def test_a_tokenizer_that_is_more_than_merges_has_figures_but_shows_none(small, tmp_path, capsys):
    path = tmp_path / "small/tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": {"type": "NFC"}}))
    assert report(tmp_path, small, "--against", "gpt2")["bytes_per_token"]["English"][small] > 1
    capsys.readouterr()
    assert llmc(small, "--text", "the text") == 1
    assert "its merges are not in the order of its ids" in capsys.readouterr().err
