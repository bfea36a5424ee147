"""nanoGPT's published CPU recipe: Shakespeare by characters reaches 1.88, here and in the PyTorch reference.

The recipe estimates its loss from 240 random windows; here it is taken over the first 1,200 of the held-out text."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from building import BUILD, ROOT
from llmc.shards import read_shard
from training import metrics, train

sys.path.append(str(ROOT))
from dev.reference.model import Model as Reference  # noqa: E402
from dev.reference.model import numbers  # noqa: E402
from dev.reference.train import Recipe  # noqa: E402
from dev.reference.train import train as train_reference  # noqa: E402

import llmc  # noqa: E402
from llmc import _core  # noqa: E402

B, T, STEPS = 12, 64, 2000
RECIPE = Recipe(steps=STEPS, lr=1e-3, final_lr=0.1, warmup_steps=100, beta1=0.9, beta2=0.99, weight_decay=0.1, grad_clip=1.0)
MODEL = dict(n_layer=4, n_head=4, n_embd=128, max_seq_len=T, vocab_size=65, bias=False)


@pytest.fixture(scope="module")
def data(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, text = tmp_path_factory.mktemp("characters"), str(shared / "data" / "tinyshakespeare" / "input.txt")
    llmc_command = [sys.executable, "-m", "llmc"]
    train([*llmc_command, "train_tokenizer", "--input", text, "--kind", "bytes", "--no-eot", "--out", str(folder)])
    train([*llmc_command, "prepare_text", "--input", text, "--tokenizer", str(folder), "--val_fraction", "0.1",
           "--name", "characters", "--out", str(folder / "shards")])
    return folder / "shards"


def tokens_of(data: Path, split: str) -> np.ndarray:
    (path,) = data.glob(f"*_{split}_*.bin")
    return np.asarray(read_shard(path)[0]).astype(np.int32)


@pytest.mark.slow
@pytest.mark.shared
def test_the_program_reaches_the_published_loss(data, tmp_path):
    flags = (f"--preset gpt2-tiny --n_layer 4 --n_head 4 --n_embd 128 --max_seq_len {T} --no-bias --batch_size {B} --steps {STEPS} "
             "--lr 1e-3 --warmup_steps 100 --beta2 0.99 --val_every 0 --val_windows 1200").split()
    train([str(BUILD / "train_gpt2"), "--data", str(data), "--run", str(tmp_path / "run"), *flags])
    loss = metrics(tmp_path / "run")[-1]["val_loss"]
    print(f"validation loss {loss:.4f}")
    assert loss <= 1.90


def updates(text: np.ndarray) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Windows at random places, as the recipe draws them."""
    starts = np.random.default_rng(1337).integers(0, len(text) - T - 1, (STEPS, B))
    return [[tuple(np.stack([text[s + k : s + k + T] for s in row]) for k in (0, 1))] for row in starts]


def mean_loss(score, text: np.ndarray) -> float:
    starts = np.arange(0, len(text) - T - 1, T)[:1200].reshape(-1, 100)
    parts = [score(*(np.stack([text[s + k : s + k + T] for s in row]) for k in (0, 1))) for row in starts]
    return float(np.mean(parts))


@pytest.mark.slow
@pytest.mark.shared
def test_the_same_batches_from_the_same_start_end_where_the_reference_ends(data):
    config = llmc.Config.preset("gpt2-tiny", **MODEL)
    model = llmc.Model(llmc.Device("cpu", 2), config)
    model.init(1337)
    torch.set_num_threads(2)
    reference = Reference(config.to_dict()).load({name: model.get(name) for name in model.names}).to(torch.float32)
    model.plan(100, T)
    optimizer = llmc.Trainer(model, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1, grad_clip=1.0)
    text, held_out = tokens_of(data, "train"), tokens_of(data, "val")

    slope = {"logp": np.full((B, T), -1 / (B * T), np.float32)}
    for step, ((x, y),) in enumerate(updates(text)):
        optimizer.micro_batch(0, 1)
        model.train(x, y, slope)
        optimizer.reduce()
        optimizer.apply(_core.schedule_lr(step, "cosine", RECIPE.lr, RECIPE.final_lr, 0.0, RECIPE.warmup_steps, STEPS))
    for _ in train_reference(reference, updates(text), RECIPE):
        pass

    ours = mean_loss(lambda x, y: -model.score(x, y)["logp"].mean(), held_out)
    with torch.no_grad():
        theirs = mean_loss(lambda x, y: -numbers(reference(torch.from_numpy(x).long()), torch.from_numpy(y).long())[0].mean().item(),
                           held_out)
    print(f"validation loss {ours:.4f}, reference {theirs:.4f}")
    assert abs(ours - theirs) <= 0.02
    assert ours <= 1.90
