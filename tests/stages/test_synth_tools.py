"""llmc synth tools and text: every answer computed anew, balanced, and what is held out is in no training."""
from __future__ import annotations

import json
import random
import re
from collections import Counter
from datetime import date
from decimal import Decimal
from itertools import product
from pathlib import Path

import pytest
from llmc import chat, cli, conversations, judge, synth_text, synth_tools, synth_words
from llmc.chat import Message
from llmc.index import MakeIndex
from llmc.index import run as make_index
from llmc.judge import Row, right
from llmc.synth import Synth, as_lines, run
from llmc.synth_families import DAYS, FAMILIES
from llmc.synth_tools import WAYS
from llmc.tokenizer import Tokenizer

COUNT = 12 * 3 * 100            # of each family and way a hundred


def llmc(*args: object) -> int:
    return cli.guarded(lambda: run(cli.parse(Synth, [*map(str, args)])))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return synth_tools.training(FAMILIES, WAYS, COUNT, 1)


@pytest.fixture(scope="module")
def asked() -> list[Row]:
    return synth_tools.held_out(FAMILIES, WAYS, COUNT, 1)


def answer_to(family: str, question: str) -> str:
    """Worked out from the question's text alone."""
    numbers = [int(each) for each in re.findall(r"\d+", question)]
    quoted = re.findall(r'"([^"]*)"', question)
    match family:
        case "letters":
            letter, word = sorted(quoted, key=len)
            return str(len(word) - len(word.replace(letter, "")))
        case "spelling":
            step = next(at for at, nth in ((2, "second"), (3, "third"), (4, "fourth")) if nth in question)
            return "".join(letter for at, letter in enumerate(quoted[0], 1) if at % step == 0)
        case "dots":
            return str(len(re.findall(r"\.", quoted[0])))
        case "addition":
            return str(sum(numbers))
        case "subtraction":
            return str(max(numbers) - min(numbers))
        case "multiplication":
            return str(numbers[0] * numbers[1])
        case "apples":
            return str(numbers[0] + numbers[1] * numbers[2])
        case "decimals":
            pair = [Decimal(each) for each in re.findall(r"\d+\.\d+", question)]
            return str(max(pair) if "larger" in question else min(pair))
        case "sorting":
            return ", ".join(sorted(quoted) if quoted else map(str, sorted(numbers)))
    days = [date.fromisoformat(each) for each in re.findall(r"\d{4}-\d\d-\d\d", question)]
    return DAYS[days[0].isoweekday() - 1] if family == "weekday" else str((days[1] - days[0]).days)


def said_by(row: Row, role: str) -> str:
    return "\n".join(each.text for each in row.messages if each.role == role)


def test_every_answer_is_right_when_it_is_worked_out_anew(rows, asked):
    for row in [*rows, *asked]:
        question = said_by(row, "user")
        if row.family == "letters_bare":
            word, letter = re.search(r'"(\w+)".count\("(\w)"\)', row.messages[1].call.text).groups() \
                if row.way == "tool" else (None, None)
            wanted = str(word.count(letter)) if word else row.want
        else:
            wanted = answer_to(row.family, question)
        assert row.want == wanted, question
        assert right(row, row.messages[-1].text)
        if row.way == "tool":
            assert said_by(row, "tool") == wanted
        for a, sign, b, result in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)\.", row.messages[-1].text):
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(result)


def test_families_ways_and_answers_are_balanced(rows, asked):
    for each in (rows, asked):
        assert len(each) == COUNT == len({said_by(row, "user") for row in each})
        assert set(Counter((row.family, row.way) for row in each).values()) == {100}
    many = synth_tools.training({"letters": FAMILIES["letters"]}, ["tool"], 5000, 2)
    assert all(850 < number < 1150 for number in Counter(row.want for row in many).values())
    assert {row.want for row in many} == set("01234")
    pairs = [[Decimal(each) for each in re.findall(r"\d+\.\d+", said_by(row, "user"))] for row in
             synth_tools.training({"decimals": FAMILIES["decimals"]}, ["direct"], 2000, 2)]
    assert 880 < sum(a > b for a, b in pairs) < 1120
    longer = sum((len(str(a)) > len(str(b))) == (a > b) for a, b in pairs)
    assert 880 < longer < 1120, "how long a number is tells nothing"
    names = Counter(row.want for row in synth_tools.training({"weekday": FAMILIES["weekday"]}, ["direct"], 2100, 2))
    assert names.keys() == set(DAYS) and all(220 < number < 380 for number in names.values())


