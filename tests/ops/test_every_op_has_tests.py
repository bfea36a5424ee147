"""The table of ops and this folder, held against each other."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmc import _core

HERE = Path(__file__).parent
CALLS = {path.name: set(re.findall(r'"(\w+)"', path.read_text())) for path in HERE.glob("test_*.py")
         if path.name != Path(__file__).name}


@pytest.mark.parametrize("op", _core.op_names())
def test_some_file_tests(op):
    assert any(op in names for names in CALLS.values()), f"no file in {HERE} names the op {op}"
