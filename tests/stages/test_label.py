"""llmc label in a terminal: answers are saved at once, nothing typed is lost, and it goes on where it stopped."""
from __future__ import annotations

import codecs
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from llmc import cli, conversations, label
from llmc.chat import Message
from llmc.label import Label, Task, append, find_guidelines, run
from terminals import Terminal
from test_assistant_report import write_checkpoint

PROMPTS = ["What is rain?", "What is snow?", "What is wind?", "What is hail?"]


class Person(Terminal):
    """At a terminal in which llmc label runs until the `with` ends."""

    def __init__(self, folder: Path, *args: object, editor: str = "false"):
        super().__init__([sys.executable, "-m", "llmc", "label", *args], 100, 50, folder,
                         TERM="dumb", EDITOR=editor, VISUAL="")
        self.seen, self.decoder = "", codecs.getincrementaldecoder("utf-8")()

    def until(self, text: str) -> str:
        """Read until this is seen; what came up to it."""
        end = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < end, f"waited for {text!r}; there is\n{self.seen}"
            ended, new = self.process.poll() is not None, self.new(0.05)
            assert new or not ended, f"it ended before {text!r}; there is\n{self.seen}"
            self.seen = (self.seen + self.decoder.decode(new)).replace("\r\n", "\n")
        before, _, self.seen = self.seen.partition(text)
        return before

    def types(self, *lines: str) -> None:
        for line in lines:
            self.type(f"{line}\n")

    def types_half(self) -> None:
        """Part of a line, until it is certain that it was read: a terminal that is not asked at the moment shows what
        is typed by itself, and forgets it at Ctrl-C."""
        self.type("half fo\x14")            # Ctrl-T swaps the last two, where a line is edited
        self.until("of")

    def does(self, *keys: str) -> str:
        """At the menu, once it is there."""
        before = self.until("[q]uit > ")
        self.types(*keys)
        return before

    def ends(self) -> int:
        self.until("answers now; ")
        return self.process.wait(60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS) + "\n")
    return tmp_path


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()]


def answers(path: Path) -> list[tuple[str, str]]:
    return [(each.messages[0].text, each.messages[-1].text) for each in conversations.read(path)]


def test_answers_are_written_and_it_goes_on_where_it_stopped(folder):
    with Person(folder, "p.txt", "--out", "new/a.jsonl", "--labeller", "Ann") as person:
        assert "1 of 4" in person.until("user: What is rain?")
        assert "[a]ccept" not in person.does("a")
        person.until("there is no answer yet")
        first = "Rain is water.\n\nIt falls."
        person.does("w", *first.split("\n"), ".")
        person.until(f"answer: {first}")
        assert "[a]ccept" in person.does("a")
        person.until("2 of 4")
        assert answers(folder / "new/a.jsonl") == [("What is rain?", first)]
        person.does("s")
        person.until("3 of 4")
        person.does("b")
        person.until("4 of 4")
        person.does("q")
        person.until("1 answers now; 1 answers in new/a.jsonl, 1 bad, 1 skipped")
        assert person.process.wait(60) == 0
    row, = rows(folder / "new/a.jsonl")
    assert row["labeller"] == "Ann" and 0 <= row["seconds"] < 60
    assert [each["why"] for each in rows(folder / "new/a.passed.jsonl")] == ["skipped", "bad"]
    with Person(folder, "p.txt", "--out", "new/a.jsonl") as person:
        assert "4 of 4" in person.until("user: What is hail?")
        person.does("w", "Ice.", ".")
        person.does("a")
        assert person.ends() == 0
    assert answers(folder / "new/a.jsonl") == [("What is rain?", first), ("What is hail?", "Ice.")]
    with Person(folder, "p.txt", "--out", "new/a.jsonl") as person:
        person.until("all 4 prompts are done: 2 answers in new/a.jsonl, 1 bad, 1 skipped")
    with Person(folder, "p.txt", "--out", "new/a.jsonl", "--again") as person:
        person.until("user: What is snow?")
        person.does("w", "Flakes.", ".")
        person.does("a")
        assert person.ends() == 0
    assert answers(folder / "new/a.jsonl")[-1] == ("What is snow?", "Flakes.")


def script(folder: Path, text: str) -> str:
    """An editor: a shell script that gets the file as $1."""
    path = folder / "my editor.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"'{path}'"


def test_the_answer_before_is_mended_in_an_editor(folder):
    old = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"},
           {"role": "assistant", "content": "It is 5."}]
    (folder / "p.jsonl").write_text(json.dumps({"messages": old}) + "\n")
    editor = script(folder, 'sed -i s/5/4/ "$1"')
    with Person(folder, "p.jsonl", "--out", "a.jsonl", editor=editor) as person:
        person.until("system: Be brief.\nuser: 2 + 2?\nanswer before: It is 5.")
        person.does("e")
        person.until("answer: It is 4.")
        person.does("a")
        assert person.ends() == 0
    row, = rows(folder / "a.jsonl")
    assert row["messages"] == [*old[:2], {"role": "assistant", "content": "It is 4."}] and "labeller" not in row


@pytest.mark.parametrize("editor, said", [
    ("exit 3", "the editor ended with status 3"), ('rm "$1"', "nothing was taken: "),
    ('printf "\\377" > "$1"', "not UTF-8")])
def test_an_editor_that_fails_takes_nothing(folder, editor, said):
    with Person(folder, "p.txt", "--out", "a.jsonl", editor=script(folder, editor)) as person:
        person.does("w", "Mine.", ".")
        person.does("e")
        person.until(said)
        person.does("a")
        person.until("2 of 4")
    assert answers(folder / "a.jsonl") == [("What is rain?", "Mine.")]


