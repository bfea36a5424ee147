"""What every folder of tests may use."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
from building import BUILD, ROOT, build

# Threads wait asleep: PyTorch's pool and ours share the processors, and spinning costs both half
# of them. It is read when the first of the two libraries is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


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
