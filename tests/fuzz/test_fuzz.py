"""Readers of files, fed with mutated ones under the address and undefined-behaviour sanitizers."""
from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from llmc.shards import ShardWriter

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fexceptions",
         "-Wno-psabi"]


def fuzz(tmp_path: Path, target: str, sources: list[str], seeds: Path, count: int) -> None:
    """Build a target with the part of the core it needs; run `count` mutations of the seeds."""
    include, objects = f"-I{ROOT / 'csrc'}", []
    for source in ["base.c", *sources]:
        objects.append(tmp_path / Path(source).with_suffix(".o").name)
        subprocess.run(["cc", "-std=gnu11", *FLAGS, include, "-c", ROOT / "csrc" / source,
                        "-o", objects[-1]], check=True)
    program, here = tmp_path / target, ROOT / "tests" / "fuzz"
    subprocess.run(["c++", "-std=c++17", *FLAGS, include, here / "driver.cpp",
                    here / f"{target}.cpp", *objects, "-o", program, "-lm", "-lpthread"],
                   check=True)
    done = subprocess.run([program, seeds, str(count)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


@pytest.mark.slow
def test_mutated_shards_are_read_or_refused(tmp_path):
    seeds = tmp_path / "seeds"
    for vocab_size, marks in [(50, False), (100_000, False), (50, True)]:
        name = f"v{vocab_size}{'m' if marks else ''}"
        with ShardWriter(seeds, name, "val", vocab_size, 7, 3, marks=marks) as writer:
            learned = np.arange(40) % 3 > 0 if marks else None
            writer.append(np.arange(40), learned)
    for magic, version, width in [(20240520, 1, 2), (20240801, 7, 4)]:
        head = struct.pack("<3i", magic, version, 40).ljust(1024, b"\0")
        tokens = np.arange(40, dtype=f"<u{width}").tobytes()
        (seeds / f"{magic}.bin").write_bytes(head + tokens)
    fuzz(tmp_path, "fuzz_shard", ["shards.c", "loader.c"], seeds, 10_000)


@pytest.mark.slow
def test_mutated_tokenizers_are_read_or_refused(tmp_path):
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    kinds = [("a", 0, []), ("b", 300, ["<|end|>"]), ("c", 60, ["<|é|>", "x y"])]
    for name, size, special in kinds:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
        tokenizer.train_from_iterator(["the cat, the dog: größer, déjà vu 12 345"] * 9, trainer)
        data = json.loads(tokenizer.to_str())
        (seeds / f"{name}.json").write_text(json.dumps(data, ensure_ascii=name == "b"))
    sources = ["json.c", "files.c", "detokenizer.c"]
    fuzz(tmp_path, "fuzz_detokenizer", sources, seeds, 10_000)
