"""A model learns the same from packed conversations and from a row for each."""
from __future__ import annotations

import numpy as np
import pytest
from llmc.chat import Rendered
from llmc.packing import NOTHING, packed, unpacked
from parity import engine, tiny, weights


def rendered(rng: np.random.Generator, vocab: int, length: int) -> Rendered:
    return Rendered(rng.integers(0, vocab, length).tolist(), (rng.random(length) < 0.6).tolist())


@pytest.mark.parametrize("name", ["gpt2", "llama, grouped"])
def test_a_model_learns_the_same_packed_and_not(name):
    """Loss and every gradient within 1e-5 of the largest."""
    config, rng = tiny(name), np.random.default_rng(5)
    T = config.max_seq_len
    conversations = [rendered(rng, config.vocab_size, int(n)) for n in rng.integers(2, T // 2, 12)]
    found = []
    for rows in (packed(conversations, T), unpacked(conversations, T)):
        model = engine(config, weights(config), len(rows.tokens), T)
        slope = np.full(rows.tokens.shape, -1 / rows.learned, np.float32)
        numbers = model.train(rows.tokens, rows.targets, {"logp": slope}, rows.pos, rows.first)
        asked = rows.targets != NOTHING
        found.append((rows.learned, -numbers["logp"][asked].sum(dtype=np.float64) / rows.learned,
                      {key: model.grad(key) for key in weights(config)}, len(rows.tokens)))
    (count, loss, gradients, few), (count_2, loss_2, gradients_2, many) = found
    assert count == count_2 and few < many and abs(loss - loss_2) < 1e-5 * loss
    for key, gradient in gradients.items():
        assert np.abs(gradient - gradients_2[key]).max() <= 1e-5 * np.abs(gradients_2[key]).max(), key