def test_a_share_stands_behind_other_turns():
    behind = synth_tools.training(FAMILIES, WAYS, COUNT, 1, behind=0.4)
    alone = synth_tools.training(FAMILIES, WAYS, COUNT, 1)
    before = [row.messages[:-len(each.messages)] for row, each in zip(behind, alone)]
    assert 0.34 * COUNT < sum(map(bool, before)) < 0.46 * COUNT
    small_talk = sum(bool(each) and '"' not in each[0].text and not re.search(r"\d", each[0].text) for each in before)
    assert 0.1 * COUNT < small_talk < 0.3 * COUNT
    for row, each in zip(behind, before):
        assert right(row, row.messages[-1].text)
        assert not each or (each[0].role, each[-1].role) == ("user", "assistant")
        assert row.asked[-1].role == "user" and len(row.asked) > len(each)


def test_nothing_held_out_is_in_any_training():
    """No word, no large number, no date, and no question of small numbers, whatever the two seeds."""
    def tokens(rows: list[Row]) -> set[str]:
        text = "\n".join(said_by(row, "user") for row in rows)
        return {*re.findall(r'"([a-z]{2,})"', text), *re.findall(r"\d{4}-\d\d-\d\d", text),
                *(each for each in re.findall(r"(?<![\d.-])\b\d{3,4}\b(?![.-]\d)", text))}
    kept = tokens([row for seed in range(3) for row in synth_tools.held_out(FAMILIES, WAYS, 2000, seed)])
    taught = tokens([row for seed in range(3) for row in synth_tools.training(FAMILIES, WAYS, 4000, seed)])
    assert len(kept) > 1500 and not kept & taught
    drawn = synth_text.text([*FAMILIES], 300_000, 5)
    words = set(re.findall(r"[a-z]{3,}", drawn))
    assert not words & {each for each in kept if each.isalpha()}


def test_wordings_are_held_out_too(rows, asked):
    trained = {re.sub(r'"[^"]*"|\d+', "", said_by(row, "user")) for row in rows}
    unseen = Counter(row.unseen for row in asked)
    assert unseen.keys() == {"word", "number", "wording"} and {row.unseen for row in rows} == {""}
    assert 0.15 * COUNT < unseen["wording"] < 0.25 * COUNT
    for row in asked:
        if row.unseen == "wording" and row.family not in ("letters_bare", "apples"):
            assert re.sub(r'"[^"]*"|\d+', "", said_by(row, "user")) not in trained


def test_what_a_tool_prints_is_not_learned_and_conversations_are_sound(rows):
    tokenizer = Tokenizer.load("cl100k_base")
    tokenizer = chat.load_tokenizer("cl100k_base") if "<|python_start|>" not in tokenizer.special else tokenizer
    for row in rows:
        chat.check(row.messages)
        assert (row.messages[1].call is not None) == (row.way == "tool")


def test_a_word_is_cut_the_same_in_the_question_and_in_the_code(tmp_path):
    """In the tokenizer that has read the text: a model can copy it piece by piece."""
    from llmc import train_tokenizer

    path = tmp_path / "text.txt"
    path.write_text(synth_text.text(["letters", "addition"], 200_000, 1))
    train_tokenizer.run(train_tokenizer.TrainTokenizer(input=[path], out=tmp_path, vocab_size=600))
    tokenizer = Tokenizer.load(tmp_path)
    families = {name: FAMILIES[name] for name in ("letters", "addition")}
    for row in synth_tools.held_out(families, ["tool"], 200, 1):
        code, question = row.messages[1].call.text, said_by(row, "user")
        found = re.search(r'"(\w+)"\.count', code)
        for piece in [found[1]] if found else re.findall(r"\d+", code):
            parts = tokenizer.encode(piece)
            for text in (code, question):
                ids = tokenizer.encode(text)
                assert any(ids[at:at + len(parts)] == parts for at in range(len(ids))), (piece, text)


def test_files_are_the_same_bytes_for_a_seed_and_are_read_back(tmp_path, capsys):
    out, held_out, text = tmp_path / "new" / "a.jsonl", tmp_path / "h.jsonl", tmp_path / "t.txt"
    args = ["tools", "--out", out, "--held_out", held_out, "--count", 600, "--held_out_count", 120,
            "--families", "letters", "addition", "--ways", "tool", "steps"]
    assert llmc(*args) == 0
    assert f"saved {out}: 600 conversations, 300 addition, 300 letters" in capsys.readouterr().out
    assert len(list(conversations.read(out))) == 600
    again = judge.read_rows(held_out)
    assert [row.to_dict() for row in again] == list(map(json.loads, held_out.open()))
    assert Counter((row.kind, row.way) for row in again) == {("task", "tool"): 60, ("task", "steps"): 60}
    before = out.read_bytes(), held_out.read_bytes()
    assert llmc(*args, "--overwrite") == 0 and (out.read_bytes(), held_out.read_bytes()) == before
    assert llmc(*args, "--overwrite", "--seed", 2) == 0
    assert out.read_bytes() != before[0] and held_out.read_bytes() != before[1]
    assert llmc("text", "--out", text, "--characters", 20_000) == 0
    made = text.read_text()
    assert 20_000 <= len(made) < 21_000 and llmc("text", "--out", text, "--characters", 20_000, "--overwrite") == 0
    assert text.read_text() == made


