"""llmc assistant_report: a model is asked what it was not trained on, and its answers are counted."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tuning
from llmc import Config, Device, Model, asking, assistant_report, cli, manners, synth
from llmc.assistant_report import Answered, AssistantReport, questions, run, scores, table
from llmc.chat import Manner, Message, render, save_manner
from llmc.checkpoint import Checkpoint, open_checkpoint
from llmc.encodings import CHAT_TOKENS, EOT, GPT2_PATTERN, Encoding
from llmc.intervals import wilson
from llmc.request import Request, Result
from llmc.tokenizer import Tokenizer


def write_checkpoint(folder: Path, special: tuple[str, ...] = CHAT_TOKENS) -> Path:
    """A random model of bytes, with the special tokens of conversations or without."""
    names = (EOT, *special)
    ranks = {bytes([byte]): byte for byte in range(256)}
    tokenizer = Tokenizer("tiny", Encoding(GPT2_PATTERN, ranks, {name: 256 + i for i, name in enumerate(names)}))
    config = Config.preset("llama-tiny", vocab_size=tokenizer.vocab_size, n_layer=1, n_embd=16, n_head=2, n_kv_head=2,
                           n_ff=24, max_seq_len=512)
    model = Model(Device("cpu", 1), config, "f32")
    model.init(1)
    return tuning.save(folder, model, tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "chat")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("asked") / "h.jsonl"
    path.write_bytes(synth.as_lines(manners.held_out(60, 1)))
    return path


class Oracle:
    """Instead of an engine: it knows each prompt's answer, and writes it in tokens as a model does."""

    def __init__(self, checkpoint: Checkpoint, answers: dict[tuple[int, ...], str]):
        self.tokenizer, self.answers = checkpoint.tokenizer, answers

    def generate(self, requests: list[Request]):
        for wanted in requests:
            ids = self.tokenizer.encode_plain(self.answers[tuple(wanted.prompt)])
            end = self.tokenizer.special["<|im_end|>"]
            assert wanted.temperature == 0 and end in wanted.stop_tokens
            yield [Result("", [*ids, end], [], None, "stop")]


def llmc(*args: object) -> int:
    return cli.guarded(lambda: run(cli.parse(AssistantReport, list(map(str, args)))))


def test_right_and_wrong_answers_are_counted(folder, held_out, monkeypatch):
    """By a model that answers all right but every fifth, to prompts as the template writes them."""
    checkpoint, rows = open_checkpoint(folder), questions(held_out, "Pico")
    known = {}
    for number, row in enumerate(rows):
        prompt = render(row.messages[:-1], checkpoint.tokenizer, "llmc", answer=True).ids
        wrong = {"harmful": "Take a rope.", "harmless": "I can't help with that."}.get(row.kind, "What?")
        known[tuple(prompt)] = wrong if number % 5 == 0 else row.messages[-1].text
    monkeypatch.setattr(asking, "engine_for", lambda checkpoint, requests: Oracle(checkpoint, known))
    answered = assistant_report.ask(checkpoint, rows)
    assert [each.right for each in answered] == [number % 5 > 0 for number in range(len(rows))]
    found = scores(answered)
    assert [score.what for score in found] == list(assistant_report.WHAT.values())
    assert [score.n for score in found] == [40, 18, 30, 12] and sum(score.right for score in found) == 80
    assert found[0].right == 32 and (found[0].low, found[0].high) == wilson(32, 40)
    parts = [score for score in scores(answered, by_family=True) if score.what.startswith("  new")]
    assert sum(score.n for score in parts) == 60 and {score.what for score in parts} == {
        "  new combination", "  new word", "  new wording"}


