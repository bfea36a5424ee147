"""Every test of an op that asks for `on` and `dtype` runs on each device of this machine, in f32 and bf16."""
from __future__ import annotations

from typing import Any

import common
import numpy as np
import pytest
from common import BF16, CUDA_GUARD, DEVICES, F32, device


@pytest.fixture(params=DEVICES)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param.startswith("cuda"):
        monkeypatch.setattr(common, "GUARD", CUDA_GUARD)
    return request.param


@pytest.fixture
def on(name: str) -> Any:
    return device(name)


@pytest.fixture(params=[F32, BF16], ids=["f32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> np.dtype:
    return request.param
