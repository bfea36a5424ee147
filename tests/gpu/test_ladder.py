"""The ladder of products: each step agrees with sums in double on the emulated GPU."""

from __future__ import annotations

import subprocess

from building import BUILD, build


def test_every_step_is_right():
    build("ladder_gpu")
    done = subprocess.run([BUILD / "ladder_gpu"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 steps agree" in done.stdout
