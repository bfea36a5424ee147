"""csrc/sampler.c: filters against numpy, draws against the distribution, and the extremes."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

INF = float("inf")


def reference(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The same in float64 numpy, by masks over the ranking (logit falling, id rising)."""
    x = np.asarray(logits, np.float32).astype(np.float64)
    if temperature == 0:
        return np.eye(len(x))[np.argmax(x)]
    weight = np.exp((x - x.max()) / temperature)
    ranking = np.lexsort((np.arange(len(x)), -x))
    ranked = weight[ranking]
    keep = np.arange(len(x)) < (top_k or len(x))
    if top_p < 1:
        before = np.cumsum(ranked) - ranked     # the mass of those ranked above
        keep &= (before < top_p * ranked[keep].sum()) | (np.arange(len(x)) == 0)
    keep &= ranked >= min_p
    weight[ranking[~keep]] = 0
    return weight / weight.sum()


# Logits on a coarse grid, so that ties are common, with tokens that cannot come among them.
LOGITS = st.lists(
    st.one_of(st.integers(-8, 8).map(lambda n: n / 2), st.just(-INF)), min_size=1, max_size=40
).filter(lambda x: max(x) > -INF)


@given(
    logits=LOGITS,
    temperature=st.sampled_from([0, 0.125, 0.7, 1, 1.5, 100]),
    top_k=st.integers(0, 45),
    top_p=st.sampled_from([0, 0.1, 0.5, 0.9, 0.999, 1]),
    min_p=st.sampled_from([0, 0.01, 0.2, 1]),
)
@settings(max_examples=400, deadline=None)
def test_filters_agree_with_numpy(core, logits, temperature, top_k, top_p, min_p):
    how = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    got = core.sampler_probabilities(np.array(logits, np.float32), core.Sampling(**how))
    np.testing.assert_allclose(got, reference(logits, **how), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("vocab", [1, 2, 31, 50257])
def test_filters_agree_with_numpy_on_real_sizes(core, vocab):
    logits = np.random.default_rng(vocab).normal(size=vocab).astype(np.float32) * 4
    mixed = dict(temperature=0.7, top_k=99, top_p=0.8)
    for how in {}, dict(top_k=20), dict(top_p=0.9), dict(min_p=0.05), mixed:
        got = core.sampler_probabilities(logits, core.Sampling(**how))
        np.testing.assert_allclose(got, reference(logits, **how), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    "how",
    [
        {},
        dict(temperature=0.5),
        dict(top_k=5),
        dict(top_p=0.8),
        dict(min_p=0.1),
        dict(temperature=2, top_k=9),
    ],
)
def test_draws_follow_the_distribution(core, how):
    """Chi-square; the bound is passed once in 10^6 by a right sampler, and the seed is fixed."""
    logits = np.random.default_rng(7).normal(size=13).astype(np.float32)
    expected = 20000 * reference(logits, **how)
    tokens = core.sampler_draws(logits, core.Sampling(seed=11, **how), 3, range(20000))
    drawn = np.bincount(tokens, minlength=13)
    kept = expected > 0
    assert drawn[~kept].sum() == 0
    degrees = kept.sum() - 1
    chi_square = ((drawn - expected)[kept] ** 2 / expected[kept]).sum()
    wilson_hilferty = degrees * (1 - 2 / (9 * degrees) + 4.75 * np.sqrt(2 / (9 * degrees))) ** 3
    assert chi_square < wilson_hilferty


def test_a_draw_depends_on_seed_stream_and_position_alone(core):
    rows = np.random.default_rng(3).normal(size=(64, 101)).astype(np.float32)

    def draws(order, seed, stream):
        how = core.Sampling(seed=seed, top_p=0.95)
        return core.sampler_draws(rows[order], how, stream, list(order))

    forward = np.arange(64)
    tokens = np.array(draws(forward, 5, 0))
    assert (np.array(draws(forward[::-1], 5, 0)) == tokens[::-1]).all()
    assert (np.array(draws(forward[10:20], 5, 0)) == tokens[10:20]).all()
    for seed, stream in (6, 0), (5, 1), (5 + 2**40, 0):
        assert (np.array(draws(forward, seed, stream)) != tokens).any()


def test_a_filter_that_removes_nothing_changes_nothing(core):
    logits = np.random.default_rng(5).normal(size=77).astype(np.float32)
    plain = core.sampler_draws(logits, core.Sampling(seed=1), 0, range(200))
    for how in dict(top_k=77), dict(top_k=1000), dict(top_p=1.0), dict(min_p=1e-300):
        assert core.sampler_draws(logits, core.Sampling(seed=1, **how), 0, range(200)) == plain


@pytest.mark.parametrize(
    "logits, how, expected",
    [
        ([1, 3, 3, 2], dict(temperature=0), [0, 1, 0, 0]),
        ([-0.0, 0.0], dict(temperature=0), [1, 0]),
        ([0.0, -0.0, 0.0], dict(top_k=2), [0.5, 0.5, 0]),
        ([2, 2, 2, 2], dict(top_k=3), [1 / 3, 1 / 3, 1 / 3, 0]),
        ([2, 2, 2, 2], dict(top_p=0.5), [0.5, 0.5, 0, 0]),
        ([2, 2, 2, 2], dict(top_p=0), [1, 0, 0, 0]),
        ([2, 2, 1, 1], dict(min_p=1), [0.5, 0.5, 0, 0]),
        ([7], {}, [1]),
        ([-INF, -5, -INF], {}, [0, 1, 0]),
        ([-INF, 1, 1], dict(temperature=1e300), [0, 0.5, 0.5]),
        ([3e38, -3e38], {}, [1, 0]),
        ([1, 1 + 2**-20], dict(temperature=1e-320), [0, 1]),
    ],
)
def test_extremes(core, logits, how, expected):
    logits = np.array(logits, np.float32)
    got = core.sampler_probabilities(logits, core.Sampling(**how))
    assert got.tolist() == pytest.approx(expected, abs=1e-15)
    drawn = core.sampler_draws(logits, core.Sampling(**how), 0, range(50))
    assert set(drawn) <= set(np.flatnonzero(expected))


@pytest.mark.parametrize(
    "logits, how, expected",
    [
        ([0, float("nan")], {}, "the logit of token 1 is NaN"),
        ([0, float("nan")], dict(temperature=0), "the logit of token 1 is NaN"),
        ([0, 1, INF], {}, "the logit of token 2 is \\+inf"),
        ([-INF, -INF], {}, "all 2 logits are -inf: no token is left"),
        ([0], dict(temperature=-1), "temperature is -1; wanted 0 \\(greedy\\) or more"),
        ([0], dict(temperature=float("nan")), "temperature is -?nan; wanted"),
        ([0], dict(top_k=-1), "top_k is -1; wanted 0"),
        ([0], dict(top_p=1.5), "top_p is 1.5; wanted 0 to 1"),
        ([0], dict(min_p=-0.5), "min_p is -0.5; wanted 0"),
        ([], {}, "a sampler for 0 tokens"),
    ],
)
def test_what_means_nothing_is_a_sentence(core, logits, how, expected):
    with pytest.raises(RuntimeError, match=f"^{expected}"):
        core.sampler_probabilities(np.array(logits, np.float32), core.Sampling(**how))


def test_streams_beyond_their_range_are_refused(core):
    with pytest.raises(RuntimeError, match="^sampling stream 1048576; wanted 0 to 1048575$"):
        core.sampler_draws(np.zeros(2, np.float32), core.Sampling(), 1 << 20, [0])
