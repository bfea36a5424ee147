"""extract: how much of a page's text is found and how little else; one reason for each page dropped."""
from __future__ import annotations

import json
import os
import time

import pytest
from datatrove.data import Document
from datatrove.pipeline.writers import JsonlWriter

from llmc.web import recipes, steps
from llmc.web.extract import HTML, ByResiliparse, ByTrafilatura, PagesAlone

PAGE = ("<html><head><title>News</title></head><body><nav><ul><li><a href='/'>Home</a></li></ul></nav><article><h1>The "
        "river</h1><p>{}</p></article><footer>All rights reserved</footer></body></html>")
STORY = "Story {0} is about a river as clear as glass, to which the children came to swim all summer. "


class Troubled(PagesAlone):
    """Fails as libraries do."""
    name = "troubled"

    def extract(self, text: str) -> str | Exception | None:
        if text == "slow":
            time.sleep(60)
        if text == "fatal":
            os._exit(1)
        return ValueError("odd") if text == "odd" else None if text == "empty" else text.upper()

    def __init__(self) -> None:
        super().__init__(timeout=1)


def page(text: str, number: int = 0) -> Document:
    return Document(text, str(number), metadata={HTML: True, "url": f"https://example.com/{number}"})


def counts(block) -> dict[str, int]:
    return {key: stat.total for key, stat in block.stats.stats.items()
            if key in ("total", "forwarded") or key.startswith("dropped")}


def test_each_page_that_is_dropped_has_one_reason_and_is_noted_without_its_html(tmp_path):
    block = Troubled()
    block.exclusion_writer = JsonlWriter(str(tmp_path), "${rank}.jsonl", compression=None)
    texts = ["a", "slow", "fatal", "b", "odd", "empty", "empty", "c"]
    kept = list(block.run((page(text, number) for number, text in enumerate(texts)), rank=3))
    assert [(document.id, document.text) for document in kept] == [("0", "A"), ("3", "B"), ("7", "C")]
    assert counts(block) == {"total": 8, "forwarded": 3, "dropped": 5, "dropped_timeout": 1,
                             "dropped_broken_process": 1, "dropped_clean_error": 1, "dropped_no_text": 2}
    rows = [json.loads(line) for line in (tmp_path / "00003.jsonl").read_text().splitlines()]
    assert [(row["id"], row["metadata"]["filter_reason"], row.get("text", "")) for row in rows] == [
        ("1", "timeout", ""), ("2", "broken_process", ""), ("4", "clean_error", ""), ("5", "no_text", ""),
        ("6", "no_text", "")]
    assert rows[0]["metadata"]["url"] == "https://example.com/1"


@pytest.mark.parametrize("by", [ByTrafilatura, ByResiliparse])
def test_pages_become_their_text_and_text_passes_in_its_place(by):
    documents = [Document("<b>as it is</b>", "t0"), page(PAGE.format(STORY.format(1) * 4), 1), page("<html></html>", 2),
                 Document("", "t3"), Document("plain", "t4"), page(PAGE.format(STORY.format(5) * 4), 5)]
    block = by(timeout=60)
    kept = list(block.run(iter(documents)))
    assert [document.id for document in kept] == ["t0", "1", "t3", "t4", "5"]
    assert [kept[0].text, kept[2].text, kept[3].text] == ["<b>as it is</b>", "", "plain"]
    for document in (kept[1], kept[4]):
        assert (STORY.format(document.id) * 4).strip() in document.text and HTML not in document.metadata
        assert "Home" not in document.text and "rights" not in document.text
    assert counts(block) == {"total": 6, "forwarded": 5, "dropped": 1, "dropped_no_text": 1}


def test_text_is_passed_on_as_it_comes():
    asked = []

    def documents():
        for number in range(100):
            asked.append(number)
            yield Document("text", str(number))

    first = next(ByTrafilatura().run(documents()))
    assert first.id == "0" and len(asked) <= 2


def test_the_step_builds_what_was_asked_for():
    published = next(step for step in recipes.load("fineweb") if step.name == "extract")
    block = published.block(None)
    assert isinstance(block, ByTrafilatura) and block.favour_precision and block.deduplicate
    assert steps.Extract(precision=False).block(None).favour_precision is False
    fast = recipes.load("fineweb", ["extract.by=resiliparse", "extract.seconds=5"])
    fast = next(step for step in fast if step.name == "extract").block("writer")
    assert isinstance(fast, ByResiliparse) and fast.timeout == 5 and fast.exclusion_writer == "writer"


@pytest.mark.shared
@pytest.mark.parametrize("options, must, must_not", [
    pytest.param([], 0.92, 0.09, marks=pytest.mark.slow),   # what is published and what is ours by default: 0.926, 0.086
    pytest.param(["extract.precision=false"], 0.94, 0.12, marks=pytest.mark.slow),      # 0.944, 0.118
    (["extract.by=resiliparse"], 0.91, 0.24),       # 0.912, 0.233
])
def test_the_text_of_real_pages_is_found_and_little_else(shared, capsys, options, must, must_not):
    """350 pages of trafilatura's evaluation set, with texts that are the page's and texts that are around it."""
    from llmc.web.pages import ArchiveReader

    folder = shared / "data/warc"
    wanted = {row["url"]: row for row in json.loads((folder / "trafilatura_eval.snippets.json").read_text())}
    assert recipes.load("llmc-default")[1].precision is recipes.load("fineweb")[1].precision is True
    block = next(step for step in recipes.load("llmc-default", options) if step.name == "extract").block(None)
    reader = ArchiveReader(str(folder), glob_pattern="trafilatura_eval.warc.gz", declared=True,
                           default_metadata={HTML: True})
    texts = {document.metadata["url"]: document.text for document in block.run(reader.run())}
    found = {key: [text in texts.get(url, "") for url, row in wanted.items() for text in row[key]]
             for key in ("must_contain", "must_not_contain")}
    share = {key: sum(hits) / len(hits) for key, hits in found.items()}
    with capsys.disabled():
        print(f"\n{' '.join(options) or 'as published'}: {len(texts)} of {len(wanted)} pages, "
              + ", ".join(f"{key} {share[key]:.3f} of {len(found[key]):,}" for key in share))
    assert len(wanted) == 350 and len(texts) >= 340
    assert len(found["must_contain"]) > 1000 < len(found["must_not_contain"])
    assert share["must_contain"] >= must and share["must_not_contain"] <= must_not
