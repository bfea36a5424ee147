"""Two emulated GPUs, one in each process, over MPI: the same steps as one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from building import need_mpi
from llmc import launch

sys.path.append(str(Path(__file__).resolve().parents[1] / "stages"))
from training import command, metrics, train, write_data  # noqa: E402


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_two_ranks_take_the_steps_of_one(tmp_path, optimizer, dtype):
    need_mpi()
    data = write_data(tmp_path / "data")
    losses, norms = {}, {}
    for ranks in (1, 2):
        run = tmp_path / f"run{ranks}"
        flags = "--steps", 6, "--device", "cuda-emu", "--optimizer", optimizer, "--dtype", dtype
        wrapped, environment = launch.mpirun(command(data, run, *flags), ranks)
        train(wrapped, 0, **environment)
        losses[ranks] = np.array([line["loss"] for line in metrics(run) if "loss" in line])
        norms[ranks] = np.array([line["grad_norm"] for line in metrics(run) if "grad_norm" in line])
    tolerance = 1e-5 if dtype == "f32" else 2e-2
    assert len(losses[1]) == len(norms[1]) == 6
    np.testing.assert_allclose(losses[2], losses[1], rtol=tolerance)
    np.testing.assert_allclose(norms[2], norms[1], rtol=10 * tolerance)
