"""rope: q and k heads turned by their position, and normalised before where there are weights."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from common import BF16, F32, I32, Out, device, gradient, numbers, run, same_bits_for_any_threads, within_budget

import llmc

# B, T, H, G, D
SHAPES = [(1, 1, 1, 1, 2), (2, 3, 3, 1, 6), (1, 5, 4, 2, 64), (3, 2, 2, 2, 34), (1, 2, 1, 1, 262)]
PLAIN = (None, None)    # no q_norm, no k_norm
EPS = 1e-5


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


def normed(qkv, q_norm, k_norm, cosine, sine, H, G):
    B, T, P = qkv.shape
    heads = qkv.view(B, T, H + 2 * G, -1)
    turned = heads[:, :, :H + G]
    rstd = ((turned ** 2).mean(-1, keepdim=True) + EPS) ** -0.5
    w = torch.cat([q_norm.expand(H, -1), k_norm.expand(G, -1)])
    return turn(torch.cat([turned * rstd * w, heads[:, :, H + G:]], 2).reshape(B, T, P), cosine, sine, H, G, 1)


def weights(D, dtype):
    return numbers(D, dtype=dtype, seed=2) + dtype.type(1), numbers(D, dtype=dtype, seed=3) + dtype.type(1)


def forward(on, qkv, pos, freq, norms, H, G):
    return run(on, "rope_forward", Out(*qkv.shape, dtype=qkv.dtype), qkv, pos, freq, *norms, H, G, EPS)


def turned_back(on, dout, pos, freq, H, G, dqkv=None):
    dqkv = dqkv or Out(*dout.shape, dtype=dout.dtype)
    return run(on, "rope_backward", dqkv, None, None, dout, None, pos, freq, *PLAIN, H, G, 0.0, False)


@pytest.mark.parametrize("B,T,H,G,D", SHAPES)
def test_forward_turns_q_and_k_and_copies_v(on, dtype, B, T, H, G, D):
    qkv, pos, freq = draw(B, T, H, G, D, dtype)
    got = forward(on, qkv, pos, freq, PLAIN, H, G)
    within_budget(got, turn, qkv, *tables(pos, freq), H, G, 1)
    assert np.array_equal(got[..., (H + G) * D:], qkv[..., (H + G) * D:])


@pytest.mark.parametrize("B,T,H,G,D", SHAPES)
def test_backward_is_the_gradient(on, dtype, B, T, H, G, D):
    dout, pos, freq = draw(B, T, H, G, D, dtype)
    within_budget(turned_back(on, dout, pos, freq, H, G), transposed, dout, *tables(pos, freq), H, G)


def test_it_may_be_done_in_place(on, dtype):
    qkv, pos, freq = draw(2, 3, 3, 1, 6, dtype)
    shared = Out(*qkv.shape, dtype=dtype, fill=qkv)
    run(on, "rope_forward", shared, shared, pos, freq, *PLAIN, 3, 1, 0.0)
    assert np.array_equal(forward(on, qkv, pos, freq, PLAIN, 3, 1), shared.array)
    shared = Out(*qkv.shape, dtype=dtype, fill=qkv)
    turned_back(on, shared, pos, freq, 3, 1, shared)
    assert np.array_equal(turned_back(on, qkv, pos, freq, 3, 1), shared.array)


def test_angles_are_right_at_any_position(on):
    """cos and sin of pos, for every power of two and its neighbours up to the last position an i32 can name."""
    pos = np.unique([p + e for p in (2 ** np.arange(31)).tolist() for e in (-1, 0, 1)] + [2**31 - 1])
    pos = pos.astype(I32)[None]
    qkv = np.tile(np.array([1, 0, 1, 0, 0, 0], F32), (1, pos.size, 1))
    got = forward(on, qkv, pos, np.ones(1, F32), PLAIN, 1, 1)
    angle = pos.astype(np.float64)[0]
    assert np.abs(got[0, :, 0] - np.cos(angle)).max() < 3e-7
    assert np.abs(got[0, :, 1] - np.sin(angle)).max() < 3e-7


def test_bits_do_not_depend_on_threads(name, dtype):
    B, T, H, G, D = 2, 71, 5, 1, 66
    qkv, pos, freq = draw(B, T, H, G, D, dtype)
    q_norm, k_norm = weights(D, dtype)
    dout = numbers(*qkv.shape, dtype=dtype, seed=1)
    for norms in (PLAIN, (q_norm, k_norm)):
        same_bits_for_any_threads(name, "rope_forward", lambda: (
            Out(*qkv.shape, dtype=dtype), qkv, pos, freq, *norms, H, G, EPS))
    same_bits_for_any_threads(name, "rope_backward", lambda: (
        Out(*qkv.shape, dtype=dtype), None, None, dout, None, pos, freq, *PLAIN, H, G, 0.0, False))
    same_bits_for_any_threads(name, "rope_backward", lambda: (
        Out(*qkv.shape, dtype=dtype), Out(D), Out(D), dout, qkv, pos, freq, q_norm, k_norm, H, G, EPS, True))


# ---- with QK-norm --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("B,T,H,G,D", SHAPES)
def test_forward_normalises_each_head_first(on, dtype, B, T, H, G, D):
    qkv, pos, freq = draw(B, T, H, G, D, dtype)
    norms = weights(D, dtype)
    got = forward(on, qkv, pos, freq, norms, H, G)
    within_budget(got, normed, qkv, *norms, *tables(pos, freq), H, G)
    assert np.array_equal(got[..., (H + G) * D:], qkv[..., (H + G) * D:])


def test_a_head_of_any_size_is_normalised(on):
    """eps is all there is to a head of 1e-30, some of one of 1e-3, and nothing of one of 1e18; a head of zeros stays."""
    _, pos, freq = draw(1, 1, 3, 1, 10, F32)
    norms = weights(10, F32)
    for scale in (1e-30, 1e-3, 1e18, 0.0):
        qkv = numbers(1, 1, 50, scale=scale)
        within_budget(forward(on, qkv, pos, freq, norms, 3, 1), normed, qkv, *norms, *tables(pos, freq), 3, 1)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("B,T,H,G,D", SHAPES + [(2, 67, 3, 1, 10)])
def test_backward_goes_through_the_norm(on, dtype, B, T, H, G, D, accumulate):
    qkv, pos, freq = draw(B, T, H, G, D, dtype)
    norms, dout = weights(D, dtype), numbers(*qkv.shape, dtype=dtype, seed=1)
    dq, dk = Out(D), Out(D)
    before = [dq.array.copy(), dk.array.copy()]
    got = run(on, "rope_backward", Out(*qkv.shape, dtype=dtype), dq, dk, dout, qkv, pos, freq, *norms, H, G, EPS,
              accumulate)

    def slopes(dout, qkv, q_norm, k_norm, cosine, sine, dq_before, dk_before):
        dqkv, dq, dk = gradient(normed, 0, 1, 2)(dout, qkv, q_norm, k_norm, cosine, sine, H, G)
        return (dqkv, dq + dq_before, dk + dk_before) if accumulate else (dqkv, dq, dk)
    within_budget(got, slopes, dout, qkv, *norms, *tables(pos, freq), *before)


def test_backward_of_frozen_weights_and_over_dout(on, dtype):
    """What is written does not depend on what else is; dqkv may be dout."""
    H, G, D = 3, 1, 6
    qkv, pos, freq = draw(2, 3, H, G, D, dtype)
    norms, dout = weights(D, dtype), numbers(*qkv.shape, dtype=dtype, seed=1)
    args = (qkv, pos, freq, *norms, H, G, EPS, False)
    dqkv, dq, dk = run(on, "rope_backward", Out(*qkv.shape, dtype=dtype), Out(D), Out(D), dout, *args)
    for only_q, only_k in ((None, None), (Out(D), None), (None, Out(D))):
        shared = Out(*qkv.shape, dtype=dtype, fill=dout)
        run(on, "rope_backward", shared, only_q, only_k, shared, *args)
        assert np.array_equal(dqkv, shared.array)
        assert only_q is None or np.array_equal(dq, only_q.array)
        assert only_k is None or np.array_equal(dk, only_k.array)


def test_backward_sums_many_rows_as_well_as_few(on):
    """10,007 rows whose units are all 1: a running sum in bf16, or one that loses a block, would not give 20,014."""
    N = 10007
    ones, pos, w = np.ones((1, N, 8), BF16), np.zeros((1, N), I32), np.ones(2, BF16)
    _, dq, dk = run(on, "rope_backward", Out(1, N, 8, dtype=BF16), Out(2), Out(2), ones, ones, pos, np.ones(1, F32),
                    w, w, 2, 1, 0.0, False)
    assert dq.tolist() == [2 * N] * 2 and dk.tolist() == [N] * 2


@pytest.mark.parametrize("norms, sentence", [
    ((np.ones(2, F32), None), "q_norm and k_norm are given together or not at all"),
    ((np.ones(2, F32), np.ones(3, F32)), r"k_norm is f32 \(3\), wanted f32 \(2\)"),
])
def test_half_a_norm_is_refused(norms, sentence):
    qkv, pos, freq = draw(1, 1, 1, 1, 2, F32)
    with pytest.raises(llmc.LlmcError, match=sentence):
        forward(device("cpu"), qkv, pos, freq, norms, 1, 1)
