"""The order of an epoch is computed, not stored."""
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

BIG = 2**40 + 12345


def test_the_order_visits_each_thing_once_for_every_n(core):
    for n in range(1, 2001):
        order = core.shuffle_all(seed_of(n), n % 7, n)
        assert np.array_equal(np.sort(order), np.arange(n)), f"n = {n}"


def seed_of(n: int) -> int:
    return n * 0x9E3779B97F4A7C15 % 2**64


@settings(max_examples=50, deadline=None)
@given(n=st.integers(BIG // 2, BIG), seed=st.integers(0, 2**64 - 1),
       indices=st.lists(st.integers(0, BIG // 2 - 1), min_size=2, unique=True))
def test_large_orders_stay_in_range_and_never_collide(core, n, seed, indices):
    visited = [core.shuffle_index(seed, 3, n, i) for i in indices]
    assert all(0 <= v < n for v in visited)
    assert len(set(visited)) == len(visited)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(20, 300), seed=st.integers(0, 2**64 - 2), epoch=st.integers(0, 1000))
def test_the_order_differs_by_seed_and_epoch(core, n, seed, epoch):
    order = core.shuffle_all(seed, epoch, n)
    assert not np.array_equal(order, core.shuffle_all(seed + 1, epoch, n))
    assert not np.array_equal(order, core.shuffle_all(seed, epoch + 1, n))
    assert np.array_equal(order, core.shuffle_all(seed, epoch, n))


def test_each_thing_goes_to_each_place_equally_often(core):
    n, epochs = 13, 4000
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), core.shuffle_all(1, epoch, n)] += 1
    expected = epochs / n
    chi2 = ((counts - expected) ** 2 / expected).sum()
    freedom = (n - 1) ** 2
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)     # five standard deviations


def test_neighbours_part(core):
    order = core.shuffle_all(5, 0, 10_000)
    steps = np.abs(np.diff(order))
    assert np.mean(steps) > 10_000 / 3 * 0.95     # uniform places: n / 3
    assert np.mean(steps == 1) < 10 * 2 / 10_000
