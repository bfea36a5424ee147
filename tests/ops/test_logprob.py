"""logprob: log-probabilities of targets, log-sums and entropies of rows of logits, and the way back."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from common import F32, I32, Out, gradient, numbers, run, same_bits_for_any_threads, within_budget

# N, V, vocab: one block of columns, several, and the ends of registers and blocks
SHAPES = [(1, 1, 1), (2, 7, 5), (5, 64, 64), (3, 1031, 1024), (2, 4099, 3001), (1, 2050, 2049)]
PADDING = np.nan    # never read, and 0 in the gradient


def logprob(logits, targets, vocab, temperature):
    z = logits[:, :vocab] / temperature
    lse = z.logsumexp(-1)
    p = (z - lse[:, None]).exp()
    logp = z.gather(1, targets.clamp(min=0)[:, None])[:, 0] - lse
    return torch.where(targets < 0, 0 * logp, logp), lse, lse - (p * z).sum(-1)


def draw(N, V, vocab, scale=3.0):
    logits = numbers(N, V, scale=scale)
    logits[:, vocab:] = PADDING
    targets = np.random.default_rng(1).integers(0, vocab, N, dtype=I32)
    targets[1::3] = -1
    return logits, targets


def forward(on, logits, targets, vocab, temperature=1.0, entropy=True):
    N = len(logits)
    return run(on, "logprob_forward", Out(N), Out(N), Out(N) if entropy else None, logits, targets, vocab, temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("N,V,vocab", SHAPES)
def test_forward_is_the_formula(on, N, V, vocab, temperature):
    logits, targets = draw(N, V, vocab)
    got = forward(on, logits, targets, vocab, temperature)
    within_budget(got, logprob, logits, targets, vocab, temperature)
    assert not got[0][targets < 0].any()
    without = forward(on, logits, targets, vocab, temperature, entropy=False)
    assert np.array_equal(got[0], without[0]) and np.array_equal(got[1], without[1])


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_forward_does_not_overflow(on, shift):
    logits, targets = draw(3, 3001, 3001)
    got = forward(on, logits + F32.type(shift), targets, 3001)
    within_budget(got, logprob, logits + F32.type(shift), targets, 3001, 1.0)


@pytest.mark.parametrize("order", [1, -1])
def test_forward_of_a_wide_rising_or_falling_row(on, order):
    """The maximum moves in every block, or is in the first; the smallest terms vanish beside it."""
    logits = np.linspace(-500, 500, 5003, dtype=F32)[::order][None].copy()
    targets = np.array([17], I32)
    within_budget(forward(on, logits, targets, 5003), logprob, logits, targets, 5003, 1.0)


@pytest.mark.parametrize("allowed", [0, 3, 1500, 3000])
def test_forbidden_tokens_have_no_weight(on, allowed):
    """Logits of -inf, whole blocks of them: all that is left is one token, or two that are equal."""
    logits = np.full((2, 3001), -np.inf, F32)
    logits[0, allowed] = 2.5
    logits[1, [allowed, (allowed + 1100) % 3001]] = -7
    targets = np.full(2, allowed, I32)
    logp, lse, entropy = forward(on, logits, targets, 3001)
    np.testing.assert_allclose(logp, [0, -np.log(2)], atol=1e-6)
    np.testing.assert_allclose(lse, [2.5, -7 + np.log(2)], atol=1e-6)
    np.testing.assert_allclose(entropy, [0, np.log(2)], atol=1e-6)
    one = np.ones(2, F32)
    dlogits = run(on, "logprob_backward", Out(*logits.shape), logits, one, None, one, lse, entropy, targets, 3001, 1.0)
    exact = np.zeros_like(logits)
    exact[1, allowed], exact[1, (allowed + 1100) % 3001] = 0.5, -0.5
    np.testing.assert_allclose(dlogits, exact, atol=1e-6)


@pytest.mark.parametrize("bad", [0, 2999])
def test_a_nan_shows(on, bad):
    logits = np.full((1, 3000), -np.inf, F32)
    logits[0, bad] = np.nan
    assert np.isnan(forward(on, logits, np.array([5], I32), 3000)[1])


def weighted(logits, a, z, e, targets, vocab, temperature):
    logp, lse, entropy = logprob(logits, targets, vocab, temperature)
    return (a * logp).sum() + (z * lse).sum() + (e * entropy).sum()


@pytest.mark.parametrize("given", ["a", "az", "ae", "aze"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("N,V,vocab", SHAPES[1:])
def test_backward_is_the_gradient(on, dtype, N, V, vocab, temperature, given):
    logits, targets = draw(N, V, vocab)
    _, lse, entropy = forward(on, logits, targets, vocab, temperature)
    a, z, e = (numbers(N, seed=i) if name in given else None for i, name in enumerate("aze"))
    got = run(on, "logprob_backward", Out(N, V, dtype=dtype), logits, a, z, e, lse, entropy if e is not None else None,
              targets, vocab, temperature)

    def slopes(logits, *rest):
        one = torch.ones((), dtype=logits.dtype)
        return torch.nan_to_num(gradient(weighted, 0)(one, logits, *rest)[0])
    none = np.zeros(N, F32)
    within_budget(got, slopes, logits, *(none if s is None else s for s in (a, z, e)), targets, vocab, temperature)
    assert not got[:, vocab:].astype(F32).any()


def test_backward_of_a_certain_token_is_nothing(on):
    """p is 1: what is left is the rounding of the log-sum."""
    logits, targets = numbers(7, 3, scale=3), np.zeros(7, I32)
    _, lse, _ = forward(on, logits, targets, 1, 0.7)
    got = run(on, "logprob_backward", Out(7, 3), logits, numbers(7), None, None, lse, None, targets, 1, 0.7)
    assert np.abs(got).max() < 1e-6


def test_backward_may_be_written_over_the_logits(on):
    logits, targets = draw(5, 1031, 1025)
    logp, lse, entropy = forward(on, logits, targets, 1025, 0.7)
    a, z, e = (numbers(5, seed=i) for i in range(3))
    rest = (a, z, e, lse, entropy, targets, 1025, 0.7)
    apart = run(on, "logprob_backward", Out(*logits.shape), logits, *rest)
    shared = Out(*logits.shape, fill=logits)
    run(on, "logprob_backward", shared, shared, *rest)
    assert np.array_equal(apart, shared.array)


def test_exp_is_within_two_ulp_over_its_whole_range(on):
    """With lse = 0 and a slope of 1 by it, the gradient of one logit x is e^x itself."""
    x = np.concatenate([np.linspace(-87.3, 88.72, 200003), np.geomspace(1e-38, 1, 1009), -np.geomspace(1e-38, 1, 1009)])
    x = x.astype(F32)[:, None]
    zero, one, targets = np.zeros(len(x), F32), np.ones(len(x), F32), np.full(len(x), -1, I32)

    def exp(x):
        n = len(x)
        return run(on, "logprob_backward", Out(n, 1), x, zero[:n], one[:n], None, zero[:n], None, targets[:n], 1, 1.0)
    exact = np.exp(x.astype(np.float64))
    error = np.abs(exp(x) - exact) / np.spacing(exact.astype(F32)).astype(np.float64)
    assert error.max() <= 2
    ends = np.array([-np.inf, -1e30, -104, -100, 89, 1e30, np.inf, np.nan], F32)[:, None]
    got = exp(ends)[:, 0]
    assert got[[0, 1, 2]].tolist() == [0, 0, 0] and got[[4, 5, 6]].tolist() == [np.inf] * 3 and np.isnan(got[7])
    assert abs(got[3] - np.exp(-100.0)) <= 1.5e-45      # a denormal: one unit of the smallest


def test_bits_do_not_depend_on_threads(name, dtype):
    logits, targets = draw(37, 1500, 1201)
    N, V = logits.shape
    one = np.ones(N, F32)
    same_bits_for_any_threads(name, "logprob_forward", lambda: (
        Out(N), Out(N), Out(N), logits, targets, 1201, 0.7))
    same_bits_for_any_threads(name, "logprob_backward", lambda: (
        Out(N, V, dtype=dtype), logits, one, one, one, one, one, targets, 1201, 0.7))
