"""Duplicates in bounded memory: the same documents are kept in parts as in one, and for any budget."""
from __future__ import annotations

import json
import resource
import struct
from pathlib import Path

import pytest
from prose import Writer

from llmc import cli
from llmc.prepare_fineweb import PrepareFineWeb, run
from llmc.web import execute, near, phases, recipes, watch

TASKS = 3


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Three files: 40 texts, most of them several times but for a few words, here and there."""
    folder, writer = tmp_path_factory.mktemp("sources"), Writer(7)
    firsts = [writer.take(int(writer.rng.integers(5, 120))) for _ in range(40)]
    rows = [[] for _ in range(TASKS)]
    for number in writer.rng.integers(len(firsts), size=180):
        words = list(firsts[number])
        words[int(writer.rng.integers(len(words)))] = writer.take(1)[0]
        rows[int(writer.rng.integers(TASKS))].append(" ".join(words))
    rows[1].insert(3, "too short")              # no five words: it has no signature
    for task, texts in enumerate(rows):
        (folder / f"{task}.jsonl").write_text("".join(
            json.dumps({"text": text, "id": f"{task}/{i}"}) + "\n" for i, text in enumerate(texts)))
    return folder


def ids(folder: Path) -> list[str]:
    return [row.id for row in phases.reader(folder).run()] if folder.is_dir() else []


def deduplicated(sources: Path, work: Path) -> tuple[list[str], list[str]]:
    from datatrove.pipeline.readers import JsonlReader

    work.mkdir(parents=True)
    (work / "recipe.yaml").write_text("steps: [minhash]")
    made = phases.plan(recipes.load(str(work / "recipe.yaml")), [JsonlReader(str(sources))], [], TASKS, work)
    execute.run(made, work, execute.Where(workers=1), watch.Watcher())
    return ids(work / "kept"), ids(work / "dropped" / "2_minhash")


def config() -> object:
    """FineWeb's."""
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    return MinhashConfig(hash_config=HashConfig(precision=64, hash_fc="sha1"))


