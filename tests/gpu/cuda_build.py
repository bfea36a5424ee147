"""The plugin for real GPUs, built where nvcc is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from building import ROOT, alone
from llmc import nvidia


def need_nvcc() -> str:
    compiler = nvidia.nvcc()
    if not compiler:
        pytest.skip("skipped: no nvcc")
    return compiler


def plugin(architectures: str) -> Path:
    """libllmc_cuda.so for these; warnings are errors. Its folder is kept: the next time is fast."""
    need_nvcc()
    folder = ROOT / f"build-cuda-{architectures.replace(';', '-')}"
    with alone(folder):
        done = subprocess.run([sys.executable, ROOT / "dev" / "build_cuda.py", folder,
                               f"-DCMAKE_CUDA_ARCHITECTURES={architectures}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "libllmc_cuda.so"
