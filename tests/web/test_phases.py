"""Phases: a recipe run as datatrove runs its own steps, the same for any number of workers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmc.web import execute, phases, recipes, watch

TASKS = 3
STOP = ["the", "of", "and", "to", "with", "that", "have", "be"]


def prose(rng: np.random.Generator, sentences: int) -> str:
    """Lines of two sentences each, of many words, in which the steps find nothing wrong."""
    lines = []
    for _ in range(sentences):
        words = ["".join(rng.choice(["ka", "lor", "mi", "tes", "un", "vel", "dra", "pos"], int(rng.integers(2, 5))))
                 for _ in range(int(rng.integers(8, 14)))]
        words[1::4] = rng.choice(STOP, len(words[1::4]))
        lines.append(" ".join(words).capitalize() + ".")
    return "\n".join(" ".join(lines[i:i + 2]) for i in range(0, len(lines), 2))


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """Files of documents: prose, some of it short, bullets, and prose that nearly occurred before."""
    folder, rng = tmp_path_factory.mktemp("pages"), np.random.default_rng(5)
    kept = [prose(rng, 40) for _ in range(12)]
    texts = []
    for i, text in enumerate(kept):
        texts += [text, prose(rng, 3), "\n".join(["* a bullet of the list"] * 60)]
        texts.append(text.replace("the", "their", 1) if i % 3 == 0 else prose(rng, 30))
    for task in range(TASKS):
        rows = [{"text": text, "id": f"page {i}", "url": f"https://site{i}.example/"}
                for i, text in enumerate(texts) if i % TASKS == task]
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


RECIPE = "steps: [gopher_repetition, gopher_quality, c4, fineweb_quality, minhash]"


def kept(folder: Path) -> list[dict]:
    from datatrove.pipeline.readers import JsonlReader

    return [{"id": each.id, "text": each.text} for each in JsonlReader(str(folder)).run()]


def run(pages: Path, work: Path, workers: int) -> list[phases.Phase]:
    from datatrove.pipeline.readers import JsonlReader

    work.parent.mkdir(exist_ok=True)
    (work.parent / "recipe.yaml").write_text(RECIPE)
    made = phases.plan(recipes.load(str(work.parent / "recipe.yaml")), [JsonlReader(str(pages))], [], TASKS, work)
    execute.run(made, work, execute.Where(workers=workers), watch.Watcher())
    return made


def test_a_recipe_keeps_what_datatroves_own_steps_keep(pages, tmp_path):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig

    plain, config = tmp_path / "plain", MinhashConfig(hash_config=HashConfig(precision=64, hash_fc="sha1"))

    def step(name: str, tasks: int, *blocks):
        LocalPipelineExecutor(list(blocks), tasks=tasks, workers=1, logging_dir=str(plain / "logs" / name)).run()

    step("filters", TASKS, JsonlReader(str(pages)), GopherRepetitionFilter(), GopherQualityFilter(),
         C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter(), JsonlWriter(str(plain / "1")))
    step("signatures", TASKS, JsonlReader(str(plain / "1")), MinhashDedupSignature(str(plain / "2"), config))
    step("buckets", 14, MinhashDedupBuckets(str(plain / "2"), str(plain / "3"), config=config))
    step("clusters", 1, MinhashDedupCluster(str(plain / "3"), str(plain / "4"), config))
    step("filter", TASKS, JsonlReader(str(plain / "1")), MinhashDedupFilter(str(plain / "4")),
         JsonlWriter(str(plain / "5")))

    made = run(pages, tmp_path / "work", 1)
    assert kept(tmp_path / "work" / "kept") == kept(plain / "5")
    assert len(kept(plain / "5")) == 20, "12 texts and 12 more, of which 4 nearly occurred before"
    counted = {step: block for phase in made
               for place, block in enumerate(execute.counts(phase, tmp_path / "work"))
               if (step := phase.steps.get(place))}
    assert counted["minhash"]["dropped"] == 4 and counted["read"]["documents"] == 48
    dropped = kept(tmp_path / "work" / "dropped" / "3_gopher_quality")
    assert len(dropped) == counted["gopher_quality"]["dropped"] > 0


def test_two_workers_write_the_same_and_what_has_ended_is_not_run_again(pages, tmp_path):
    for workers in (1, 2):
        run(pages, tmp_path / str(workers) / "work", workers)
    files = {path.relative_to(tmp_path / "1"): path.read_bytes()
             for path in (tmp_path / "1" / "work" / "kept").iterdir()}
    assert len(files) == TASKS and all((tmp_path / "2" / path).read_bytes() == raw for path, raw in files.items())
    first = next(iter(files))
    (tmp_path / "1" / first).write_bytes(b"seen")
    run(pages, tmp_path / "1" / "work", 1)
    assert (tmp_path / "1" / first).read_bytes() == b"seen"
