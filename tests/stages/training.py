"""What tests of the training program share: tiny data, a tiny model, and what a run leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
from building import BUILD
from llmc.shards import ShardWriter

TINY = ("--preset gpt2-tiny --n_layer 2 --n_embd 32 --n_head 2 --max_seq_len 32 --batch_size 2 --total_batch_size 256 "
        "--lr 3e-3 --val_every 10 --val_windows 8 --sample_tokens 8 --keep 0 --threads 1").split()


def write_data(folder: Path, tokens: np.ndarray | None = None, vocab_size: int = 61, eot: int = -1, **header) -> Path:
    """Shards of a text a small model can learn: a random walk, so that the last token says much about the next."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    if tokens is None:
        tokens = np.cumsum(rng.integers(0, 4, 20_000)) % vocab_size
    held_out = np.cumsum(rng.integers(0, 4, 2_000)) % vocab_size
    for split, part in (("train", tokens), ("val", held_out)):
        with ShardWriter(folder, "walk", split, vocab_size, eot=eot, **header) as writer:
            writer.append(part)
    return folder


def command(data: Path, run: Path, *flags: object) -> list[str]:
    return [str(BUILD / "train_gpt2"), "--data", str(data), "--run", str(run), *TINY, *map(str, flags)]


def start(argv: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment)


def train(argv: list[str], status: int = 0, **environment: str) -> tuple[str, str]:
    """Runs to the end; (stdout, stderr)."""
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | environment, timeout=1200)
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout, done.stderr


def refusal(argv: list[str]) -> str:
    """The one sentence with which it refuses."""
    out, err = train(argv, status=1)
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("llmc: "), f"wanted one sentence, found {err!r}"
    return lines[0]


def metrics(run: Path) -> list[dict]:
    """What was computed, without what the clock said."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("ms", "tokens_per_second", "tflops")} for line in lines]


def latest(run: Path) -> Path:
    return (run / "checkpoints" / "latest").resolve()


def everything(run: Path) -> dict[str, bytes | list]:
    """All of a run that must not depend on how it was made."""
    parts: dict[str, bytes | list] = {p.name: p.read_bytes() for p in sorted(latest(run).glob("*.safetensors"))}
    return parts | {"metrics": metrics(run), "samples": (run / "samples.md").read_bytes(), "step": latest(run).name}


def resumes_bit_for_bit(data: Path, folder: Path, steps: int, *flags: object) -> Path:
    """Other threads leave the same run, and so does going back to the checkpoint before the last. The run."""
    whole, part = folder / "whole", folder / "part"
    train(command(data, whole, "--steps", steps, "--checkpoint_every", steps // 2, *flags))
    train(command(data, part, "--steps", steps, "--checkpoint_every", steps // 2, *flags, "--threads", 3))
    assert everything(part) == everything(whole)
    shutil.rmtree(latest(part))
    train([command(data, part)[0], "--run", str(part), "--resume"])
    assert everything(part) == everything(whole)
    return whole
