"""llmc inspect: marks are what the rules count, and what pages hold does no harm to the terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters.gopher_repetition_filter import find_all_duplicate, find_duplicates, find_top_duplicate
from datatrove.pipeline.filters.gopher_repetition_filter import get_n_grams
from datatrove.utils.text import split_into_words
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llmc import cli, inspect
from llmc.prepare_fineweb import PrepareFineWeb
from llmc.prepare_fineweb import run as prepare
from llmc.web import marks, steps, tapestry

PROSE = ("The river is as clear as glass, and that is where the children come to swim in the summer. They have lunch "
         "with their friends in the shade. Nobody has to be home before the evening. It is a long way to the village. "
         "The dog of the house, which is old, has been there, too, and knows all of the people who live in it. ")
LINES = [f"Line {name} says something of its own about {name}s." for name in
         ("apple", "pear", "plum", "cherry", "quince", "medlar", "grape", "currant", "melon", "fig")]


def found(step: steps.Step, text: str, reason: str, **metadata: object) -> marks.Finding:
    """The finding about a text that the step's own block drops for this reason."""
    doc = Document(text, "0", metadata=dict(metadata))
    assert step.block(None).filter(doc) == (False, reason)
    doc.metadata["filter_reason"] = reason
    finding = marks.explain(step, doc)
    assert all(a < b for a, b in finding.parts)
    assert all(before[1] <= after[0] for before, after in zip(finding.parts, finding.parts[1:]))
    return finding


def parts(text: str, finding: marks.Finding) -> list[str]:
    return [text[a:b] for a, b in finding.parts]


@pytest.mark.parametrize("reason, separator, options", [
    ("dup_line_frac", "\n", {}), ("dup_line_char_frac", "\n", {"dup_line_frac": None}),
    ("dup_para_frac", "\n\n\n", {}), ("dup_para_char_frac", "\n\n", {"dup_para_frac": None})])
def test_repeated_lines_and_paragraphs_are_those_the_rule_counts(reason, separator, options):
    text = ("\n " if "para" in reason else "\n") + separator.join(LINES[:3] * 3 + LINES) + "\n"
    finding = found(steps.Repetition(**options), text, reason)
    pieces = text.strip().split(separator) if "para" in reason else re.split("\n+", text)
    assert parts(text, finding) == LINES[:3] * 3
    count, letters = find_duplicates(pieces)
    share = count / len(pieces) if reason.endswith(("line_frac", "para_frac")) else letters / len(text)
    assert sum(end - start for start, end in finding.parts) == letters and f" {share:.1%}, at most " in finding.why


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_most_frequent_n_gram_is_marked_wherever_it_stands(n):
    gram = " ".join(["salt", "honey", "bread", "water"][:n])
    text = " ".join(f"{gram}, {word}." for word in "one two three four five six seven eight nine ten".split())
    finding = found(steps.Repetition(top_n_grams={n: 0.2}), text, f"top_{n}_gram")
    assert parts(text, finding) == [gram] * 10
    top = find_top_duplicate(get_n_grams(split_into_words(text, "eng"), n))
    assert f"{gram!r} × 10: {top / len(text):.1%}" in finding.why


@pytest.mark.parametrize("n", [5, 7, 10])
def test_repeated_n_grams_are_those_the_rule_counts(n):
    text = f"{PROSE} And now for something else: {PROSE.replace('village', 'hamlet')}"
    options = {"top_n_grams": {}, "dup_n_grams": {n: 0.1}}
    finding = found(steps.Repetition(**options), text, f"duplicated_{n}_n_grams")
    words = split_into_words(text, "eng")
    assert f" {find_all_duplicate(words, n) / len(text):.1%}, at most 10% are kept" in finding.why
    marked = sum(len(part.replace(" ", "")) for part in parts(text, finding))
    assert marked == find_all_duplicate(words, n) and finding.parts[0][0] > len(PROSE)


