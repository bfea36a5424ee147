"""llmc synth manners: refusals, their harmless look-alikes and follow-ups, in shares, and others held out."""
from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from llmc import cli, conversations, judge, manners, manners_words
from llmc.judge import Row, refused, right, words
from llmc.synth import Synth, as_lines, run

MANY = 20_000                   # the most that training is asked for here


def llmc(*args: object) -> int:
    return cli.guarded(lambda: run(cli.parse(Synth, ["manners", *map(str, args)])))


def request(row: Row) -> str:
    """What is asked, as it is told from others."""
    return words("\n".join(m.text for m in row.messages[-2::-1]
                           if m.role == "user") if row.kind == "follow_up" else row.messages[-2].text)


@pytest.fixture(scope="module")
def many() -> list[Row]:
    return manners.training(MANY, 3)


@pytest.fixture(scope="module")
def asked() -> list[Row]:
    return manners.held_out(2000, 3)


def test_the_files_are_conversations_and_a_seed_gives_the_same_bytes(tmp_path, capsys):
    out, held_out = tmp_path / "new" / "a.jsonl", tmp_path / "h.jsonl"
    args = ["--out", out, "--held_out", held_out, "--count", 500, "--held_out_count", 100]
    assert llmc(*args) == 0
    printed = capsys.readouterr().out
    assert f"saved {out}: 500 conversations, 100 follow_up, 150 harmful, 250 harmless" in printed
    assert f"saved {held_out}: 100 conversations" in printed
    assert len(list(conversations.read(out))) == 500        # which checks each
    assert [row.to_dict() for row in judge.read_rows(held_out)] == list(map(json.loads, held_out.open()))
    before = out.read_bytes(), held_out.read_bytes()
    assert llmc(*args, "--overwrite") == 0 and (out.read_bytes(), held_out.read_bytes()) == before
    assert llmc(*args, "--overwrite", "--seed", 2) == 0
    assert out.read_bytes() != before[0] and held_out.read_bytes() != before[1]


def test_every_family_has_its_share_and_no_request_comes_twice(many, asked):
    for rows, count in ((many, MANY), (asked, 2000), (manners.training(333, 5), 333)):
        assert len(rows) == count == len({request(row) for row in rows})
        kinds = Counter(row.kind for row in rows)
        families = Counter((row.kind, row.family) for row in rows)
        assert len(families) == 8 + 8 + 12
        for (kind, _), number in families.items():
            share = {"harmful": 3 / 10 / 8, "harmless": 5 / 10 / 8, "follow_up": 2 / 10 / 12}[kind]
            assert abs(number - share * count) < 1
        assert abs(kinds["harmful"] - 3 * count / 10) < 8
    unseen = Counter(row.unseen for row in asked)
    assert unseen.keys() == {"combination", "wording", "word"} and unseen["combination"] > unseen["word"] > 400
    assert {row.unseen for row in many} == {""}


def test_what_is_held_out_is_in_no_training(many, asked):
    """Of the lists, and in the data: no request, no kept word and no kept wording."""
    trained = {request(row) for row in many} | {
        request(row) for seed in range(4) for row in manners.training(2000, seed)}
    assert not trained & {request(row) for row in asked}
    said = "\n".join(words(m.text) for row in many for m in row.messages if m.role == "user")
    kept = re.findall(r"\*([^|]+)", "|".join((manners_words.PERSON, manners_words.GROUP)))
    frames = re.findall(r"\*([^|{]+)", "|".join((manners_words.HOW, manners_words.KNOW, manners_words.SAID)))
    assert len(kept) > 10 and len(frames) > 10
    for each in [*kept, *frames]:
        assert words(each) not in said, each
    assert "*" not in said
    new = Counter(word for row in asked if row.unseen == "word" and row.kind == "harmful"
                  for word in kept if words(word).rstrip() in request(row))
    assert len(new) > 8
    combined = [row for row in asked if row.unseen == "combination" and row.kind != "follow_up"]
    for row in combined:        # nothing in them is new but that it comes together
        assert all(f" {word} " in said for word in request(row).split()), request(row)


def test_the_data_pass_their_own_judge(many, asked):
    for row in [*many, *asked]:
        answer = row.messages[-1].text
        assert right(row, answer), (request(row), answer)
        assert refused(answer) == (row.kind == "harmful"), answer
        assert "{" not in "".join(m.text for m in row.messages)
        if row.kind == "follow_up":         # what was said before is no answer, but where it is asked for
            assert row.family == "again" or not right(row, "I do not know.")
        else:                               # and a refusal is none where it is not wanted
            assert right(row, "I can't help with that.") == (row.kind == "harmful" and row.family != "self_harm")


def test_requests_stand_behind_others_now_and_then(many):
    behind = [row for row in many if row.kind != "follow_up" and len(row.messages) > 2]
    assert 0.1 * MANY < len(behind) < 0.13 * MANY           # 15 % of seven ninths
    assert not any(judge.cared(row.messages[1].text) for row in behind)


def test_no_word_tells_harmful_from_harmless(many):
    """The verbs of harmful requests are in harmless ones too."""
    counts = {kind: Counter(word for row in many if row.kind == kind for word in set(request(row).split()))
              for kind in ("harmful", "harmless")}
    for word in "kill shoot beat attack poison steal break crack forge fake cut hang myself boss".split():
        share = counts["harmful"][word] / (counts["harmful"][word] + counts["harmless"][word])
        assert 0.04 < share < 0.96, (word, share)


def test_too_many_are_one_sentence_that_says_how_many_there_are(tmp_path, capsys):
    out = tmp_path / "a.jsonl"
    assert llmc("--out", out, "--count", 10**6) == 1
    error = capsys.readouterr().err
    most = int(re.search(r"at most ([\d,]+) with", error)[1].replace(",", ""))
    assert error.count("\n") == 1 and not out.exists() and most > MANY
    assert len(as_lines(manners.training(most, 1)).splitlines()) == most
    with pytest.raises(ValueError, match="at most"):
        manners.training(most + 100, 1)
    assert llmc("--out", out, "--held_out", tmp_path / "b.jsonl", "--held_out_count", 10**6) == 1
    assert "at most" in capsys.readouterr().err and not out.exists()


def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, capsys):
    out = tmp_path / "a.jsonl"
    for args, sentence in ((["--held_out", out], f"--out and --held_out are both {out}"),
                           (["--count", 0], "--count is 0, wanted 1"),
                           (["--held_out", tmp_path / "h.txt"], "h.txt, wanted a name that ends in .jsonl"),
                           (["--held_out", tmp_path / "no" / ".." / "a.jsonl"], "wanted two files")):
        assert llmc("--out", out, *args) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1 and not out.exists()
    held_out = Path(tmp_path / "h.jsonl")
    held_out.write_text("mine")
    assert llmc("--out", out, "--held_out", held_out) == 1 and not out.exists()
    assert held_out.read_text() == "mine" and "--overwrite replaces it" in capsys.readouterr().err
