"""The table of ops and this folder, held against each other: every op, put out of work on a GPU, is missed by a test.

Run as a program, this goes through the folder's tests on the emulated GPU, with one op after the other working on
copies there, so that its outputs stay as they were. It ends with a line of JSON: by op, a test that fails then and
passes otherwise, or null. What a door refuses it refuses of copies too: that it does is no test of the op.
"""
from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _pytest.runner import runtestprotocol

from llmc import _core

HERE, GPU = Path(__file__).parent, "cuda-emu"


def spare(given: Any, made: dict[int, np.ndarray]) -> Any:
    """A copy of an array, or of a list's; of one that is given twice there is one."""
    if isinstance(given, list):
        return [spare(each, made) for each in given]
    return made.setdefault(id(given), given.copy()) if isinstance(given, np.ndarray) else given


class OutOfWork:
    """Takes the place of pytest's loop over the tests."""

    def __init__(self) -> None:
        self.idle: str | None = None
        self.missed_by: dict[str, str | None] = {}

    def idler(self, op: str) -> Callable[..., None]:
        works = getattr(_core, op)

        def call(on: Any, *args: Any) -> None:
            made: dict[int, np.ndarray] = {}
            works(on, *(spare(a, made) if self.idle == op and on.name == GPU else a for a in args))
        return call

    def passes(self, item: pytest.Item, idle: str | None) -> bool:
        self.idle = idle
        return all(report.passed for report in runtestprotocol(item, log=False, nextitem=None))

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for op in _core.op_names():
            setattr(_core, op, self.idler(op))
        for op in _core.op_names():
            name = f'"{op}"'
            found = [item for item in session.items if name in item.path.read_text()]
            found.sort(key=lambda item: name not in inspect.getsource(item.function))       # the likeliest first
            missing = (item.nodeid for item in found if not self.passes(item, op) and self.passes(item, None))
            self.missed_by[op] = next(missing, None)
        return True


@pytest.fixture(scope="module")
def missed_by() -> dict[str, str | None]:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("op", _core.op_names())
def test_some_test_fails_when_an_op_does_nothing_on_a_gpu(missed_by, op):
    assert missed_by[op], f"every test in {HERE} passes while {op} does nothing on {GPU}; write one that does not"


if __name__ == "__main__":
    plugin = OutOfWork()
    status = pytest.main([str(HERE), "-k", GPU, "-m", "not slow", "-p", "no:cacheprovider"], plugins=[plugin])
    print(json.dumps(plugin.missed_by))
    sys.exit(status)