@pytest.mark.parametrize("text, reason, options, wanted", [
    ("Too short, isn't it?", "gopher_short_doc", {}, []),
    (PROSE, "gopher_long_doc", {"max_doc_words": 60}, []),
    (PROSE, "gopher_above_avg_threshold", {"max_avg_word_length": 3.5}, 4),
    (PROSE, "gopher_below_avg_threshold", {"min_avg_word_length": 5}, 4),
    (PROSE + "# " * 20, "gopher_too_many_hashes", {}, ["#"] * 20),
    (PROSE + "and ... so … on " * 20, "gopher_too_many_ellipsis", {}, ["...", "…"] * 20),
    ("\n".join(["- " + PROSE, "", "  • " + PROSE, "- more"]), "gopher_too_many_bullets",
     {"max_bullet_lines_ratio": 0.7}, ["- " + PROSE, "  • " + PROSE, "- more"]),
    ("\n".join([PROSE, "So it is…", "and so ... "]), "gopher_too_many_end_ellipsis", {}, ["So it is…", "and so ... "]),
    (PROSE + "1234 56,789 " * 20, "gopher_below_alpha_threshold", {}, None),
    ("Wolves ate sheep near Paris. " * 12 + "The", "gopher_enough_stop_words", {}, []),
])
def test_what_is_no_prose_is_marked(text, reason, options, wanted):
    finding = found(steps.Quality(**options), text, reason)
    if wanted is None:
        assert set(parts(text, finding)) == {".", ",", "1234", "56,789"}
    elif isinstance(wanted, int):
        lengths = {len(part) for part in parts(text, finding)}
        assert lengths and (min(lengths) == wanted if "above" in reason else max(lengths) == wanted)
    else:
        assert parts(text, finding) == wanted
        assert ("no one part" in finding.why) == (reason in ("gopher_short_doc", "gopher_long_doc"))


def test_c4_marks_the_sign_or_the_lines_left_out():
    text = PROSE + "LOREM Ipsum and more of it."
    assert parts(text, found(steps.C4(), text, "lorem_ipsum")) == ["LOREM Ipsum"]
    text = PROSE + "function() { return {}; }"
    assert parts(text, found(steps.C4(), text, "curly_bracket")) == ["{", "{"]
    bad = ["Too short", "Please turn on Javascript to see it.", "This site uses cookies, as all do."]
    text = "\n".join(["It is a river. It is clear.", "", bad[0], "Nobody is there now.\r", *bad[1:]])
    finding = found(steps.C4(), text, "too_few_sentences")
    assert parts(text, finding) == bad
    assert "3 sentences are left, at least 5" in finding.why
    assert "1 javascript, 1 policy, 1 too_few_words" in finding.why


def test_finewebs_own_rules_mark_their_lines():
    bare = [line[:-1] for line in LINES]
    text = "\n".join([*bare, "", LINES[0]])
    finding = found(steps.FineWeb(), text, "line_punct_ratio")
    assert parts(text, finding) == [line.split()[-1] for line in bare] and "9.1%" in finding.why
    short = ["It is so.", "So it is.", "Is it?"] * 3
    text = "\n".join([*short, PROSE.strip()])
    assert parts(text, found(steps.FineWeb(), text, "short_line_ratio")) == short
    text = "\n".join([*LINES, "", LINES[3]])
    finding = found(steps.FineWeb(), text, "char_dup_ratio")
    assert finding.parts == [(len(text) - len(LINES[3]), len(text))]
    text = "\n".join("an item of it here.\n" + "\n" * 9 + str(number) for number in range(9)) + PROSE
    assert not found(steps.FineWeb(short_line_thr=1, char_duplicates_ratio=1), text, "list_ratio").parts


@pytest.mark.parametrize("url, reason, wanted", [
    ("https://a.bad.co.uk/x?bad.co.uk", "domain", ["bad.co.uk", "bad.co.uk"]),
    ("https://a.bad.co.uk/x", "subdomain", ["a.bad.co.uk"]),
    ("https://example.org/the/Alaskan-Pipeline.html", "blacklisted_subword", ["Alaskan-Pipeline"]),
    ("https://example.org/lingerie-latino-latinos", "soft_blacklisted", ["lingerie", "latino"]),
    ("https://example.org/2g1c/x2g1c", "hard_blacklisted", ["2g1c"]),
])
def test_the_part_of_a_url_that_is_blocked_is_marked(url, reason, wanted):
    finding = marks.explain(steps.Url(), Document(PROSE, "0", metadata={"url": url, "filter_reason": reason}))
    assert [url[a:b] for a, b in finding.url] == wanted


