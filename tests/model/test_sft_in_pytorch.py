"""Supervised fine-tuning is what a loop in PyTorch does with the same conversations, one in a row."""
from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import tuning
from dev.reference.model import Model as Reference
from dev.reference.model import numbers
from llmc import Device, chat, cli, sft, tuned_model
from llmc.checkpoint import open_checkpoint, stored
from llmc.conversations import read
from llmc.mixture import Order, load
from torch import nn

STEPS, WARMUP, LR, DECAY = 20, 3, 3e-3, 0.05
RANK, ALPHA = 3, 7.0


class Adapter(nn.Module):
    """A layer that is frozen, and what is learned beside it (E. Hu et al., 2021)."""

    def __init__(self, layer: nn.Linear, a: np.ndarray, b: np.ndarray, scale: float):
        super().__init__()
        self.layer, self.scale = layer, scale
        self.lora_a, self.lora_b = (nn.Parameter(torch.tensor(each, dtype=torch.float64)) for each in (a, b))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.scale * (x @ self.lora_a.T) @ self.lora_b.T


def with_adapters(reference: Reference, adapters: dict[str, np.ndarray], scale: float) -> Reference:
    reference.requires_grad_(False)
    for name in {name.rsplit(".", 1)[0] for name in adapters}:
        parent, child = name.rsplit(".", 1)
        made = Adapter(reference.get_submodule(name), adapters[f"{name}.lora_a"], adapters[f"{name}.lora_b"], scale)
        setattr(reference.get_submodule(parent), child, made)
    return reference


def first_weights(base: tuned_model.Base) -> dict[str, np.ndarray]:
    model = tuned_model.make_model(base, Device("cpu", 1), "f32", 1, 7)
    return {name: model.get(name) for name in model.names}


def train_in_pytorch(base: tuned_model.Base, updates: list[list[chat.Rendered]],
                     reference: Reference | None = None) -> list[float]:
    """AdamW, decay of matrices, gradients clipped at 1, a line down to 0 after the warm-up."""
    reference = reference or Reference(base.config.to_dict()).load(first_weights(base)).double()
    trained = [p for p in reference.parameters() if p.requires_grad]
    of_matrices = [{"params": [p for p in trained if (p.ndim == 2) == matrix],
                    "weight_decay": DECAY * matrix} for matrix in (True, False)]
    optimizer = torch.optim.AdamW(of_matrices, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step, conversations in enumerate(updates):
        nats, count = 0.0, sum(sum(each.learned[1:]) for each in conversations)
        for ids, learned in conversations:
            ids, learned = torch.tensor(np.array(ids)).long(), torch.tensor(np.array(learned))
            logp, _, _ = numbers(reference(ids[None, :-1]), ids[None, 1:])
            nats = nats - logp[0][learned[1:]].sum()
        loss = nats / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = (LR * (step + 1) / WARMUP if step < WARMUP
                           else LR * (1 - (step - WARMUP) / (STEPS - WARMUP)))
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses(model: Path, data: Path, run: Path, *more: object) -> list[float]:
    """Of llmc sft."""
    flags = f"""{model} --data {data} --run {run} --steps {STEPS} --warmup_steps {WARMUP} --lr {LR} --seed 7 --plain
                --weight_decay {DECAY} --batch_size 2 --total_batch_size 640 --val_fraction 0.1 --threads 1""".split()
    sft.run(cli.parse(sft.Sft, [*flags, *map(str, more)]))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "a row each"])
