"""gelu by itself: where a product cannot do it on its way out."""
from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from common import F32, Out, gradient, numbers, run, same_bits_for_any_threads, within_budget

from llmc._core import Activation

SHAPES = [(1, 1), (2, 7), (5, 16), (3, 129), (1, 4097), (67, 131)]
gelu = partial(torch.nn.functional.gelu, approximate="tanh")


@pytest.mark.parametrize("N,F", SHAPES)
def test_forward_is_gelu(on, dtype, N, F):
    pre = numbers(N, F, dtype=dtype, scale=3)
    within_budget(run(on, "gelu_forward", Out(N, F, dtype=dtype), pre), gelu, pre)


@pytest.mark.parametrize("N,F", SHAPES)
def test_backward_is_the_gradient(on, dtype, N, F):
    pre, dout = numbers(N, F, dtype=dtype, scale=3), numbers(N, F, dtype=dtype, seed=1)
    got = run(on, "gelu_backward", Out(N, F, dtype=dtype), dout, pre)
    within_budget((got,), gradient(gelu, 0), dout, pre)


def test_both_may_be_done_in_place(on, dtype):
    pre, dout = numbers(9, 77, dtype=dtype, scale=3), numbers(9, 77, dtype=dtype, seed=1)
    apart = run(on, "gelu_forward", Out(9, 77, dtype=dtype), pre)
    here = Out(9, 77, dtype=dtype, fill=pre)
    run(on, "gelu_forward", here, here)
    assert here.array.tobytes() == apart.tobytes()
    apart = run(on, "gelu_backward", Out(9, 77, dtype=dtype), dout, pre)
    here = Out(9, 77, dtype=dtype, fill=dout)
    run(on, "gelu_backward", here, here, pre)
    assert here.array.tobytes() == apart.tobytes()


def test_it_is_the_product_s_own(on, dtype):
    """A product by 1 whose GELU is fused gives the same, forward and back."""
    pre, dout, one = numbers(40, 50, dtype=dtype), numbers(40, 50, dtype=dtype, seed=1), np.eye(50, dtype=dtype)
    fused = run(on, "linear_forward", Out(40, 50, dtype=dtype), None, pre, one, None, Activation.GELU)
    apart = run(on, "gelu_forward", Out(40, 50, dtype=dtype), pre)
    np.testing.assert_allclose(apart.astype(F32), fused.astype(F32), rtol=1e-2 if dtype != F32 else 1e-6, atol=1e-7)
    fused = run(on, "linear_backward", Out(40, 50, dtype=dtype), None, None, dout, pre, one, pre, False)
    apart = run(on, "gelu_backward", Out(40, 50, dtype=dtype), dout, pre)
    np.testing.assert_allclose(apart.astype(F32), fused.astype(F32), rtol=1e-2 if dtype != F32 else 1e-6, atol=1e-7)


def test_bits_do_not_depend_on_threads(name, dtype):
    pre, dout = numbers(67, 1501, dtype=dtype), numbers(67, 1501, dtype=dtype, seed=1)
    same_bits_for_any_threads(name, "gelu_forward", lambda: (Out(67, 1501, dtype=dtype), pre))
    same_bits_for_any_threads(name, "gelu_backward", lambda: (Out(67, 1501, dtype=dtype), dout, pre))
