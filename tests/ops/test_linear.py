"""linear: a product, a bias and an activation on the way out; three gradients on the way back."""
from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from common import (BF16, F32, Out, gradient, numbers, one_kernel_for_any_shape, run,
                    same_bits_for_any_threads, within_budget)

from llmc._core import Activation

# (N,I,O): ones, a scalar head, primes, no multiples of a tile, more than one block of the sum
SHAPES = [(1, 1, 1), (1, 97, 13), (29, 1, 3), (23, 77, 1), (31, 67, 101), (15, 16, 33),
          (5, 521, 35), (45, 259, 64),
          (7, 64, 33), (33, 64, 64), (64, 96, 79)]      # few rows, terms in whole steps of 32
# more than one block of rows, and of columns; rows enough for each of two threads to have its own
LARGE = [(1361, 3, 5), (3, 5, 2083), (523, 300, 331)]
gelu = partial(torch.nn.functional.gelu, approximate="tanh")


def linear(x, w, b):
    out = x @ w.T
    return out if b is None else out + b


def linear_after_gelu(pre, w):
    return gelu(pre) @ w.T


def inputs(N, I, O, dtype, bias=True):
    x, w = numbers(N, I, dtype=dtype), numbers(O, I, dtype=dtype)
    return x, w, numbers(O, dtype=dtype) if bias else None


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("N,I,O", SHAPES + LARGE)
def test_forward_is_the_product(on, dtype, N, I, O, bias):
    x, w, b = inputs(N, I, O, dtype, bias)
    got = run(on, "linear_forward", Out(N, O, dtype=dtype), None, x, w, b, Activation.NONE)
    within_budget(got, linear, x, w, b)


@pytest.mark.parametrize("N,I,O", SHAPES)
def test_f32_comes_out_of_bf16_unrounded(on, N, I, O):
    x, w, b = inputs(N, I, O, BF16)
    got = run(on, "linear_forward", Out(N, O), None, x, w, b, Activation.NONE)
    within_budget(got, linear, x, w, b)


@pytest.mark.parametrize("N", [3, 96])
@pytest.mark.parametrize("I", [64, 768, 3072])
def test_f32_is_as_near_to_the_sum_as_a_library_s(on, N, I):
    """Also where it is put together from products of bf16. Over many rows, of which N at a time are multiplied: where the
    large terms lie decides the error of a row, so three of them say little."""
    x, w, _ = inputs(96, I, 96, F32)
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    library = (torch.from_numpy(x) @ torch.from_numpy(w).T).numpy()
    got = np.concatenate([run(on, "linear_forward", Out(N, 96), None, x[n:n + N], w, None, Activation.NONE)
                          for n in range(0, 96, N)])
    assert np.square(got - exact).mean() < 2 * np.square(library - exact).mean()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("N,I,O", SHAPES)
def test_gelu_reads_what_is_kept(on, dtype, N, I, O, bias):
    """What is kept is the product; what comes out is gelu of that, as it was rounded."""
    x, w, b = inputs(N, I, O, dtype, bias)
    outs = Out(N, O, dtype=dtype), Out(N, O, dtype=dtype)
    out, pre = run(on, "linear_forward", *outs, x, w, b, Activation.GELU)
    within_budget(pre, linear, x, w, b)
    within_budget(out, gelu, pre)
    exact, _ = run(on, "linear_forward", Out(N, O), outs[1], x, w, b, Activation.GELU)
    within_budget(exact, gelu, pre)
    none_kept = run(on, "linear_forward", Out(N, O, dtype=dtype), None, x, w, b, Activation.GELU)
    within_budget(none_kept, gelu, pre)
    assert on.name == "cuda" or none_kept.tobytes() == out.tobytes()        # a kernel of cuBLASLt's each


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("N,I,O", SHAPES + LARGE)
def test_backward_is_the_gradient(on, dtype, N, I, O, accumulate):
    x, w, b = inputs(N, I, O, dtype)
    dout, dw, db = numbers(N, O, dtype=dtype, seed=1), Out(O, I), Out(O)
    before = dw.array.copy(), db.array.copy()
    got = run(on, "linear_backward", Out(N, I, dtype=dtype), dw, db, dout, x, w, None, accumulate)

    def slopes(dout, x, w, b, *before):
        dx, *grads = gradient(linear, 0, 1, 2)(dout, x, w, b)
        return dx, *(was + g if accumulate else g for was, g in zip(before, grads))
    within_budget(got, slopes, dout, x, w, b, *before)


