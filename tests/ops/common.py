"""What the tests of the ops share: guarded buffers, calls that watch their inputs, and a tolerance by rule.

A formula is a function of torch tensors. It is run in float64 to know what is exact, and in float32 to know what plain
arithmetic makes of it; the tolerance is a small multiple of the difference. Gradients are torch's, of that formula.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from llmc import _core

F32, BF16, I32 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.int32)
GUARD = 19      # elements before and after a buffer: odd, so that buffers are not aligned either, and
CUDA_GUARD = 64     # on a GPU, where kernels for unaligned ones are others, they are

Formula = Callable[..., Any]


def gpus() -> list[str]:
    """The emulated one, on every machine; "cuda" where it opens."""
    try:
        _core.Device("cuda")
    except _core.LlmcError:
        return ["cuda-emu"]
    assert find_spec("cupy"), "there is a GPU; its tests want CuPy: pip install cupy-cuda13x"
    return ["cuda-emu", "cuda"]


GPUS = gpus()
DEVICES = [*_core.device_list(), *GPUS]


@cache
def device(name: str, threads: int = 2) -> Any:
    return _core.Device(name, threads)


def numbers(*shape: int, dtype: np.dtype = F32, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal numbers, rounded to the type."""
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(dtype)


class Out:
    """A buffer for an op to write, with a pattern in it, before it and after it. aligned: to 64 bytes, as models' are."""

    def __init__(self, *shape: int, dtype: np.dtype = F32, fill: np.ndarray | None = None, aligned: bool = False):
        count = int(np.prod(shape))
        self.whole = (np.arange(count + 2 * GUARD + 64) % 13 + 1).astype(dtype)
        self.begin = GUARD
        while aligned and (self.whole.ctypes.data + self.begin * self.whole.itemsize) % 64:
            self.begin += 1
        self.end = self.begin + count
        self.array = self.whole[self.begin:self.end].reshape(shape)
        if fill is not None:
            self.array[...] = fill
        self.guards = self.around()

    def around(self) -> bytes:
        return self.whole[:self.begin].tobytes() + self.whole[self.end:].tobytes()


class In:
    """A copy with NaNs around it (-1 for whole numbers): what an op reads beyond the ends will show."""

    def __init__(self, array: np.ndarray):
        self.original = array
        self.whole = np.full(array.size + 2 * GUARD, -1 if array.dtype.kind in "iu" else np.nan).astype(array.dtype)
        self.begin, self.end = GUARD, GUARD + array.size
        self.array = self.whole[self.begin:self.end].reshape(array.shape)
        self.array[...] = array


class OnGPU:
    """Buffers, each with all that is around it, in a GPU's memory while an op runs. xp: CuPy, or what acts as it."""

    def __init__(self, xp: Any):
        self.xp, self.held = xp, {}

    def lend(self, buffer: Out | In) -> Any:
        if id(buffer) not in self.held:         # one that is passed twice is one there too
            bits = buffer.whole.view(np.uint16) if buffer.whole.dtype == BF16 else buffer.whole
            self.held[id(buffer)] = buffer, self.xp.asarray(bits)
        return self.held[id(buffer)][1][buffer.begin:buffer.end].reshape(buffer.array.shape)

    def give_back(self) -> None:
        for buffer, there in self.held.values():
            buffer.whole[...] = self.xp.asnumpy(there).view(buffer.whole.dtype)


def memory_of(on: Any) -> OnGPU | None:
    """What holds the arrays for a device; None: they are passed as they are."""
    if on.name != "cuda":
        return None
    import cupy
    return OnGPU(cupy)


def run(on: Any, op: str, *args: Any) -> Any:
    """Call an op: an Out is written (or a list of them), an array is an input that must stay as it is. Returns what was
    written, in order."""
    inputs: list[In] = []
    memory = memory_of(on)

    def passed(a: Any) -> Any:
        if isinstance(a, list):
            return [passed(each) for each in a]
        if isinstance(a, np.ndarray):
            inputs.append(In(a))
            a = inputs[-1]
        if isinstance(a, (In, Out)):
            return memory.lend(a) if memory else a.array
        return a

    given = [passed(a) for a in args]
    if memory:
        memory.xp.cuda.Device().synchronize()
    getattr(_core, op)(on, *given)
    if memory:
        memory.xp.cuda.Device().synchronize()
        memory.give_back()
    for copy in inputs:
        assert copy.array.tobytes() == copy.original.tobytes(), f"{op} changed an input of shape {copy.original.shape}"
    outs = [out for a in args for out in (a if isinstance(a, list) else [a]) if isinstance(out, Out)]
    for out in outs:
        assert out.around() == out.guards, f"{op} wrote outside an output of shape {out.array.shape}"
    return outs[0].array if len(outs) == 1 else tuple(out.array for out in outs)


def apply(formula: Formula, args: Sequence[Any], dtype: torch.dtype) -> tuple[np.ndarray, ...]:
    """The formula's results (one, or a tuple), computed in a precision. Arrays that are not indices take that type."""
    result = formula(*(as_tensor(a, dtype) for a in args))
    return tuple(r.detach().numpy() for r in (result if isinstance(result, tuple) else (result,)))


def as_tensor(a: Any, dtype: torch.dtype) -> Any:
    if not isinstance(a, np.ndarray):
        return a
    return torch.from_numpy(a.astype(np.int64)) if a.dtype == I32 else torch.from_numpy(a.astype(np.float64)).to(dtype)


def gradient(formula: Formula, *wrt: int) -> Formula:
    """The formula's gradient: takes (dout, *args), gives the slopes of sum(dout * formula) by the named arguments."""
    def slopes(dout: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
        leaves = {i: args[i].clone().requires_grad_(True) for i in wrt}
        value = formula(*(leaves.get(i, a) for i, a in enumerate(args)))
        return torch.autograd.grad((value * dout).sum(), list(leaves.values()))
    return slopes


def within_budget(got: np.ndarray | tuple[np.ndarray, ...], formula: Formula, *args: Any, slack: float = 4.0) -> None:
    """got is no further from the formula than `slack` times what plain arithmetic of the same precision makes of it."""
    gots = got if isinstance(got, tuple) else (got,)
    exacts, plains = apply(formula, args, torch.float64), apply(formula, args, torch.float32)
    assert len(gots) == len(exacts)
    for i, (value, exact, plain) in enumerate(zip(gots, exacts, plains)):
        assert value.shape == exact.shape, f"result {i} is {value.shape}, the formula's {exact.shape}"
        stored = plain.astype(value.dtype).astype(np.float64)
        floor = float(ml_dtypes.finfo(value.dtype).eps) * np.abs(exact).max()
        budget = slack * np.abs(stored - exact).max() + floor
        error = np.abs(value.astype(np.float64) - exact).max()
        assert error <= budget, f"result {i}: error {error:.2e} is over the budget of {budget:.2e}"


def one_kernel_for_any_shape(on: Any) -> None:
    """Skips what a GPU's library does not promise: it chooses a kernel by shape and address."""
    if on.name == "cuda":
        pytest.skip("skipped: cuBLASLt chooses a kernel by shape and address")


def same_bits_for_any_threads(name: str, op: str, make: Callable[[], Sequence[Any]]) -> None:
    """Run the op on fresh arguments with 1, 2, 3 and 8 threads; what it writes must not differ in one bit."""
    results = []
    for threads in (1, 2, 3, 8):
        written = run(device(name, threads), op, *make())
        results.append([w.tobytes() for w in (written if isinstance(written, tuple) else (written,))])
    assert all(r == results[0] for r in results), f"{op} on {name}: bits depend on the number of threads"
