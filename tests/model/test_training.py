"""Steps of the trainer against the same recipe in PyTorch: losses, gradient norms and weights."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from dev.reference.train import Recipe, lr_at, train
from parity import TINY, as_dtype, batch, engine, reference, tiny, weights

import llmc
from llmc import _core

RECIPE = Recipe(steps=10, lr=3e-3, warmup_steps=3, weight_decay=0.1, grad_clip=0.7)


def trainer(model, recipe=RECIPE, **how):
    fields = asdict(recipe)
    wanted = "beta1", "beta2", "eps", "weight_decay", "grad_clip", "optimizer", "muon_momentum"
    return llmc.Trainer(model, **{name: fields[name] for name in wanted}, **how)


def learning_rate(step, recipe=RECIPE):
    return _core.schedule_lr(
        step, "cosine", recipe.lr, recipe.final_lr, 0.0, recipe.warmup_steps, recipe.steps
    )


def update(model, optimizer, micro_batches, lr):
    count = sum((targets >= 0).sum() for _, targets in micro_batches)
    loss = 0.0
    for k, (tokens, targets) in enumerate(micro_batches):
        slope = {"logp": np.full(tokens.shape, -1 / count, np.float32)}
        accumulate = optimizer.micro_batch(k, len(micro_batches))
        found = model.train(tokens, targets, slope, accumulate=accumulate)
        loss -= found["logp"].sum(dtype=np.float64) / count
    norm = optimizer.reduce()
    optimizer.apply(lr)
    return loss, norm


def data(config, updates=10, micro=2, B=3, T=17):
    batches = [batch(config, B, T, seed=seed) for seed in range(updates * micro)]
    return [batches[i : i + micro] for i in range(0, len(batches), micro)]


MUON = replace(RECIPE, optimizer="muon")


@pytest.mark.parametrize("recipe", [RECIPE, MUON], ids=lambda recipe: recipe.optimizer)
@pytest.mark.parametrize("name", TINY)
def test_ten_steps_follow_the_reference(name, recipe):
    config = tiny(name)
    params = weights(config)
    model = engine(config, params, 3, 17)
    ref = reference(config, params, torch.float32)
    optimizer = trainer(model, recipe)
    wanted = list(train(ref, data(config), recipe))
    got = [update(model, optimizer, u, learning_rate(s)) for s, u in enumerate(data(config))]
    losses, norms = np.array(got).T
    wanted_losses, wanted_norms = np.array(wanted).T
    assert np.abs(losses - wanted_losses).max() < 1e-4
    assert np.abs(norms / wanted_norms - 1).max() < 1e-4
    assert (norms > recipe.grad_clip).any()
    assert optimizer.updates == 10
    theirs = {name: p.detach().numpy() for name, p in ref.named_parameters()}
    apart = sum(np.square(model.get(name) - theirs[name]).sum() for name in params)
    moved = sum(np.square(theirs[name] - params[name]).sum() for name in params)
    assert apart < 0.02**2 * moved


def test_schedules_agree():
    steps = range(15)
    assert [learning_rate(s) for s in steps] == pytest.approx([lr_at(s, RECIPE) for s in steps])
    assert learning_rate(2) == pytest.approx(RECIPE.lr)
    assert learning_rate(10) == pytest.approx(0.1 * RECIPE.lr)


@pytest.mark.parametrize("recipe", [RECIPE, MUON], ids=lambda recipe: recipe.optimizer)
def test_bf16_weights_learn_like_f32_weights(recipe):
    """Masters in f32 carry what a bf16 weight is too coarse to hold: 30 small steps move it."""
    config = tiny("gpt2")
    params = weights(config)
    same = data(config, updates=1)[0]
    learned = {}
    for dtype in ("f32", "bf16"):
        rounded = {name: as_dtype(array, dtype) for name, array in params.items()}
        model = engine(config, rounded, 3, 17, dtype=dtype)
        optimizer = trainer(model, recipe)
        losses = [update(model, optimizer, same, 2e-4)[0] for _ in range(30)]
        learned[dtype] = losses[0] - losses[-1]
    assert learned["f32"] > 0.1
    assert learned["bf16"] == pytest.approx(learned["f32"], rel=0.1)


@pytest.mark.parametrize("recipe", [RECIPE, MUON], ids=lambda recipe: recipe.optimizer)
def test_without_masters_small_steps_count_if_rounded_stochastically(recipe):
    config = tiny("gpt2")
    params = {name: as_dtype(array, "bf16") for name, array in weights(config).items()}
    same = data(config, updates=1)[0]
    learned = []
    for how in (
        dict(),
        dict(stochastic_rounding=True),
        dict(master_weights=False, stochastic_rounding=True),
        dict(master_weights=False),
    ):
        model = engine(config, params, 3, 17, dtype="bf16")
        optimizer = trainer(model, recipe, **how)
        losses = [update(model, optimizer, same, 2e-4)[0] for _ in range(30)]
        learned.append(losses[0] - losses[-1])
    masters, rounded_masters, stochastic, nearest = learned
    assert rounded_masters == pytest.approx(masters, rel=0.1)
    assert stochastic == pytest.approx(masters, rel=0.2)
    assert nearest < 0.5 * masters


WAYS = [
    ("f32", dict()),
    ("bf16", dict(stochastic_rounding=True, seed=5)),
    ("bf16", dict(master_weights=False, stochastic_rounding=True, seed=5)),
]


@pytest.mark.parametrize("recipe", [RECIPE, MUON], ids=lambda recipe: recipe.optimizer)
@pytest.mark.parametrize("dtype, how", WAYS, ids=str)
def test_resuming_is_bit_identical_to_not_stopping(tmp_path, recipe, dtype, how):
    config = tiny("llama, grouped")
    params = {name: as_dtype(array, dtype) for name, array in weights(config).items()}
    model = engine(config, params, 3, 17, dtype=dtype)
    optimizer = trainer(model, recipe, **how)
    updates = data(config)
    for step in range(5):
        update(model, optimizer, updates[step], learning_rate(step))
    optimizer.save(str(tmp_path))
    through = [update(model, optimizer, updates[s], learning_rate(s)) for s in range(5, 10)]

    again = llmc.Model(llmc.Device("cpu", 2), config, dtype)
    again.load(str(tmp_path / "model.safetensors"))
    again.plan(3, 17)
    optimizer = trainer(again, recipe, **how)
    optimizer.load(str(tmp_path), 5)
    assert through == [update(again, optimizer, updates[s], learning_rate(s)) for s in range(5, 10)]
    for name in model.names:
        assert np.array_equal(model.get(name), again.get(name)), name


def test_a_gradient_that_is_not_finite_is_found_by_name():
    config = tiny("gpt2")
    params = weights(config)
    params["h.1.ln_2.weight"][3] = np.inf
    model = engine(config, params, 2, 5)
    optimizer = trainer(model)
    tokens, targets = batch(config, 2, 5)
    optimizer.micro_batch(0, 1)
    model.train(tokens, targets, {"logp": np.ones((2, 5), np.float32)})
    assert not np.isfinite(optimizer.reduce())
    assert model.first_nonfinite() == "h.1"
    assert optimizer.first_nonfinite() in model.names


def test_applying_an_update_twice_is_refused():
    config = tiny("gpt2")
    model = engine(config, weights(config), 2, 5)
    optimizer = trainer(model)
    update(model, optimizer, [batch(config, 2, 5)], 1e-3)
    with pytest.raises(llmc.LlmcError, match="trainer_apply without trainer_reduce"):
        optimizer.apply(1e-3)
