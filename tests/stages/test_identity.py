"""Conversations about who a model is: as many as asked for, no two alike, each of them sound and its own."""
from __future__ import annotations

import random
import re

from llmc import chat, cli, conversations, identity, identity_words
from llmc.identity import OTHER_NAMES, Identity, run
from llmc.identity import conversations as conversations_of
from llmc.judge import right, words


def llmc(*args: object) -> int:
    return cli.guarded(lambda: run(cli.parse(Identity, list(map(str, args)))))


def test_they_are_many_and_each_speaks_of_this_model(tmp_path, capsys):
    out = tmp_path / "new" / "a.jsonl"
    args = ["--out", out, "--name", "Pico", "--facts", "maker=Ann Lee", "favourite_food=bread"]
    assert llmc(*args) == 0 and f"saved {out}: 240 conversations" in capsys.readouterr().out
    found = [each.messages for each in conversations.read(out)]
    questions = ["\n".join(m.text for m in messages if m.role == "user") for messages in found]
    assert len(found) == len(set(questions)) == 240
    assert 30 < sum(len(messages) == 4 for messages in found) < 90
    said = "\n".join(m.text for messages in found for m in messages if m.role == "assistant")
    assert "{" not in said + "".join(questions) and said.count("Pico") > 150
    assert "Ann Lee" in said and "bread" in said and "your favourite food" in "\n".join(questions).lower()
    for messages in found:
        chat.check(messages)
        for question, answer in zip(messages[::2], messages[1::2]):
            if any(other in question.text for other in OTHER_NAMES):
                assert "Pico" in answer.text or "Ann Lee" in answer.text
    raw = out.read_bytes()
    assert llmc(*args, "--overwrite") == 0 and out.read_bytes() == raw
    assert llmc(*args, "--overwrite", "--seed", 2) == 0 and out.read_bytes() != raw


def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "a.jsonl"
    for args, sentence in (
            (["--name", " "], "--name is empty; wanted what the model is called"),
            (["--name", "Pico\nSam"], "--name is 'Pico\\nSam', wanted a name on one line"),
            (["--name", "x", "--facts", "maker"], "--facts is 'maker', wanted KEY=VALUE"),
            (["--name", "x", "--count", "1000000"], "--count is 1000000, wanted 1 to 10000")):
        assert llmc("--out", out, *args) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1 and not out.exists()
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "file").touch()
    for name, sentence in (("a.txt", "a.txt, wanted a name that ends in .jsonl"),
                           ("folder.jsonl", "folder.jsonl, which is a folder; give the name of a file"),
                           ("file/a.jsonl", f"{tmp_path}/file is no folder; give another place")):
        assert llmc("--out", tmp_path / name, "--name", "x", "--overwrite") == 1
        assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.jsonl"]
    out.write_text("mine")
    assert llmc("--out", out, "--name", "x") == 1 and out.read_text() == "mine"
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err


def test_what_is_held_out_is_in_no_conversation(monkeypatch):
    """In none of many, and what would have it is left out."""
    def asked(seed: int, count: int) -> set[str]:
        return {words(message.text) for messages in conversations_of("Pico", {"maker": "Ann"}, count, seed)
                for message in messages if message.role == "user"}

    made = set().union(*(asked(seed, 2000) for seed in range(5)))
    assert len(made) > 8000
    rows = identity.held_out("Pico")
    assert len({words(row.messages[0].text) for row in rows}) == 40
    for row in rows:
        assert not any(words(row.messages[0].text) in text for text in made), row.messages[0].text
        assert right(row, "Hello, I'm Pico.") and not right(row, "I am ChatGPT.")
    assert any(" are you a robot " in text for text in asked(1, 240))
    monkeypatch.setattr(identity, "HELD_OUT", ["Are you a robot?"])
    assert not any(" are you a robot " in text for text in asked(1, 240))


def test_the_ways_to_ask_for_a_name_are_many_and_whole():
    """Every slot is filled, none is unused, and a question begins with a capital letter and ends as one does."""
    slots = [set(re.findall(r"\{([^}]*)\}", pattern)) for pattern in identity_words.WHO]
    assert set().union(*slots) == set(identity_words.SLOTS)
    rng = random.Random(1)
    made = [identity_words.name_question(rng) for _ in range(4000)]
    assert len(set(made)) > 3500
    for each in made:
        assert re.fullmatch(r"[A-Z][^{}]*[?.]", each) and "  " not in each and " ," not in each, each
        assert not re.search(r"[a-z,] (And|But|Nobody|Please|So|Tell|They|What|Who|You)\b|[a-z][A-Z]|\bi\b", each), each
        assert not re.search(r"\b(\w+) \1\b", each), each
