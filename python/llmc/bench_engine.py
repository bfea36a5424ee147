"""llmc's own side of llmc.bench: train steps, single ops and the loader, as the trainer calls them.

Runs as a process of its own. Each function makes a case's inputs on the device and returns what is
timed.
"""
from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np

from llmc import _core
from llmc.bench_cases import kind_of
from llmc.bench_worker import Parts, Step, Work, by_clock, serve
from llmc.engine import Engine
from llmc.model_files import INT8_GROUP
from llmc.request import Request
from llmc.shards import ShardWriter
from llmc.tokenizer import Tokenizer

Case = dict[str, Any]
TOGETHER = 5e-3         # seconds of short calls on a GPU that are timed as one

rng = np.random.default_rng(1)


@cache
def device(name: str) -> Any:
    return _core.Device(name)           # threads: OMP_NUM_THREADS


class Memory:
    """Arrays in the memory of a case's device."""

    def __init__(self, case: Case):
        self.on = device(case["device"])

    def empty(self, *shape: int, dtype: str = "f32") -> Any:
        return _core.Tensor(self.on, shape, dtype)

    def filled(self, numbers: np.ndarray, *shape: int, dtype: str) -> Any:
        """The same numbers over and over."""
        tensor = self.empty(*shape, dtype=dtype)
        tensor.set(np.resize(numbers, shape))
        return tensor

    def random(self, *shape: int, dtype: str = "f32") -> Any:
        """Normal numbers."""
        numbers = rng.standard_normal(min(int(np.prod(shape)), 1 << 20), np.float32)
        if dtype == "bf16":
            numbers = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        return self.filled(numbers, *shape, dtype=dtype)

    def integers(self, low: int, high: int, *shape: int, dtype: str = "i32") -> Any:
        kind = np.int8 if dtype == "i8" else np.int32
        return self.filled(rng.integers(low, high, min(int(np.prod(shape)), 1 << 20), kind), *shape,
                           dtype=dtype)


# ---- what is timed -------------------------------------------------------------------------------


def train(case: Case) -> Step:
    config, B, T = _core.Config(**case["config"]), case["B"], case["T"]
    model = _core.Model(device(case["device"]), config, case["dtype"])
    model.init(1)
    model.plan(B, T, train=True, recompute=case["way"] == "recompute")
    trainer = _core.Trainer(model, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_clip=1.0)
    rows = rng.integers(0, config.vocab_size, (B, T + 1), dtype=np.int32)
    tokens, targets = np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])
    slopes = {"logp": np.full((B, T), -1 / (B * T), np.float32)}

    def step() -> float:
        trainer.micro_batch(0, 1)
        numbers = model.train(tokens, targets, slopes)
        trainer.reduce()
        trainer.apply(1e-4)
        return -float(numbers["logp"].mean())

    return step


def training_bytes(case: Case) -> int:
    """What a train step holds on the device: known without taking it."""
    model = _core.Model(device(case["device"]), _core.Config(**case["config"]), case["dtype"])
    return _core.training_bytes(model, case["B"], case["T"], case["way"] == "recompute")


