"""Where CUDA's compiler and libraries are: on the path, in a toolkit, or in wheels."""
from __future__ import annotations

import os
import shutil
import sysconfig
from ctypes.util import find_library
from pathlib import Path

HOW_TO_GET_NVCC = ("install the CUDA toolkit, or pip install nvidia-cuda-nvcc "
                   "nvidia-cuda-runtime nvidia-cublas")


def folders() -> list[Path]:
    """What may hold bin, lib and include of CUDA, the first to be asked first."""
    named = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    wheels = Path(sysconfig.get_path("purelib")) / "nvidia"
    found = [*(Path(name) for name in named if name), Path("/usr/local/cuda"),
             *sorted(wheels.glob("cu[0-9]*"), reverse=True),            # of CUDA 13 and later
             *(wheels / part for part in ("cuda_nvcc", "cuda_runtime", "cublas", "nccl"))]
    return [folder for folder in found if folder.is_dir()]


def nvcc() -> str:
    """The compiler's path; empty where there is none."""
    beside = os.pathsep.join(str(folder / "bin") for folder in folders())
    return shutil.which("nvcc") or shutil.which("nvcc", path=beside) or ""


def nccl() -> str:
    """The library that several GPUs meet by, of a wheel or the system's; empty: there is none."""
    wheels = [folder / "lib" / "libnccl.so.2" for folder in folders()]
    return next((str(file) for file in wheels if file.is_file()), find_library("nccl") or "")
