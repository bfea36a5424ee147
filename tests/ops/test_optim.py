"""The norm of a gradient, and the steps it takes: adamw; and Muon's nesterov, orthogonalize and descend."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from common import BF16, F32, Out, device, numbers, run, same_bits_for_any_threads, within_budget

from llmc import _core

SIZES = [(1,), (7,), (3, 5, 11), (129,), (32768,), (32769,), (100003,)]


@pytest.mark.parametrize("shape", SIZES)
def test_sum_squares_is_rounded_once(on, shape):
    x = numbers(*shape)
    exact = (x.astype(np.float64) ** 2).sum()
    assert run(on, "sum_squares", Out(1), x)[0] == pytest.approx(exact, rel=7e-8)


def test_sum_squares_keeps_small_numbers_beside_large_ones(on):
    """2^18 ones beside a 2^13: in f32 the sum is 2^26 from the start, and each one would be lost."""
    x = np.ones((1 << 18) + 1, F32)
    x[0] = 2**13
    assert run(on, "sum_squares", Out(1), x)[0] == 2**26 + 2**18


def test_sum_squares_counts_squares_too_small_for_f32(on):
    """3e-21 squared is a denormal f32 with twelve bits left; 40,009 of them are an ordinary number."""
    x = numbers(40009, scale=3e-21)
    exact = (x.astype(np.float64) ** 2).sum()
    assert run(on, "sum_squares", Out(1), x)[0] == pytest.approx(exact, rel=7e-8)


def test_sum_squares_shows_a_nan_and_an_infinity(on):
    x = numbers(40009)
    for bad in (np.nan, np.inf):
        x[40000] = bad
        got = run(on, "sum_squares", Out(1), x)[0]
        assert np.isnan(got) if np.isnan(bad) else got == np.inf


NEAREST = _core.Rounding()
SETTINGS = dict(lr=3e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_scale=0.25)


def adamw(w, m, v, grad, lr, beta1, beta2, eps, weight_decay, grad_scale, step):
    g = grad * grad_scale
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    update = m / (1 - beta1**step) / ((v / (1 - beta2**step)).sqrt() + eps)
    return w - lr * (update + weight_decay * w), m, v


def as_stored(**settings: float) -> list[float]:
    """The settings as the op sees them: f32."""
    return [float(F32.type(value)) for value in settings.values()]


@pytest.mark.parametrize("step", [1, 2, 1000])
@pytest.mark.parametrize("shape", SIZES[:5])
def test_adamw_is_the_formula(on, shape, step):
    w, m, v, grad = (numbers(*shape, seed=i, scale=s) for i, s in enumerate((1, 0.1, 0.1, 1)))
    v = np.abs(v)
    got = run(on, "adamw", Out(*shape, fill=w), None, Out(*shape, fill=m), Out(*shape, fill=v), grad, None,
              _core.AdamW(**SETTINGS, step=step), NEAREST)
    within_budget(got, adamw, w, m, v, grad, *as_stored(**SETTINGS), step)


@pytest.mark.parametrize("count", [1, 128, 131, 1031])
def test_adamw_decays_the_weights_of_blocks_that_the_table_names(on, count):
    w, m, v, grad = (numbers(count, seed=i, scale=s) for i, s in enumerate((1, 0.1, 0.1, 1)))
    v, table = np.abs(v), np.arange(-(-count // 128), dtype=np.uint8) % 3 % 2
    got = run(on, "adamw", Out(count, fill=w), None, Out(count, fill=m), Out(count, fill=v), grad, table,
              _core.AdamW(**SETTINGS, step=3), NEAREST)
    settings = dict(zip(SETTINGS, as_stored(**SETTINGS)))
    settings["weight_decay"] *= table.repeat(128)[:count]
    within_budget(got, adamw, w, m, v, grad, *settings.values(), 3)


def test_adamw_keeps_the_master_and_rounds_the_weight(on):
    """1e-4 a step is far below what a bf16 near 1 can hold; the master holds it."""
    start = numbers(131).astype(BF16)
    w, master, m, v = Out(131, dtype=BF16, fill=start), Out(131, fill=start), Out(131, fill=0), Out(131, fill=0)
    for step in range(1, 4):
        before = master.array.copy(), m.array.copy(), v.array.copy()
        grad, settings = numbers(131, seed=step), SETTINGS | dict(lr=1e-4)
        run(on, "adamw", w, master, m, v, grad, None, _core.AdamW(**settings, step=step), NEAREST)
        within_budget((master.array, m.array, v.array), adamw, *before, grad, *as_stored(**settings), step)
        assert np.array_equal(w.array, master.array.astype(BF16))


def test_weights_of_bf16_without_masters_are_the_formula_rounded(on):
    w, m, v, grad = (numbers(131, seed=i, scale=s) for i, s in enumerate((1, 0.1, 0.1, 1)))
    w, v = w.astype(BF16), np.abs(v)
    got = run(on, "adamw", Out(131, dtype=BF16, fill=w), None, Out(131, fill=m), Out(131, fill=v), grad, None,
              _core.AdamW(**SETTINGS, step=3), NEAREST)
    within_budget(got, adamw, w, m, v, grad, *as_stored(**SETTINGS), 3)
    settings = as_stored(lr=3e-2, scale=5.5, weight_decay=0.1)
    got = run(on, "descend", Out(131, dtype=BF16, fill=w), None, grad, *settings, NEAREST)
    within_budget(got, descend, w, grad, *settings)


def test_adamw_follows_torch(on):
    """Twenty steps beside torch.optim.AdamW in double."""
    w, m, v = Out(1031, fill=numbers(1031)), Out(1031, fill=0), Out(1031, fill=0)
    theirs = torch.nn.Parameter(torch.from_numpy(numbers(1031).astype(np.float64)))
    settings = SETTINGS | dict(grad_scale=1.0)
    optimizer = torch.optim.AdamW([theirs], lr=settings["lr"], betas=(settings["beta1"], settings["beta2"]),
                                  eps=settings["eps"], weight_decay=settings["weight_decay"])
    for step in range(1, 21):
        grad = numbers(1031, seed=step)
        theirs.grad = torch.from_numpy(grad.astype(np.float64))
        optimizer.step()
        run(on, "adamw", w, None, m, v, grad, None, _core.AdamW(**settings, step=step), NEAREST)
    assert np.abs(w.array - theirs.detach().numpy()).max() < 2e-6


def test_adamw_leaves_a_weight_without_gradient_alone(on):
    w = Out(17, fill=numbers(17))
    before = w.array.copy()
    run(on, "adamw", w, None, Out(17, fill=0), Out(17, fill=0), np.zeros(17, F32), None,
        _core.AdamW(**SETTINGS | dict(weight_decay=0.0), step=1), NEAREST)
    assert np.array_equal(w.array, before)


@pytest.mark.parametrize("shape", SIZES[:5])
def test_nesterov_is_the_formula(on, shape):
    grad, m = numbers(*shape, seed=1), numbers(*shape, seed=2)

    def nesterov(grad, m, momentum, grad_scale):
        m = momentum * m + grad * grad_scale
        return grad * grad_scale + momentum * m, m

    settings = as_stored(momentum=0.95, grad_scale=0.3)
    got = run(on, "nesterov", Out(*shape, fill=grad), Out(*shape, fill=m), *settings)
    within_budget(got, nesterov, grad, m, *settings)


def descend(w, direction, lr, scale, weight_decay):
    return w - lr * (scale * direction + weight_decay * w)


@pytest.mark.parametrize("shape", SIZES[:5])
def test_descend_is_the_formula(on, shape):
    w, direction = numbers(*shape, seed=1), numbers(*shape, seed=2)
    settings = as_stored(lr=3e-2, scale=5.5, weight_decay=0.1)
    got = run(on, "descend", Out(*shape, fill=w), None, direction, *settings, NEAREST)
    within_budget(got, descend, w, direction, *settings)


def test_descend_keeps_the_master_and_rounds_the_weight(on):
    start, direction, settings = numbers(131).astype(BF16), numbers(131, seed=1), as_stored(lr=1e-4, scale=1, weight_decay=0)
    w, master = Out(131, dtype=BF16, fill=start), Out(131, fill=start)
    for _ in range(3):
        before = master.array.copy()
        run(on, "descend", w, master, direction, *settings, NEAREST)
        within_budget(master.array, descend, before, direction, *settings)
        assert np.array_equal(w.array, master.array.astype(BF16))


def orthogonal(x):
    y = x / x.norm()
    for _ in range(5):
        gram = y @ y.T
        y = 3.4445 * y + (-4.7750 * gram + 2.0315 * gram @ gram) @ y
    return y


MATRICES = [(1, 1), (1, 7), (7, 1), (2, 3), (31, 31), (64, 32), (67, 131), (131, 67), (96, 257), (257, 96), (48, 48)]


def orthogonalized(on, x, bf16=False):
    return run(on, "orthogonalize", [Out(*x.shape, fill=x)], bf16)


@pytest.mark.parametrize("shape", MATRICES)
def test_orthogonalize_is_the_iteration(on, shape):
    x = numbers(*shape)
    within_budget(orthogonalized(on, x), orthogonal, x)


@pytest.mark.parametrize("shape", [(521, 523), (1100, 259), (647, 653)])
def test_orthogonalize_is_the_iteration_for_large_matrices(shape):
    x = numbers(*shape)
    within_budget(orthogonalized(device("cpu"), x), orthogonal, x)


@pytest.mark.parametrize("bf16", [False, True])
def test_orthogonalize_takes_matrices_as_if_each_were_alone(on, bf16):
    xs = [numbers(*shape) for shape in MATRICES] + [np.zeros((13, 29), F32), numbers(67, 131, seed=1)]
    together = run(on, "orthogonalize", [Out(*x.shape, fill=x) for x in xs], bf16)
    for x, got in zip(xs, together):
        assert got.tobytes() == orthogonalized(on, x, bf16).tobytes()


@pytest.mark.parametrize("bf16, large", [(False, (647, 653)), (True, (1031, 1049))])
def test_orthogonalize_takes_large_matrices_among_small_ones(bf16, large):
    """Large enough for all threads to work on one."""
    on, shapes = device("cpu"), [(67, 131), large, (1, 7), large, (131, 67)]
    xs = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    together = run(on, "orthogonalize", [Out(*x.shape, fill=x) for x in xs], bf16)
    for x, got in zip(xs, together):
        assert got.tobytes() == orthogonalized(device("cpu", 1), x, bf16).tobytes()


def test_orthogonalize_takes_no_matrices(on):
    assert run(on, "orthogonalize", [], False) == ()


def orthogonal_in_bf16(x):
    """Every product of numbers with eight bits: exact sums, rounded."""
    def rounded(y):
        return y.to(torch.bfloat16).to(x.dtype)

    y = rounded(x / x.norm())
    for step in range(5):
        gram = rounded(y @ y.T)
        y = rounded(3.4445 * torch.eye(len(y), dtype=x.dtype) - 4.7750 * gram + 2.0315 * rounded(gram @ gram)) @ y
        y = rounded(y) if step < 4 else y
    return y


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (31, 31), (32, 67), (67, 131), (96, 257)])
def test_orthogonalize_in_bf16_is_as_far_from_exact_as_rounding_makes_it(on, shape):
    """Roundings that fall the other way are amplified, so that two right answers differ by as much as each is wrong."""
    for x in (numbers(*shape), numbers(*shape).T.copy()):
        got = orthogonalized(on, x, True)
        exact, plain = (f(torch.from_numpy(x).double()).numpy() for f in (orthogonal, orthogonal_in_bf16))
        assert np.linalg.norm(got - exact) <= 2 * np.linalg.norm(plain - exact) + 0.01 * np.linalg.norm(exact)
        assert np.linalg.norm(got - exact) > 1e-5 * np.linalg.norm(exact)


@pytest.mark.slow
def test_orthogonalize_is_the_iteration_for_more_than_one_block_of_sums():
    x = numbers(1361, 2111)
    within_budget(orthogonalized(device("cpu"), x), orthogonal, x)


def test_orthogonalize_brings_singular_values_together(on):
    """Down to one in 500 of the norm, and whatever the scale."""
    left, right = (np.linalg.qr(numbers(37, 37, seed=i).astype(np.float64))[0] for i in (1, 2))
    values = np.geomspace(1 / 499, 1, 37)
    values[:-1] *= np.sqrt((1 - values[-1] ** 2 / 2) / 40)      # the norm stays that of the largest
    values = np.maximum(values, np.linalg.norm(values) / 499)
    for scale in (1e-15, 1, 1e15):
        x = (scale * left * values @ right).astype(F32)
        found = np.linalg.svd(orthogonalized(on, x).astype(np.float64))
        assert 0.67 < found.S.min() and found.S.max() < 1.21


def test_orthogonalize_leaves_zeros_alone(on):
    for bf16 in (False, True):
        assert not orthogonalized(on, np.zeros((5, 7), F32), bf16).any()
    x = numbers(9, 5)
    x[3], x[:, 1] = 0, 0
    got = orthogonalized(on, x)
    assert np.isfinite(got).all() and not got[3].any() and not got[:, 1].any()


@pytest.mark.parametrize("bad", [Out(5), Out(3, 0), Out(3, 5, dtype=BF16)], ids=["a line", "empty", "bf16"])
def test_orthogonalize_wants_matrices_and_touches_none_if_one_is_not(on, bad):
    good = Out(3, 5)
    before = good.array.copy()
    with pytest.raises(RuntimeError, match=r"orthogonalize: x\[1\] is \w+ \([0-9,]+\), wanted a matrix of f32"):
        run(on, "orthogonalize", [good, bad], False)
    assert np.array_equal(good.array, before)


def test_bits_do_not_depend_on_threads(name, dtype):
    x = numbers(100003)
    shapes = [(31, 37), (1, 1), (53, 7), (31, 37)] + [(131, 307), (307, 131)] * (name != "cpu:plain")
    same_bits_for_any_threads(name, "orthogonalize", lambda: (
        [Out(*shape, fill=numbers(*shape, seed=i)) for i, shape in enumerate(shapes)], dtype == BF16))
    same_bits_for_any_threads(name, "nesterov", lambda: (Out(x.size, fill=x), Out(x.size, fill=x), 0.95, 0.5))
    same_bits_for_any_threads(name, "descend", lambda: (
        Out(x.size, dtype=dtype, fill=x), Out(x.size, fill=x), x, 0.1, 2, 0.1, NEAREST))
    same_bits_for_any_threads(name, "sum_squares", lambda: (Out(1), x))
    same_bits_for_any_threads(name, "adamw", lambda: (
        Out(x.size, dtype=dtype, fill=x), Out(x.size, fill=x), Out(x.size, fill=0), Out(x.size, fill=0), x, None,
        _core.AdamW(**SETTINGS, step=3), NEAREST))
