"""decontaminate: what a search word by word finds, the index finds, and where it says it is."""
from __future__ import annotations

import json
import lzma
import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from datatrove.data import Document

from llmc.web.decontaminate import Decontaminate, Index, Overlap, ngrams

WORDS = "red green blue cat dog sun moon".split()
QUESTION = "Which of these planets is the closest one to the Sun, the star in our solar system's centre?"
HEAD, MIDDLE, TAIL = "Which of these planets is the", "closest one to", QUESTION.removeprefix(
    "Which of these planets is the closest one to ")
PAGE = "Ask me: WHICH of these planets\nis the closest one — to the “sun”, the star in our solar systems centre..."
LONG = "He went down to the old harbour, where his father's boats had been lying for more than thirty years."


def jsonl(path: Path, *rows: dict) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode())
    return path


def said(random: Random, words: list[str]) -> str:
    """The words as a writer might write them."""
    marks = [" ", "\n", ", ", " -- ", ".\t", "! "]
    return "".join(random.choice([word, word.upper(), word.title()]) + random.choice(marks) for word in words)


def searched(items: dict[str, list[list[str]]], document: list[str], n: int) -> set[tuple[str, int]]:
    """(set, word of the document) wherever n words of an item stand in the document."""
    return {(name, at) for name, texts in items.items() for text in texts for i in range(len(text) - n + 1)
            for at in range(len(document) - n + 1) if document[at:at + n] == text[i:i + n]}


def test_it_finds_what_a_search_word_by_word_finds(tmp_path):
    random = Random(1)
    for n in (1, 3, 4, 13):
        items = {f"set{at}": [random.choices(WORDS, k=random.randrange(2 * n + 2)) for _ in range(6)]
                 for at in range(3)}
        for name, texts in items.items():
            jsonl(tmp_path / f"{name}.jsonl", *({"question": said(random, text), "answer": ""} for text in texts))
        Index.build([tmp_path], n).save(tmp_path / "index")
        index, hits = Index.load(tmp_path / "index"), 0
        for _ in range(100):
            words = random.choices(WORDS, k=random.randrange(40))
            at = random.randrange(len(words) + 1)
            words[at:at] = random.choice(items["set1"])[:random.choice([n - 1, n, 2 * n])]
            text = said(random, words)
            begins = [match.start() for match in re.finditer("[A-Za-z]+", text)]
            found = index.overlaps(text)
            assert {(hit.name, begins.index(hit.start)) for hit in found} == searched(items, words, n)
            assert len(found) == len(set(found))
            for hit in found:
                assert re.findall("[a-z]+", text[hit.start:hit.end].lower()) == hit.ngram.split()
                assert len(hit.ngram.split()) == n
            hits += bool(found)
        assert 20 < hits and (hits < 100 or n == 1)


def test_case_marks_and_accents_do_not_count():
    index_words = [ngram for ngram, _, _ in ngrams("Don’t—ever eat the Crème ___ brûlée (U.S. style), 1,000 times!", 3)]
    assert index_words == ["dontever eat the", "eat the creme", "the creme brulee", "creme brulee us",
                           "brulee us style", "us style 1000", "style 1000 times"]


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=80), n=st.integers(1, 4))
def test_ngrams_of_any_text_lie_where_they_say(text, n):
    for ngram, start, end in ngrams(text, n):
        assert [gram for gram, _, _ in ngrams(text[start:end], n)] == [ngram]


@pytest.mark.parametrize("row", [
    {"question": QUESTION, "choices": ["Mars", "Mercury"], "answer": 1},
    {"query": "no", "context": QUESTION}, {"prompt": QUESTION}, {"continuation": QUESTION, "context": ""},
    {"context_options": ["x", QUESTION], "continuation": "y"},
    {"ctx": HEAD, "endings": ["something else", f"{MIDDLE} {TAIL}"], "label": 1},
    {"context": HEAD, "question": MIDDLE, "choices": {"text": ["x", TAIL], "label": ["A", "B"]}, "answerKey": "B"}])
def test_items_of_the_usual_layouts_are_found(row, tmp_path):
    index = Index.build([jsonl(tmp_path / "quiz.jsonl.xz", row, {"question": "Too short", "answer": "Yes"})])
    found = index.overlaps(PAGE)
    assert found[0] == Overlap("quiz", "which of these planets is the closest one to the sun the star", 8, 74)
    assert index.names == ("quiz",) and index.counts == ((2, 1),)
    assert index.overlaps(PAGE.replace("closest", "nearest")) == []


