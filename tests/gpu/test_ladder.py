"""The ladders of a GPU: each step agrees with sums in double on the emulated one."""

from __future__ import annotations

import subprocess

import pytest
from building import BUILD, build
from training import refusal


@pytest.mark.parametrize("ladder", ["ladder_gpu", "ladder_attention"])
def test_every_step_is_right(ladder):
    build(ladder)
    done = subprocess.run([BUILD / ladder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 steps agree" in done.stdout


def test_sizes_that_are_none_are_refused():
    build("ladder_gpu")
    assert "x is no size; wanted M N K" in refusal([str(BUILD / "ladder_gpu"), "4", "x"])
    assert "K is 12, wanted a multiple of 8" in refusal([str(BUILD / "ladder_gpu"), "4", "4", "12"])
