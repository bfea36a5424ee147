"""int8: rows of a table of int8 out, products with weights of int8, and the slopes of what goes into these."""
from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from common import BF16, F32, I32, Out, gradient, numbers, run, same_bits_for_any_threads, within_budget

from llmc._core import Activation

GROUP = 64
# (N,I,O): ones, whole groups and parts of one, no multiples of a tile, the rows that each way takes
SHAPES = [(1, 1, 1), (1, 64, 16), (2, 128, 33), (4, 192, 48), (5, 65, 31), (13, 63, 97), (17, 200, 35),
          (33, 320, 70), (67, 129, 32), (3, 1088, 20), (10, 1100, 18)]

TALL = [(3, 1, 50), (5, 7, 131), (29, 64, 1100), (67, 5, 40)]       # as a vocabulary's


def groups(width: int) -> int:
    return -(-width // GROUP)


def weights(O: int, I: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, O, I])
    return (rng.integers(-127, 128, (O, I)).astype(np.int8),
            (2.0 ** rng.integers(-7, -5, (O, groups(I)))).astype(F32))


def spread(scale: np.ndarray, width: int) -> np.ndarray:
    """Each group's scale, for each of its numbers."""
    return np.repeat(scale, GROUP, axis=1)[:, :width].astype(np.float64)


def exact_rows(N: int, I: int, dtype: np.dtype, seed: int = 0) -> np.ndarray:
    """Rows that are whole numbers times a power of two, with 127 in every group: int8 holds them.
    Their products with weights add up to less than 2^24 of the smallest: f32 holds every sum."""
    rng = np.random.default_rng([seed, N, I])
    x = rng.integers(-127, 128, (N, I))
    x[:, ::GROUP] = 127
    return (x * spread(2.0 ** rng.integers(-1, 1, (N, groups(I))), I)).astype(dtype)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("N,I,O", SHAPES)
def test_what_int8_holds_is_multiplied_exactly(on, dtype, N, I, O, bias):
    x, (w, scale) = exact_rows(N, I, dtype), weights(O, I)
    b = np.random.default_rng(O).integers(-9, 10, O).astype(dtype) if bias else None
    got = run(on, "linear_int8_forward", Out(N, O), x, w, scale, b, Activation.NONE)
    exact = x.astype(np.float64) @ (w * spread(scale, I)).T + (0 if b is None else b.astype(np.float64))
    np.testing.assert_array_equal(got, exact)


def test_any_number_of_rows(on, dtype):
    """Each has the bits that it has beside all others."""
    x, (w, scale) = exact_rows(130, 192, dtype), weights(33, 192)
    exact = x.astype(np.float64) @ (w * spread(scale, 192)).T
    for N in range(1, 131):
        got = run(on, "linear_int8_forward", Out(N, 33), x[:N], w, scale, None, Activation.NONE)
        np.testing.assert_array_equal(got, exact[:N])


@pytest.mark.parametrize("N,I,O", SHAPES)
def test_other_rows_are_rounded_to_the_nearest(on, dtype, N, I, O):
    """No further off than half a step of x in every term."""
    x, (w, scale) = numbers(N, I, dtype=dtype), weights(O, I)
    got = run(on, "linear_int8_forward", Out(N, O), x, w, scale, None, Activation.NONE)
    wide, weight = x.astype(np.float64), w * spread(scale, I)
    padded = np.zeros((N, groups(I) * GROUP))
    padded[:, :I] = abs(wide)
    step = spread(padded.reshape(N, -1, GROUP).max(axis=2) / 127, I)
    bound = step / 2 @ abs(weight).T
    error = abs(got - wide @ weight.T)
    assert (error <= bound * 1.001 + 1e-5).all()
    assert I < GROUP or error.mean() < 0.2 * bound.mean()           # half steps do not all add up


@pytest.mark.parametrize("N,I,O", SHAPES)
def test_gelu_and_the_type_of_the_output(on, N, I, O):
    x, (w, scale) = exact_rows(N, I, BF16), weights(O, I)
    scale /= 64                                                     # where gelu is neither 0 nor x
    plain = run(on, "linear_int8_forward", Out(N, O, dtype=BF16), x, w, scale, None, Activation.NONE)
    wide = run(on, "linear_int8_forward", Out(N, O), x, w, scale, None, Activation.NONE)
    assert plain.tobytes() == wide.astype(BF16).tobytes()
    got = run(on, "linear_int8_forward", Out(N, O), x, w, scale, None, Activation.GELU)
    exact = torch.nn.functional.gelu(torch.tensor(plain.astype(np.float64)), approximate="tanh")
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("N,I,O", SHAPES)
def test_a_row_has_the_bits_it_has_alone(on, dtype, N, I, O):
    x, (w, scale) = numbers(N, I, dtype=dtype, scale=3), weights(O, I)
    together = run(on, "linear_int8_forward", Out(N, O), x, w, scale, None, Activation.NONE)
    for n in range(0, N, 3):
        alone = run(on, "linear_int8_forward", Out(1, O), x[n:n + 1], w, scale, None, Activation.NONE)
        assert alone.tobytes() == together[n:n + 1].tobytes()