def plain(sources: Path, out: Path) -> tuple[list[str], list[str]]:
    """What datatrove keeps and drops by itself."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter,
                                          MinhashDedupSignature)
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    dropped = JsonlWriter(str(out / "dropped"), "${rank}.jsonl.zst", compression="zstd")
    for count, *blocks in ((TASKS, JsonlReader(str(sources)), MinhashDedupSignature(str(out / "1"), config())),
                           (14, MinhashDedupBuckets(str(out / "1"), str(out / "2"), config=config())),
                           (1, MinhashDedupCluster(str(out / "2"), str(out / "3"), config())),
                           (TASKS, JsonlReader(str(sources)),
                            MinhashDedupFilter(str(out / "3"), exclusion_writer=dropped),
                            JsonlWriter(str(out / "kept"), "${rank}.jsonl.zst", compression="zstd"))):
        LocalPipelineExecutor(blocks, tasks=count, workers=1,
                              logging_dir=str(out / "logs" / type(blocks[-1]).__name__)).run()
    return ids(out / "kept"), ids(out / "dropped")


def test_parts_and_blocks_keep_what_datatrove_keeps_of_the_whole(sources, tmp_path, monkeypatch):
    kept, dropped = wanted = plain(sources, tmp_path / "plain")
    assert len(kept) + len(dropped) == 181 and min(len(kept), len(dropped)) > 50
    assert deduplicated(sources, tmp_path / "whole") == wanted
    for part, block in ((1, 1), (7, 3), (30, 512)):
        monkeypatch.setattr(near, "PART", part)
        monkeypatch.setattr(near, "BLOCK", block)
        work = tmp_path / str(part)
        assert deduplicated(sources, work) == wanted, f"parts of {part} documents, blocks of {block} n-grams"
        signed = [path.name for path in (work / "2_minhash" / "signatures" / "bucket_000").iterdir()]
        assert len(signed) > TASKS and all(len(name) == len("1000000000.minhash.sig") for name in signed)


def test_more_documents_than_parts_have_room_for_are_refused(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(near, "PART", 7)
    monkeypatch.setattr(near, "PARTS", 2)
    with pytest.raises(ValueError, match="among at most 14 documents of a file; cut it in parts"):
        deduplicated(sources, tmp_path / "work")


def test_clusters_made_again_say_the_same(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(near, "PART", 7)
    deduplicated(sources, tmp_path / "work")
    folder = tmp_path / "work" / "2_minhash"
    before = {path.name: path.read_bytes() for path in (folder / "remove").iterdir()}
    assert {f"{task:06d}.remove" for task in range(TASKS)} < set(before)
    near.Clusters(str(folder / "buckets"), str(folder / "remove"), config()).run()
    assert {path.name: path.read_bytes() for path in (folder / "remove").iterdir()} == before


@pytest.mark.slow
def test_any_budget_keeps_the_same_documents(sources, tmp_path):
    (tmp_path / "recipe.yaml").write_text("steps: [exact, minhash]")
    made = []
    for memory in ("300_000_000", "600_000_000", "50_000_000_000"):
        out = tmp_path / memory / "out"
        argv = ["--source", str(sources), "--out", str(out), "--recipe", str(tmp_path / "recipe.yaml"),
                "--workers", "2", "--memory", memory]
        assert cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv))) == 0
        made.append({path.name: path.read_bytes() for path in out.iterdir() if path.is_file()})
    assert made[0] == made[1] == made[2] and any(name.endswith(".bin") for name in made[0])


def test_a_budget_decides_how_many_work_at_a_time(tmp_path):
    (tmp_path / "recipe.yaml").write_text("steps: [gopher_quality, exact, minhash]")
    made = phases.plan(recipes.load(str(tmp_path / "recipe.yaml")), [], [], 8, tmp_path)
    buckets = tmp_path / "4_minhash" / "buckets"
    buckets.mkdir(parents=True)
    pairs = [(0, i, 1, i) for i in range(1000)]
    for bucket in range(14):
        (buckets / f"{bucket:05d}_00.dups").write_bytes(b"".join(struct.pack("<4I", *pair) for pair in pairs))
    room = execute.Where(workers=8, memory=3 * execute.PROCESS)
    at_a_time = {phase.name: execute.at_a_time(phase, room) for phase in made}
    assert at_a_time == {"1_read": 8, "3_exact_signatures": 3, "3_exact_matches": 1, "3_exact": 3,
                         "4_minhash_signatures": 3, "4_minhash_buckets": 3, "4_minhash_clusters": 1, "4_minhash": 3}
    clusters = made[-2]
    execute.run([clusters], tmp_path, room, watch.Watcher())
    execute.run([clusters], tmp_path, execute.Where(memory=1), watch.Watcher())     # what has ended takes nothing
    assert clusters.blocks[0].memory() == 2000 * near.CLUSTERED
    with pytest.raises(ValueError, match="4_minhash_clusters takes about 268,955,456 bytes of memory"):
        execute.at_a_time(clusters, execute.Where(memory=execute.PROCESS))


def test_more_tasks_than_files_may_be_open(sources, tmp_path):
    from datatrove.pipeline.dedup import MinhashDedupBuckets

    few, tasks = len(list(Path("/dev/fd").iterdir())) + 40, 80
    for bucket in range(14):
        for task in range(tasks):
            path = tmp_path / "signatures" / f"bucket_{bucket:03d}" / f"{near.FIRST + near.PARTS * task}.minhash.sig"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(struct.pack("<8QI", *range(8), task))
    block = MinhashDedupBuckets(str(tmp_path / "signatures"), str(tmp_path / "buckets"), config=config())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
        execute.run([phases.Phase("buckets", [block], 14)], tmp_path, execute.Where(workers=1),
                    watch.Watcher())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert all(path.stat().st_size == 16 * (tasks - 1) for path in (tmp_path / "buckets").iterdir())
