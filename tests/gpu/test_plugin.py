"""The plugin for GPUs, as far as it can be seen where there is none: how it is asked for, and what it says."""

from __future__ import annotations

import subprocess
import sys

from building import BUILD, ROOT
from training import train


def test_the_name_of_the_program_decides_where_it_trains(tmp_path):
    for name, device in (("train_gpt2", "cpu"), ("train_gpt2cu", "cuda"), ("cu", "cuda"), ("cu2", "cpu")):
        (tmp_path / name).symlink_to(BUILD / "train_gpt2")
        out, _ = train([str(tmp_path / name), "--help"])
        flag = " ".join(out[out.index("--device"):].split())
        assert f"(default {device})" in flag.split("--threads")[0]
        assert out.startswith(f"usage: {'train_gpt2cu' if device == 'cuda' else 'train_gpt2'} ")


def test_without_nvcc_the_build_says_so_in_a_sentence(tmp_path):
    hidden = "import runpy, sys; from llmc import nvidia; nvidia.nvcc = str; " \
             "sys.argv = ['', sys.argv[1]]; runpy.run_path('dev/build_cuda.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", hidden, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("llmc: no nvcc was found") and "pip install nvidia-cuda-nvcc" in done.stderr