def test_an_error_in_a_family_is_found_when_it_is_made():
    problem = FAMILIES["letters"](random.Random(1), False)
    with pytest.raises(ValueError, match="printed '.', and '9' is the answer to"):
        synth_tools.conversation(problem._replace(want="9"), "letters", "tool", random.Random(1))


def test_emilys_numbers_have_so_many_digits():
    for digits, out in product(range(1, 5), (False, True)):
        problem = FAMILIES["apples"](random.Random(digits), out, digits)
        assert all(len(each) == digits for each in re.findall(r"\d+", problem.question))


def test_words_are_without_number_and_have_what_is_asked_for():
    rng = random.Random(3)
    assert len({synth_words.word(rng, False) for _ in range(20_000)}) > 12_000
    for letter, count, out in product(synth_words.LETTERS, range(5), (False, True)):
        word = synth_words.word_with(rng, out, letter, count)
        assert word.count(letter) == count and synth_words.held(word) is out and word.isalpha()


@pytest.mark.parametrize("text, want, is_right", [
    ("It is 3.", "3", True), ("3 of 4", "3", False), ("There are 13.", "3", False), ("1,234.", "1234", True),
    ("So 9.9 is it.", "9.9", True), ("9.90", "9.9", True), ("", "3", False), ("-5", "5", False), ("7 - 2 = 5", "5", True),
    ("On a Monday.", "Monday", True), ("Monday or Tuesday", "Monday", False), ("5, 3", "3, 5", False),
    ("Sorted: 3, 5.", "3, 5", True), ("no", "", False), ("kale, pear, zoo", "kale, pear, zoo", True)])
def test_a_task_is_right_when_it_ends_with_what_is_wanted(text, want, is_right):
    row = Row([Message("user", "?"), Message("assistant", want or "x")], "task", "any", want=want)
    assert right(row, text) is is_right


def test_facts_are_looked_up_and_cited(tmp_path, capsys):
    names = [("Ada " + synth_words.made(random.Random(at), 3).title(), at) for at in range(60)]
    lines = [{"title": name, "url": f"https://example.org/{at}", "text":
              f"{name} (born {at % 28 + 1} March {1900 + at}) is a painter in Norwich. {name} likes tea."}
             for name, at in names]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    make_index(MakeIndex(out=tmp_path / "docs.index", documents=[tmp_path / "docs.jsonl"]))
    out, held_out = tmp_path / "f.jsonl", tmp_path / "h.jsonl"
    assert llmc("tools", "--out", out, "--held_out", held_out, "--families", "facts", "--index",
                tmp_path / "docs.index", "--count", 60, "--held_out_count", 6) == 0
    found, kept = judge.read_rows(out), judge.read_rows(held_out)
    for row in [*found, *kept]:
        assert row.kind == "fact" and right(row, row.messages[-1].text) and not right(row, "I do not know.")
        if row.way == "tool":
            assert row.messages[1].call.tool == "search"
            number = int(re.search(r"\[(\d)\]\.$", row.messages[-1].text)[1])
            result = said_by(row, "tool").splitlines()[number - 1]
            assert result.startswith(f"[{number}] ") and row.want in result
        else:
            assert row.want in said_by(row, "user")
    def people(rows: list[Row]) -> set[str]:
        return {match for row in rows for match in re.findall(r"Ada \w+", row.messages[0].text.split("\n\n")[-1])}
    assert people(kept) and not people(kept) & people(found)
    assert llmc("tools", "--out", tmp_path / "g.jsonl", "--families", "facts", "--index",
                tmp_path / "docs.index", "--count", 10**5) == 1
    assert "questions of facts that differ; ask for fewer" in capsys.readouterr().err


def test_bad_flags_are_one_sentence_and_nothing_is_written(tmp_path, capsys):
    out = tmp_path / "a.jsonl"
    for args, sentence in (
            (["tools", "--families", "leters"], "--families has 'leters'; did you mean letters?"),
            (["tools", "--families", "facts"], "--families facts wants --index"),
            (["tools", "--families", "letters", "--index", "x"], "--index is for facts"),
            (["tools", "--characters", 10], "--characters is for text, and this is tools; leave it out"),
            (["manners", "--ways", "tool"], "--ways is for tools, and this is manners"),
            (["tools", "--ways", "guess"], "guess"),
            (["tools", "--held_out", out], "wanted two files"),
            (["text", "--held_out", out], "--held_out is for manners and tools, and this is text"),
            (["text"], "wanted a name that ends in .txt"),
            (["tools", "--families", "weekday", "--count", 10**6], "questions of weekday that differ; ask for fewer")):
        assert llmc(*args, "--out", out) == 1, args
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1 and not Path(out).exists()


def test_rows_are_json_lines_that_sft_reads(tmp_path, rows):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines(rows[:50]))
    assert [row.messages for row in judge.read_rows(path)] == [row.messages for row in rows[:50]]
