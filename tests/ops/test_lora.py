"""lora: what a low-rank adapter adds to a product, and its three gradients."""
from __future__ import annotations

import numpy as np
import pytest
from common import (BF16, F32, Out, gradient, numbers, one_kernel_for_any_shape, run, same_bits_for_any_threads,
                    within_budget)

# (N,I,O,R): ones, primes, no multiples of a tile, few rows, more than one block of a sum, a rank beyond a tile's width
SHAPES = [(1, 1, 1, 1), (1, 97, 13, 3), (29, 1, 3, 2), (31, 67, 101, 5), (5, 521, 35, 8), (45, 259, 64, 16),
          (523, 40, 33, 4), (7, 64, 33, 37), (3, 5, 2083, 7)]


def adapter(x, a, b, scale):
    return scale * (x @ a.T) @ b.T


def inputs(N, I, O, R, dtype):
    return numbers(N, I, dtype=dtype), numbers(R, I, dtype=dtype, seed=1), numbers(O, R, dtype=dtype, seed=2)


def whole(rows: int, columns: int, dtype: np.dtype, seed: int) -> np.ndarray:
    """-1, 0 and 1, few enough of which are not 0 that bf16 holds a row's product with any other."""
    rng = np.random.default_rng([seed, rows, columns])
    return (rng.integers(-1, 2, (rows, columns)) * (rng.random((rows, columns)) < 0.5)).astype(dtype)


def whole_inputs(N, I, O, R, dtype):
    return whole(N, I, dtype, 0), whole(R, I, dtype, 1), whole(O, R, dtype, 2)


def wide(*arrays: np.ndarray) -> list[np.ndarray]:
    return [array.astype(np.float64) for array in arrays]


@pytest.mark.parametrize("N,I,O,R", SHAPES)
def test_whole_numbers_are_added_exactly(on, dtype, N, I, O, R):
    x, a, b = whole_inputs(N, I, O, R, dtype)
    out = Out(N, O, dtype=dtype)
    before = out.array.astype(np.float64)
    got = run(on, "lora_forward", out, x, a, b, 0.5)
    exact = before + adapter(*wide(x, a, b), 0.5)
    np.testing.assert_array_equal(got, exact.astype(F32).astype(dtype))


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("N,I,O,R", SHAPES)
def test_gradients_of_whole_numbers_are_exact(on, dtype, N, I, O, R, accumulate):
    x, a, b = whole_inputs(N, I, O, R, dtype)
    dout, dx, da, db = whole(N, O, dtype, 3), Out(N, I, dtype=dtype), Out(R, I), Out(O, R)
    before = [array.astype(np.float64) for array in (dx.array, da.array, db.array)]
    got = run(on, "lora_backward", dx, da, db, dout, x, a, b, 2.0, accumulate)
    X, A, B, D = wide(x, a, b, dout)
    low, dlow = 2 * X @ A.T, 2 * D @ B
    exact = dlow @ A, dlow.T @ X, D.T @ low
    np.testing.assert_array_equal(got[0], (before[0] + exact[0]).astype(F32).astype(dtype))
    for i in (1, 2):
        np.testing.assert_array_equal(got[i], exact[i] + (before[i] if accumulate else 0))


@pytest.mark.parametrize("N,I,O,R", SHAPES)
def test_forward_adds_the_product_of_both(on, N, I, O, R):
    x, a, b = inputs(N, I, O, R, F32)
    out = Out(N, O)
    before = out.array.copy()
    got = run(on, "lora_forward", out, x, a, b, 1.7)
    within_budget(got, lambda before, *args: before + adapter(*args), before, x, a, b, 1.7)


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("N,I,O,R", SHAPES)
def test_backward_is_the_gradient(on, N, I, O, R, accumulate):
    x, a, b = inputs(N, I, O, R, F32)
    dout, outs = numbers(N, O, seed=3), (Out(N, I), Out(R, I), Out(O, R))
    before = [out.array.copy() for out in outs]
    got = run(on, "lora_backward", *outs, dout, x, a, b, 1.7, accumulate)

    def slopes(dout, x, a, b, scale, *before):
        dx, *grads = gradient(adapter, 0, 1, 2)(dout, x, a, b, scale)
        return before[0] + dx, *(was + g if accumulate else g for was, g in zip(before[1:], grads))
    within_budget(got, slopes, dout, x, a, b, 1.7, *before)


