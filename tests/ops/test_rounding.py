"""Stochastic rounding of bf16 weights: to a neighbour, right on average, by numbers of seed, stream and place alone."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from common import BF16, F32, Out, apply, device, numbers, run, same_bits_for_any_threads
from test_optim import NEAREST, SETTINGS, adamw, as_stored

from llmc import LlmcError, _core

SOME = _core.Rounding(seed=1, stream=2)


def rounded(on: Any, x: np.ndarray, how: Any = SOME) -> np.ndarray:
    """With a learning rate of 0 the masters stay what they are, and the weights are these, rounded."""
    n = x.size
    w, master, *_ = run(on, "adamw", Out(n, dtype=BF16), Out(n, fill=x), Out(n, fill=0), Out(n, fill=0),
                        np.zeros(n, F32), None, _core.AdamW(**SETTINGS | dict(lr=0.0), step=1), how)
    assert np.array_equal(master, x, equal_nan=True)
    return w


def neighbours(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest bf16, the one on the other side, and the chance that makes the mean of both x. By ml_dtypes."""
    near = x.astype(BF16)
    beyond = np.where(x > near.astype(F32), np.inf, -np.inf).astype(BF16)
    other = np.where(x == near.astype(F32), near, np.nextafter(near, beyond))
    step = other.astype(np.float64) - near.astype(np.float64)
    chance = np.divide(x - near.astype(np.float64), step, out=np.zeros(x.shape), where=step != 0)
    return near, other, chance


def magnitudes(count: int) -> np.ndarray:
    """Of both signs and all sizes that bf16 has, those below 2^-126 among them."""
    rng = np.random.default_rng(0)
    return (rng.choice([-1, 1], count) * rng.uniform(1, 2, count) * 2.0 ** rng.integers(-130, 127, count)).astype(F32)


def test_a_number_becomes_one_of_its_neighbours(on):
    x = magnitudes(10007)
    near, other, _ = neighbours(x)
    got = rounded(on, x)
    assert ((got == near) | (got == other)).all()
    assert 0.1 < (got != near).mean() < 0.4


def test_what_bf16_holds_stays(on):
    x = np.concatenate([magnitudes(1009).astype(BF16), np.array([0, 1, -1, 3.3895314e38], BF16)]).astype(F32)
    assert np.array_equal(rounded(on, x).astype(F32), x)
    assert np.isnan(rounded(on, np.array([np.nan, 1], F32)).astype(F32)).tolist() == [True, False]


@pytest.mark.parametrize("over", ["elements", "streams"])
def test_the_chances_make_the_mean_right(on, over):
    """Forty numbers, each rounded many times: at other places of one call, or at one place in other streams."""
    x = np.concatenate([magnitudes(38), F32.type([1 + 1 / 65536, 1 - 1 / 256 + 1 / 131072])])
    near, other, chance = neighbours(x)
    assert (near != other).all() and 0 < chance.min() < 0.01
    if over == "elements":
        got = rounded(on, np.tile(x, 4096)).reshape(4096, -1)
    else:
        got = np.stack([rounded(on, x, _core.Rounding(seed=9, stream=s)) for s in range(512)])
    share = (got == other).mean(0)
    assert (np.abs(share - chance) < 5 * np.sqrt(chance * (1 - chance) / len(got))).all()


def test_places_streams_and_seeds_do_not_know_of_one_another(on):
    """A number halfway between two: as often up as down, whatever others do."""
    halfway = np.full(1 << 16, 1 + 2.0**-8, F32)

    def ups(seed: int, stream: int) -> np.ndarray:
        return np.where(rounded(on, halfway, _core.Rounding(seed, stream)).astype(F32) > 1, 1.0, -1.0)

    first = ups(1, 2)
    near = [np.roll(first, k) for k in (1, 2, 7, 8, 16)]
    for other in (ups(1, 3), ups(2, 2), ups(2**32 + 1, 2), ups(1, 2**32 + 2), *near):
        assert abs((first * other).mean()) < 5 / np.sqrt(first.size)


@pytest.mark.parametrize("first", [0, 1, 4, 7, 8, 128, 2**33 + 5])
def test_a_part_is_rounded_as_in_the_whole(name, first):
    """And by descend as by adamw, whatever the device."""
    x = numbers(1037)
    want = rounded(device("cpu:plain"), x, _core.Rounding(5, 6, first))
    for begin in (0, 1, 3, 8, 13, 128):
        how = _core.Rounding(5, 6, first + begin)
        assert np.array_equal(rounded(device(name), x[begin:], how), want[begin:])
        still, n = np.zeros_like(x[begin:]), x.size - begin
        w, _ = run(device(name), "descend", Out(n, dtype=BF16), Out(n, fill=x[begin:]), still, 1, 1, 0, how)
        assert np.array_equal(w, want[begin:])


def test_bits_do_not_depend_on_threads(name):
    x = numbers(100003)
    w = x.astype(BF16)
    same_bits_for_any_threads(name, "adamw", lambda: (
        Out(x.size, dtype=BF16, fill=w), None, Out(x.size, fill=0), Out(x.size, fill=0), x, None,
        _core.AdamW(**SETTINGS, step=3), SOME))
    same_bits_for_any_threads(name, "descend", lambda: (
        Out(x.size, dtype=BF16, fill=w), None, x, 0.1, 2, 0.1, _core.Rounding(1, 2, 3)))


def test_steps_too_small_for_bf16_are_made_on_average(on):
    """Weights without masters after 30 steps, each a twentieth of the distance to the next bf16: beside float64."""
    n, settings = 1 << 12, SETTINGS | dict(lr=4e-4, weight_decay=0.0)
    start = np.full(n, 1.5), np.zeros(n), np.zeros(n)

    def moved(how: str) -> np.ndarray:
        w, m, v, exact = Out(n, dtype=BF16, fill=1.5), Out(n, fill=0), Out(n, fill=0), start
        for step in range(1, 31):
            grad = 1 + 0.1 * numbers(n, seed=step)
            if how == "exact":
                exact = apply(adamw, (*exact, grad, *as_stored(**settings), step), torch.float64)
            else:
                run(on, "adamw", w, None, m, v, grad, None, _core.AdamW(**settings, step=step),
                    _core.Rounding(3, step) if how == "stochastic" else NEAREST)
        return 1.5 - (exact[0] if how == "exact" else w.array.astype(np.float64))

    wanted, found = moved("exact"), moved("stochastic")
    assert wanted.mean() > 0.01 and not moved("nearest").any()
    assert abs(found.mean() - wanted.mean()) < 5 * found.std() / np.sqrt(n)


def test_f32_weights_are_not_rounded(on):
    x = np.ones(3, F32)
    with pytest.raises(LlmcError, match="adamw: stochastic rounding is for weights of bf16, and these are f32"):
        run(on, "adamw", Out(3, fill=x), None, Out(3), Out(3), x, None, _core.AdamW(**SETTINGS, step=1), SOME)
    with pytest.raises(LlmcError, match="descend: the first weight has number -8, wanted 0 or more"):
        run(on, "descend", Out(3, dtype=BF16, fill=x), None, x, 1, 1, 0, _core.Rounding(1, 2, -8))
