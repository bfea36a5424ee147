"""The report: its figures are what plain Python counts, and what pages hold does no harm in it."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from llmc import cli
from llmc.prepare_fineweb import PrepareFineWeb, run
from llmc.tokenizer import Tokenizer
from llmc.web import report, tally
from llmc.web.sketch import Frequent, Smallest

STORY = ("The river of number {} is as clear as glass, and that is where the children come to swim in the summer. "
         "They have lunch with their friends in the shade. Nobody has to be home before the evening. "
         "It is a long way to the village. The dog of the house, called {}, has been there, too, "
         "and all of the people who live in the village know that it was the first to find the way to the river.")
ATTACK = "</pre><script>alert('x')</script><img src=x onerror=alert(1)>\u202e\x00\x1b[2J & \"quoted\" 'text'"
URL = "javascript:alert(document.domain)//\"><a href='https://evil.example'>"


def page(number: int) -> dict[str, object]:
    row = {"id": f"<i>{number}</i>", "text": STORY.format(number, number),
           "url": f"https://www.site{number % 3}.co.uk/{number}",
           "language": "en", "language_score": 0.9 + number / 1000}
    if number % 5 == 0:
        row["text"] = f"Too short, says {number}."
    if number % 7 == 0:
        row |= {"text": f"{row['text']} This {{is}} a page of code, which says what to do and not much else.",
                "language": "de<b>", "language_score": 0.25}
    if number % 4 == 3:
        row |= {"text": f"{ATTACK} {row['text']}"}
    if number % 4 == 2:
        row |= {"url": "" if number % 3 else URL}
    if number % 13 == 0:
        row |= {"url": 5, "language": ["en"], "language_score": "high"}
    return row


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for file in range(3):
        rows = [page(number) for number in range(file, 60, 3)] + [page(1)] * 2
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.yaml").write_text("steps: [gopher_quality, {c4: {min_num_sentences: 3}}, exact]\n")
    (folder / "short.yaml").write_text("steps: [{gopher_quality: {min_doc_words: 1000}}]\n")
    return folder


def prepare(sources: Path, out: Path, *args: object) -> int:
    argv = ["--source", *map(str, sorted(sources.glob("*.jsonl"))), "--out", str(out), "--name", "it", "--recipe",
            str(sources / "mine.yaml"), "--val_fraction", "0", "--workers", "1", *map(str, args)]
    return cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv)))


@pytest.fixture(scope="module")
def out(sources, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    assert prepare(sources, folder) == 0
    return folder


def lying(folder: Path) -> list[dict]:
    """The documents in a folder, read without datatrove."""
    rows = []
    for path in sorted(folder.glob("*.jsonl.zst")):
        raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())).read()
        rows += map(json.loads, raw.splitlines())
    return rows


def test_the_figures_are_what_plain_python_counts(out):
    figures, tokenizer = json.loads((out / "report.json").read_text()), Tokenizer.load("gpt2")
    places = {"kept": out / "work" / "kept"} | {path.name: path for path in (out / "work" / "dropped").iterdir()}
    assert set(figures["dropped"]) | {"kept"} == set(places) == {"kept", "2_gopher_quality", "3_c4", "4_exact"}
    for name, folder in places.items():
        rows, found = lying(folder), (figures["kept"] if name == "kept" else figures["dropped"][name])
        texts = [row["text"] for row in rows]
        data = [row["metadata"] for row in rows]
        assert found["documents"] == len(rows) > 0
        assert found["characters"] == sum(map(len, texts))
        assert found["bytes"] == sum(len(text.encode()) for text in texts)
        assert found["tokens"]["tokens"] == sum(len(tokenizer.encode(text)) + 1 for text in texts)
        assert found["tokens"]["error"] == 0 == found["domains_error"] == found["languages_error"]
        hosts = Counter(row["url"].split("/")[2].removeprefix("www.") for row in data if str(row["url"])[:4] == "http")
        assert dict(found["domains"]) == hosts and found["domains_total"] == hosts.total()
        known = [row for row in data if isinstance(row["language_score"], float)]
        assert {language: sum(bins) for language, bins in found["languages"].items()} == Counter(
            row["language"] for row in known)
        assert [sum(column) for column in zip(*found["languages"].values())] == [
            sum(at / 20 <= row["language_score"] < (at + 1) / 20 for row in known) for at in range(20)]
        assert found["lengths"] == [[at, count] for at in range(64) if (count := sum(
            2 ** at <= len(text) ** 2 < 2 ** (at + 1) for text in texts))]
        if name != "kept":
            assert found["reasons"] == Counter(row.get("filter_reason", "duplicate") for row in data)
    grams = Counter()
    for row in lying(places["kept"]):
        words = ["".join(filter(str.isalnum, word)) for word in row["text"].lower().split()]
        words = [word for word in words if word]
        grams.update({" ".join(words[at:at + 5]) for at in range(len(words) - 4)})
    assert figures["kept"]["ngrams_error"] == 0
    assert all(grams[gram] == count for gram, count in figures["kept"]["ngrams"])
    assert [count for _, count in figures["kept"]["ngrams"]] == [count for _, count in grams.most_common(60)]


def test_the_funnel_loses_what_the_steps_dropped(out):
    figures = json.loads((out / "report.json").read_text())
    funnel = figures["funnel"]
    assert [row["step"] for row in funnel] == ["read", "gopher_quality", "c4", "exact"]
    assert funnel[-1]["bytes_left"] == figures["kept"]["bytes"]
    assert funnel[-1]["tokens_left"] == {"tokens": figures["train_tokens"], "error": 0}
    for before, row in zip(funnel, funnel[1:]):
        assert before["kept"] == row["documents"] == row["kept"] + sum(row["reasons"].values())
        assert before["bytes_left"] == row["bytes_left"] + row["bytes_dropped"]
        assert before["tokens_left"]["tokens"] == row["tokens_left"]["tokens"] + row["tokens_dropped"]["tokens"]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_what_pages_hold_is_text_in_the_report(out):
    page = (out / "report.html").read_text()
    parsed = Tags()
    parsed.feed(page)
    assert parsed.tags <= set("html head meta title style body header section div p span b br h1 h2 h3 table tr th td "
                              "svg path rect details summary article pre mark".split())
    assert parsed.attributes <= set("lang charset http-equiv content name class colspan role aria-label aria-hidden d "
                                    "x y width height viewbox preserveaspectratio fill-opacity style dir open".split())
    shown = ATTACK.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    for each in (shown, URL, "de<b>", "<i>"):
        assert each in parsed.text
    assert "default-src 'none'" in page and "\x00" not in page
    for opened in ("div", "table", "tr", "td", "section", "svg", "pre", "details", "article"):
        assert page.count(f"<{opened}>") + page.count(f"<{opened} ") == page.count(f"</{opened}>")


@pytest.mark.slow
def test_the_report_is_the_same_bytes_for_more_workers_and_started_again(sources, out, tmp_path):
    assert prepare(sources, tmp_path / "out", "--workers", "2") == 0
    first = {name: (out / name).read_bytes() for name in ("report.html", "report.json")}
    assert first == {name: (tmp_path / "out" / name).read_bytes() for name in first}
    (tmp_path / "out" / "report.json").unlink()
    assert prepare(sources, tmp_path / "out") == 0
    assert first == {name: (tmp_path / "out" / name).read_bytes() for name in first}


def test_the_report_does_not_depend_on_how_files_were_dealt_out(out, tmp_path):
    wanted = json.loads((out / "report.json").read_text())
    work = tmp_path / "work"
    shutil.copytree(out / "work", work)
    for tasks in (1, 2, 5):
        shutil.rmtree(work / "report")
        for rank in range(tasks):
            list(tally.Gather(work, "gpt2", 1337).run(None, rank, tasks))
        assert len(list((work / "report").iterdir())) == tasks
        made = {key: wanted[key] for key in wanted if key not in ("funnel", "kept", "dropped", "n_gram")}
        bare = [{key: row[key] for key in ("step", "documents", "kept", "reasons")} for row in wanted["funnel"]]
        assert json.loads(json.dumps(report.collected(work, made, bare))) == wanted


def test_tokens_that_are_estimated_lie_within_the_error(out, tmp_path, monkeypatch):
    monkeypatch.setattr(tally, "ENCODED", 6)
    shutil.copytree(out / "work", tmp_path / "work")
    shutil.rmtree(tmp_path / "work" / "report")
    list(tally.Gather(tmp_path / "work", "gpt2", 7).run())
    found = report.estimate(tally.merged(tmp_path / "work")["2_gopher_quality"])
    true = json.loads((out / "report.json").read_text())["dropped"]["2_gopher_quality"]["tokens"]["tokens"]
    assert found["cut"] == 6 and 0 < abs(found["tokens"] - true) <= found["error"] < true


def test_where_all_are_dropped_the_report_lies_in_work(sources, tmp_path, capsys):
    assert prepare(sources, tmp_path / "out", "--recipe", sources / "short.yaml") == 1
    place = tmp_path / "out" / "work" / "report.html"
    assert f"66 gopher_quality (gopher_short_doc); {place} shows some of each" in capsys.readouterr().err
    assert "gopher_short_doc" in place.read_text() and not (tmp_path / "out" / "report.html").exists()


@given(st.lists(st.lists(st.integers(0, 30).map(str), max_size=40), max_size=12), st.integers(1, 8), st.integers(0, 20))
def test_frequent_counts_are_within_their_error(parts, room, adding):
    true, whole = Counter(), Frequent(room)
    for keys in parts:
        true.update(keys)
        one = Frequent(room, adding=adding)
        for key in keys:
            one.add([key])
        whole.merge(Frequent(room, **one.as_json()))
    assert whole.total == true.total() and whole.error * (room + 1) <= whole.total and len(whole.counts) <= room
    assert all(whole.counts[key] <= true[key] <= whole.counts[key] + whole.error for key in true)
    if len(true) <= room:
        assert whole.counts == true and whole.error == 0


@given(st.lists(st.integers(0, 50)), st.integers(1, 9), st.integers(1, 4))
def test_a_sample_is_the_same_however_things_are_dealt_out(orders, room, ways):
    whole = Smallest(room)
    for way in range(ways):
        part = Smallest(room, ((order, str(order)) for order in orders[way::ways]))
        for order, thing in part.items():
            whole.add(order, thing)
    assert whole.items() == [(order, str(order)) for order in sorted(orders)[:room]]
