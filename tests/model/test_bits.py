"""What must be equal to the last bit, and what must not matter."""

import numpy as np
import pytest
from parity import (
    CASES,
    TINY,
    as_dtype,
    batch,
    engine,
    grads,
    packed,
    slopes,
    tiny,
    weights,
    worst,
)

import llmc
from llmc import _core

DEVICES = _core.device_list()


def run(config, tokens, targets, given, B=None, T=None, **how):
    """Numbers and gradients of one forward and backward."""
    where = how.pop("where", {})
    model = engine(config, weights(config), B or len(tokens), T or tokens.shape[1], **how)
    found = model.forward(tokens, targets, **where)
    model.backward(given)
    return {**found, **grads(model)}


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    different = [name for name in a if not np.array_equal(a[name], b[name])]
    assert not different
    assert all(np.isfinite(array).all() for array in a.values())


@pytest.mark.parametrize("name", TINY)
def test_bits_do_not_depend_on_the_number_of_threads(name):
    config = tiny(name)
    tokens, targets = batch(config, 5, 19)
    given, where = slopes(config, 5, 19), packed(5, 19, 7)
    one = run(config, tokens, targets, given, threads=1, where=where)
    for threads in (2, 3, 8):
        assert_same_bits(one, run(config, tokens, targets, given, threads=threads, where=where))


