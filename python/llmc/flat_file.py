"""A file that is a header and then tensors, one after the other, in an order that is known."""
from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from llmc.lazy import STORED, Lazy, Shape


def tensors(path: Path, header: int, layout: Iterable[tuple[str, Shape]],
            dtype: str) -> dict[str, Lazy]:
    """The tensors after `header` bytes, which must fill the file exactly."""
    found, at = {}, header
    for name, shape in layout:
        found[name] = _at(path, at, shape, dtype)
        at += math.prod(shape) * STORED[dtype].itemsize
    size = path.stat().st_size
    if size != at:
        kind = "it was cut" if size < at else "it is another kind of file"
        raise ValueError(f"{path} has {size:,} bytes, and by its header {at:,}; {kind}")
    return found


def _at(path: Path, place: int, shape: Shape, dtype: str) -> Lazy:
    return Lazy(shape, dtype, lambda: np.memmap(path, STORED[dtype], "r", place, shape))
