"""The training recipe in PyTorch, fed batches as arrays: what the engine's runs are held to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dev.reference.model import Model, numbers

MicroBatch = tuple[np.ndarray, np.ndarray]      # tokens and targets, (B,T); -1 is not learned


@dataclass
class Recipe:
    """AdamW or Muon, decoupled decay of matrices, gradients clipped by their norm, warm-up then
    cosine."""

    steps: int
    lr: float = 3e-4            # peak learning rate
    final_lr: float = 0.1       # its last value, as a part of lr
    warmup_steps: int = 0       # updates over which it rises
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1   # of matrices only
    grad_clip: float = 1.0      # largest gradient norm; 0: no clipping
    optimizer: str = "adamw"    # muon: for the blocks' matrices, and AdamW for the rest
    muon_momentum: float = 0.95


def lr_at(step: int, recipe: Recipe) -> float:
    """The learning rate of the update that makes `step` into step + 1."""
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    low = recipe.lr * recipe.final_lr
    return low + 0.5 * (recipe.lr - low) * (1 + math.cos(math.pi * min(1.0, done)))


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """Five steps of Newton-Schulz (K. Jordan et al., "Muon", 2024)."""
    x = x / (x.norm() + 1e-30)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def packed_rows(name: str, config: dict) -> list[int] | None:
    """Rows of each matrix packed in a block's weight; None for other parameters."""
    H, G, D = config["n_head"], config["n_kv_head"], config["head_dim"]
    C, F = config["n_embd"], config["n_ff"]
    gated = config["mlp"] == "swiglu"
    kinds = {"qkv": [H * D, G * D, G * D], "proj": [C], "up": [F] * (1 + gated), "down": [C]}
    return kinds.get(name.split(".")[-2]) if name.endswith("weight") else None


class Muon(torch.optim.Optimizer):
    """Orthogonalized Nesterov momentum; elements move by about 0.2 lr, as AdamW's do."""

    def __init__(self, rows: dict[torch.nn.Parameter, list[int]], recipe: Recipe):
        super().__init__(list(rows), {"lr": recipe.lr})
        self.rows, self.recipe = rows, recipe

    @torch.no_grad()
    def step(self) -> None:
        lr = self.param_groups[0]["lr"]
        for p, rows in self.rows.items():
            m = self.state[p].setdefault("momentum", torch.zeros_like(p))
            m.mul_(self.recipe.muon_momentum).add_(p.grad)
            direction = p.grad + self.recipe.muon_momentum * m
            steps = [0.2 * max(x.shape) ** 0.5 * orthogonal(x) for x in direction.split(rows)]
            p.sub_(lr * (torch.cat(steps) + self.recipe.weight_decay * p))


def optimizers(model: Model, recipe: Recipe) -> list[torch.optim.Optimizer]:
    rows = {p: packed_rows(name, model.config) for name, p in model.named_parameters()}
    muon = {p: r for p, r in rows.items() if r} if recipe.optimizer == "muon" else {}
    matrices = [p for p in model.parameters() if p.ndim == 2 and p not in muon]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = recipe.beta1, recipe.beta2
    adamw = torch.optim.AdamW(groups, lr=recipe.lr, betas=betas, eps=recipe.eps)
    return [adamw, Muon(muon, recipe)] if muon else [adamw]


def loss_parts(
    model: Model, micro_batches: Iterable[MicroBatch], count: int
) -> Iterator[torch.Tensor]:
    """Each micro-batch's part of the update's mean loss over `count` targets."""
    for tokens, targets in micro_batches:
        as_long = [torch.from_numpy(array).long() for array in (tokens, targets)]
        logp, _, _ = numbers(model(as_long[0]), as_long[1])
        yield -logp.sum() / count


def train(
    model: Model, updates: Iterable[list[MicroBatch]], recipe: Recipe
) -> Iterator[tuple[float, float]]:
    """Loss and gradient norm of each update, measured before it is applied."""
    both = optimizers(model, recipe)
    for step, micro_batches in enumerate(updates):
        count = sum(int((targets >= 0).sum()) for _, targets in micro_batches)
        model.zero_grad()
        loss = 0.0
        for part in loss_parts(model, micro_batches, count):
            part.backward()
            loss += part.item()
        limit = recipe.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit).item()
        for optimizer in both:
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step, recipe)
            optimizer.step()
        yield loss, norm