def test_bits_do_not_depend_on_threads(name, dtype):
    def make():
        w, scale = weights(1031, 520)
        return Out(37, 1031), numbers(37, 520, dtype=dtype), w, scale, None, Activation.NONE
    same_bits_for_any_threads(name, "linear_int8_forward", make)


@pytest.mark.parametrize("N", [1, 20])
def test_nan_and_infinity_stay_in_their_row(on, dtype, N):
    x, (w, scale) = numbers(N + 2, 192, dtype=dtype), weights(40, 192)
    clean = run(on, "linear_int8_forward", Out(N + 2, 40), x, w, scale, None, Activation.NONE)
    x[0, 100], x[1, 70] = np.nan, np.inf
    got = run(on, "linear_int8_forward", Out(N + 2, 40), x, w, scale, None, Activation.NONE)
    assert not np.isfinite(got[:2]).any()
    assert got[2:].tobytes() == clean[2:].tobytes()


@pytest.mark.parametrize("value", [0.0, 1e-38, -1e-31])
def test_next_to_nothing_is_nothing(on, dtype, value):
    w, scale = weights(24, 70)
    x = np.full((3, 70), value, dtype)
    got = run(on, "linear_int8_forward", Out(3, 24), x, w, scale, None, Activation.NONE)
    assert (got == 0).all()


@pytest.mark.parametrize("behind_gelu", [True, False], ids=["gelu", "plain"])
@pytest.mark.parametrize("N,I,O", SHAPES + TALL)
def test_backward_is_that_of_what_the_weights_stand_for(on, dtype, N, I, O, behind_gelu):
    """These are numbers that bf16 holds: there is nothing else to round than what comes out."""
    w, scale = weights(O, I)
    dout, pre = numbers(N, O, dtype=dtype), numbers(N, I, dtype=dtype, seed=1, scale=3) if behind_gelu else None
    got = run(on, "linear_int8_backward", Out(N, I, dtype=dtype), dout, w, scale, pre)

    def slope(dout, weight, pre):
        dx = dout @ weight
        return dx if pre is None else gradient(partial(torch.nn.functional.gelu, approximate="tanh"), 0)(dx, pre)[0]
    within_budget(got, slope, dout, (w * spread(scale, I)).astype(F32), pre)


@pytest.mark.parametrize("I,O", [(520, 523), (64, 1500)])
def test_backward_does_not_depend_on_threads(name, dtype, I, O):
    def make():
        w, scale = weights(O, I)
        return Out(67, I, dtype=dtype), numbers(67, O, dtype=dtype), w, scale, numbers(67, I, dtype=dtype)
    same_bits_for_any_threads(name, "linear_int8_backward", make)


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("B,T,V,C", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 13, 17, 64), (1, 37, 4, 129), (2, 5, 11, 1031)])
def test_rows_of_a_table(on, dtype, B, T, V, C, positions):
    rng = np.random.default_rng(V)
    tokens, pos = rng.integers(0, V, (B, T), I32), rng.integers(0, T, (B, T), I32)
    wte, scale = weights(V, C)
    wpe = numbers(T, C, dtype=dtype) if positions else None
    got = run(on, "embed_int8_forward", Out(B, T, C, dtype=dtype), tokens, pos, wte, scale, wpe)
    exact = (wte * spread(scale, C))[tokens] + (wpe.astype(np.float64)[pos] if positions else 0)
    np.testing.assert_allclose(got.astype(np.float64), exact.astype(F32).astype(dtype).astype(np.float64),
                               rtol=2**-8 if dtype == BF16 else 1e-6, atol=1e-6)


def test_rows_of_a_table_do_not_depend_on_threads(name, dtype):
    def make():
        rng = np.random.default_rng(3)
        wte, scale = weights(50, 300)
        index = rng.integers(0, 50, (4, 90), I32)
        return Out(4, 90, 300, dtype=dtype), index, index, wte, scale, numbers(50, 300, dtype=dtype)
    same_bits_for_any_threads(name, "embed_int8_forward", make)