def test_words_of_ones_own_are_marked_in_the_url(tmp_path):
    (tmp_path / "words.txt").write_text("casino\npoker\n")
    url = "https://example.org/casino/2"
    finding = found(steps.Url(lists=False, words=tmp_path / "words.txt"), PROSE, "hard_blacklisted", url=url)
    assert [url[a:b] for a, b in finding.url] == ["casino"] and not finding.parts


def test_the_n_gram_of_an_evaluation_set_is_marked(tmp_path):
    quoted = "In what year did the first mountaineers set foot on the summit of Mount Everest?"
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": quoted, "answer": "1953"}) + "\n")
    step = steps.Decontaminate([tmp_path])
    step.prepare(tmp_path)
    text = f"{PROSE} Quiz night! {quoted} Nobody knew."
    finding = found(step, text, "contaminated_quiz")
    assert parts(text, finding) == [" ".join(quoted.split()[:13])] and "13 words in a row of quiz" in finding.why


def test_personal_data_and_masks_are_marked():
    text = "Write to jane.doe@company.org or call 8.8.8.8 if you like."
    assert parts(text, found(steps.Personal("drop"), text, "personal_email")) == ["jane.doe@company.org", "8.8.8.8"]
    doc = Document(text, "0")
    assert steps.Personal().block(None).filter(doc) is True
    kept = marks.masked([steps.Personal()], doc.text)
    assert parts(doc.text, kept) == ["email@example.com", "22.214.171.124"] and "2" in kept.why


@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))), st.integers(1, 30))
def test_pieces_are_the_text_whatever_is_marked(text, spans, most):
    ordered = marks._joined((min(pair), max(pair)) for pair in spans)
    pieces = list(marks.pieces(text, ordered))
    assert "".join(piece for piece, _ in pieces) == text
    inside = {at for a, b in ordered for at in range(a, min(b, len(text)))}
    assert sum(len(piece) for piece, marked in pieces if marked) == len(inside)
    assert len("".join(piece for piece, _ in marks.excerpt(text, ordered, most)).strip("… ")) <= most


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inspected")
    rows = [{"id": f"number {i}", "url": f"http://example.org/{i}",
             "text": f"{PROSE}\nThis is {i}, [bold]said[/bold] so."} for i in range(6)]
    rows[2]["text"] += " Write to jane.doe@company.org."
    rows[4]["text"] += " function() { return; }\x1b]0;title\x07\u202e\x9b2J"
    rows[5]["text"] += "\nToo short\nToo short\nToo short\nToo short"
    rows += [{"id": "again", "text": rows[0]["text"]}, {"id": "few", "text": "Too short."}]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.yaml").write_text("steps:\n- gopher_repetition: {top_n_grams: {}}\n"
                                      "- gopher_quality: {max_non_alpha_words_ratio: null}\n- c4\n- exact\n"
                                      "- personal\n")
    argv = ["--source", str(folder / "a.jsonl"), "--out", str(folder / "out"), "--recipe", str(folder / "mine.yaml"),
            "--val_fraction", "0", "--workers", "1"]
    assert cli.guarded(lambda: prepare(cli.parse(PrepareFineWeb, argv))) == 0
    return folder / "out"


def shown(out: Path, capsys, *args: object) -> str:
    status = cli.guarded(lambda: inspect.run(cli.parse(inspect.Inspect, [str(out), *map(str, args)])))
    said = capsys.readouterr()
    return said.out if status == 0 else said.err


def ids(text: str) -> list[str]:
    return re.findall("^(number [0-9]|again|few) · ", text, re.M)


def test_documents_are_shown_by_what_became_of_them(out, capsys):
    assert ids(shown(out, capsys, "--count", 99, "--show", "kept")) == [f"number {i}" for i in (0, 1, 2, 3)]
    assert ids(shown(out, capsys, "--count", 99, "--show", "dropped")) == ["number 5", "few", "number 4", "again"]
    assert ids(shown(out, capsys, "--show", "c4")) == ids(shown(out, capsys, "--show", "curly_bracket")) == ["number 4"]
    assert ids(shown(out, capsys, "--show", "duplicate")) == ["again"]
    assert ids(shown(out, capsys, "--find", "EXAMPLE.org/3")) == ["number 3"]
    assert ids(shown(out, capsys)) == [f"number {i}" for i in (0, 1, 2, 3, 5)]
    assert len(ids(shown(out, capsys, "--count", 0, "--random"))) == 5
    orders = {tuple(ids(shown(out, capsys, "--count", 8, "--random", "--seed", seed))) for seed in (1, 1, 2)}
    assert len(orders) == 2 and len({frozenset(order) for order in orders}) == 1
    text = shown(out, capsys, "--show", "kept", "--find", "masked email is") + shown(out, capsys, "--show", "number")
    assert "holds no such document with 'masked email is'" in text
    assert "--show number: nothing is called so" in text and "curly_bracket, dropped, dup" in text


