"""Starts tests/comm/comm_test.c, or any program, as a group of ranks."""
from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from building import BUILD, build, need_mpi

from llmc.launch import mpirun


@dataclass
class Ended:
    status: int
    out: list[str]      # lines
    err: list[str]


def program() -> list[str]:
    """The path of comm_test, brought up to date; its test is skipped where there is no MPI."""
    need_mpi()
    build("llmc_mpi")
    build("comm_test")
    return [str(BUILD / "comm_test")]


def start(ranks: int, *command: object, **environment: str) -> subprocess.Popen:
    argv, env = mpirun(list(map(str, command)), ranks)
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=env | environment, stdout=pipe, stderr=pipe, text=True)


def run(ranks: int, *command: object, timeout: float = 60, **environment: str) -> Ended:
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
