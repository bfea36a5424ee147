"""Two emulated GPUs, one in each process, over MPI or TCP: the same steps as one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tcp_ranks
from building import need_mpi
from llmc import launch

sys.path.append(str(Path(__file__).resolve().parents[1] / "stages"))
from training import command, metrics, train, write_data  # noqa: E402


def train_ranks(ranks: int, over: str, argv: list[str]) -> None:
    if over == "mpi":
        wrapped, environment = launch.mpirun(argv, ranks)
        train(wrapped, 0, **environment)
    else:
        done = tcp_ranks.together(tcp_ranks.ended(tcp_ranks.start(ranks, *argv, OMP_NUM_THREADS=1), 600))
        assert (done.status, done.err) == (0, [])


@pytest.mark.parametrize("optimizer, dtype, over", [("adamw", "f32", "mpi"), ("adamw", "bf16", "mpi"),
                                                    ("muon", "f32", "mpi"), ("muon", "bf16", "mpi"),
                                                    ("adamw", "f32", "tcp")])
def test_two_ranks_take_the_steps_of_one(tmp_path, optimizer, dtype, over):
    steps, less = (6, ()) if over == "mpi" else (2, ("--val_windows", 1, "--sample_tokens", 0))
    if over == "mpi":
        need_mpi()
    data = write_data(tmp_path / "data")
    losses, norms = {}, {}
    for ranks in (1, 2):
        run = tmp_path / f"run{ranks}"
        flags = "--steps", steps, "--device", "cuda-emu", "--optimizer", optimizer, "--dtype", dtype, *less
        train_ranks(ranks, over, command(data, run, *flags))
        losses[ranks] = np.array([line["loss"] for line in metrics(run) if "loss" in line])
        norms[ranks] = np.array([line["grad_norm"] for line in metrics(run) if "grad_norm" in line])
    tolerance = 1e-5 if dtype == "f32" else 2e-2
    assert len(losses[1]) == len(norms[1]) == steps
    np.testing.assert_allclose(losses[2], losses[1], rtol=tolerance)
    np.testing.assert_allclose(norms[2], norms[1], rtol=10 * tolerance)
