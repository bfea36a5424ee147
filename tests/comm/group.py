"""Starts tests/comm/comm_test.c, or any program, as a group of ranks."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import tcp_ranks
from building import BUILD, build, need_mpi
from tcp_ranks import Ended

from llmc.launch import mpirun


def program(over: str = "mpi") -> list[str]:
    """The path of comm_test, brought up to date; a test over MPI is skipped where there is none."""
    if over == "mpi":
        need_mpi()
        build("llmc_mpi")
    build("comm_test")
    return [str(BUILD / "comm_test")]


def start(ranks: int, *command: object, **environment: str) -> subprocess.Popen:
    argv, env = mpirun(list(map(str, command)), ranks)
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=env | environment, stdout=pipe, stderr=pipe, text=True)


def run(ranks: int, *command: object, over: str = "mpi", timeout: float = 60, **environment: str) -> Ended:
    """Over TCP there is no launcher, and what the ranks say is put together."""
    if over == "tcp":
        return tcp_ranks.together(tcp_ranks.ended(tcp_ranks.start(ranks, *command, **environment), timeout))
    process = start(ranks, *command, **environment)
    return ended(process, timeout)


def ended(process: subprocess.Popen, timeout: float = 60) -> Ended:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Ended(process.returncode, out.splitlines(), err.splitlines())


def without_plugin(folder: Path) -> list[str]:
    """comm_test as it is where the plugin was not built: a copy beside its library alone."""
    [name] = program()
    for file in Path(name), BUILD / "libllmc.so":
        shutil.copy2(file, folder)
    assert not (folder / "libllmc_mpi.so").exists() and "LD_LIBRARY_PATH" not in os.environ
    return [str(folder / "comm_test")]
