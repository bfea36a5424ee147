"""Whole models on the emulated GPU, held against the CPU: losses, gradients, steps, decoding, and the order of threads."""

from __future__ import annotations

import numpy as np
import pytest
from common import GPUS, device
from parity import TINY, as_dtype, batch, grads, slopes, tiny, weights
from test_training import MUON, RECIPE, data, learning_rate, trainer, update

import llmc
from llmc import _core

LONGER = dict(max_seq_len=70)


def model_on(name: str, config: llmc.Config, dtype: str = "f32") -> llmc.Model:
    model = llmc.Model(device(name), config, dtype)
    for key, array in weights(config).items():
        model.set(key, as_dtype(array, dtype))
    return model


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("head", ["lm", "scalar"])
@pytest.mark.parametrize("name", TINY)
def test_numbers_and_gradients_are_the_cpus(name, head, gpu):
    config = tiny(name, head)
    tokens, targets = batch(config, 3, 17)
    found = {}
    for where in ("cpu", gpu):
        model = model_on(where, config)
        model.plan(3, 17)
        given = targets if head == "lm" else None
        numbers = model.forward(tokens, given)
        model.backward(slopes(config, 3, 17))
        found[where] = numbers, grads(model)
    for cpu, cuda in zip(found["cpu"], found[gpu], strict=True):
        for key, exact in cpu.items():
            assert np.abs(cuda[key] - exact).max() <= 1e-5 * max(1, np.abs(exact).max()), key


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("recipe", [RECIPE, MUON], ids=lambda recipe: recipe.optimizer)
@pytest.mark.parametrize("name", ["gpt2", "llama, grouped"])
def test_ten_steps_are_the_cpus(name, recipe, gpu):
    config = tiny(name)
    losses, norms = {}, {}
    for where in ("cpu", gpu):
        model = model_on(where, config)
        model.plan(3, 17)
        optimizer = trainer(model, recipe)
        found = [update(model, optimizer, u, learning_rate(s)) for s, u in enumerate(data(config))]
        losses[where], norms[where] = np.array(found).T
    assert np.abs(losses[gpu] - losses["cpu"]).max() < 1e-4
    assert np.abs(norms[gpu] / norms["cpu"] - 1).max() < 1e-4


def one_step(seed: int, name: str, dtype: str) -> list[bytes]:
    """Every number of a step on threads in the order of a seed."""
    config = tiny(name)
    model = model_on(f"cuda-emu:{seed}", config, dtype)
    model.plan(2, 11)
    optimizer = trainer(model, RECIPE)
    tokens, targets = batch(config, 2, 11)
    loss = update(model, optimizer, [(tokens, targets)], 1e-3)
    return [np.array(loss).tobytes(), *(model.get(key).tobytes() for key in model.names)]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", ["gpt2", "llama like Qwen 3: QK-norm"])
def test_the_order_of_threads_changes_no_bit(name, dtype):
    first = one_step(0, name, dtype)
    for seed in range(1, 20):
        assert one_step(seed, name, dtype) == first


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("name,head_dim,shortest", [("gpt2", 12, 3), ("llama, grouped", 10, 3),
                                                    ("llama, grouped", 32, 4)])
def test_decoding_follows_the_whole_pass(name, head_dim, shortest, dtype, gpu):
    """Ragged rows, fed in pieces, one of them lent: logits as near to the whole pass as f32's are to the CPU's. In the
    tensor cores too, which take heads of 32, where no piece is of one token."""
    config = llmc.Config(**{**tiny(name).to_dict(), **LONGER, "head_dim": head_dim})
    model = llmc.Model(device(gpu), config, dtype)
    for key, array in weights(config).items():
        narrow = model.types[key] == "bf16"
        model.set(key, (array.view(np.uint32) >> 16).astype(np.uint16) if narrow else array)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, config.vocab_size, length).tolist() for length in (50, shortest, 37)]
    decoder = _core.Decoder(model, 4, 20, 100)
    rows = [decoder.open() for _ in texts]
    decoder.feed([(row, text[:2], False) for row, text in zip(rows, texts, strict=True)])
    rest = decoder.feed([(row, text[2:], True) for row, text in zip(rows, texts, strict=True)])
    lent = decoder.lend(rows[0], 40)
    again = decoder.feed([(lent, texts[0][40:], True)])
    model.plan(1, config.max_seq_len, train=False)
    for text, logits in zip([*texts, texts[0]], [*rest, *again], strict=True):
        model.read(np.array([text], np.int32))
        whole = model.logits(len(text) - 1, 1)[0]
        assert np.abs(logits - whole).max() <= 1e-5 * max(1, np.abs(whole).max())
