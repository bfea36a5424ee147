"""Arrays shared with PyTorch and others by DLPack: no copy either way, and nobody's memory goes while it is used."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from llmc import Config, Device, LlmcError, Model, Tensor, _core

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
CPU, PINNED, EMULATED = 1, 3, 12             # DLPack's kinds of devices


@pytest.fixture
def device():
    return Device("cpu", threads=1)


class Foreign:
    """An array of a library that only speaks DLPack; before 1.0, if it knows no versions."""

    def __init__(self, array: Any, old: bool = False, place: tuple[int, int] | None = None):
        self.array, self.old, self.place = array, old, place

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.place or self.array.__dlpack_device__()

    def __dlpack__(self, stream: Any = None, **wishes: Any) -> Any:
        if self.old and wishes:
            raise TypeError("unexpected keyword argument")
        return self.array.__dlpack__(stream=stream, **wishes)


def linear(device, out, x, w):
    _core.linear_forward(device, out, None, x, w, None, _core.Activation.NONE)


@pytest.mark.parametrize("dtype", TYPES)
def test_pytorch_reads_and_writes_the_engine_s_memory(device, dtype):
    tensor = Tensor(device, (3, 5), dtype)
    shared = torch.from_dlpack(tensor)
    assert shared.shape == tensor.shape == (3, 5) and shared.dtype == TYPES[dtype] and not shared.any()
    shared[1] = torch.arange(5)
    ours = torch.from_numpy(tensor.get()).view(TYPES[dtype])
    assert ours[1].tolist() == [0, 1, 2, 3, 4] and not ours[0].any()
    tensor.set(torch.full((3, 5), 7, dtype=TYPES[dtype]))
    assert (shared == 7).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("old", [False, True])
def test_an_op_reads_and_writes_pytorch_s_memory(device, dtype, old):
    x = torch.arange(15).reshape(3, 5).to(TYPES[dtype])
    w, out = torch.ones(4, 5, dtype=TYPES[dtype]), torch.full((3, 4), 9.0, dtype=TYPES[dtype])
    linear(device, *((Foreign(a, old) for a in (out, x, w)) if old else (out, x, w)))
    assert torch.equal(out.float(), x.float().sum(1, keepdim=True).expand(3, 4))


@pytest.mark.parametrize("dtype", ["i32", "u8", "i8"])
def test_whole_numbers_keep_their_type(device, dtype):
    tensor = Tensor(device, (2, 1, 3), dtype)
    tensor.set(np.arange(6, dtype=tensor.get().dtype).reshape(2, 1, 3))
    there = np.from_dlpack(tensor)
    assert there.dtype == tensor.get().dtype and there.ravel().tolist() == [0, 1, 2, 3, 4, 5]
    there[...] = 4
    assert (tensor.get() == 4).all()


def test_a_model_s_weights_and_gradients_are_shared_where_they_lie(device):
    model = Model(device, Config.preset("gpt2-tiny", vocab_size=50, n_layer=1, n_embd=24, max_seq_len=8))
    with pytest.raises(LlmcError, match="wpe.weight has no gradient; plan for training first"):
        model.grad_view("wpe.weight")
    model.init(0)
    weights = torch.from_dlpack(model.view("wpe.weight"))
    assert np.array_equal(weights.numpy(), model.get("wpe.weight"))
    weights += 1
    assert np.array_equal(weights.numpy(), model.get("wpe.weight"))
    model.plan(1, 4)
    gradient = torch.from_dlpack(model.grad_view("wpe.weight"))
    tokens = np.zeros((1, 4), np.int32)
    model.train(tokens, tokens, {"logp": np.ones((1, 4), np.float32)})
    assert gradient.any() and np.array_equal(gradient.numpy(), model.grad("wpe.weight"))
    kept = weights.clone()
    del model
    gc.collect()
    assert torch.equal(weights, kept)


def test_memory_stays_while_it_is_shared_and_goes_after(device):
    """A capsule that nobody takes gives it back, too."""
    tensor = Tensor(device, (1000,))
    alive = weakref.ref(tensor)
    shared = torch.from_dlpack(tensor)
    part = shared[10:20]
    capsule = tensor.__dlpack__()
    del tensor, shared
    gc.collect()
    assert alive() is not None
    part.fill_(3)
    assert (alive().get()[10:20] == 3).all()
    del part
    gc.collect()
    assert alive() is not None
    del capsule
    gc.collect()
    assert alive() is None


def test_an_op_keeps_nothing_of_what_it_was_lent(device):
    x, out = Tensor(device, (4,)), Tensor(device, (1,))
    alive = weakref.ref(x)
    _core.sum_squares(device, out, Foreign(x))
    del x
    gc.collect()
    assert alive() is None


def test_the_device_stays_as_long_as_its_memory():
    shared = torch.from_dlpack(Tensor(Device("cpu", 1), (8,)))
    gc.collect()
    shared.fill_(2)
    assert shared.sum() == 16


def test_what_is_still_shared_at_the_end_of_the_program_does_no_harm():
    program = "import llmc, torch; kept = torch.from_dlpack(llmc.Tensor(llmc.Device('cpu', 1), (8,)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def read_only(array):
    array.flags.writeable = False
    return Foreign(array)


@pytest.mark.parametrize("x, sentence", [
    (torch.zeros(3, 5, dtype=torch.float64), "an array of float64, wanted float32, int32, uint8, int8, or bfloat16"),
    (torch.zeros(3, 5, dtype=torch.float16), "an array of float16, wanted"),
    (torch.zeros(3, 5, dtype=torch.bool), "an array of bool8, wanted"),
    (torch.zeros(5, 3).T, r"shape \(3, 5\) is not contiguous in row-major order; pass a contiguous copy"),
    (torch.zeros(3, 6)[:, :5], r"shape \(3, 5\) is not contiguous"),
    (torch.zeros(()), "0 dimensions, wanted 1 to 4"),
    (read_only(np.zeros((3, 5), np.float32)), r"shape \(3, 5\) is read-only; pass a copy of it"),
    (Foreign(torch.zeros(3, 5), place=(2, 0)), "in a GPU's memory, which the device cpu"),
])
def test_an_array_that_does_not_fit_is_refused_with_a_sentence(device, x, sentence):
    with pytest.raises(LlmcError, match=sentence):
        linear(device, np.zeros((3, 4), np.float32), x, np.zeros((4, 5), np.float32))


def test_only_what_is_written_must_be_writable(device):
    tensor = Tensor(device, (3,))
    tensor.set(read_only(np.arange(3, dtype=np.float32)))
    assert tensor.get().tolist() == [0, 1, 2]


def test_a_row_of_one_has_any_stride(device):
    x, out = torch.arange(6.0).reshape(3, 2)[:, :1].T, np.zeros(1, np.float32)      # (1, 3), strides (1, 2)
    with pytest.raises(LlmcError, match="not contiguous"):
        _core.sum_squares(device, out, x)
    x = torch.arange(6.0).reshape(2, 3)[1:].as_strided((1, 3), (77, 1), 3)
    _core.sum_squares(device, out, x)
    assert out[0] == 9 + 16 + 25


def test_a_library_s_own_refusal_is_passed_on(device):
    with pytest.raises(BufferError, match="require gradient"):
        _core.sum_squares(device, np.zeros(1, np.float32), torch.zeros(3, requires_grad=True))


def test_what_is_asked_beyond_sharing_is_refused(device):
    tensor = Tensor(device, (3,))
    with pytest.raises(BufferError, match="copied by get"):
        tensor.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="on the device cpu.*, and was asked for on another"):
        tensor.__dlpack__(dl_device=(2, 0))
    assert tensor.__dlpack_device__() == (CPU, 0)
    assert "dltensor_versioned" in repr(tensor.__dlpack__(max_version=(1, 3), dl_device=(CPU, 0), copy=False))
    assert "\"dltensor\"" in repr(tensor.__dlpack__())


@pytest.mark.parametrize("make, sentence", [
    (lambda d: Tensor(d, (3,), "f16"), "a tensor of type f16, wanted f32, bf16, i32, u8 or i8"),
    (lambda d: Tensor(d, (3, 0)), r"a tensor of shape \(3, 0\), wanted 1 or more"),
    (lambda d: Tensor(d, ()), "0 dimensions, wanted 1 to 4"),
    (lambda d: Tensor(d, (1 << 58,)), "out of memory on cpu"),
    (lambda d: Tensor(d, (3,)).set(np.zeros(4, np.float32)), r"shape \(4,\), wanted \(3,\)"),
    (lambda d: Tensor(d, (3,)).set(np.zeros(3, np.int32)), "the array is i32, wanted f32"),
    (lambda d: Tensor(d, (3,)).set(None), "found NoneType, wanted a numpy array"),
])
def test_a_tensor_that_cannot_be_is_refused(device, make, sentence):
    with pytest.raises(LlmcError, match=sentence):
        make(device)


# ---- the emulated GPU ----------------------------------------------------------------------------------------------


def test_the_emulated_gpu_s_memory_is_nobody_else_s():
    """It does not pass for the processor's, so no other library touches it; nor does another emulated GPU."""
    here, there = Device("cuda-emu", 1), Device("cuda-emu", 1)
    x, out = Tensor(here, (2, 3)), Tensor(here, (1,))
    kind, number = x.__dlpack_device__()
    assert kind == EMULATED and Tensor(there, (1,)).__dlpack_device__() == (EMULATED, number + 1)
    for import_it in (torch.from_dlpack, np.from_dlpack):
        with pytest.raises((RuntimeError, BufferError, ValueError, ImportError)):
            import_it(x)
    x.set(torch.full((2, 3), 2.0))
    _core.sum_squares(here, out, x)
    assert out.get() == 24
    _core.sum_squares(here, out, torch.ones(5))         # the processor's memory, which it is
    assert out.get() == 5
    for device, of in ((there, "cuda-emu"), (Device("cpu", 1), "cpu")):
        with pytest.raises(LlmcError, match=f"in a GPU's memory, which the device {of}"):
            _core.sum_squares(device, out, x)


def test_a_tensor_is_copied_inside_a_device_and_from_the_processor():
    here = Device("cuda-emu", 1)
    x, y, host = Tensor(here, (2, 3), "bf16"), Tensor(here, (2, 3), "bf16"), Tensor(Device("cpu", 1), (2, 3), "bf16")
    host.set(np.arange(6, dtype=np.uint16).reshape(2, 3))
    x.set(host)
    y.set(x)
    assert y.get().tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(LlmcError, match="in a GPU's memory, which the device cpu"):
        host.set(x)