@pytest.mark.parametrize("N,I,O", SHAPES)
def test_backward_goes_through_the_gelu_before(on, dtype, N, I, O):
    x, w, _ = inputs(N, I, O, dtype)
    pre, dout = numbers(N, I, dtype=dtype, scale=3), numbers(N, O, dtype=dtype, seed=1)
    dx = Out(N, I, dtype=dtype)
    got = run(on, "linear_backward", dx, None, None, dout, x, w, pre, False)
    within_budget((got,), gradient(linear_after_gelu, 0), dout, pre, w)


def test_a_large_gradient_has_the_same_bits_past_the_caches(on, dtype):
    """Which it goes where memory's lines are whole, as in a model and not in the other tests."""
    one_kernel_for_any_shape(on)
    N, I, O = 3, 1056, 1000
    x, w, _ = inputs(N, I, O, dtype)
    dout = numbers(N, O, dtype=dtype, seed=1)
    past, through = (run(on, "linear_backward", None, Out(O, I, aligned=aligned), None, dout, x, w, None, False)
                     for aligned in (True, False))
    assert past.tobytes() == through.tobytes()


def test_each_gradient_can_be_had_alone(on, dtype):
    N, I, O = 19, 301, 37
    x, w, _ = inputs(N, I, O, dtype)
    dout = numbers(N, O, dtype=dtype, seed=1)

    def outs():
        return [Out(N, I, dtype=dtype), Out(O, I), Out(O)]
    together = run(on, "linear_backward", *outs(), dout, x, w, None, False)
    for i in range(3):
        wanted = [out if i == j else None for j, out in enumerate(outs())]
        alone = run(on, "linear_backward", *wanted, dout, x, w, None, False)
        assert alone.tobytes() == together[i].tobytes()
    assert run(on, "linear_backward", None, None, None, dout, x, w, None, False) == ()


@pytest.mark.parametrize("I,O", [(1361, 71), (96, 96)])
@pytest.mark.parametrize("act", [Activation.NONE, Activation.GELU], ids=["none", "gelu"])
def test_a_row_alone_is_the_row_among_others(on, dtype, act, I, O):
    """Bit for bit, wherever it lies in a tile or a block, forward and back."""
    one_kernel_for_any_shape(on)
    N = 79
    x, w, b = inputs(N, I, O, dtype)
    dout = numbers(N, O, dtype=dtype, seed=1)

    def both(rows):
        out, dx = Out(len(x[rows]), O, dtype=dtype), Out(len(x[rows]), I, dtype=dtype)
        run(on, "linear_forward", out, None, x[rows], w, b, act)
        run(on, "linear_backward", dx, None, None, dout[rows], x[rows], w, x[rows], False)
        return out.array, dx.array
    together = both(slice(None))
    for begin, end in [(0, 1), (13, 14), (N - 1, N), (5, 12), (14, 45), (3, 20), (20, 53), (9, 73), (9, 74)]:
        rows = slice(begin, end)
        for one, all_rows in zip(both(rows), together):
            assert one.tobytes() == all_rows[rows].tobytes(), f"rows {begin} to {end}"


def test_a_column_alone_is_the_column_among_others(on):
    """So a vocabulary cut in pieces gives the same logits."""
    one_kernel_for_any_shape(on)
    N, I, O = 5, 300, 133
    x, w, b = inputs(N, I, O, F32)
    out = run(on, "linear_forward", Out(N, O), None, x, w, b, Activation.NONE)
    for begin, end in [(0, 1), (31, 34), (O - 1, O), (64, 131)]:
        some = slice(begin, end)
        alone = Out(N, end - begin)
        run(on, "linear_forward", alone, None, x, w[some], b[some], Activation.NONE)
        assert np.array_equal(alone.array, out[:, some])


@pytest.mark.parametrize("N,I,O", [(67, 521, 131), (1361, 37, 29), (3, 67, 2083), (401, 523, 1031)])
def test_bits_do_not_depend_on_threads(name, dtype, N, I, O):
    if name == "cpu:plain":
        pytest.skip("the reference loops use one thread")
    x, w, b = inputs(N, I, O, dtype)
    dout = numbers(N, O, dtype=dtype, seed=1)
    same_bits_for_any_threads(name, "linear_forward", lambda: (
        Out(N, O, dtype=dtype), Out(N, O, dtype=dtype), x, w, b, Activation.GELU))
    same_bits_for_any_threads(name, "linear_backward", lambda: (
        Out(N, I, dtype=dtype), Out(O, I), Out(O), dout, x, w, x, True))