@pytest.mark.parametrize("N,I,O,R", SHAPES)
def test_bf16_errs_by_the_rounding_of_what_is_narrow(on, N, I, O, R):
    """Half a unit in the last place of each narrow number, and of the sum where that is bf16 too."""
    x, a, b = inputs(N, I, O, R, BF16)
    dout, scale = numbers(N, O, dtype=BF16, seed=3), 1.7
    X, A, B, D = wide(x, a, b, dout)
    low, dlow = np.float32(scale) * X @ A.T, np.float32(scale) * D @ B
    half, sums = 2.0**-8, 2.0**-18          # of bf16; and of f32, added up many at a time

    def near(got, narrow, other, before=0.0):
        exact, size = before + narrow @ other, abs(narrow) @ abs(other) + abs(before)
        rounded = half * abs(exact) * 1.01 if got.dtype == BF16 else 0
        assert (abs(got.astype(np.float64) - exact) <= 1.01 * half * size + rounded + sums * size + 1e-6).all()

    out, dx, da, db = Out(N, O, dtype=BF16), Out(N, I, dtype=BF16), Out(R, I), Out(O, R)
    was = out.array.astype(np.float64), dx.array.astype(np.float64)
    near(run(on, "lora_forward", out, x, a, b, scale), low, B.T, was[0])
    run(on, "lora_backward", dx, da, db, dout, x, a, b, scale, False)
    near(dx.array, dlow, A, was[1])
    near(da.array, dlow.T, X)
    near(db.array.T, low.T, D)


def test_each_gradient_can_be_had_alone(on, dtype):
    N, I, O, R = 19, 301, 37, 6
    x, a, b = inputs(N, I, O, R, dtype)
    dout = numbers(N, O, dtype=dtype, seed=3)

    def outs():
        return [Out(N, I, dtype=dtype), Out(R, I), Out(O, R)]
    together = run(on, "lora_backward", *outs(), dout, x, a, b, 2.0, False)
    for i in range(3):
        wanted = [out if i == j else None for j, out in enumerate(outs())]
        alone = run(on, "lora_backward", *wanted, dout, x, a, b, 2.0, False)
        assert alone.tobytes() == together[i].tobytes()


def test_b_of_zeros_adds_nothing_and_still_learns(on, dtype):
    """So training begins at the model that was given."""
    N, I, O, R = 21, 70, 50, 4
    x, a, _ = inputs(N, I, O, R, dtype)
    b, out = np.zeros((O, R), dtype), Out(N, O, dtype=dtype)
    before = out.array.tobytes()
    assert run(on, "lora_forward", out, x, a, b, 2.0).tobytes() == before
    _, da, db = run(on, "lora_backward", Out(N, I, dtype=dtype), Out(R, I), Out(O, R), numbers(N, O, dtype=dtype),
                    x, a, b, 2.0, False)
    assert not da.any() and db.any()


def test_a_row_alone_is_the_row_among_others(on, dtype):
    one_kernel_for_any_shape(on)
    N, I, O, R = 79, 300, 90, 8
    x, a, b = inputs(N, I, O, R, dtype)
    dout, base = numbers(N, O, dtype=dtype, seed=3), numbers(N, O, dtype=dtype, seed=4)

    def both(rows):
        count = len(x[rows])
        out, dx = Out(count, O, dtype=dtype, fill=base[rows]), Out(count, I, dtype=dtype, fill=x[rows])
        run(on, "lora_forward", out, x[rows], a, b, 2.0)
        run(on, "lora_backward", dx, None, None, dout[rows], x[rows], a, b, 2.0, False)
        return out.array, dx.array
    together = both(slice(None))
    for begin, end in [(0, 1), (13, 14), (N - 1, N), (5, 12), (14, 45), (9, 74)]:
        rows = slice(begin, end)
        for some, all_rows in zip(both(rows), together):
            assert some.tobytes() == all_rows[rows].tobytes(), f"rows {begin} to {end}"


def test_bits_do_not_depend_on_threads(name, dtype):
    N, I, O, R = 401, 523, 331, 9
    x, a, b = inputs(N, I, O, R, dtype)
    dout = numbers(N, O, dtype=dtype, seed=3)
    if name == "cpu:plain":
        pytest.skip("the reference loops use one thread")
    same_bits_for_any_threads(name, "lora_forward", lambda: (Out(N, O, dtype=dtype), x, a, b, 2.0))
    same_bits_for_any_threads(name, "lora_backward", lambda: (
        Out(N, I, dtype=dtype), Out(R, I), Out(O, R), dout, x, a, b, 2.0, True))
