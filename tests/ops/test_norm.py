"""norm: LayerNorm and RMSNorm, with a residual sum in front."""
from __future__ import annotations

import numpy as np
import pytest
from common import BF16, F32, Out, gradient, numbers, run, same_bits_for_any_threads, within_budget

SHAPES = [(1, 1), (1, 7), (5, 16), (13, 129), (3, 1031), (37, 64)]
KINDS = pytest.mark.parametrize("centred,biased", [(True, True), (True, False), (False, False)],
                                ids=["layernorm", "layernorm without bias", "rmsnorm"])
EPS = 1e-5


def norm(x, w, b, centred):
    mean = x.mean(-1, keepdim=True) if centred else 0 * x[..., :1]
    rstd = (((x - mean) ** 2).mean(-1, keepdim=True) + EPS) ** -0.5
    out = (x - mean) * rstd * w + (0 if b is None else b)
    return (out, mean[:, 0], rstd[:, 0]) if centred else (out, rstd[:, 0])


def only_out(x, w, b, centred):
    return norm(x, w, b, centred)[0]


def forward(on, x, w, b, centred, branch=None, sum=None, out=None):
    """What norm_forward writes: (sum,) out, (mean,) rstd."""
    return run(on, "norm_forward", sum, out or Out(*x.shape, dtype=w.dtype), Out(len(x)) if centred else None,
               Out(len(x)), x, branch, w, b, EPS)


@KINDS
@pytest.mark.parametrize("N,C", SHAPES)
def test_forward_without_a_branch(on, dtype, N, C, centred, biased):
    x, w = numbers(N, C, dtype=dtype) + dtype.type(3), numbers(C, dtype=dtype, seed=1)
    b = numbers(C, dtype=dtype, seed=2) if biased else None
    within_budget(forward(on, x, w, b, centred), norm, x, w, b, centred)


@KINDS
@pytest.mark.parametrize("N,C", SHAPES)
def test_forward_normalises_the_rounded_sum(on, dtype, N, C, centred, biased):
    x, branch, w = numbers(N, C, dtype=dtype), numbers(N, C, dtype=dtype, seed=1), numbers(C, dtype=dtype, seed=2)
    b = numbers(C, dtype=dtype, seed=3) if biased else None
    sum, *rest = forward(on, x, w, b, centred, branch, Out(N, C, dtype=dtype))
    assert np.array_equal(sum, (x.astype(F32) + branch.astype(F32)).astype(dtype))
    within_budget(tuple(rest), norm, sum, w, b, centred)


@pytest.mark.parametrize("over", ["x", "branch"])
def test_forward_may_write_the_sum_over_an_input(on, dtype, over):
    N, C = 3, 53
    x, branch, w = numbers(N, C, dtype=dtype), numbers(N, C, dtype=dtype, seed=1), numbers(C, dtype=dtype, seed=2)
    apart = forward(on, x, w, None, True, branch, Out(N, C, dtype=dtype))
    shared = Out(N, C, dtype=dtype, fill=x if over == "x" else branch)
    args = (shared, branch) if over == "x" else (x, shared)
    out, mean, rstd = Out(N, C, dtype=dtype), Out(N), Out(N)
    run(on, "norm_forward", shared, out, mean, rstd, *args, w, None, EPS)
    for a, b in zip(apart, (shared, out, mean, rstd)):
        assert np.array_equal(a, b.array)


def test_forward_of_a_row_does_not_depend_on_the_others(on, dtype):
    x, w = numbers(7, 85, dtype=dtype), numbers(85, dtype=dtype, seed=1)
    whole, alone = forward(on, x, w, w, True), forward(on, x[4:5], w, w, True)
    for a, b in zip(whole, alone):
        assert a[4:5].tobytes() == b.tobytes()


def test_forward_at_the_ends_of_the_range(on):
    """Squares of 1e19 and 1e-30 leave f32 on both sides; a constant row has no deviation at all."""
    x = np.stack([numbers(33) * 1e18, numbers(33) * 1e-30, np.full(33, 7.5)]).astype(F32)
    w = numbers(33, seed=1)
    for row in x:       # one at a time: each has its own scale
        for centred in (True, False):
            within_budget(forward(on, row[None], w, w, centred), norm, row[None], w, w, centred)


