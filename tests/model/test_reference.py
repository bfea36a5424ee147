"""The engine against the PyTorch reference in float64: numbers, logits and gradients."""

import numpy as np
import pytest
import torch
from parity import (
    CASES,
    TINY,
    Arrays,
    batch,
    engine,
    grads,
    packed,
    reference,
    reference_grads,
    reference_numbers,
    slopes,
    tiny,
    weights,
    worst,
)

import llmc

FLOAT32 = 1e-4  # what ||difference|| / ||reference|| may be, whatever the tensor


def away(got: np.ndarray, wanted: torch.Tensor | np.ndarray) -> float:
    wanted = np.asarray(wanted.detach() if isinstance(wanted, torch.Tensor) else wanted)
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def assert_same_grads(
    config: llmc.Config, got: Arrays, wanted: Arrays, budget: float = FLOAT32
) -> None:
    distance, part = worst(config, got, wanted)
    assert distance < budget, f"{part} is {distance:.1e} away, wanted at most {budget:.0e}"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("B, T", [(3, 17), (1, 1)])
@pytest.mark.parametrize("name, head", CASES)
def test_numbers_and_gradients_are_the_references(name, head, B, T, recompute):
    config = tiny(name, head)
    params = weights(config)
    tokens, targets = batch(config, B, T)
    targets[0, 0] = 5
    model, ref = engine(config, params, B, T, recompute=recompute), reference(config, params)
    wanted = reference_numbers(ref, tokens, targets)
    got = model.forward(tokens, targets)
    assert got.keys() == wanted.keys()
    for number in wanted:
        assert away(got[number], wanted[number]) < FLOAT32, number
    given = slopes(config, B, T)
    model.backward(given)
    assert_same_grads(config, grads(model), reference_grads(ref, wanted, given))


@pytest.mark.parametrize("name", TINY)
def test_logits_are_the_references(name):
    config = tiny(name)
    params = weights(config)
    tokens, _ = batch(config, 3, 13)
    model = engine(config, params, 3, 13, train=False)
    model.score(tokens)
    wanted = reference(config, params)(torch.tensor(tokens).long()).detach().numpy()
    assert away(model.logits(0, 39).reshape(wanted.shape), wanted) < FLOAT32
    assert np.array_equal(model.logits(7, 5), model.logits(0, 39)[7:12])


@pytest.mark.parametrize("names", ["logp", "lse", "entropy", "lse entropy", "logp entropy"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_each_slope_is_autograds(names, temperature):
    config = tiny("llama, grouped")
    params = weights(config)
    tokens, targets = batch(config, 2, 11)
    model, ref = engine(config, params, 2, 11), reference(config, params)
    model.set_temperature(temperature)
    wanted = reference_numbers(ref, tokens, targets, temperature)
    got = model.forward(tokens, targets)
    for number in wanted:
        assert away(got[number], wanted[number]) < FLOAT32, number
    given = slopes(config, 2, 11, names)
    model.backward(given)
    assert_same_grads(config, grads(model), reference_grads(ref, wanted, given))


@pytest.mark.parametrize("name, head", CASES)
def test_documents_in_one_row_do_not_see_each_other(name, head):
    """Packed rows against the reference's masks, and against the documents by themselves."""
    config = tiny(name, head)
    params, B, T, length = weights(config), 2, 15, 5
    tokens, targets = batch(config, B, T)
    where, given = packed(B, T, length), slopes(config, B, T)
    model, ref = engine(config, params, B * T // length, T), reference(config, params)
    wanted = reference_numbers(ref, tokens, targets, **where)
    together = model.forward(tokens, targets, **where)
    model.backward(given)
    packed_grads = grads(model)
    assert_same_grads(config, packed_grads, reference_grads(ref, wanted, given))

    def alone(x):
        return np.ascontiguousarray(x.reshape(-1, length))

    separate = model.forward(alone(tokens), alone(targets))
    model.backward({number: alone(slope) for number, slope in given.items()})
    for number in wanted:
        assert away(together[number], wanted[number]) < FLOAT32, number
        assert away(alone(together[number]), separate[number]) < 1e-6, number
    assert_same_grads(config, packed_grads, grads(model), 1e-5)


def test_a_position_without_a_target_teaches_nothing():
    config = tiny("gpt2")
    tokens, targets = batch(config, 2, 9)
    targets[1] = -1
    model = engine(config, weights(config), 2, 9)
    given = slopes(config, 2, 9, "logp")
    assert not model.forward(tokens, targets)["logp"][targets < 0].any()
    model.backward(given)
    with_both, learned = grads(model), (targets[:1] >= 0)
    model.forward(tokens[:1], targets[:1])
    model.backward({"logp": given["logp"][:1] * learned})
    for name, grad in grads(model).items():
        assert np.array_equal(with_both[name], grad), name
    assert np.abs(with_both["h.0.mlp.up.weight"]).max() > 0
    model.forward(tokens, np.full_like(targets, -1))
    model.backward(given)
    assert not any(grad.any() for grad in grads(model).values())


def test_the_padding_of_the_vocabulary_has_no_gradient():
    config = tiny("gpt2")
    assert config.padded_vocab_size == 128
    tokens, targets = batch(config, 2, 9)
    model = engine(config, weights(config), 2, 9)
    model.train(tokens, targets, slopes(config, 2, 9))
    assert not model.grad("wte.weight")[config.vocab_size :].any()
    assert model.grad("wte.weight")[: config.vocab_size].any(axis=1).all()


def test_gpt2_124m_agrees_with_the_reference():
    config = llmc.Config.preset("gpt2")
    params = weights(config, spread=0.02)
    model = engine(config, params, 2, 64)
    tokens, targets = batch(config, 2, 64)
    given = {"logp": np.full((2, 64), -1 / 128, np.float32)}
    got = model.train(tokens, targets, given)
    logits = model.logits(0, 128)
    ref = reference(config, params, torch.float32)
    with torch.no_grad():
        wanted = ref(torch.tensor(tokens).long()).reshape(128, -1).numpy()
    assert away(logits, wanted) < FLOAT32
    wanted = reference_numbers(ref, tokens, targets)
    for number in wanted:
        assert away(got[number], wanted[number]) < FLOAT32, number
    assert_same_grads(config, grads(model), reference_grads(ref, wanted, given))
