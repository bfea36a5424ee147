"""Supervised fine-tuning is what a loop in PyTorch does with the same conversations, one in a row."""
from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import tuning
from dev.reference.model import Model as Reference
from dev.reference.model import numbers
from llmc import Device, chat, cli, sft, tuned_model
from llmc.conversations import read
from llmc.mixture import Order, load

STEPS, WARMUP, LR, DECAY = 20, 3, 3e-3, 0.05


def first_weights(base: tuned_model.Base) -> dict[str, np.ndarray]:
    model = tuned_model.make_model(base, Device("cpu", 1), "f32", 1, 7)
    return {name: model.get(name) for name in model.names}


def train_in_pytorch(base: tuned_model.Base, updates: list[list[chat.Rendered]]) -> list[float]:
    """AdamW, decay of matrices, gradients clipped at 1, a line down to 0 after the warm-up."""
    reference = Reference(base.config.to_dict()).load(first_weights(base)).double()
    of_matrices = [{"params": [p for p in reference.parameters() if (p.ndim == 2) == matrix],
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
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = (LR * (step + 1) / WARMUP if step < WARMUP
                           else LR * (1 - (step - WARMUP) / (STEPS - WARMUP)))
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "a row each"])
def test_losses_are_those_of_a_loop_in_pytorch(tmp_path, family, packed):
    """Twenty updates of the same conversations within 1e-4, micro-batches, system message and new tokens included."""
    model, data = tuning.base_model(tmp_path / "base", family, 160), tuning.data(tmp_path / "chat.jsonl")
    flags = f"""{model} --data {data} --run {tmp_path / 'run'} --steps {STEPS} --warmup_steps {WARMUP} --lr {LR}
                --weight_decay {DECAY} --batch_size 2 --total_batch_size 640 --val_fraction 0.1 --threads 1 --seed 7
                --{'packed' if packed else 'no-packed'} --plain""".split()
    sft.run(cli.parse(sft.Sft, [*flags, "--system", "Say the last word."]))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [line["loss"] for line in lines if "loss" in line]

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