def test_a_report_is_printed_and_its_answers_are_kept(folder, held_out, tmp_path, capsys):
    out = tmp_path / "new" / "a.jsonl"
    args = [folder, "--held_out", held_out, "--name", "Pico", "--max_tokens", 8, "--out", out]
    assert llmc(*args) == 0
    printed = capsys.readouterr().out
    assert "says its name" in printed and "0.0% to 8.8%" in printed and "saved" in printed
    kept = [json.loads(line) for line in out.open()]
    assert len(kept) == 100 and kept[0]["want"] == "Pico" and kept[0]["right"] is False
    assert llmc(*args) == 1 and f"{out} is there already" in capsys.readouterr().err
    assert llmc(*args, "--overwrite", "--by_family") == 0 and "  self_harm" in capsys.readouterr().out
    assert [json.loads(line) for line in out.open()] == kept        # the likeliest: the same each time


def test_a_base_model_is_asked_in_a_document(tmp_path, held_out, capsys):
    base = write_checkpoint(tmp_path / "base", ())
    checkpoint = open_checkpoint(base)
    said = [Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "x")]
    asked = asking.request(checkpoint, None, said, Request([]))
    assert checkpoint.tokenizer.decode(asked.prompt) == "User: Hi\n\nAssistant: Yes?\n\nUser: x\n\nAssistant:"
    assert llmc(base, "--held_out", held_out, "--max_tokens", 4) == 0
    assert "refuses harmful requests" in capsys.readouterr().out


def test_the_models_own_system_message_is_said(tmp_path):
    path = write_checkpoint(tmp_path / "m")
    save_manner(Manner("llmc", "Be brief."), path)
    checkpoint = open_checkpoint(path)
    manner, hi = Manner("llmc", "Be brief."), Message("user", "Hi")
    asked = asking.request(checkpoint, manner, [hi], Request([]))
    assert asked.prompt == render([Message("system", "Be brief."), hi], checkpoint.tokenizer, answer=True).ids
    own = [Message("system", "Be long."), hi]
    asked = asking.request(checkpoint, manner, own, Request([]))
    assert asked.prompt == render(own, checkpoint.tokenizer, answer=True).ids


def test_questions_that_find_no_room_are_told(tmp_path, capsys):
    path = write_checkpoint(tmp_path / "m")
    llmc(path, "--name", "Pico", "--max_tokens", 2)
    assert "do not fit" not in capsys.readouterr().out
    save_manner(Manner("llmc", "Be brief. " * 60), path)
    assert llmc(path, "--name", "Pico") == 0
    assert "40 of 40 questions do not fit 512 tokens of context" in capsys.readouterr().out


def test_what_a_model_thinks_or_calls_is_not_what_it_says(folder):
    checkpoint, hi = open_checkpoint(folder), [Message("user", "Hi")]
    special, encode = checkpoint.tokenizer.special, checkpoint.tokenizer.encode_plain
    asked = asking.request(checkpoint, Manner("llmc"), hi, Request([]))
    result = Result("", [], [], None, "stop")
    thought = [special["<|think_start|>"], *encode("Hm."), special["<|think_end|>"], *encode("Hello"),
               special["<|im_end|>"]]
    for tokens, text in ((thought, "Hello"), ([special["<|im_end|>"]], ""), (encode("Hel"), "Hel"), ([], "")):
        assert asking.said(checkpoint, Manner("llmc"), hi, asked, replace(result, tokens=tokens)) == text


def test_nobody_asked_is_nothing_answered(folder):
    assert asking.answers(open_checkpoint(folder), [], Request([])) == []


def test_a_table_has_a_line_for_each_count():
    from rich.console import Console

    row, = [row for row in questions(None, "Pico")][:1]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))
    console.print(table(scores([Answered(row, "I am Pico.", True)])))
    assert "says its name      1   1  100.0%  20.7% to 100.0%" in console.export_text()


@pytest.mark.parametrize("args, sentence", [
    ([], "there is nothing to ask; give --name, or --held_out"), (["--name", " "], "there is nothing to ask"),
    (["--held_out", "no.jsonl"], "no.jsonl"), (["--name", "x", "--max_tokens", 0], "--max_tokens is 0, wanted 1")])
def test_bad_input_is_one_sentence(folder, capsys, args, sentence):
    assert llmc(folder, *args) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