@KINDS
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("N,C", SHAPES[1:])
def test_backward_is_the_gradient(on, dtype, N, C, centred, biased, residual):
    x, dout, w = numbers(N, C, dtype=dtype), numbers(N, C, dtype=dtype, seed=1), numbers(C, dtype=dtype, seed=2)
    dres = numbers(N, C, dtype=dtype, seed=3) if residual else None
    *_, rstd = stats = forward(on, x, w, None, centred)[1:]
    for accumulate in (False, True):
        dw, db = Out(C), Out(C) if biased else None
        dw_before, db_before = dw.array.copy(), db.array.copy() if biased else None
        got = run(on, "norm_backward", Out(N, C, dtype=dtype), dw, db, dout, dres, x, w,
                  stats[0] if centred else None, rstd, accumulate)

        def slopes(dout, x, w, b, dres, dw_before, db_before):
            wrt = (0, 1, 2) if biased else (0, 1)
            dx, dw, *db = gradient(only_out, *wrt)(dout, x, w, b, centred)
            dx = dx if dres is None else dx + dres
            dw = dw + dw_before if accumulate else dw
            return (dx, dw, *(d + db_before if accumulate else d for d in db))
        within_budget(got, slopes, dout, x, w, w if biased else None, dres, dw_before, db_before)


def test_backward_of_a_row_of_one_is_nothing(on):
    """(x - mean) is 0 whatever x is; what is left is rounding, times rstd."""
    x, w = numbers(5, 1), numbers(1, seed=1)
    _, mean, rstd = forward(on, x, w, w, True)
    dx = run(on, "norm_backward", Out(5, 1), None, None, x, None, x, w, mean, rstd, False)
    assert np.abs(dx / rstd[:, None]).max() < 1e-7


def test_backward_without_parameter_gradients_and_over_the_residual(on, dtype):
    """A frozen norm has no dw and db; dx may be dres. The numbers are those of the plain call."""
    N, C = 5, 71
    x, dout, w = numbers(N, C, dtype=dtype), numbers(N, C, dtype=dtype, seed=1), numbers(C, dtype=dtype, seed=2)
    dres = numbers(N, C, dtype=dtype, seed=3)
    _, mean, rstd = forward(on, x, w, None, True)
    apart = run(on, "norm_backward", Out(N, C, dtype=dtype), Out(C), Out(C), dout, dres, x, w, mean, rstd, False)
    shared = Out(N, C, dtype=dtype, fill=dres)
    run(on, "norm_backward", shared, None, None, dout, shared, x, w, mean, rstd, False)
    assert np.array_equal(apart[0], shared.array)


@pytest.mark.parametrize("N,C", [(301, 129), (1, 40000), (700, 61)])
def test_bits_do_not_depend_on_threads(name, dtype, N, C):
    x, dout, w = numbers(N, C, dtype=dtype), numbers(N, C, dtype=dtype, seed=1), numbers(C, dtype=dtype, seed=2)
    mean, rstd = x.astype(F32).mean(1), np.ones(N, F32)
    same_bits_for_any_threads(name, "norm_forward", lambda: (
        Out(N, C, dtype=dtype), Out(N, C, dtype=dtype), Out(N), Out(N), x, dout, w, w, EPS))
    same_bits_for_any_threads(name, "norm_backward", lambda: (
        Out(N, C, dtype=dtype), Out(C), Out(C), dout, None, x, w, mean, rstd, True))


def test_backward_sums_many_rows_as_well_as_few(on):
    """10,007 rows of ones: a running sum in bf16, or one that loses a block, would not give 10,007."""
    N, C = 10007, 3
    ones = np.ones((N, C), BF16)
    _, _, db = run(on, "norm_backward", Out(N, C, dtype=BF16), Out(C), Out(C), ones, None, ones, np.ones(C, BF16),
                   np.zeros(N, F32), np.ones(N, F32), False)
    assert db.tolist() == [N] * C
