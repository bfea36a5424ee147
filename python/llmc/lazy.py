"""Tensors that are read when they are asked for: what a conversion passes from file to file.

Formats keep the same numbers in other places: transposed, packed into one tensor, or with the rows
of queries and keys in another order. A `Piece` says where rows of one of our parameters are in
another format; a list of pieces is read in both directions, `assemble` and `take_apart`.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]
STORED = {"f32": np.dtype("<f4"), "bf16": np.dtype("<u2"), "f16": np.dtype("<f2")}  # bf16: its bits
CHUNK = 1 << 20                     # elements that change their type at a time


class Lazy(NamedTuple):
    """A tensor that is not read yet."""
    shape: Shape
    dtype: str                      # a key of STORED
    read: Callable[[], np.ndarray]  # of this shape and type; may be a view of a mapped file


class Piece(NamedTuple):
    """Rows of one of our parameters that are a tensor of another format."""
    ours: str
    theirs: str
    begin: int                      # the rows of ours: [begin, end)
    end: int
    transposed: bool = False        # theirs is (in, out)
    head: int = 0                   # theirs pairs neighbours in RoPE, in heads of this many rows


Pieces = list[Piece]


def of(array: np.ndarray) -> Lazy:
    """An array that is there already; uint16 is taken for the bits of bf16."""
    dtype = next(name for name, kind in STORED.items() if kind == array.dtype)
    return Lazy(array.shape, dtype, lambda: array)


def assemble(pieces: Pieces, theirs: Mapping[str, Lazy], shapes: Mapping[str, Shape],
             where: str) -> dict[str, Lazy]:
    """Our parameters out of another format's tensors. Fails, naming it, for one that is missing, of
    another shape or type, or too many. Rows below the last piece are zeros: the vocabulary's padding.
    """
    used = {piece.theirs for piece in pieces}
    if extra := sorted(theirs.keys() - used):
        raise ValueError(f"{where}: it holds {extra[0]}, which this model has not")
    parts: dict[str, list[Lazy]] = {name: [] for name in shapes}
    for piece in pieces:
        wanted = (piece.end - piece.begin, *shapes[piece.ours][1:])
        shape = wanted[::-1] if piece.transposed else wanted
        if piece.theirs not in theirs:
            raise ValueError(f"{where}: the tensor {piece.theirs} is missing")
        found = theirs[piece.theirs]
        if found.shape != shape:
            raise ValueError(f"{where}: {piece.theirs} is {times(found.shape)}, "
                             f"wanted {times(shape)}")
        if found.dtype not in STORED:
            raise ValueError(f"{where}: {piece.theirs} is of type {found.dtype}; "
                             "F32, BF16 and F16 are read")
        if piece.transposed:
            found = transposed(found)
        parts[piece.ours].append(halves(found, piece.head) if piece.head else found)
    return {name: stacked(parts[name], shape) for name, shape in shapes.items()}


def take_apart(pieces: Pieces, ours: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Another format's tensors out of our parameters."""
    theirs = {}
    for piece in pieces:
        part = rows(ours[piece.ours], piece.begin, piece.end)
        if piece.head:
            part = neighbours(part, piece.head)
        theirs[piece.theirs] = transposed(part) if piece.transposed else part
    return theirs


def times(shape: Shape) -> str:
    """(3, 4) as people write it: 3 x 4."""
    return " x ".join(map(str, shape))


# ---- other places ------------------------------------------------------------------------------

def rows(of: Lazy, begin: int, end: int) -> Lazy:
    """The rows [begin, end)."""
    if (begin, end) == (0, of.shape[0]):
        return of
    return Lazy((end - begin, *of.shape[1:]), of.dtype, lambda: of.read()[begin:end])


def transposed(of: Lazy) -> Lazy:
    """Rows become columns; a vector stays."""
    return of if len(of.shape) == 1 else Lazy(of.shape[::-1], of.dtype, lambda: of.read().T)


def stacked(parts: list[Lazy], shape: Shape) -> Lazy:
    """One below the other, in one type, and zeros below them up to the shape."""
    if len(parts) == 1 and parts[0].shape == shape:
        return parts[0]
    dtype = widest(part.dtype for part in parts)

    def read() -> np.ndarray:
        whole = np.zeros(shape, STORED[dtype])
        at = 0
        for part in parts:
            whole[at:at + part.shape[0]] = as_type(part, dtype)
            at += part.shape[0]
        return whole
    return Lazy(shape, dtype, read)


def halves(of: Lazy, head: int) -> Lazy:
    """Heads whose RoPE turns rows (2i, 2i + 1) -> heads whose RoPE turns (i, i + head/2)."""
    return _regrouped(of, (head // 2, 2))


def neighbours(of: Lazy, head: int) -> Lazy:
    """Heads whose RoPE turns rows (i, i + head/2) -> heads whose RoPE turns (2i, 2i + 1)."""
    return _regrouped(of, (2, head // 2))


def _regrouped(of: Lazy, groups: Shape) -> Lazy:
    heads = of.shape[0] // (groups[0] * groups[1])

    def read() -> np.ndarray:
        return of.read().reshape(heads, *groups, -1).swapaxes(1, 2).reshape(of.shape)
    return of._replace(read=read)


# ---- other types -------------------------------------------------------------------------------

def widest(dtypes: Iterable[str]) -> str:
    """The type that holds all of these exactly; f16 and bf16 hold no part of each other's."""
    kinds = set(dtypes)
    return kinds.pop() if len(kinds) == 1 else "f32"


def as_type(of: Lazy, dtype: str) -> np.ndarray:
    """Its numbers as f32 or bf16, contiguous; to bf16 they are rounded to nearest, ties to even."""
    array = np.ascontiguousarray(of.read())
    if of.dtype == dtype:
        return array
    result = np.empty(array.shape, STORED[dtype])
    source, target = array.reshape(-1), result.reshape(-1)
    for at in range(0, source.size, CHUNK):
        wide = _f32(source[at:at + CHUNK], of.dtype)
        target[at:at + CHUNK] = _bf16(wide) if dtype == "bf16" else wide
    return result


def _f32(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def _bf16(array: np.ndarray) -> np.ndarray:
    bits = array.view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(array), bits >> 16 | 0x40, nearest).astype(np.uint16)