def test_what_is_shown_is_marked_and_cannot_change_the_terminal(out, capsys):
    text = shown(out, capsys, "--show", "dropped")
    assert "dropped by c4: curly_bracket" in text and "function() ⟦{⟧ return" in text and "[bold]said[/bold]" in text
    assert "dropped by gopher_repetition: dup_line_frac" in text and text.count("⟦Too short⟧") == 3
    assert not set(text) & {"\x1b", "\x07", "\u202e", "\x9b"} and "\ufffd]0;title\ufffd\ufffd\ufffd2J" in text
    assert "Write to ⟦email@example.com⟧." in shown(out, capsys, "--show", "kept")


def test_a_folder_that_is_none_of_prepare_fineweb_is_named(tmp_path, capsys):
    assert "work/settings.json; wanted the --out of llmc prepare_fineweb" in shown(tmp_path, capsys)


def test_documents_that_cannot_be_read_are_one_sentence(out, tmp_path, capsys):
    shutil.copytree(out, tmp_path / "out")
    next((tmp_path / "out" / "work" / "kept").glob("*.zst")).write_bytes(b"no zstandard")
    text = shown(tmp_path / "out", capsys)
    assert "work/kept cannot be read (" in text and "--fresh makes it anew" in text and "Traceback" not in text


def test_keys_page_through_documents(out):
    """On a terminal of 24 lines: next, scroll, back, quit; and the terminal is left as it was."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    environment = {key: value for key, value in os.environ.items() if key not in ("LINES", "COLUMNS", "NO_COLOR")}
    program = subprocess.Popen([sys.executable, "-m", "llmc.inspect", str(out), "--show", "kept"], stdin=theirs,
                               stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm-256color"})

    def until(wanted: str) -> str:
        said = ""
        while wanted not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said):
            assert select.select([ours], [], [], 60)[0], said
            said += os.read(ours, 1 << 16).decode("utf-8", "replace")
        return said

    try:
        until("document 1 ")
        os.write(ours, b"n")
        assert "number 1" in until("document 2 ")
        os.write(ours, b"n")
        assert "\x1b[30;43memail@example.com" in until("document 3 ")
        os.write(ours, b"p")
        until("document 2 ")
        os.write(ours, b"nnn")
        assert "number 3" in until("document 4 (the last) ")
        os.write(ours, b"q")
        assert program.wait(60) == 0 and termios.tcgetattr(theirs) == before
    finally:
        program.kill()
        program.wait()
        os.close(ours)
        os.close(theirs)


def test_a_tapestry_has_every_document_and_its_colour(out, tmp_path, capsys):
    path = tmp_path / "t.png"
    assert shown(out, capsys, "--tapestry", path) == f"saved {path}: 8 documents\n"
    first = path.read_bytes()
    with Image.open(path) as image:
        colours = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in image.getcolors(1 << 24)}
    assert {tapestry.GROUND, tapestry.KEPT, *tapestry.COLOURS[:4]} <= colours
    shown(out, capsys, "--tapestry", path)
    assert path.read_bytes() == first
    assert "8 documents" in shown(out, capsys, "--tapestry", path, "--colour", "language")
    assert "wanted a name that ends in .png" in shown(out, capsys, "--tapestry", "x.jpg")


@given(st.text(max_size=300))
def test_a_tapestrys_lines_are_the_text(text):
    lines = list(tapestry.lines(text))
    assert all(text[at:at + len(line)] == line and 0 < len(line) <= tapestry.LETTERS for at, line in lines)
    covered = {index for at, line in lines for index in range(at, at + len(line))}
    assert all(text[index].isspace() for index in set(range(len(text))) - covered)


def test_the_standard_librarys_inspect_is_not_ours():
    code = "import inspect, llmc.inspect; print(inspect.getdoc(llmc.inspect.Inspect)[:4], inspect is llmc.inspect)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "Page False\n", done.stderr
