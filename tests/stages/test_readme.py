"""README's commands do what it says: every block marked `sh runnable` is run, in order, in a new folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from building import BUILD, ROOT, need_mpi

BLOCKS = re.findall(r"```sh runnable\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has after `make train_gpt2`: the README, the program, and llmc on the path."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "README.md").symlink_to(ROOT / "README.md")
    (folder / "train_gpt2").symlink_to(BUILD / "train_gpt2")
    (folder / "bin").mkdir()
    (folder / "bin" / "llmc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llmc "$@"\n')
    (folder / "bin" / "llmc").chmod(0o755)
    return folder


def test_there_are_commands_to_run():
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_readme_runs(folder, number):
    for line in BLOCKS[number].strip().splitlines():
        if "--ranks" in line:
            need_mpi()
        # the Makefile's own work is what brought this test here; that it knows the target is left to see
        command, cwd = (line.replace("make ", "make -n "), ROOT) if line.startswith("make ") else (line, folder)
        environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        done = subprocess.run(command, shell=True, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
