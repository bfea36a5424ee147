"""Ops in memory of exactly the size they ask for, under the address and undefined sanitizers."""
from __future__ import annotations

import subprocess

import pytest
from building import sanitized


@pytest.mark.slow
def test_ops_keep_to_the_memory_they_asked_for():
    program = sanitized("exact_memory") / "exact_memory"
    done = subprocess.run([program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.count("kept to its memory") >= 4
