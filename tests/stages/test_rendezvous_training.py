"""Several processes train as one over TCP: bit for bit what they do over MPI, and without it what one does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import tcp_ranks
from building import need_mpi
from llmc import launch
from training import command, everything, latest, metrics, refusal, train, write_data

TOKENS = "--total_batch_size", 384      # micro-batches of 64 tokens, for 1, 2 and 3 ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("walk"))


def start(argv: list[str], ranks: int) -> list[subprocess.Popen]:
    at = f"127.0.0.1:{tcp_ranks.free_port()}"
    return tcp_ranks.start(ranks, *argv, "--rendezvous", at, MASTER_ADDR="", MASTER_PORT="")


def train_over_tcp(argv: list[str], ranks: int, status: int = 0) -> tcp_ranks.Ended:
    done = tcp_ranks.together(tcp_ranks.ended(start(argv, ranks), 300))
    assert done.status == status, done
    return done


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for ranks in 2, 3:
        argv = command(data, folder / str(ranks), *TOKENS, "--steps", 20, "--checkpoint_every", 10)
        done = train_over_tcp(argv, ranks)
        assert done.err == [] and any(f", {ranks} processes" in line for line in done.out)
    return {ranks: folder / str(ranks) for ranks in (2, 3)}


@pytest.mark.parametrize("ranks", [2, 3])
def test_over_tcp_and_over_mpi_every_bit_is_the_same(data, runs, tmp_path, ranks):
    need_mpi()
    argv = command(data, tmp_path / "run", *TOKENS, "--steps", 20, "--checkpoint_every", 10)
    wrapped, environment = launch.mpirun(argv, ranks)
    train(wrapped, **environment)
    over_mpi, over_tcp = everything(tmp_path / "run"), everything(runs[ranks])
    assert sorted(over_mpi) == sorted(over_tcp) and len(over_mpi) == 4 + ranks
    for name, wanted in over_mpi.items():
        assert over_tcp[name] == wanted, name


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_losses_are_those_of_one_rank(data, runs, tmp_path, ranks):
    train(command(data, tmp_path / "run", *TOKENS, "--steps", 20, "--checkpoint_every", 10))
    for key in "loss", "val_loss", "grad_norm":
        one, several = ([line[key] for line in metrics(run) if key in line] for run in (tmp_path / "run", runs[ranks]))
        assert len(one) >= 2
        np.testing.assert_allclose(several, one, rtol=1e-4 if key == "grad_norm" else 1e-5)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_resumes_where_nobody_meets_and_where_they_meet_elsewhere(data, runs, tmp_path, after):
    run = tmp_path / "run"
    shutil.copytree(runs[2], run, symlinks=True)
    shutil.rmtree(run / "checkpoints" / "step_00000020")
    argv = command(data, run, *TOKENS, "--resume")
    if after == 1:
        train(argv)
    else:
        train_over_tcp(argv, after)
    if after == 2:
        assert everything(run) == everything(runs[2])
    losses = [[line["loss"] for line in metrics(folder) if "loss" in line] for folder in (run, runs[2])]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def started_training(data: Path, run: Path) -> list[subprocess.Popen]:
    """Three ranks that would go on for long, after some steps."""
    processes = start(command(data, run, *TOKENS, "--steps", 100_000, "--val_every", 0), 3)
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("loss") < 3:
        assert all(process.poll() is None for process in processes), tcp_ranks.ended(processes)
        time.sleep(0.01)
    return processes


@pytest.mark.parametrize("who", [0, 2])
def test_a_signal_to_any_rank_saves_and_stops_all(data, tmp_path, who):
    processes = started_training(data, tmp_path / "run")
    processes[who].send_signal(signal.SIGTERM)
    done = tcp_ranks.together(tcp_ranks.ended(processes))
    assert (done.status, done.err) == (0, []) and any("stopped" in line for line in done.out)
    assert len(list(latest(tmp_path / "run").glob("optimizer.rank?of3.safetensors"))) == 3


def test_a_killed_rank_ends_the_training_of_all(data, tmp_path):
    processes = started_training(data, tmp_path / "run")
    processes[1].kill()
    parts = tcp_ranks.ended(processes)
    assert [part.status for part in parts] == [1, -signal.SIGKILL, 1]
    for part in parts[0], parts[2]:
        assert len(part.err) == 1 and part.err[0].startswith("llmc: rank 1, at 127.0.0.1, has ended without a word")


def test_what_all_ranks_refuse_is_one_sentence(data, tmp_path):
    done = train_over_tcp(command(data, tmp_path / "run", "--n_head", 3), 2, status=1)
    assert done.err == ["llmc: n_embd 32 is not divisible by n_head 3; change one, or give head_dim"]


def test_a_rendezvous_without_ranks_is_refused(data, tmp_path):
    assert not {"RANK", "SLURM_PROCID"} & set(os.environ)
    said = refusal(command(data, tmp_path / "run", "--rendezvous", "127.0.0.1:29500"))
    assert "RANK is not set and WORLD_SIZE not set" in said


@pytest.mark.parametrize("kind", ["single", "mpi"])
def test_a_rendezvous_for_another_kind_is_refused(data, tmp_path, kind):
    said = refusal(command(data, tmp_path / "run", "--comm", kind, "--rendezvous", "127.0.0.1:29500"))
    assert said == f"llmc: --rendezvous is where processes meet over TCP, and --comm is {kind}; leave one of them out"


def test_tcp_without_a_rendezvous_is_refused(data, tmp_path):
    said = refusal(command(data, tmp_path / "run", "--comm", "tcp"))
    assert said.startswith("llmc: communication over TCP needs a rendezvous: give --rendezvous host:port of rank 0")