def test_sets_can_be_given_names_and_folders(tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    paths = [jsonl(tmp_path / "deep/a.jsonl", {"question": QUESTION}),
             jsonl(tmp_path / "deep/er/b.jsonl", {"context": LONG})]
    index = Index.build({"quiz 2": tmp_path / "deep", "tale": paths[1]})
    assert {hit.name for hit in index.overlaps(QUESTION)} == {"quiz 2"}
    assert [hit.name for hit in index.overlaps(LONG)][:3] == ["quiz 2", "tale", "quiz 2"]
    assert index.names == ("quiz 2", "tale") and index.counts == ((2, 0), (1, 0))
    assert Index.build(paths).names == ("a", "b")


def test_a_text_file_is_one_item(tmp_path):
    (tmp_path / "quiz.txt").write_text(f"{HEAD} {MIDDLE}\n{TAIL}")
    assert Index.build([tmp_path]).overlaps(PAGE)


def test_documents_are_dropped_for_a_set_by_name(tmp_path):
    sets = jsonl(tmp_path / "quiz.jsonl", {"question": QUESTION}), jsonl(tmp_path / "tale.jsonl", {"context": LONG}), \
        jsonl(tmp_path / "copy.jsonl", {"context": LONG})
    Index.build(sets).save(tmp_path / "index")
    step = Decontaminate(tmp_path / "index")
    documents = [Document(text, str(at)) for at, text in enumerate(["A clean page.", PAGE, LONG + " " + PAGE, ""])]
    assert [document.id for document in step.run(iter(documents))] == ["0", "3"]
    assert {key: stat.total for key, stat in step.stats.stats.items() if "_" in key and key != "doc_len"} == {
        "dropped_contaminated_quiz": 1, "dropped_contaminated_tale": 1,
        "overlaps_quiz": 2, "overlaps_tale": 1, "overlaps_copy": 1}
    start, end = documents[2].metadata.pop("contaminated_at")
    assert LONG.startswith(documents[2].text[start:end]) and start == 0
    assert documents[2].metadata == {
        "contaminated_task": "tale",
        "contaminated_ngram": "he went down to the old harbour where his fathers boats had been"}


def test_the_file_depends_on_the_sets_alone(tmp_path):
    for seed, name in ((1, "a"), (2, "b")):
        random, folder = Random(seed), tmp_path / name
        folder.mkdir()
        rows = [{"question": QUESTION}, {"context": LONG}, {"question": QUESTION}]
        random.shuffle(rows)
        Index.build([jsonl(folder / "x.jsonl", *rows)]).save(folder / "index")
    assert (tmp_path / "a/index").read_bytes() == (tmp_path / "b/index").read_bytes()


def broken(raw: bytes, how: str) -> bytes:
    head, body = raw.split(b"\n", 1)
    return {"cut": raw[:-1], "longer": raw + b"\0", "format": raw.replace(b"index 1", b"index 0"),
            "order": head + b"\n" + body[8:16] + body[:8] + body[16:],
            "set": raw[:-2] + b"\x01\0", "text": b"hello\nthere"}[how]


@pytest.mark.parametrize("how, sentence", [
    ("cut", "is damaged: 59 bytes for 6 n-grams, wanted 60; build it again"), ("longer", "is damaged: 61 bytes"),
    ("format", "is 'llmc n-gram index 0', wanted 'llmc n-gram index 1'; build it again"),
    ("order", "is damaged: its hashes"), ("set", "is damaged: its hashes"), ("text", "first line is no JSON")])
def test_a_damaged_index_is_refused(how, sentence, tmp_path):
    path = tmp_path / "index"
    Index.build([jsonl(tmp_path / "quiz.jsonl", {"question": QUESTION})]).save(path)
    whole = path.read_bytes()
    path.write_bytes(broken(whole, how))
    assert path.read_bytes() != whole
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Index.load(path)


@pytest.mark.parametrize("rows, sentence", [
    ([{"question": QUESTION}, {"id": 1, "text": "x"}], "quiz.jsonl:2: no question or answer among id, text; wanted "),
    ([{"question": "Too short"}], "no item of quiz has 13 words"), ([], "no item of quiz has 13 words")])
def test_sets_without_items_are_refused(rows, sentence, tmp_path):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Index.build([jsonl(tmp_path / "quiz.jsonl", *rows)])


def test_a_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n\n{\n")
    with pytest.raises(ValueError, match=r"quiz.jsonl:3 is no JSON"):
        Index.build([tmp_path])


@pytest.mark.shared
def test_real_items_in_real_pages_are_found(shared, capsys):
    """Every item of 13 words and more, put between two halves of a page; and the pages alone."""
    data, random = shared / "data", Random(1)
    paths = [data / "mmlu/mmlu_dev_val_test1000.jsonl.xz", data / "arc/arc_challenge_test.jsonl",
             data / "hellaswag/hellaswag_val_slice500.jsonl.xz", data / "gsm8k/test_slice200.jsonl"]
    index = Index.build(paths)
    with open(data / "corpora/web_samples/c4_demo.jsonl", encoding="utf-8") as file:
        pages = [json.loads(line)["text"] for line in file]
    alone = [hit for page in pages for hit in index.overlaps(page)]
    lines = paths[1].read_text().splitlines()
    planted = found = 0
    for row in map(json.loads, lines):
        item = row["question"] + " " + row["choices"][row["answer"]]
        page = random.choice(pages)
        half = page.index(" ", len(page) // 2) if " " in page[len(page) // 2:] else len(page)
        if len(list(ngrams(item, 13))):
            planted += 1
            found += any(hit.name == "arc_challenge_test" and half <= hit.start
                         for hit in index.overlaps(page[:half] + " " + item + page[half:]))
    with capsys.disabled():
        print(f"\n{len(index.hashes):,} 13-grams; items, too short: {dict(zip(index.names, index.counts))}; "
              f"{found} of {planted} planted found; {len(alone)} in {len(pages)} pages alone: "
              f"{[(hit.name, hit.ngram) for hit in alone[:3]]}")
    assert found == planted > 900
    assert alone == []