def test_an_editor_that_is_not_there_is_said(folder):
    with Person(folder, "p.txt", "--out", "a.jsonl", editor="no-such-editor") as person:
        person.does("e")
        person.until("no editor: no-such-editor: No such file or directory; set EDITOR, or write with w")
        person.does("g")
        person.until("When in doubt")


def test_ctrl_c_loses_nothing(folder):
    """While typing it ends the answer, at the menu the program; what was typed is there the next time."""
    with Person(folder, "p.txt", "--out", "a.jsonl") as person:
        person.does("w", "First,")
        person.types_half()
        person.type("\x03")
        person.until("answer: First,\nhalf of\n")
        person.until("[q]uit > ")
        person.type("\x03")
        assert person.ends() == 0
    assert not (folder / "a.jsonl").exists()
    with Person(folder, "p.txt", "--out", "a.jsonl") as person:
        person.until("answer: First,\nhalf of\n")
        person.does("a")
        person.until("2 of 4")
        person.does("w", "More", ".")
        person.until("[q]uit > ")
        os.killpg(person.process.pid, signal.SIGHUP)            # the terminal is closed
        assert person.process.wait(60) == 128 + signal.SIGHUP
    assert answers(folder / "a.jsonl") == [("What is rain?", "First,\nhalf of")]
    with Person(folder, "p.txt", "--out", "a.jsonl") as person:
        person.until("answer: More")
        person.does("s")
        person.until("3 of 4")
        person.does("q")
        assert person.ends() == 0
    assert not list(folder.glob(".*unfinished*"))


def test_ctrl_c_is_heard_at_any_moment(folder):
    """Also while a key is shown: input() alone would hear all but one in a hundred."""
    with Person(folder, "p.txt", "--out", "a.jsonl") as person:
        for _ in range(500):
            person.does("w")
            person.types_half()
            person.type("\x03")


def test_ctrl_c_in_the_editor_is_the_editors(folder):
    editor = script(folder, 'trap "echo saved > \\"$1\\"; exit 0" INT; echo ready; while :; do sleep 0.05; done')
    with Person(folder, "p.txt", "--out", "a.jsonl", editor=editor) as person:
        person.does("e")
        person.until("ready")
        os.killpg(person.process.pid, signal.SIGINT)
        person.until("answer: saved")
        person.does("a")
        person.until("2 of 4")
    assert answers(folder / "a.jsonl") == [("What is rain?", "saved")]


def test_a_model_writes_drafts(folder):
    write_checkpoint(folder / "model")
    args = ["p.txt", "--out", "a.jsonl", "--model", "model", "--max_tokens", 6, "--temperature", 0]
    with Person(folder, *args, editor=script(folder, 'echo "Better." > "$1"')) as person:
        person.until("draft: ")
        person.does("e")
        person.until("answer: Better.")
        person.does("a")
        person.until("2 of 4")
    assert answers(folder / "a.jsonl") == [("What is rain?", "Better.")]


def test_a_prompt_longer_than_the_context_has_no_draft(folder):
    write_checkpoint(folder / "model")
    (folder / "long.txt").write_text("x" * 2000)
    with Person(folder, "long.txt", "--out", "a.jsonl", "--model", "model") as person:
        person.until("context is too short for the prompt")
        person.does("w", "y", ".")
        person.does("a")
        assert person.ends() == 0


def test_a_prompt_is_asked_once_and_by_its_own_words(tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"messages": [{"role": "user", "content": text}]}) + "\n"
                                              for text in "abacb"))
    assert label.read_tasks(tmp_path / "p.jsonl") == [Task([Message("user", text)]) for text in "abc"]


def test_a_line_is_added_behind_one_that_lacks_its_end(tmp_path):
    path = tmp_path / "a.jsonl"
    append(path, {"n": 1})
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    append(path, {"n": 2})
    append(path, {"n": 3})
    assert rows(path) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_the_guidelines_are_found():
    assert "helpful, truthful, harmless" in find_guidelines().read_text()


@pytest.mark.parametrize("prompts, args, sentence", [
    ("Hi\n", ["--out", "a.txt"], "--out is a.txt, wanted a name that ends in .jsonl"),
    ("\n", ["--out", "a.jsonl"], "p.txt holds no prompt"),
    ("Hi\n", ["--out", "a.jsonl", "--model", "none"], "none is no folder"),
    ("Hi\n", ["--out", "torn.jsonl"], "torn.jsonl, line 1: no JSON")])
def test_bad_input_is_one_sentence(tmp_path, capsys, monkeypatch, prompts, args, sentence):
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text(prompts)
    Path("torn.jsonl").write_text('{"messages": [')
    assert cli.guarded(lambda: run(cli.parse(Label, ["p.txt", *args]))) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and not Path("a.jsonl").exists()


@pytest.mark.parametrize("row, sentence", [
    ([{"role": "assistant", "content": "x"}], "p.jsonl, line 1: there is no question to answer"),
    ([{"role": "system", "content": "x"}], "p.jsonl, line 1: there is no question to answer")])
def test_a_conversation_without_a_question_is_named(tmp_path, row, sentence):
    (tmp_path / "p.jsonl").write_text(json.dumps({"messages": row}))
    with pytest.raises(ValueError) as error:
        label.read_tasks(tmp_path / "p.jsonl")
    assert sentence in str(error.value)
    with pytest.raises(ValueError, match="p.jsonl has the prompts; give another file"):
        run(Label(tmp_path / "p.jsonl", tmp_path / "p.jsonl"))
