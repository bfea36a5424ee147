"""Low-rank adapters: against adapters written in PyTorch, and against what they promise of the weights beside them."""

import json
import re

import numpy as np
import pytest
import torch
from parity import (
    Arrays,
    as_dtype,
    batch,
    engine,
    reference,
    reference_numbers,
    slopes,
    tiny,
    weights,
    worst,
)
from test_training import RECIPE, data, learning_rate, trainer, update
from torch import nn

import llmc
from llmc import _core

ALL = ["qkv", "proj", "up", "down"]
SOME = [ALL, ["qkv"], ["up"], ["down", "proj"]]
MODELS = ["gpt2", "llama, grouped", "llama like Qwen 3: QK-norm"]
RANK, ALPHA = 3, 6.0


class Adapter(nn.Module):
    """A layer and what stands beside it."""

    def __init__(self, layer: nn.Linear, a: np.ndarray, b: np.ndarray, scale: float):
        super().__init__()
        self.layer, self.scale = layer, scale
        self.lora_a = nn.Parameter(torch.tensor(a, dtype=layer.weight.dtype))
        self.lora_b = nn.Parameter(torch.tensor(b, dtype=layer.weight.dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.scale * (x @ self.lora_a.T) @ self.lora_b.T


def adapted_reference(config, params: Arrays, adapters: Arrays, dtype=torch.float64):
    ref = reference(config, params, dtype).requires_grad_(False)
    for name in {name.rsplit(".", 1)[0] for name in adapters}:
        parent, child = name.rsplit(".", 1)
        layer, a, b = ref.get_submodule(name), adapters[name + ".lora_a"], adapters[name + ".lora_b"]
        setattr(ref.get_submodule(parent), child, Adapter(layer, a, b, ALPHA / RANK))
    return ref


def adapted(config, params: Arrays, B: int, T: int, matrices=ALL, dtype="f32", device="cpu", seed=0,
            drawn=False, rank=RANK, **plan) -> llmc.Model:  # fmt: skip
    """With numbers in b too, which begins at 0: else the gradient of a would be 0. bf16 holds them."""
    model = llmc.Model(llmc.Device(device, 2), config, dtype)
    for name, array in params.items():
        model.set(name, as_dtype(array, "bf16" if model.types[name] == "bf16" else "f32"))
    model.adapt(rank, ALPHA, matrices, seed)
    rng = np.random.default_rng(1)
    for name in model.adapters if not drawn else []:
        old = model.get(name)
        numbers = as_dtype(0.15 * rng.standard_normal(old.shape), "bf16")
        model.set(name, as_dtype(numbers, "f32") if old.dtype == np.float32 else numbers)
    model.plan(B, T, **plan)
    return model


def values(model: llmc.Model) -> Arrays:
    return {name: model.get(name) for name in model.adapters}


def stands_for(model: llmc.Model) -> Arrays:
    """The weights as f32, whatever their type."""
    got = {name: model.get(name) for name in model.names}
    return {n: (a.astype(np.uint32) << 16).view(np.float32) if a.dtype == np.uint16 else a for n, a in got.items()}


def merged(config, params: Arrays, adapters: Arrays) -> Arrays:
    result = dict(params)
    for name in {name.rsplit(".", 1)[0] for name in adapters}:
        difference = adapters[name + ".lora_b"] @ adapters[name + ".lora_a"]
        result[name + ".weight"] = params[name + ".weight"] + np.float32(ALPHA / RANK) * difference
    return result


@pytest.mark.parametrize("recompute", [False, True], ids=["keeping", "recomputing"])
@pytest.mark.parametrize("matrices", SOME, ids=" ".join)
@pytest.mark.parametrize("name", MODELS)
def test_numbers_and_gradients_are_the_references(name, matrices, recompute):
    config = tiny(name)
    params = weights(config)
    model = adapted(config, params, 3, 17, matrices, recompute=recompute)
    ref = adapted_reference(config, params, values(model))
    tokens, targets = batch(config, 3, 17)
    given = slopes(config, 3, 17)
    found = model.forward(tokens, targets)
    model.backward(given)
    wanted = reference_numbers(ref, tokens, targets)
    for key, exact in wanted.items():
        np.testing.assert_allclose(found[key], exact.detach().numpy(), rtol=1e-5, atol=1e-5)
    sum((wanted[key] * torch.tensor(slope)).sum() for key, slope in given.items()).backward()
    exact = {n: p.grad.numpy() for n, p in ref.named_parameters() if p.grad is not None}
    distance, whose = worst(config, {n: model.grad(n) for n in model.adapters}, exact)
    assert distance < 1e-5, whose
    assert len(exact) == 2 * len(matrices) * config.n_layer


@pytest.mark.parametrize("head", ["lm", "scalar"])
@pytest.mark.parametrize("name", MODELS[:2])
def test_gradients_are_the_slope_of_the_loss(name, head):
    """Central differences along two random directions of each adapter, whose product bends more than a weight does:
    the steps are half as large as those of other parameters."""
    config = tiny(name, head)
    model = adapted(config, weights(config), 2, 7)
    tokens, targets = batch(config, 2, 7)
    given, at = slopes(config, 2, 7), values(model)
    model.train(tokens, targets, given)
    slope = {key: model.grad(key) for key in model.adapters}

    def loss() -> float:
        found = model.score(tokens, targets)
        return sum(np.vdot(found[n].astype(np.float64), s) for n, s in given.items())

    rng, points = np.random.default_rng(0), {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    for key, gradient in slope.items():
        for _ in range(2):
            step = 0.03 / np.sqrt(gradient.size)
            direction = rng.choice([-1.0, 1.0], gradient.shape) * step
            total = 0.0
            for point, weight in points.items():
                model.set(key, (at[key] + point * direction).astype(np.float32))
                total += weight * loss()
            model.set(key, at[key])
            error = abs(total - np.vdot(gradient, direction))
            assert error < 1e-3 * np.linalg.norm(gradient) * step, key


def test_it_begins_as_the_model_that_was_given():
    config = tiny("gpt2")
    params, (tokens, targets) = weights(config), batch(config, 3, 17)
    plain = engine(config, params, 3, 17).score(tokens, targets)
    model = adapted(config, params, 3, 17, drawn=True)
    for key, got in model.score(tokens, targets).items():
        np.testing.assert_allclose(got, plain[key], rtol=1e-6, atol=1e-6)
    for name, array in values(model).items():
        bound = 1 / np.sqrt(array.shape[1])
        if name.endswith("lora_b"):
            assert not array.any()
        else:
            assert 0.8 * bound < abs(array).max() < bound and abs(array.mean()) < 0.2 * bound
    drawn = values(model)
    other = values(adapted(config, params, 3, 17, drawn=True, seed=1))
    again = values(adapted(config, params, 3, 17, drawn=True))
    assert all(np.array_equal(drawn[n], again[n]) for n in drawn)
    assert not np.array_equal(drawn["h.0.mlp.up.lora_a"], other["h.0.mlp.up.lora_a"])
    assert not np.array_equal(drawn["h.0.mlp.up.lora_a"], drawn["h.1.mlp.up.lora_a"])


@pytest.mark.parametrize("matrices", SOME, ids=" ".join)
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_merged_model(name, matrices):
    """Whole passes and decoding."""
    config = tiny(name)
    params, (tokens, targets) = weights(config), batch(config, 3, 17)
    model = adapted(config, params, 3, 17, matrices)
    one = engine(config, merged(config, params, values(model)), 3, 17)
    for key, got in model.score(tokens, targets).items():
        np.testing.assert_allclose(got, one.score(tokens, targets)[key], rtol=1e-4, atol=1e-4)
    found = []
    for which in (model, one):
        decoder = _core.Decoder(which, 2, 4, 32)
        rows = decoder.open(), decoder.open()
        decoder.feed([(rows[0], tokens[0, :5], False), (rows[1], tokens[1, :9], False)])
        found.append(decoder.feed([(rows[0], tokens[0, 5:6], True), (rows[1], tokens[1, 9:10], True)]))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("name", MODELS[:2])
def test_decoding_has_the_bits_of_a_whole_pass(name, dtype):
    config = tiny(name)
    model = adapted(config, weights(config), 1, 17, dtype=dtype, train=False)
    tokens = batch(config, 1, 17)[0]
    decoder = _core.Decoder(model, 1, 4, 32)
    row = decoder.open()
    decoder.feed([(row, tokens[0, :11], False)])
    for t in range(11, 16):
        got = decoder.feed([(row, tokens[0, t : t + 1], True)])[0]
        model.read(tokens[:, : t + 1])
        assert got.tobytes() == model.logits(t, 1)[0].tobytes()


@pytest.mark.parametrize("device", ["cpu", "cuda-emu"])
def test_a_decoder_reads_what_was_learned_since(device):
    """As where a run draws samples; a graph that was recorded before is replayed after."""
    config = tiny("gpt2")
    model = adapted(config, weights(config), 3, 17, device=device)
    optimizer, decoder = trainer(model), _core.Decoder(model, 1, 8, 32)
    tokens, found = batch(config, 1, 17)[0], []
    for step in range(2):
        row = decoder.open()
        decoder.feed([(row, tokens[0, :5], False)])
        for t in range(5, 12):
            got = decoder.feed([(row, tokens[0, t : t + 1], True)])[0]
            model.read(tokens[:, : t + 1])
            np.testing.assert_allclose(got, model.logits(t, 1)[0], rtol=1e-4, atol=1e-4)
        found.append(got)
        decoder.close(row)
        update(model, optimizer, data(config)[step], 1e-2)
    assert abs(found[1] - found[0]).max() > 0.01
    assert device == "cpu" or decoder.replays > 8


@pytest.mark.parametrize("name", MODELS[:2])
def test_ten_steps_follow_the_reference(name):
    """AdamW with decay and clipping, of micro-batches; the weights beside stay as they are, bit by bit."""
    config = tiny(name)
    params = weights(config)
    model = adapted(config, params, 3, 17)
    ref = adapted_reference(config, params, values(model), torch.float32)
    learn = [p for p in ref.parameters() if p.requires_grad]
    theirs = torch.optim.AdamW(learn, lr=1.0, betas=(RECIPE.beta1, RECIPE.beta2), eps=RECIPE.eps,
                               weight_decay=RECIPE.weight_decay)  # fmt: skip
    ours = trainer(model)
    for step, micro_batches in enumerate(data(config)):
        lr = learning_rate(step)
        loss, norm = update(model, ours, micro_batches, lr)
        count = sum((targets >= 0).sum() for _, targets in micro_batches)
        theirs.zero_grad()
        wanted = 0.0
        for tokens, targets in micro_batches:
            part = -reference_numbers(ref, tokens, targets)["logp"].sum() / float(count)
            part.backward()
            wanted += part.item()
        wanted_norm = torch.nn.utils.clip_grad_norm_(learn, RECIPE.grad_clip).item()
        theirs.param_groups[0]["lr"] = lr
        theirs.step()
        assert abs(loss - wanted) < 1e-4 and abs(norm / wanted_norm - 1) < 1e-3
    for name_, array in params.items():
        assert model.get(name_).tobytes() == array.tobytes(), name_
    exact = {n.replace(".layer", ""): p.detach().numpy() for n, p in ref.named_parameters() if p.requires_grad}
    apart = sum(np.square(model.get(n) - exact[n]).sum() for n in model.adapters)
    assert apart < 1e-3 * sum(np.square(array).sum() for array in exact.values())


@pytest.mark.parametrize("name", MODELS[:2])
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_narrow_weights_train_under_adapters(name, dtype):
    """Loss falls as it does over the weights that they stand for, and they stay as they are."""
    config = tiny(name)
    params, same = weights(config), data(config, updates=1)[0]
    model = adapted(config, params, 3, 17, dtype=dtype, drawn=True)
    before = {n: model.get(n).tobytes() for n in model.names}
    wide = adapted(config, stands_for(model), 3, 17, drawn=True)
    losses = {}
    for which, key in ((model, dtype), (wide, "f32")):
        optimizer = trainer(which)
        losses[key] = np.array([update(which, optimizer, same, 3e-3)[0] for _ in range(30)])
    assert losses["f32"][0] - losses["f32"][-1] > 0.1
    assert abs(losses[dtype] - losses["f32"]).max() < 0.1 * (losses["f32"][0] - losses["f32"][-1])
    assert all(model.get(n).tobytes() == bits for n, bits in before.items())


@pytest.mark.parametrize("name", MODELS[:2])
def test_int8_gradients_are_near_those_of_what_it_stands_for(name):
    config = tiny(name)
    tokens, targets = batch(config, 4, 19)
    model = adapted(config, weights(config), 4, 19, dtype="int8")
    wide = adapted(config, stands_for(model), 4, 19)
    given = slopes(config, 4, 19, "logp")
    for which in (model, wide):
        which.train(tokens, targets, given)
    for n in model.adapters:
        got, exact = model.grad(n), wide.grad(n)
        assert np.linalg.norm(got - exact) < 0.1 * np.linalg.norm(exact), n


@pytest.mark.parametrize("dtype, how", [("f32", {}), ("bf16", {}), ("int8", dict(stochastic_rounding=True)),
                                        ("bf16", dict(stochastic_rounding=True, master_weights=False))])  # fmt: skip
def test_resuming_is_bit_identical_to_not_stopping(tmp_path, dtype, how):
    config = tiny("llama, grouped")
    params, updates = weights(config), data(config)
    model = adapted(config, params, 3, 17, dtype=dtype, drawn=True, rank=2)
    optimizer = trainer(model, **how)
    for step in range(5):
        update(model, optimizer, updates[step], learning_rate(step))
    optimizer.save(str(tmp_path))
    assert (tmp_path / "adapter.safetensors").exists()
    assert not (tmp_path / "model.safetensors").exists()
    through = [update(model, optimizer, updates[s], learning_rate(s)) for s in range(5, 10)]

    again = adapted(config, params, 3, 17, dtype=dtype, drawn=True, seed=7, rank=2)
    optimizer = trainer(again, **how)
    optimizer.load(str(tmp_path), 5)
    assert through == [update(again, optimizer, updates[s], learning_rate(s)) for s in range(5, 10)]
    for name in model.adapters:
        assert np.array_equal(model.get(name), again.get(name)), name


def test_what_a_folder_holds_must_be_what_is_trained(tmp_path):
    config = tiny("gpt2")
    params = weights(config)
    model = adapted(config, params, 3, 17, ["qkv", "up"])
    trainer(model).save(str(tmp_path))
    raw = (tmp_path / "adapter.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    about = {"format": "llmc", "rank": "3", "alpha": "6", "matrices": "qkv up"}
    assert header["__metadata__"] == about
    for other, now in (
        (engine(config, params, 3, 17), "all weights"),
        (adapted(config, params, 3, 17, ["up"]), "adapters of rank 3 and alpha 6 for up"),
        (adapted(config, params, 3, 17, ["qkv", "up"], rank=2), "adapters of rank 2 and alpha 6 for qkv up"),
    ):
        wanted = f"adapters of rank 3 and alpha 6 for qkv up were trained there, but now {now} would be"
        with pytest.raises(llmc.LlmcError, match=wanted):
            trainer(other).load(str(tmp_path), 1)
    for path in tmp_path.iterdir():
        path.unlink()
    trainer(engine(config, params, 3, 17)).save(str(tmp_path))
    with pytest.raises(llmc.LlmcError, match="all weights were trained there, but now adapters of rank 3"):
        trainer(model).load(str(tmp_path), 1)


def optimizer_bytes(rank: int | None, optimizer: str = "adamw") -> int:
    """What training takes beside activations and workspace, of a model that is large beside what pads its adapters."""
    config = llmc.Config(**{**tiny("gpt2").to_dict(), "n_embd": 192, "n_ff": 512, "head_dim": 64})
    model = llmc.Model(llmc.Device("cpu", 1), config)
    if rank:
        model.adapt(rank, ALPHA, ALL)
    return _core.training_bytes(model, 2, 16, optimizer=optimizer) - model.plan_bytes(2, 16)


def test_what_training_takes_grows_with_the_rank_alone():
    """Each number of an adapter takes 16 bytes: itself, its gradient and two moments."""
    whole = optimizer_bytes(None)
    inputs, outputs = 192 + 192 + 192 + 512, 3 * 192 + 192 + 512 + 192
    weights_alone = whole / 4
    for rank in (4, 8, 16):
        adapters = optimizer_bytes(rank) - weights_alone
        assert adapters == pytest.approx(16 * 3 * rank * (inputs + outputs), rel=0.03)
    assert optimizer_bytes(4) < 0.35 * whole


def test_gradients_are_the_adapters_alone():
    config = tiny("gpt2")
    model = adapted(config, weights(config), 3, 17, ["qkv"])
    assert model.adapters == [f"h.{l}.attn.qkv.lora_{ab}" for l in range(3) for ab in "ab"]  # noqa: E741
    assert model.grad_view("h.1.attn.qkv.lora_b").shape == (108, RANK)
    assert model.view("h.1.attn.qkv.lora_a").shape == (RANK, 36)
    assert not set(model.adapters) & set(model.names)
    with pytest.raises(llmc.LlmcError, match="h.1.attn.qkv.weight has no gradient"):
        model.grad("h.1.attn.qkv.weight")


def test_micro_batches_add_up():
    config = tiny("llama, grouped")
    model = adapted(config, weights(config), 4, 17)
    tokens, targets = batch(config, 4, 17)
    given = slopes(config, 4, 17)
    model.train(tokens, targets, given)
    whole = {n: model.grad(n) for n in model.adapters}
    for k in range(2):
        some = slice(2 * k, 2 * k + 2)
        model.train(tokens[some], targets[some], {n: s[some] for n, s in given.items()}, accumulate=k > 0)
    assert worst(config, {n: model.grad(n) for n in model.adapters}, whole)[0] < 1e-5


def one_pass(config, params: Arrays, **how) -> Arrays:
    """Numbers and gradients."""
    model = adapted(config, params, 3, 17, **how)
    tokens, targets = batch(config, 3, 17)
    numbers = model.train(tokens, targets, slopes(config, 3, 17))
    return {**numbers, **{n: model.grad(n) for n in model.adapters}}


@pytest.mark.parametrize("name", MODELS)
def test_an_emulated_gpu_agrees(name):
    config = tiny(name)
    cpu, gpu = (one_pass(config, weights(config), device=device) for device in ("cpu", "cuda-emu"))
    assert worst(config, gpu, cpu)[0] < 1e-5


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("name", MODELS[:2])
def test_an_emulated_gpu_is_as_near_to_f32_as_the_cpu(name, dtype):
    config = tiny(name)
    narrow = adapted(config, weights(config), 3, 17, dtype=dtype)
    exact = one_pass(config, stands_for(narrow))

    def error(device: str) -> float:
        got = one_pass(config, weights(config), dtype=dtype, device=device)
        return np.mean([np.linalg.norm(got[k] - exact[k]) / np.linalg.norm(exact[k]) for k in exact])

    assert error("cuda-emu") < 2 * error("cpu") < 0.2


def test_bits_do_not_depend_on_threads():
    def bits(threads: int) -> list[bytes]:
        config = tiny("gpt2")
        model = llmc.Model(llmc.Device("cpu", threads), config)
        for name, array in weights(config).items():
            model.set(name, array)
        model.adapt(RANK, ALPHA, ALL)
        model.plan(3, 17)
        optimizer = trainer(model)
        for step in range(3):
            update(model, optimizer, data(config)[step], 1e-2)
        return [model.get(name).tobytes() for name in model.adapters]

    assert bits(1) == bits(2) == bits(3)


@pytest.mark.parametrize("rank, alpha, matrices, sentence", [
    (0, 8.0, ALL, "adapters of rank 0; wanted 1 or more"),
    (-3, 8.0, ALL, "adapters of rank -3; wanted 1 or more"),
    (4, 0.0, ALL, "adapters with alpha 0; wanted a number above 0"),
    (4, float("nan"), ALL, "adapters with alpha nan; wanted a number above 0"),
    (4, float("inf"), ALL, "adapters with alpha inf; wanted a number above 0"),
    (4, 8.0, [], "adapters for no matrix; wanted some of qkv, proj, up and down"),
    (4, 8.0, ["qkv", "wte"], "adapters for wte, which is no matrix of a block; wanted some of qkv, proj, up and down"),
    (37, 8.0, ["proj"], "adapters of rank 37 for h.0.attn.proj.weight, which is 36 x 36 and has no more than rank 36"),
])  # fmt: skip
def test_impossible_adapters_are_refused(rank, alpha, matrices, sentence):
    model = llmc.Model(llmc.Device("cpu", 1), tiny("gpt2"))
    with pytest.raises(llmc.LlmcError, match=f"^{re.escape(sentence)}$"):
        model.adapt(rank, alpha, matrices)
    assert model.adapters == []
    model.adapt(4, 8.0, ALL)                                    # and nothing is in the way


def test_adapters_come_once_and_first():
    config = tiny("gpt2")
    model = llmc.Model(llmc.Device("cpu", 1), config)
    model.adapt(4, 8.0, ["up"])
    with pytest.raises(llmc.LlmcError, match="the model has adapters already, of rank 4"):
        model.adapt(4, 8.0, ["up"])
    for before in (
        lambda m: m.plan(1, 5, train=False),
        lambda m: trainer(m),
        lambda m: _core.Decoder(m, 1, 1, 8),
    ):
        model = llmc.Model(llmc.Device("cpu", 1), config)
        kept = before(model)
        with pytest.raises(llmc.LlmcError, match="has a plan, a trainer or a decoder; add them first"):
            model.adapt(4, 8.0, ["up"])
        del kept


def test_muon_is_for_whole_matrices():
    config = tiny("gpt2")
    model = adapted(config, weights(config), 3, 17)
    with pytest.raises(llmc.LlmcError, match="Muon is for whole matrices; adapters are trained by AdamW"):
        llmc.Trainer(model, 0.9, 0.95, 1e-8, 0.1, 1.0, optimizer="muon")


def test_int8_alone_is_not_trained():
    model = llmc.Model(llmc.Device("cpu", 1), tiny("gpt2"), "int8")
    with pytest.raises(llmc.LlmcError, match="int8 weights are not trained; open the model as f32 or bf16, or give"):
        model.plan(1, 5)
