"""What nvcc makes of the kernels: no warnings, and no registers spilled in those where the time goes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from building import ROOT
from cuda_build import need_nvcc, plugin

HOT = {"norm": "norm_", "optim": "adamw_", "loss": "logprob_", "gemm": "product_", "attention": "attention_",
       "embed": "embed_", "int8": "int8_product_"}      # file: its kernels begin so


def spills(file: str, kernels: str, architecture: str, folder: Path) -> dict[str, int]:
    """Bytes stored for want of registers, of each kernel whose name begins so."""
    command = [need_nvcc(), "-std=c++17", "-O3", "-Xptxas", "-v", "-gencode",
               f"arch=compute_{architecture},code=sm_{architecture}", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'cuda'}", "-c",
               ROOT / "cuda" / f"{file}.cu", "-o", folder / "kernels.o"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"Function properties for (\w+)\n.*?(\d+) bytes spill stores", done.stderr)
    return {name: int(stored) for name, stored in found if re.match(rf"_Z\d+{kernels}", name)}


def assert_no_spills(architecture: str, folder: Path, hot: dict[str, str]) -> None:
    for file, kernels in hot.items():
        found = spills(file, kernels, architecture, folder)
        assert found and not any(found.values()), found


@pytest.mark.slow
def test_hot_kernels_keep_to_their_registers(tmp_path):
    assert_no_spills("90a", tmp_path, {**HOT, "attention_flash": "flash_"})


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "100a"])
def test_hot_kernels_keep_to_their_registers_elsewhere(tmp_path, architecture):
    assert_no_spills(architecture, tmp_path, HOT)


def test_one_architecture_compiles_without_a_warning():
    assert plugin("80").is_file()


@pytest.mark.slow
def test_every_architecture_compiles_without_a_warning():
    assert plugin("80;90a-real;100a-real").is_file()
