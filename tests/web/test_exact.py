"""exact: of equal texts the first in the sources' order is kept, however the work is dealt out."""
from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from llmc.web import exact
from llmc.web.exact import exact_dedup

WORDS = "one two three four".split()


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Seven files of documents, some of none, that differ in case, marks and blanks alone."""
    folder, random = tmp_path_factory.mktemp("sources"), Random(1)
    for at in range(7):
        rows = []
        for row in range(0 if at == 3 else random.randrange(5, 40)):
            words = random.choices(WORDS, k=random.randrange(4)) + [str(random.randrange(3))]
            text = "".join(random.choice([word, word.upper(), word.title()]) + random.choice([" ", "\n", ", ", " - "])
                           for word in words)
            rows.append(json.dumps({"text": text, "id": f"{at}/{row}"}) + "\n")
        (folder / f"{at}.jsonl").write_text("".join(rows))
    return folder


def plain(text: str, same_numbers: bool) -> str:
    text = " ".join(re.findall("[a-z]+|[0-9]+", text.lower()))
    return text if same_numbers else re.sub("[0-9]+", "0", text)


def firsts(folder: Path, same_numbers: bool = True) -> tuple[list[str], int]:
    """The documents to keep, and how many there are, one after the other."""
    seen, kept, count = set(), [], 0
    for path in sorted(folder.iterdir()):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            count += 1
            if (text := plain(row["text"], same_numbers)) not in seen:
                seen.add(text)
                kept.append(row["id"])
    return kept, count


def ids(folder: Path) -> list[str]:
    rows = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return sorted((row["id"] for row in rows), key=lambda name: [int(part) for part in name.split("/")])


def deduplicated(sources: Path, out: Path, tasks: int, finders: int, workers: int = 1, **options) -> list[str]:
    names = [str(path) for path in sorted(sources.iterdir())]
    dropped = JsonlWriter(str(out / "dropped"), "${rank}.jsonl", compression=None)
    signatures, find, remove = exact_dedup(names, str(out / "exact"), finders, exclusion_writer=dropped, **options)
    kept = JsonlWriter(str(out / "kept"), "${rank}.jsonl", compression=None)
    for name, blocks, count in (("1", [JsonlReader(str(sources)), signatures], tasks), ("2", [find], finders),
                                ("3", [JsonlReader(str(sources)), remove, kept], tasks)):
        LocalPipelineExecutor(blocks, tasks=count, workers=workers, logging_dir=str(out / f"logs{name}")).run()
    return ids(out / "kept")


@pytest.mark.parametrize("tasks, finders, workers", [(1, 1, 1), (2, 1, 2), (3, 4, 1), (7, 2, 1), (9, 3, 1)])
def test_the_first_is_kept_for_any_number_of_tasks(tasks, finders, workers, sources, tmp_path):
    wanted, count = firsts(sources)
    assert 20 < len(wanted) < count - 20
    assert deduplicated(sources, tmp_path, tasks, finders, workers) == wanted
    assert len(ids(tmp_path / "dropped")) == count - len(wanted)


def test_numbers_can_be_taken_for_the_same(sources, tmp_path):
    wanted, _ = firsts(sources, same_numbers=False)
    assert len(wanted) < len(firsts(sources)[0])
    assert deduplicated(sources, tmp_path, 2, 1, same_numbers=False) == wanted


def test_texts_that_all_differ_are_all_kept(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for at in range(2):
        (folder / f"{at}.jsonl").write_text(json.dumps({"text": f"text {at}", "id": f"{at}/0"}) + "\n")
    assert deduplicated(folder, tmp_path, 2, 2) == ["0/0", "1/0"]


def test_a_document_of_no_source_is_refused(tmp_path):
    signatures, _, _ = exact_dedup(["a.jsonl"], str(tmp_path))
    with pytest.raises(ValueError, match="document 7 is of none of the sources: b.jsonl"):
        signatures.run(iter([Document("x", "7", metadata={"file_path": "b.jsonl"})]))
    with pytest.raises(ValueError, match="document 8 is of none of the sources: no file_path"):
        signatures.run(iter([Document("x", "8")]))


def test_neighbours_among_more_sources_than_priorities_count_as_one(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(exact, "MOST_SOURCES", 3)
    assert deduplicated(sources, tmp_path / "one", 1, 1) == firsts(sources)[0]
    few = deduplicated(sources, tmp_path / "few", 4, 1)
    assert len(few) == len(firsts(sources)[0])
