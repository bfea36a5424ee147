"""Arrays in a GPU's memory: passed by __cuda_array_interface__, here over numpy's memory and the emulated GPU."""

from __future__ import annotations

from types import SimpleNamespace

import common
import numpy as np
import pytest
from common import BF16, F32, GPUS, OnGPU, Out, device, numbers, run

from llmc import LlmcError, Tensor, _core


class Lent(np.ndarray):
    """An array of numpy that says it lies on a GPU."""

    @property
    def __cuda_array_interface__(self) -> dict:
        return {**self.__array_interface__, "version": 3}


XP = SimpleNamespace(
    asarray=lambda a: a.copy().view(Lent), asnumpy=np.asarray,
    cuda=SimpleNamespace(Device=lambda: SimpleNamespace(synchronize=lambda: None)))


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["f32", "bf16"])
def test_the_ops_tests_run_the_same_over_lent_memory(monkeypatch, dtype):
    """An output that is an input, one that is none, a list; and what lies around them."""
    on, x, w = device("cuda-emu"), numbers(5, 71, dtype=dtype), numbers(71, dtype=dtype, seed=1)

    def results() -> list[bytes]:
        shared = Out(5, 71, dtype=dtype, fill=x)
        norm = run(on, "norm_forward", shared, Out(5, 71, dtype=dtype), None, Out(5), shared, x, w, None, 1e-5)
        turned = run(on, "orthogonalize", [Out(8, 12), Out(3, 5)], False)
        return [a.tobytes() for a in (*norm, *turned)]
    plain = results()
    monkeypatch.setattr(common, "memory_of", lambda on: OnGPU(XP))
    assert results() == plain


def test_memory_that_a_device_cannot_read_is_refused():
    x = numbers(3, 4)
    there = x.view(Lent)
    out = np.zeros(1, F32)
    with pytest.raises(LlmcError, match="in a GPU's memory, which the device cpu"):
        _core.sum_squares(_core.Device("cpu"), out, there)
    for bad, sentence in ((there.astype(np.float64), "<f8"), (there.T, "not contiguous")):
        with pytest.raises(LlmcError, match=sentence):
            _core.sum_squares(device("cuda-emu"), out, bad)


def test_cupy_and_the_engine_share_a_gpu_s_memory():
    """By DLPack both ways, each after what the other had begun; so does the processor's memory not pass."""
    if "cuda" not in GPUS:
        pytest.skip("skipped: no GPU")
    import cupy

    on = device("cuda")
    tensor, out = Tensor(on, (1 << 20,)), Tensor(on, (1,))
    shared = cupy.from_dlpack(tensor)
    shared[:] = 2
    _core.sum_squares(on, out, cupy.from_dlpack(tensor))
    assert out.get() == 4 << 20
    sums = cupy.zeros(1, cupy.float32)
    _core.sum_squares(on, sums, shared + 1)
    assert float(sums[0]) == 9 << 20
    with pytest.raises(LlmcError, match="in the processor's memory, which the device cuda cannot read"):
        _core.sum_squares(on, out, np.zeros(3, F32))
    tensor.set(np.ones(1 << 20, F32))
    assert float(shared.sum()) == 1 << 20
