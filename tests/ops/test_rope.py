"""rope: q and k heads turned by their position."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from common import F32, I32, Out, numbers, run, same_bits_for_any_threads, within_budget

# B, T, H, G, D
SHAPES = [(1, 1, 1, 1, 2), (2, 3, 3, 1, 6), (1, 5, 4, 2, 64), (3, 2, 2, 2, 34), (1, 2, 1, 1, 262)]


def frequencies(D: int) -> np.ndarray:
    return (10000.0 ** (-np.arange(D // 2) * 2 / D)).astype(F32)


def tables(pos: np.ndarray, freq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    angle = pos[..., None, None].astype(np.float64) * freq.astype(np.float64)
    return np.cos(angle), np.sin(angle)


def turn(qkv, cosine, sine, H, G, sign):
    B, T, P = qkv.shape
    heads = qkv.view(B, T, H + 2 * G, -1)
    lo, hi = heads[:, :, :H + G].chunk(2, -1)
    turned = torch.cat([lo * cosine - sign * hi * sine, sign * lo * sine + hi * cosine], -1)
    return torch.cat([turned, heads[:, :, H + G:]], 2).reshape(B, T, P)


def transposed(dout, cosine, sine, H, G):
    """The gradient of the turn: torch's, not the turn backwards."""
    x = torch.zeros_like(dout).requires_grad_(True)
    return torch.autograd.grad((turn(x, cosine, sine, H, G, 1) * dout).sum(), x)[0]


def draw(B, T, H, G, D, dtype):
    pos = np.random.default_rng(0).integers(0, 4096, (B, T), dtype=I32)
    return numbers(B, T, (H + 2 * G) * D, dtype=dtype), pos, frequencies(D)


@pytest.mark.parametrize("B,T,H,G,D", SHAPES)
def test_forward_turns_q_and_k_and_copies_v(on, dtype, B, T, H, G, D):
    qkv, pos, freq = draw(B, T, H, G, D, dtype)
    got = run(on, "rope_forward", Out(*qkv.shape, dtype=dtype), qkv, pos, freq, H, G)
    within_budget(got, turn, qkv, *tables(pos, freq), H, G, 1)
    assert np.array_equal(got[..., (H + G) * D:], qkv[..., (H + G) * D:])


@pytest.mark.parametrize("B,T,H,G,D", SHAPES)
def test_backward_is_the_gradient(on, dtype, B, T, H, G, D):
    dout, pos, freq = draw(B, T, H, G, D, dtype)
    got = run(on, "rope_backward", Out(*dout.shape, dtype=dtype), dout, pos, freq, H, G)
    within_budget(got, transposed, dout, *tables(pos, freq), H, G)


@pytest.mark.parametrize("op", ["rope_forward", "rope_backward"])
def test_it_may_be_done_in_place(on, dtype, op):
    qkv, pos, freq = draw(2, 3, 3, 1, 6, dtype)
    apart = run(on, op, Out(*qkv.shape, dtype=dtype), qkv, pos, freq, 3, 1)
    shared = Out(*qkv.shape, dtype=dtype, fill=qkv)
    run(on, op, shared, shared, pos, freq, 3, 1)
    assert np.array_equal(apart, shared.array)


def test_angles_are_right_at_any_position(on):
    """cos and sin of pos, for every power of two and its neighbours up to the last position an i32 can name."""
    pos = np.unique([p + e for p in (2 ** np.arange(31)).tolist() for e in (-1, 0, 1)] + [2**31 - 1])
    pos = pos.astype(I32)[None]
    qkv = np.tile(np.array([1, 0, 1, 0, 0, 0], F32), (1, pos.size, 1))
    got = run(on, "rope_forward", Out(*qkv.shape), qkv, pos, np.ones(1, F32), 1, 1)
    angle = pos.astype(np.float64)[0]
    assert np.abs(got[0, :, 0] - np.cos(angle)).max() < 3e-7
    assert np.abs(got[0, :, 1] - np.sin(angle)).max() < 3e-7


def test_bits_do_not_depend_on_threads(name, dtype):
    B, T, H, G, D = 2, 71, 5, 1, 66
    qkv, pos, freq = draw(B, T, H, G, D, dtype)
    for op in ("rope_forward", "rope_backward"):
        same_bits_for_any_threads(name, op, lambda: (Out(*qkv.shape, dtype=dtype), qkv, pos, freq, H, G))
