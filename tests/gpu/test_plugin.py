"""The plugin for GPUs, as far as it can be seen where there is none: how it is asked for, and what it says."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from building import BUILD, ROOT
from cuda_build import plugin
from llmc import LlmcError, _core
from training import TINY, refusal, train, write_data


@pytest.fixture
def trainer(tmp_path):
    """The command of a program that stands alone with the engine, beside no plugin, on data of its own."""
    for name in ("train_gpt2", "libllmc.so"):
        shutil.copy(BUILD / name, tmp_path)
    data, run = write_data(tmp_path / "data"), tmp_path / "run"
    return [str(tmp_path / "train_gpt2"), "--data", str(data), "--run", str(run), *TINY]


def has_gpu() -> bool:
    try:
        _core.Device("cuda")
    except LlmcError:
        return False
    return True


def test_without_the_plugin_a_sentence_says_how_to_get_it(trainer):
    sentence = refusal([*trainer, "--device", "cuda"])
    assert "device cuda: its plugin cannot be opened" in sentence and "make train_gpt2cu" in sentence


def test_without_a_driver_a_sentence_says_so(trainer, tmp_path):
    shutil.copy(plugin("80"), tmp_path)
    if has_gpu():
        pytest.skip("skipped: there is a GPU")
    sentence = refusal([*trainer, "--device", "cuda"])
    assert sentence == "llmc: device cuda: there is no NVIDIA driver here; install it, or use --device cpu"


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
