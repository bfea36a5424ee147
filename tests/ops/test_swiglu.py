"""swiglu: silu(gate) * up, gate and up side by side."""
from __future__ import annotations

import numpy as np
import pytest
from common import F32, Out, gradient, numbers, run, same_bits_for_any_threads, within_budget

SHAPES = [(1, 1), (2, 7), (5, 16), (3, 129), (1, 1031)]


def swiglu(x):
    gate, up = x.chunk(2, -1)
    return gate / (1 + (-gate).exp()) * up


@pytest.mark.parametrize("N,F", SHAPES)
def test_forward_gates_the_second_half_by_the_first(on, dtype, N, F):
    x = numbers(N, 2 * F, dtype=dtype, scale=3)
    within_budget(run(on, "swiglu_forward", Out(N, F, dtype=dtype), x), swiglu, x)


@pytest.mark.parametrize("N,F", SHAPES)
def test_backward_is_the_gradient(on, dtype, N, F):
    x, dout = numbers(N, 2 * F, dtype=dtype, scale=3), numbers(N, F, dtype=dtype, seed=1)
    got = run(on, "swiglu_backward", Out(N, 2 * F, dtype=dtype), dout, x)
    within_budget(got, lambda dout, x: gradient(swiglu, 0)(dout, x)[0], dout, x)


def sweep() -> np.ndarray:
    """Both signs of every magnitude a normal f32 has, closer together where the sigmoid bends."""
    size = np.concatenate([np.geomspace(1.2e-38, 3.4e38, 20011), np.linspace(1e-3, 90, 60013)])
    return np.concatenate([size, -size]).astype(F32)


def ulps(got: np.ndarray, exact: np.ndarray) -> float:
    """The error in units of the last place; below 1e-36 that of 1e-36, for there the sigmoid is denormal."""
    step = np.spacing(np.maximum(np.abs(exact), 1e-36).astype(F32)).astype(np.float64)
    return float((np.abs(got.astype(np.float64) - exact) / step).max())


def test_forward_is_right_to_a_few_ulp_at_every_magnitude(on):
    gate = sweep()
    got = run(on, "swiglu_forward", Out(1, gate.size), np.concatenate([gate, np.ones_like(gate)])[None])
    z = gate.astype(np.float64)
    assert ulps(got[0], z * np.exp(-np.logaddexp(0, -z))) <= 4


def test_backward_is_finite_and_right_at_every_magnitude(on):
    gate = sweep()
    ones = np.ones_like(gate)
    got = run(on, "swiglu_backward", Out(1, 2 * gate.size), ones[None], np.concatenate([gate, ones])[None])
    z = gate.astype(np.float64)
    s, rest = np.exp(-np.logaddexp(0, -z)), np.exp(-np.logaddexp(0, z))
    assert np.abs(got[0, :gate.size] - s * (1 + z * rest)).max() < 4e-7
    assert ulps(got[0, gate.size:], z * s) <= 4


def test_a_nan_stays_one(on, dtype):
    x = numbers(1, 2 * 35, dtype=dtype)
    x[0, [3, 34, 35 + 7]] = np.nan
    got = run(on, "swiglu_forward", Out(1, 35, dtype=dtype), x)
    assert np.flatnonzero(np.isnan(got[0].astype(F32))).tolist() == [3, 7, 34]


def test_bits_do_not_depend_on_threads(name, dtype):
    N, F = 67, 501
    x, dout = numbers(N, 2 * F, dtype=dtype), numbers(N, F, dtype=dtype, seed=1)
    same_bits_for_any_threads(name, "swiglu_forward", lambda: (Out(N, F, dtype=dtype), x))
    same_bits_for_any_threads(name, "swiglu_backward", lambda: (Out(N, 2 * F, dtype=dtype), dout, x))
