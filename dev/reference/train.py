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
    """AdamW, decoupled decay of matrices, gradients clipped by their norm, warm-up then cosine."""

    steps: int
    lr: float = 3e-4            # peak learning rate
    final_lr: float = 0.1       # its last value, as a part of lr
    warmup_steps: int = 0       # updates over which it rises
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1   # of matrices only
    grad_clip: float = 1.0      # largest gradient norm; 0: no clipping


def lr_at(step: int, recipe: Recipe) -> float:
    """The learning rate of the update that makes `step` into step + 1."""
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    low = recipe.lr * recipe.final_lr
    return low + 0.5 * (recipe.lr - low) * (1 + math.cos(math.pi * min(1.0, done)))


def optimizer(model: Model, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = recipe.beta1, recipe.beta2
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=betas, eps=recipe.eps)


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
    adamw = optimizer(model, recipe)
    for step, micro_batches in enumerate(updates):
        count = sum(int((targets >= 0).sum()) for _, targets in micro_batches)
        adamw.zero_grad()
        loss = 0.0
        for part in loss_parts(model, micro_batches, count):
            part.backward()
            loss += part.item()
        limit = recipe.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit).item()
        for group in adamw.param_groups:
            group["lr"] = lr_at(step, recipe)
        adamw.step()
        yield loss, norm