def test_losses_are_those_of_a_loop_in_pytorch(tmp_path, family, packed):
    """Twenty updates of the same conversations within 1e-4, micro-batches, system message and new tokens included."""
    model, data = tuning.base_model(tmp_path / "base", family, 160), tuning.data(tmp_path / "chat.jsonl")
    found = losses(model, data, tmp_path / "run", "--packed" if packed else "--no-packed", "--system",
                   "Say the last word.")

    base = tuned_model.open_base(model, system="Say the last word.")
    whole = [chat.render(each.messages if each.messages[0].role == "system" else
                         [chat.Message("system", "Say the last word."), *each.messages], base.tokenizer)
             for each in read(data)]
    conversations, held_out, _ = load([str(data)], lambda m: sft.render(base, m), 160, 0.1, 7)
    assert len(held_out) and len(conversations) + len(held_out) == len(whole)
    order = Order(conversations, 160, 7, packed)
    asked = [[order.of[number] for row in order.rows(4 * step, 4) for number in row] for step in range(STEPS)]
    assert len(asked[0]) > 6 if packed else len(asked[0]) == 4
    for ids, learned in asked[0]:               # they are the conversations of the file
        assert (ids.tolist(), learned.tolist()) in whole
    wanted = train_in_pytorch(base, asked)
    assert len(found) == STEPS and wanted[-1] < 0.7 * wanted[0] and not math.isnan(wanted[-1])
    assert np.abs(np.array(found) - wanted).max() < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_adapters_learn_as_in_pytorch(tmp_path, family):
    """Twenty updates within 1e-4; what is saved is the base with what they add, and goes on bit for bit."""
    model, data = tuning.base_model(tmp_path / "base", family, 160), tuning.data(tmp_path / "chat.jsonl")
    run, part = tmp_path / "run", tmp_path / "part"
    how = "--lora_rank", RANK, "--lora_alpha", ALPHA, "--lora_matrices", "qkv", "down"
    found = losses(model, data, run, *how, "--checkpoint_every", 8, "--keep", 0)

    base = tuned_model.open_base(model)
    conversations, _, _ = load([str(data)], lambda m: sft.render(base, m), 160, 0.1, 7)
    order = Order(conversations, 160, 7)
    asked = [[order.of[number] for row in order.rows(4 * step, 4) for number in row] for step in range(STEPS)]
    drawn = tuned_model.make_model(base, Device("cpu", 1), "f32", 1, 7)
    drawn.adapt(RANK, ALPHA, ["qkv", "down"], 7)
    reference = Reference(base.config.to_dict()).load(first_weights(base)).double()
    adapters = {name: drawn.get(name) for name in drawn.adapters}
    reference = with_adapters(reference, adapters, ALPHA / RANK)
    wanted = train_in_pytorch(base, asked, reference)
    assert wanted[-1] < 0.95 * wanted[0] and np.abs(np.array(found) - wanted).max() < 1e-4

    saved = open_checkpoint(run).model
    for name, value in first_weights(base).items():
        owner = reference.get_submodule(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if isinstance(owner, Adapter):
            with torch.no_grad():
                value = (owner.layer.weight + owner.scale * owner.lora_b @ owner.lora_a).numpy()
            assert np.abs(saved.get(name) - value).max() < 1e-4
        else:
            assert np.array_equal(saved.get(name), value)

    losses(model, data, part, *how, "--checkpoint_every", 8, "--keep", 0)
    shutil.rmtree(part / "checkpoints" / f"step_{STEPS:08}")
    sft.run(cli.parse(sft.Sft, ["--run", str(part), "--resume", "--plain"]))
    for file in ("model.safetensors", "adapter.safetensors", "optimizer.rank0of1.safetensors"):
        of_both = [(each / "checkpoints" / "latest" / file).read_bytes() for each in (run, part)]
        assert of_both[0] == of_both[1]


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_adapters_learn_beside_weights_of_few_bits(tmp_path, dtype):
    """Their losses stay near those beside f32; memory of the optimizer is that of the adapters."""
    model, data = tuning.base_model(tmp_path / "base", "llama", 160), tuning.data(tmp_path / "chat.jsonl")
    how = "--lora_rank", 4, "--lora_matrices", "qkv", "proj", "up", "down"
    exact = losses(model, data, tmp_path / "exact", *how)
    found = losses(model, data, tmp_path / "found", *how, "--dtype", dtype)
    assert np.abs(np.array(found) - exact).max() < 0.05 and found[-1] < 0.95 * found[0]
    saved = tmp_path / "found" / "checkpoints" / "latest"
    assert stored(str(saved / "model.safetensors")) == "bf16"
    sizes = {rank: (tmp_path / str(rank) / "checkpoints" / "latest" / "optimizer.rank0of1.safetensors").stat().st_size
             for rank in (4, 8, 16) if losses(model, data, tmp_path / str(rank), "--lora_rank", rank, "--dtype", dtype)}
    assert abs((sizes[16] - sizes[8]) / (sizes[8] - sizes[4]) - 2) < 0.1