def decode(case: Case) -> Step:
    """Each of some rows, of `context` tokens, reads T more, and forgets them again. Logits come to
    the processor, where tokens are drawn."""
    config, rows, context, T = (case[name] for name in ("config", "rows", "context", "T"))
    model = _core.Model(device(case["device"]), _core.Config(**config), case["dtype"])
    model.init(1)
    pages = rows * -(-(context + T) // _core.CACHE_PAGE)
    decoder = _core.Decoder(model, rows, pages, max(context, rows * T))
    for row in [decoder.open() for _ in range(rows)]:
        if context:
            decoder.feed([(row, rng.integers(0, config["vocab_size"], context), False)])
    tokens = rng.integers(0, config["vocab_size"], (rows, T), np.int32)

    def step() -> None:
        decoder.feed([(row, tokens[row], True) for row in range(rows)])
        for row in range(rows):
            decoder.rewind(row, context)

    return step


def first_token(case: Case) -> Step:
    """A request through the whole engine, until its first token is there. Each prompt is another:
    nothing of it was read before."""
    config = _core.Config(**case["config"])
    model = _core.Model(device(case["device"]), config, case["dtype"])
    model.init(1)
    engine = Engine(model, Tokenizer.load("gpt2"))

    def step() -> None:
        prompt = rng.integers(0, config.vocab_size, case["T"]).tolist()
        text, = engine.submit(Request(prompt, temperature=0))
        while not text.tokens:
            engine.step()
        engine.cancel(text)

    return step


def matmul(case: Case) -> Step:
    """out (N,O) = x (N,I) w^T; dx = dout w; dw = dout^T x, in f32 as gradients are."""
    if case["dtype"] == "int8":
        return matmul_int8(case)
    N, I, O, dtype, memory = case["N"], case["I"], case["O"], case["dtype"], Memory(case)
    x, w = memory.random(N, I, dtype=dtype), memory.random(O, I, dtype=dtype)
    out = memory.random(N, O, dtype=dtype)
    if case["way"] == "forward":
        return partial(_core.linear_forward, memory.on, out, None, x, w, None,
                       _core.Activation.NONE)
    dx = memory.empty(N, I, dtype=dtype) if case["way"] == "dx" else None
    dw = memory.empty(O, I) if case["way"] == "dw" else None
    return partial(_core.linear_backward, memory.on, dx, dw, None, out, x, w, None, False)


def matmul_int8(case: Case) -> Step:
    """out (N,O) = x (N,I) w^T, w of int8 and a scale for each group of a row."""
    N, I, O, memory = case["N"], case["I"], case["O"], Memory(case)
    x, out = memory.random(N, I, dtype="bf16"), memory.empty(N, O, dtype="bf16")
    w = memory.integers(-127, 128, O, I, dtype="i8")
    scale = memory.filled(np.full(1, 1 / 127, np.float32), O, -(-I // INT8_GROUP), dtype="f32")
    return partial(_core.linear_int8_forward, memory.on, out, x, w, scale, None,
                   _core.Activation.NONE)


def attention(case: Case) -> Step:
    B, H, T, D, dtype = (case[name] for name in ("B", "H", "T", "D", "dtype"))
    memory, P = Memory(case), 3 * H * D
    first = memory.empty(B, T, dtype="i32")
    qkv, out = memory.random(B, T, P, dtype=dtype), memory.empty(B, T, H * D, dtype=dtype)
    lse = memory.empty(B, H, T)
    forward = partial(_core.attention_forward, memory.on, out, lse, qkv, first, H, H)
    dqkv, dout = memory.empty(B, T, P, dtype=dtype), memory.random(B, T, H * D, dtype=dtype)
    backward = partial(_core.attention_backward, memory.on, dqkv, dout, out, lse, qkv, first, H, H)
    return either_way(case, forward, backward)


def either_way(case: Case, forward: Step, backward: Step) -> Step:
    if case["way"] == "both":
        return lambda: (forward(), backward())
    forward()
    return forward if case["way"] == "forward" else backward


def layer_norm(case: Case) -> Step:
    N, C, dtype, memory = case["N"], case["C"], case["dtype"], Memory(case)
    x, w, b = (memory.random(*shape, dtype=dtype) for shape in ((N, C), (C,), (C,)))
    out, mean, rstd = memory.empty(N, C, dtype=dtype), memory.empty(N), memory.empty(N)
    dx, dw, db = memory.empty(N, C, dtype=dtype), memory.empty(C), memory.empty(C)
    dout = memory.random(N, C, dtype=dtype)
    return either_way(
        case, partial(_core.norm_forward, memory.on, None, out, mean, rstd, x, None, w, b, 1e-5),
        partial(_core.norm_backward, memory.on, dx, dw, db, dout, None, x, w, mean, rstd, False))


def residual_norm(case: Case) -> Step:
    N, C, dtype, memory = case["N"], case["C"], case["dtype"], Memory(case)
    x, branch = memory.random(N, C, dtype=dtype), memory.random(N, C, dtype=dtype)
    w, b = memory.random(C, dtype=dtype), memory.random(C, dtype=dtype)
    sums, out = memory.empty(N, C, dtype=dtype), memory.empty(N, C, dtype=dtype)
    return partial(_core.norm_forward, memory.on, sums, out, memory.empty(N), memory.empty(N), x,
                   branch, w, b, 1e-5)


def swiglu(case: Case) -> Step:
    N, F, dtype, memory = case["N"], case["F"], case["dtype"], Memory(case)
    x, out = memory.random(N, 2 * F, dtype=dtype), memory.empty(N, F, dtype=dtype)
    dx, dout = memory.empty(N, 2 * F, dtype=dtype), memory.random(N, F, dtype=dtype)
    return either_way(case, partial(_core.swiglu_forward, memory.on, out, x),
                      partial(_core.swiglu_backward, memory.on, dx, dout, x))


def rope(case: Case) -> Step:
    """In one row of N steps, each at a place under 1,024; q and k are turned where they lie."""
    N, H, D, memory = case["N"], case["H"], case["D"], Memory(case)
    qkv = memory.random(1, N, 3 * H * D, dtype=case["dtype"])
    pos, freq = memory.integers(0, 1024, 1, N), memory.random(D // 2)
    return partial(_core.rope_forward, memory.on, qkv, qkv, pos, freq, None, None, H, H, 1e-5)


def embedding(case: Case) -> Step:
    N, C, V, dtype, memory = case["N"], case["C"], case["V"], case["dtype"], Memory(case)
    tokens, pos = memory.integers(0, V, 1, N), memory.empty(1, N, dtype="i32")
    wte, out = memory.random(V, C, dtype=dtype), memory.random(1, N, C, dtype=dtype)
    return either_way(
        case, partial(_core.embed_forward, memory.on, out, tokens, pos, wte, None),
        partial(_core.embed_backward, memory.on, memory.empty(V, C), out, tokens, False))


def copy(case: Case) -> Step:
    N, C, memory = case["N"], case["C"], Memory(case)
    return partial(memory.empty(N, C, dtype=case["dtype"]).set,
                   memory.random(N, C, dtype=case["dtype"]))


def adamw(case: Case) -> Step:
    """bf16: the weights, beside f32 masters."""
    N, dtype, memory = case["N"], case["dtype"], Memory(case)
    w, grad = memory.random(N, dtype=dtype), memory.random(N)
    m, v = memory.empty(N), memory.empty(N)
    master = memory.random(N) if dtype == "bf16" else None
    how = _core.AdamW(lr=1e-4, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_scale=1,
                      step=9)
    return partial(_core.adamw, memory.on, w, master, m, v, grad, None, how, _core.Rounding())


def muon(case: Case) -> Step:
    """bf16: the weights, and Newton-Schulz's products."""
    R, C, dtype, memory = case["R"], case["C"], case["dtype"], Memory(case)
    w, m, grad = memory.random(R, C, dtype=dtype), memory.empty(R, C), memory.random(R, C)
    master = memory.random(R, C) if dtype == "bf16" else None

    def step() -> None:
        _core.nesterov(memory.on, grad, m, 0.95, 1)
        _core.orthogonalize(memory.on, [grad], dtype == "bf16")
        _core.descend(memory.on, w, master, grad, 1e-4, 0.2 * max(R, C)**0.5, 0.1,
                      _core.Rounding())

    return step


def grad_norm(case: Case) -> Step:
    memory = Memory(case)
    return partial(_core.sum_squares, memory.on, memory.empty(1), memory.random(case["N"]))


def loader(case: Case) -> Step:
    """Batches out of a shard in the page cache, shuffled and prefetched as train_gpt2 does."""
    folder = tempfile.mkdtemp()         # in the one that llmc.bench removes
    with ShardWriter(folder, "bench", "train", 50257) as writer:
        writer.append(rng.integers(0, 50257, case["shard_tokens"]))
    batches = _core.Loader(folder, B=case["B"], T=case["T"], prefetch=2)

    def step() -> None:
        for _ in range(case["batches"]):
            batches.next()

    return step


def memory(case: Case) -> Step:
    """A block is read or copied: by the kernels on a GPU; on a CPU every core takes its part of it,
    numpy computing without Python's lock."""
    if kind_of(case["device"]) != "cpu":
        on_gpu = {"read": grad_norm, "copy": copy}[case["way"]]
        return on_gpu(case | {"N": case["bytes"] // 4, "C": 1, "dtype": "f32"})
    threads = device(case["device"]).threads
    source = np.ones((threads, case["bytes"] // 4 // threads), np.float32)
    target = np.zeros_like(source) if case["way"] == "copy" else None
    pool = ThreadPoolExecutor(threads)

    def part(i: int) -> None:
        source[i].max() if target is None else np.copyto(target[i], source[i])

    return lambda: list(pool.map(part, range(threads)))


KINDS = {"train": train, "decode": decode, "first_token": first_token, "matmul": matmul,
         "attention": attention, "layer_norm": layer_norm, "residual_norm": residual_norm,
         "swiglu": swiglu, "rope": rope, "embedding": embedding, "copy": copy, "adamw": adamw,
         "muon": muon, "grad_norm": grad_norm, "loader": loader, "memory": memory}


def prepare(case: Case) -> Work:
    on, kind = device(case["device"]), kind_of(case["device"])
    step = KINDS[case["kind"]](case)

    def parts() -> Parts:
        on.profile_start()          # for good: a model's process ends after its parts
        step()
        return on.profile()

    work = Work(step, by_clock(on.synchronize), TOGETHER if kind == "cuda" else 0, parts=parts)
    if kind != "cpu":
        held = training_bytes(case) if case["kind"] == "train" else 0
        work.taken = lambda: held
    return work


if __name__ == "__main__":
    serve(prepare)