@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny"])
def test_bits_do_not_depend_on_threads_where_work_is_worth_sharing(preset):
    config = llmc.Config.preset(preset, vocab_size=1009, n_layer=2)
    tokens, targets = batch(config, 3, 131)
    given = slopes(config, 3, 131)
    one = run(config, tokens, targets, given, threads=1)
    for threads in (2, 3, 8):
        assert_same_bits(one, run(config, tokens, targets, given, threads=threads))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("head", ["lm", "scalar"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_recomputing_activations_changes_no_bit(name, head, dtype):
    config = tiny(name, head)
    tokens, targets = batch(config, 3, 17)
    given = slopes(config, 3, 17)
    params = {k: as_dtype(v, dtype) for k, v in weights(config).items()}
    found = []
    for recompute in (False, True):
        model = engine(config, params, 3, 17, dtype=dtype, recompute=recompute)
        found.append({**model.forward(tokens, targets), **(model.backward(given) or grads(model))})
    assert_same_bits(*found)


def test_recomputing_takes_less_memory():
    model = llmc.Model(llmc.Device("cpu", 1), llmc.Config.preset("gpt2"))
    assert model.plan_bytes(4, 256, recompute=True) < 0.5 * model.plan_bytes(4, 256)


@pytest.mark.parametrize("name", TINY)
def test_training_in_one_pass_is_forward_then_backward(name):
    config = tiny(name)
    tokens, targets = batch(config, 3, 17)
    given = slopes(config, 3, 17)
    model = engine(config, weights(config), 3, 17)
    numbers = model.train(tokens, targets, given)
    assert_same_bits({**numbers, **grads(model)}, run(config, tokens, targets, given))


@pytest.mark.parametrize("name", TINY)
def test_scoring_needs_no_gradients_and_gives_the_same_numbers(name):
    config = tiny(name)
    tokens, targets = batch(config, 3, 17)
    score = engine(config, weights(config), 3, 17, train=False).score(tokens, targets)
    assert_same_bits(score, engine(config, weights(config), 3, 17).forward(tokens, targets))


def test_a_smaller_batch_runs_in_a_larger_plan():
    config = tiny("llama, grouped")
    tokens, targets = batch(config, 2, 11)
    given = slopes(config, 2, 11)
    model = engine(config, weights(config), 4, 29)
    model.train(*batch(config, 4, 29, seed=1), slopes(config, 4, 29))
    found = {**model.train(tokens, targets, given), **grads(model)}
    assert_same_bits(found, run(config, tokens, targets, given))
    more_rows = batch(config, 10, 11, seed=1)
    model.train(*more_rows, slopes(config, 10, 11))


@pytest.mark.parametrize("name", TINY)
def test_a_rows_numbers_do_not_depend_on_the_other_rows(name):
    config = tiny(name)
    tokens, targets = batch(config, 7, 13)
    model = engine(config, weights(config), 7, 13, train=False)
    together = model.score(tokens, targets)
    for row in range(7):
        alone = model.score(tokens[row : row + 1], targets[row : row + 1])
        for number in together:
            assert np.array_equal(together[number][row], alone[number][0]), (number, row)


@pytest.mark.parametrize("name", TINY)
def test_a_token_does_not_see_what_comes_after_it(name):
    config = tiny(name)
    tokens, targets = batch(config, 2, 16)
    model = engine(config, weights(config), 2, 16, train=False)
    before = model.score(tokens, targets)
    tokens[:, 9:] = (tokens[:, 9:] + 1) % config.vocab_size
    after = model.score(tokens, targets)
    for number in before:
        assert np.array_equal(before[number][:, :9], after[number][:, :9])
        assert not np.isclose(before[number][:, 9:], after[number][:, 9:]).all(axis=1).any()


@pytest.mark.parametrize("name, head", CASES)
def test_micro_batches_add_up_to_one_batch(name, head):
    config = tiny(name, head)
    tokens, targets = batch(config, 6, 13)
    given = slopes(config, 6, 13)
    model = engine(config, weights(config), 6, 13)
    model.train(tokens, targets, given)
    whole = grads(model)
    for start in (0, 2, 4):
        rows = slice(start, start + 2)
        part = {number: slope[rows] for number, slope in given.items()}
        model.train(tokens[rows], targets[rows], part, accumulate=start > 0)
    distance, part = worst(config, grads(model), whole)
    assert distance < 1e-6, part


def test_a_head_too_wide_for_one_piece_adds_up():
    """530,000 symbols: 74 positions take two chunks of logits, 37 take one."""
    config = llmc.Config.preset(
        "gpt2-tiny", vocab_size=530_000, padded_vocab_size=530_000, n_layer=1, n_embd=8, n_head=1
    )
    tokens, targets = batch(config, 2, 37)
    given = slopes(config, 2, 37)
    model = engine(config, weights(config), 2, 37)
    numbers = model.train(tokens, targets, given)
    whole = grads(model)
    model.forward(tokens, targets)
    model.backward(given)
    assert_same_bits(whole, grads(model))
    for row in (0, 1):
        slope = {number: slope[row : row + 1] for number, slope in given.items()}
        part = tokens[row : row + 1], targets[row : row + 1], slope
        found = model.train(*part, accumulate=row > 0)
        assert_same_bits(found, {name: array[row : row + 1] for name, array in numbers.items()})
    distance, part = worst(config, grads(model), whole)
    assert distance < 1e-6, part


@pytest.mark.parametrize("name", DEVICES)
def test_devices_agree(name):
    config = tiny("llama, grouped")
    tokens, targets = batch(config, 3, 17)
    given = slopes(config, 3, 17)
    plain = run(config, tokens, targets, given, device="cpu:plain")
    found = run(config, tokens, targets, given, device=name)
    for key in plain:
        assert np.linalg.norm(found[key] - plain[key]) < 1e-5 * np.linalg.norm(plain[key]), key


def test_the_same_seed_draws_the_same_weights_and_another_does_not():
    config = tiny("gpt2")
    drawn = []
    for seed, threads in ((7, 1), (7, 3), (8, 1)):
        model = llmc.Model(llmc.Device("cpu", threads), config)
        model.init(seed)
        drawn.append({name: model.get(name) for name in model.names})
    assert_same_bits(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0]["wpe.weight"], drawn[2]["wpe.weight"])
    assert np.std(drawn[0]["h.1.mlp.up.weight"]) == pytest.approx(0.02, rel=0.05)
    assert np.std(drawn[0]["h.1.mlp.down.weight"]) == pytest.approx(0.02 / 6**0.5, rel=0.05)
    assert not drawn[0]["h.1.mlp.down.bias"].any() and (drawn[0]["ln_f.weight"] == 1).all()
