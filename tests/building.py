"""CMake targets, brought up to date by the tests that need them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("LLMC_BUILD", ROOT / "build"))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Tests run beside each other, and one build folder is for one of them at a time."""
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*command: str | Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout[-4000:]}"


def cached(folder: Path, variable: str) -> str:
    """What a build folder was configured with."""
    cache = folder / "CMakeCache.txt"
    assert cache.exists(), f"{folder} holds no build; run `make setup`"
    lines = cache.read_text().splitlines()
    return next(line.split("=", 1)[1] for line in lines if line.startswith(f"{variable}:"))


def build(target: str, folder: Path = BUILD) -> None:
    """Nothing is done for a target that is up to date."""
    with alone(folder):
        run(cached(folder, "CMAKE_COMMAND"), "--build", folder, "--target", target)


def configure(folder: Path, *flags: str) -> None:
    """Another build of this repository, with the tools of the first."""
    same = [
        f"-D{name}={cached(BUILD, name)}"
        for name in ("CMAKE_MAKE_PROGRAM", "CMAKE_C_COMPILER", "CMAKE_CXX_COMPILER")
    ]
    generator = cached(BUILD, "CMAKE_GENERATOR")
    with alone(folder):
        run(cached(BUILD, "CMAKE_COMMAND"), "-S", ROOT, "-B", folder, "-G", generator, *same, *flags)


def sanitized(target: str) -> Path:
    """A target built with the address and undefined-behaviour sanitizers. Its folder is kept: the next time is fast."""
    folder = ROOT / "build-sanitize"
    flags = [f"-DCMAKE_{language}_FLAGS_RELEASE=-O1 -g1" for language in ("C", "CXX")]
    configure(folder, "-DLLMC_SANITIZE=ON", "-DLLMC_PYTHON=OFF", *flags)
    build(target, folder)
    return folder


def need_mpi() -> None:
    """Skips a test where there is no MPI; where it is installed, and the build passed over it, the test fails."""
    if not (BUILD / "libllmc_mpi.so").exists():
        mpirun = Path(sys.executable).with_name("mpirun")
        assert not mpirun.exists(), f"{mpirun} is there, but libllmc_mpi.so was not built; run `make setup`"
        pytest.skip("skipped: no MPI was found when llmc was built")
