"""bf16 weights without f32 masters, and weights rounded stochastically: what the training program makes of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from building import need_mpi
from llmc import launch
from safetensors import safe_open
from training import command, everything, latest, metrics, refusal, resumes_bit_for_bit, train, write_data

STOCHASTIC = "--dtype", "bf16", "--stochastic_rounding"
ALONE = *STOCHASTIC, "--no-master_weights"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("walk"))


def last(run: Path, key: str = "val_loss") -> float:
    return next(line[key] for line in reversed(metrics(run)) if key in line)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_stochastic_rounding_makes_up_for_masters(data, tmp_path, optimizer):
    """bf16 rounds enough of the steps away to be seen in the loss."""
    flags = "--steps", 60, "--optimizer", optimizer
    ways = {"masters": ("--dtype", "bf16"), "stochastic": ALONE, "nearest": ("--dtype", "bf16", "--no-master_weights")}
    for name, how in ways.items():
        train(command(data, tmp_path / name, *flags, *how))
    masters, stochastic, nearest = (last(tmp_path / name) for name in ways)
    assert abs(stochastic - masters) < 0.2 * (nearest - masters), (masters, stochastic, nearest)


@pytest.mark.parametrize("flags", [STOCHASTIC, ALONE, (*ALONE, "--optimizer", "muon")], ids=" ".join)
def test_resuming_leaves_no_trace_with_any_threads(data, tmp_path, flags):
    resumes_bit_for_bit(data, tmp_path, 10, *flags)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_are_rounded_alike_by_any_ranks_and_devices(data, tmp_path, optimizer):
    """With a learning rate of 0, what a run goes on to do is rounding its masters again."""
    need_mpi()
    train(command(data, tmp_path / "start", "--steps", 3, *STOCHASTIC, "--optimizer", optimizer))
    weights = {}
    for ranks, device in ((1, "cpu"), (2, "cpu"), (4, "cpu"), (1, "cpu:plain"), (1, "cuda-emu")):
        run = tmp_path / f"{ranks} {device}"
        shutil.copytree(tmp_path / "start", run, symlinks=True)
        argv = command(data, run, "--resume", "--steps", 5, "--lr", 0, "--device", device)
        wrapped, environment = launch.mpirun(argv, ranks)
        train(wrapped, **environment)
        weights[ranks, device] = (latest(run) / "model.safetensors").read_bytes()
    assert len(set(weights.values())) == 1, {where: hash(bits) for where, bits in weights.items()}
    before = (latest(tmp_path / "start") / "model.safetensors").read_bytes()
    assert before not in weights.values()


def test_a_parameter_takes_four_bytes_less_without_its_master(data, tmp_path):
    def taken(*flags: str) -> int:
        out, _ = train(command(data, tmp_path / "run", "--plan", "--dtype", "bf16", *flags))
        return next(int(line.split()[-4]) for line in out.splitlines() if line.startswith("  optimizer state "))

    train(command(data, tmp_path / "run", "--steps", 1, *ALONE))
    with safe_open(latest(tmp_path / "run") / "model.safetensors", "np") as model:
        shapes = [model.get_slice(name).get_shape() for name in model.keys()]
    with safe_open(latest(tmp_path / "run") / "optimizer.rank0of1.safetensors", "np") as state:
        assert {name.split("/")[0] for name in state.keys()} == {"exp_avg", "exp_avg_sq"}
    parameters = sum(int(np.prod(shape)) for shape in shapes)
    padding = 128 * len(shapes)
    assert 4 * parameters <= taken() - taken("--no-master_weights") <= 4 * (parameters + padding)


@pytest.mark.parametrize("flag", ["--stochastic_rounding", "--no-master_weights"])
def test_f32_weights_are_neither_rounded_nor_mastered(data, tmp_path, flag):
    sentence = refusal(command(data, tmp_path / "run", flag))
    assert f"{flag} is for weights of bf16, and these are f32" in sentence
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("before, after", [("", "no-"), ("no-", "")])
def test_masters_come_and_go_with_no_resume(data, tmp_path, before, after):
    run = tmp_path / "run"
    train(command(data, run, "--steps", 2, *STOCHASTIC, f"--{before}master_weights"))
    whole = everything(run)
    sentence = refusal(command(data, run, "--resume", "--steps", 4, f"--{after}master_weights"))
    assert f"f32 masters of its weights, but --{after}master_weights is given; leave it out" in sentence
    assert ("without" in sentence) == (before == "no-")
    assert everything(run) == whole
    train(command(data, run, "--resume", "--steps", 4))
