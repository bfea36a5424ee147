"""What every folder of tests may use."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Threads wait asleep: PyTorch's pool and ours share the processors, and spinning costs both half
# of them. It is read when the first of the two libraries is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
BUILD = Path(os.environ.get("LLMC_BUILD", ROOT / "build"))


def build(target: str, folder: Path = BUILD) -> None:
    """Bring one CMake target up to date; nothing is done if it is."""
    cache = folder / "CMakeCache.txt"
    assert cache.exists(), f"{folder} holds no build; run `make setup`"
    lines = cache.read_text().splitlines()
    cmake = next(line.split("=", 1)[1] for line in lines if line.startswith("CMAKE_COMMAND:"))
    command = [cmake, "--build", str(folder), "--target", target]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{target} does not build:\n{done.stdout[-4000:]}"


@pytest.fixture(scope="session")
def core() -> ModuleType:
    """The core's inner parts, which users never call: built from tests/core/harness*.cpp."""
    build("_core_tests")
    found = list(BUILD.glob("_core_tests.*.so"))
    assert len(found) == 1, f"found {found}, wanted one module built for this Python"
    spec = importlib.util.spec_from_file_location("_core_tests", found[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository, where there is one."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("skipped: no ../shared")
    return folder
