"""tokenize: the ids, what is shown, and the comparison."""
from __future__ import annotations

import io
import json
import sys

import pytest

from llmc import cli
from llmc.tokenize import Tokenize, run, visible
from llmc.tokenizer import Tokenizer


def llmc(*args: object) -> int:
    return cli.guarded(lambda: run(cli.parse(Tokenize, [str(arg) for arg in args])))


@pytest.mark.parametrize("name, ids", [("gpt2", "15496 995"), ("cl100k_base", "9906 1917")])
def test_ids_alone_are_one_line(name, ids, capsys):
    assert llmc("Hello world", "--encoding", name, "--ids") == 0
    assert capsys.readouterr().out == ids + "\n"


def test_tokens_ids_and_comparison_are_shown(capsys):
    assert llmc("hello  world\nx", "--against", "cl100k_base", "gpt2") == 0
    tokens, rest = capsys.readouterr().out.split("\n\n", 1)
    assert tokens == "hello|·|·world|↵\n|x"
    ids, table = rest.split("\n\n")
    assert ids == "31373 220 995 198 87"
    assert [line.split() for line in table.splitlines()] == [
        ["encoding", "vocabulary", "tokens", "bytes", "a", "token"],
        ["gpt2", "50,257", "5", "2.80"], ["cl100k_base", "100,277", "5", "2.80"]]


def test_a_terminal_shows_colours_and_no_bars(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert llmc("hello world", "--against", "gpt2") == 0
    out = capsys.readouterr().out.split("\n")[0]
    assert "\x1b[" in out and "hello\x1b[0m" in out and "|" not in out


@pytest.mark.parametrize("token, shown", [
    (b" a b", "·a·b"), (b"\n\t", "↵→"), (b"\xed\x95", r"\xed\x95"), ("é".encode(), "é"),
    (b"a\xff", r"a\xff"), (b"\x00\x1b", r"\x00\x1b"), ("\u202e\u200d".encode(), r"\u202e\u200d"),
    (b"[red]", "[red]")])
def test_what_cannot_be_seen_is_made_visible(token, shown):
    assert visible(token) == shown


def test_brackets_in_text_are_no_markup(capsys):
    assert llmc("[bold]x[/bold]", "--against", "gpt2") == 0
    assert capsys.readouterr().out.split("\n")[0].replace("|", "") == "[bold]x[/bold]"


def test_special_names_are_text_unless_asked_for(capsys):
    assert llmc("<|endoftext|>", "--ids") == 0
    assert llmc("<|endoftext|>", "--ids", "--special") == 0
    plain, special = capsys.readouterr().out.splitlines()
    assert len(plain.split()) > 1 and special == "50256"


def test_long_texts_are_shown_in_part_and_counted_whole(capsys):
    assert llmc("a b " * 500, "--limit", "3", "--against", "gpt2") == 0
    out = capsys.readouterr().out
    assert out.startswith("a|·b|·a\n") and "… 998 more" in out and "1,001" in out


def test_text_comes_from_a_file_or_standard_input(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.txt").write_bytes("naïve\r\n".encode())
    assert llmc("--file", tmp_path / "a.txt", "--ids") == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("naïve\r\n".encode())))
    assert llmc("--ids") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second == " ".join(map(str, Tokenizer.load("gpt2").encode("naïve\r\n")))


@pytest.mark.parametrize("args, message", [
    (["x", "--encoding", "gtp2"], "gtp2 is no file or folder"),
    (["x", "--against", "gtp2"], "gtp2 is no file or folder"),
    (["x", "--file", "y"], "give either a text or --file, not both"),
    (["--file", "nowhere"], "nowhere: No such file"),
    (["--file", sys.executable], "is not UTF-8"),
    (["x", "--limit", "-1"], "--limit is -1, wanted 0 to"),
    (["x", "--limit", "1e20"], "wanted 0 to 2147483647"),
    (["--chat", "[]"], "the conversation has no messages"),
    (["--chat", "Hi"], "gpt2 has no special token <|im_start|>"),
    (["--promt", "x"], "unknown flag --promt")])
def test_wrong_use_is_one_line(args, message, capsys):
    assert llmc(*args) == 1
    err = capsys.readouterr().err
    assert message in err and err.startswith("llmc: ") and err.count("\n") == 1


def test_a_conversation_is_shown_with_what_is_learned(capsys):
    assert llmc("--chat", "--encoding", "o200k_base", "--ids", "Hello!!") == 0
    assert capsys.readouterr().out.split() == (
        "200264 1428 200266 13225 2618 200265 200264 173781 200266".split())
    messages = [{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Yes?"}]
    assert llmc("--show_mask", "--encoding", "o200k_base", json.dumps({"messages": messages})) == 0
    shown = capsys.readouterr().out.split("\n")[0]
    assert shown == ("<|im_start|>|user|<|im_sep|>|Hi|·<|||im|_end|||>|<|im_end|>|"
                     "<|im_start|>|assistant|<|im_sep|>|[Yes]|[?]|[<|im_end|>]")
    row = {"instruction": "Hi <|im_end|>", "output": "Yes?"}
    assert llmc("--show_mask", "--encoding", "o200k_base", json.dumps(row)) == 0
    assert capsys.readouterr().out.split("\n")[0] == shown


@pytest.mark.shared
@pytest.mark.parametrize("name", ["gpt2", "r50k_base", "p50k_base", "cl100k_base", "o200k_base"])
def test_the_command_prints_the_golden_ids(name, shared, tmp_path, capsys):
    golden = json.loads((shared / "data/bpe/golden.json").read_text())["encodings"][name]
    for case in golden["cases"][9::25]:
        (tmp_path / "a.txt").write_bytes(case["text"].encode())
        assert llmc("--file", tmp_path / "a.txt", "--encoding", name, "--ids") == 0
        assert [int(id) for id in capsys.readouterr().out.split()] == case["ordinary"]
