"""Ops in memory of exactly the size they ask for, under the address and undefined sanitizers."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Kept between runs: the library takes minutes to build, and seconds to bring up to date.
BUILD = Path(os.environ.get("LLMC_BUILD", ROOT / "build")) / "sanitize"
# cmake and ninja may be this Python's packages.
ENVIRON = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
           "ASAN_OPTIONS": "detect_leaks=0"}


def run(*command: str | Path) -> str:
    done = subprocess.run(command, env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.slow
def test_ops_keep_to_the_memory_they_asked_for(tmp_path):
    run("cmake", "-S", ROOT, "-B", BUILD, "-G", "Ninja", "-DLLMC_SANITIZE=ON",
        "-DLLMC_PYTHON=OFF", "-DCMAKE_C_FLAGS_RELEASE=-O1 -g")
    run("cmake", "--build", BUILD, "--target", "llmc")
    program = tmp_path / "exact_memory"
    run("cc", "-std=gnu11", "-g", "-fsanitize=address,undefined", "-I", ROOT / "csrc",
        Path(__file__).with_name("exact_memory.c"), "-o", program, "-L", BUILD, "-lllmc",
        f"-Wl,-rpath,{BUILD}")
    assert run(program).count("kept to its memory") >= 4
