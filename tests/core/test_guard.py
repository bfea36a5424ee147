"""csrc/optim.c: which updates a run refuses."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def guard(core: ModuleType, z: float = 8.0, updates: int = 200, wobble: float = 0.0) -> Any:
    """After `updates` ordinary ones: losses about 2, norms about 1, with that relative deviation."""
    made = core.Guard(z)
    for a, b in 1 + wobble * np.random.default_rng(5).standard_normal((updates, 2)):
        made.enter(2 * a, b)
    return made


def verdict(of: Any, loss: float = 2.0, norm: float = 1.0) -> str:
    return of.judge(loss, norm)[0].name


@pytest.mark.parametrize("wobble", [0, 0.03])
def test_a_tripled_norm_passes_and_a_tenfold_one_is_a_spike(core, wobble):
    calm = guard(core, wobble=wobble)
    assert verdict(calm, norm=3) == "PASS"
    assert verdict(calm, norm=10) == "NORM_SPIKE"


def test_at_z_8_the_norm_s_limit_is_five_means_and_the_loss_s_1_08(core):
    calm = guard(core)
    assert [verdict(calm, norm=n) for n in (4.99, 5.01)] == ["PASS", "NORM_SPIKE"]
    assert [verdict(calm, loss=x) for x in (2.159, 2.161)] == ["PASS", "LOSS_SPIKE"]
    assert calm.judge(2.2, 1)[1] == pytest.approx(10)
    assert calm.judge(2, 6)[1] == pytest.approx(10)


def test_wide_windows_count_in_their_own_deviations(core):
    wide = guard(core, wobble=0.1, updates=core.GUARD_WINDOW)
    loss = 2 + 0.2 * np.random.default_rng(5).standard_normal((core.GUARD_WINDOW, 2))[:, 0]
    limit = loss.mean() + 8 * loss.std()
    assert [verdict(wide, loss=limit + x) for x in (-1e-9, 1e-9)] == ["PASS", "LOSS_SPIKE"]


def test_low_values_are_no_spikes(core):
    assert verdict(guard(core), loss=0, norm=0) == "PASS"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("z", [0, 8])
def test_what_is_not_finite_is_refused_from_the_first_update_on(core, z, bad):
    assert verdict(core.Guard(z), loss=bad) == "LOSS_NOT_FINITE"
    assert verdict(core.Guard(z), norm=bad) == "NORM_NOT_FINITE"


def test_spikes_are_judged_only_after_enough_updates_and_with_a_z(core):
    assert verdict(guard(core, updates=core.GUARD_LEAST - 1), loss=99, norm=99) == "PASS"
    assert verdict(guard(core, updates=core.GUARD_LEAST), loss=99) == "LOSS_SPIKE"
    assert verdict(guard(core, z=0), loss=99, norm=99) == "PASS"


def test_judging_enters_nothing(core):
    calm = guard(core)
    for _ in range(2 * core.GUARD_WINDOW):
        assert verdict(calm, norm=10) == "NORM_SPIKE"


def test_the_window_forgets(core):
    """A norm that has tripled for a whole window is what a spike is five times of."""
    risen = guard(core)
    for _ in range(core.GUARD_WINDOW):
        risen.enter(2, 3)
    assert [verdict(risen, norm=n) for n in (9, 14.9, 15.1)] == ["PASS", "PASS", "NORM_SPIKE"]
