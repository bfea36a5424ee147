"""Several processes train as one: the same losses, a share of the optimizer each, checkpoints for any number."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from building import need_mpi
from llmc import launch
from training import command, latest, metrics, train, write_data


@pytest.fixture(scope="module", autouse=True)
def mpi() -> None:
    need_mpi()


def train_ranks(argv: list[str], ranks: int, status: int = 0) -> tuple[str, str]:
    wrapped, environment = launch.mpirun(argv, ranks)
    return train(wrapped, status, **environment)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("walk"))


def runs_of(data: Path, folder: Path, *flags: object) -> dict[int, Path]:
    """20 steps by 1, 2 and 4 ranks."""
    for ranks in (1, 2, 4):
        train_ranks(command(data, folder / str(ranks), "--steps", 20, "--checkpoint_every", 10, *flags), ranks)
    return {ranks: folder / str(ranks) for ranks in (1, 2, 4)}


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return runs_of(data, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def muon_runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return runs_of(data, tmp_path_factory.mktemp("muon"), "--optimizer", "muon")


def losses(run: Path, key: str = "loss") -> np.ndarray:
    return np.array([line[key] for line in metrics(run) if key in line])


@pytest.mark.parametrize("ranks", [2, 4])
def test_losses_do_not_depend_on_ranks(runs, ranks):
    assert len(losses(runs[ranks])) == 20
    np.testing.assert_allclose(losses(runs[ranks]), losses(runs[1]), rtol=1e-5)
    np.testing.assert_allclose(losses(runs[ranks], "val_loss"), losses(runs[1], "val_loss"), rtol=1e-5)


@pytest.mark.parametrize("ranks", [2, 4])
def test_muon_s_losses_do_not_depend_on_ranks(muon_runs, ranks):
    np.testing.assert_allclose(losses(muon_runs[ranks]), losses(muon_runs[1]), rtol=1e-5)
    np.testing.assert_allclose(losses(muon_runs[ranks], "val_loss"), losses(muon_runs[1], "val_loss"), rtol=1e-5)


@pytest.mark.parametrize("before, after", [(2, 4), (4, 1), (2, 2)])
def test_muon_s_checkpoint_resumes_on_another_number_of_ranks(data, muon_runs, tmp_path, before, after):
    run = tmp_path / "run"
    shutil.copytree(muon_runs[before], run, symlinks=True)
    shutil.rmtree(run / "checkpoints" / "step_00000020")
    train_ranks(command(data, run, "--resume"), after)
    np.testing.assert_allclose(losses(run), losses(muon_runs[1]), rtol=1e-5)
    if before == after:
        for file in sorted(latest(muon_runs[before]).glob("*.safetensors")):
            assert (latest(run) / file.name).read_bytes() == file.read_bytes()


def test_each_rank_keeps_its_share_of_the_optimizer(runs):
    whole = (latest(runs[1]) / "optimizer.rank0of1.safetensors").stat().st_size
    for ranks in (2, 4):
        files = sorted(latest(runs[ranks]).glob(f"optimizer.rank?of{ranks}.safetensors"))
        assert len(files) == ranks
        for file in files:
            assert file.stat().st_size < 1.3 * whole / ranks


@pytest.mark.parametrize("ranks", [2, 4])
def test_optimizer_memory_falls_with_ranks(data, tmp_path, ranks):
    def state_bytes(n: int) -> int:
        out, _ = train_ranks(command(data, tmp_path / "run", "--plan"), n)
        return next(int(line.split("bytes")[0].split()[-1]) for line in out.splitlines() if "optimizer state" in line)

    assert state_bytes(ranks) < 1.1 * state_bytes(1) / ranks


@pytest.mark.parametrize("before, after", [(2, 1), (2, 4), (4, 2), (1, 2)])
def test_a_checkpoint_resumes_on_another_number_of_ranks(data, runs, tmp_path, before, after):
    run = tmp_path / "run"
    shutil.copytree(runs[before], run, symlinks=True)
    shutil.rmtree(run / "checkpoints" / "step_00000020")
    train_ranks(command(data, run, "--resume"), after)
    assert len(list(latest(run).glob("optimizer.rank*"))) == after
    np.testing.assert_allclose(losses(run), losses(runs[1]), rtol=1e-5)


def test_a_run_of_two_ranks_goes_on_alone_with_as_many_tokens(data, tmp_path):
    def argv(*flags):
        given = command(data, tmp_path / "run", *flags)
        at = given.index("--total_batch_size")
        return given[:at] + given[at + 2:]
    train_ranks(argv("--steps", 2), 2)
    out, _ = train(argv("--steps", 4, "--resume"))
    assert "update     128 tokens: 4 rows of 32, 1 process" in out


def test_ranks_resume_bit_for_bit(data, runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs[2], run, symlinks=True)
    shutil.rmtree(run / "checkpoints" / "step_00000020")
    train_ranks(command(data, run, "--resume"), 2)
    for file in sorted(latest(runs[2]).glob("*.safetensors")):
        assert (latest(run) / file.name).read_bytes() == file.read_bytes()


def test_a_signal_to_the_launcher_saves_and_stops_all(data, tmp_path):
    run = tmp_path / "run"
    argv, environment = launch.mpirun(command(data, run, "--steps", 100_000, "--val_every", 0), 2)
    process = subprocess.Popen(argv, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("loss") < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped" in out, err
    assert len(list(latest(run).glob("optimizer.rank?of2.safetensors"))) == 2


def test_a_failure_of_all_ranks_is_one_sentence(data, tmp_path):
    _, err = train_ranks(command(data, tmp_path / "run", "--n_head", 3), 2, status=1)
    assert err.strip().splitlines() == ["llmc: n_embd 32 is not divisible by n_head 3; change one, or give head_dim"]


def test_a_missing_rank_file_is_named(data, runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs[2], run, symlinks=True)
    (latest(run) / "optimizer.rank1of2.safetensors").unlink()
    _, err = train_ranks(command(data, run, "--resume", "--steps", 30), 2, status=1)
    assert "rank1of2" in err and len(err.strip().splitlines()) == 1
