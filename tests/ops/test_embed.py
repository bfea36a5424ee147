"""embed: rows of a table out, gradients added back to them."""
from __future__ import annotations

import numpy as np
import pytest
from common import F32, I32, Out, gradient, numbers, run, same_bits_for_any_threads, within_budget

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 13, 17, 64), (1, 37, 4, 129), (2, 5, 11, 1031),
          (3, 701, 7, 3), (1, 1025, 1, 4)]


def draw(B: int, T: int, V: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, (B, T), dtype=I32)


def embed(tokens, pos, wte, wpe):
    return wte[tokens] if wpe is None else wte[tokens] + wpe[pos]


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("B,T,V,C", SHAPES)
def test_forward_is_the_sum_of_two_rows(on, dtype, B, T, V, C, positions):
    tokens, pos = draw(B, T, V), draw(B, T, T + 2, seed=1)
    wte = numbers(V, C, dtype=dtype)
    wpe = numbers(T + 2, C, dtype=dtype, seed=1) if positions else None
    got = run(on, "embed_forward", Out(B, T, C, dtype=dtype), tokens, pos, wte, wpe)
    within_budget(got, embed, tokens, pos, wte, wpe)


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("B,T,V,C", SHAPES)
def test_backward_is_the_gradient(on, dtype, B, T, V, C, accumulate):
    """Also of rows that nothing points to: zero for `=`, as they were for `+=`."""
    tokens, dout, dw = draw(B, T, V), numbers(B, T, C, dtype=dtype), Out(V, C)
    before = dw.array.copy()
    got = run(on, "embed_backward", dw, dout, tokens, accumulate)

    def slope(dout, tokens, wte, before):
        (dwte,) = gradient(embed, 2)(dout, tokens, None, wte, None)
        return before + dwte if accumulate else dwte
    within_budget(got, slope, dout, tokens, numbers(V, C), before)
    unused = np.setdiff1d(np.arange(V), tokens)
    assert np.array_equal(got[unused], before[unused] if accumulate else np.zeros((len(unused), C), F32))


def test_backward_sums_a_row_in_the_order_of_n(on):
    """1e8 + 1 - 1e8 is 0 in f32, and 1e8 - 1e8 + 1 is 1: only the order tells."""
    dout = np.array([1e8, 1, -1e8, 1e8, -1e8, 1], F32).reshape(1, 6, 1)
    got = run(on, "embed_backward", Out(2, 1), dout, np.array([[0, 0, 0, 1, 1, 1]], I32), False)
    assert got.tolist() == [[0], [1]]


@pytest.mark.parametrize("V", [1, 5, 3000])
@pytest.mark.parametrize("N", [1023, 1024, 3001])
def test_backward_sums_many_tokens_in_the_order_of_n(on, N, V):
    """Of numbers whose sum tells the order: rows that are named by all, by many and by few."""
    rng = np.random.default_rng([N, V])
    dout = rng.choice(np.array([1e8, -1e8, 1, 7], F32), (1, N, 2))
    index = rng.integers(0, V, (1, N), dtype=I32)
    wanted = np.zeros((V, 2), F32)
    np.add.at(wanted, index[0], dout[0])
    got = run(on, "embed_backward", Out(V, 2), dout, index, False)
    assert got.tobytes() == wanted.tobytes()


def test_bits_do_not_depend_on_threads(name, dtype):
    B, T, V, C = 3, 67, 29, 331
    tokens, pos = draw(B, T, V), draw(B, T, T, seed=1)
    wte, wpe, dout = numbers(V, C, dtype=dtype), numbers(T, C, dtype=dtype, seed=1), numbers(B, T, C, dtype=dtype)
    same_bits_for_any_threads(name, "embed_forward", lambda: (Out(B, T, C, dtype=dtype), tokens, pos, wte, wpe))
    same_bits_for_any_threads(name, "embed_backward", lambda: (Out(V, C), dout, tokens, True))
