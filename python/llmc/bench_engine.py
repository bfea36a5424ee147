"""llmc's own side of llmc.bench: train steps, single ops and the loader, as the trainer calls them.

Runs as a process of its own. Each function makes a case's inputs and returns what is timed.
"""
from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np

from llmc import _core
from llmc.bench_worker import Step, serve
from llmc.engine import Engine
from llmc.model_files import INT8_GROUP
from llmc.request import Request
from llmc.shards import ShardWriter
from llmc.tokenizer import Tokenizer

rng = np.random.default_rng(1)


@cache
def device(name: str) -> Any:
    return _core.Device(name)           # threads: OMP_NUM_THREADS


def empty(*shape: int, dtype: str = "f32") -> np.ndarray:
    """Aligned as the engine aligns its own memory; bf16 is its uint16 bits."""
    kind = np.dtype(np.uint16 if dtype == "bf16" else np.float32)
    size = int(np.prod(shape)) * kind.itemsize
    block = np.zeros(size + 256, np.uint8)
    start = -block.ctypes.data % 256
    return block[start:start + size].view(kind).reshape(shape)


def random(*shape: int, dtype: str = "f32") -> np.ndarray:
    array = empty(*shape, dtype=dtype)
    numbers = np.resize(rng.standard_normal(min(array.size, 1 << 20), np.float32), shape)
    array[...] = numbers.view(np.uint32) >> 16 if dtype == "bf16" else numbers
    return array


# ---- what is timed -------------------------------------------------------------------------------


def train(case: dict[str, Any]) -> Step:
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


def decode(case: dict[str, Any]) -> Step:
    """Each of some rows, of `context` tokens, reads T more, and forgets them again."""
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


def first_token(case: dict[str, Any]) -> Step:
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


def matmul(case: dict[str, Any]) -> Step:
    """out (N,O) = x (N,I) w^T; dx = dout w; dw = dout^T x, in f32 as gradients are."""
    if case["dtype"] == "int8":
        return matmul_int8(case)
    N, I, O, dtype, on = case["N"], case["I"], case["O"], case["dtype"], device(case["device"])
    x, w, out = random(N, I, dtype=dtype), random(O, I, dtype=dtype), random(N, O, dtype=dtype)
    if case["way"] == "forward":
        return partial(_core.linear_forward, on, out, None, x, w, None, _core.Activation.NONE)
    dx, dw = (empty(N, I, dtype=dtype), None) if case["way"] == "dx" else (None, empty(O, I))
    return partial(_core.linear_backward, on, dx, dw, None, out, x, w, None, False)


def matmul_int8(case: dict[str, Any]) -> Step:
    """out (N,O) = x (N,I) w^T, w of int8 and a scale for each group of a row."""
    N, I, O, on = case["N"], case["I"], case["O"], device(case["device"])
    x, out = random(N, I, dtype="bf16"), empty(N, O, dtype="bf16")
    w = rng.integers(-127, 128, (O, I), np.int8)
    scale = np.full((O, -(-I // INT8_GROUP)), 1 / 127, np.float32)
    return partial(_core.linear_int8_forward, on, out, x, w, scale, None, _core.Activation.NONE)


def attention(case: dict[str, Any]) -> Step:
    B, H, T, D, dtype = (case[name] for name in ("B", "H", "T", "D", "dtype"))
    on, first = device(case["device"]), np.zeros((B, T), np.int32)
    qkv, out = random(B, T, 3 * H * D, dtype=dtype), empty(B, T, H * D, dtype=dtype)
    lse = empty(B, H, T)
    forward = partial(_core.attention_forward, on, out, lse, qkv, first, H, H)
    if case["way"] == "forward":
        return forward
    forward()
    dqkv, dout = empty(B, T, 3 * H * D, dtype=dtype), random(B, T, H * D, dtype=dtype)
    return partial(_core.attention_backward, on, dqkv, dout, out, lse, qkv, first, H, H)


def layer_norm(case: dict[str, Any]) -> Step:
    N, C, dtype, on = case["N"], case["C"], case["dtype"], device(case["device"])
    x, out, mean, rstd = random(N, C, dtype=dtype), empty(N, C, dtype=dtype), empty(N), empty(N)
    w, b = random(C, dtype=dtype), random(C, dtype=dtype)
    forward = partial(_core.norm_forward, on, None, out, mean, rstd, x, None, w, b, 1e-5)
    if case["way"] == "forward":
        return forward
    forward()
    dx, dw, db, dout = empty(N, C, dtype=dtype), empty(C), empty(C), random(N, C, dtype=dtype)
    return partial(_core.norm_backward, on, dx, dw, db, dout, None, x, w, mean, rstd, False)


def adamw(case: dict[str, Any]) -> Step:
    """bf16: the weights, beside f32 masters."""
    N, dtype, on = case["N"], case["dtype"], device(case["device"])
    w, m, v, grad = random(N, dtype=dtype), empty(N), empty(N), random(N)
    master = random(N) if dtype == "bf16" else None
    how = _core.AdamW(lr=1e-4, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_scale=1,
                      step=9)
    return partial(_core.adamw, on, w, master, m, v, grad, how)


def muon(case: dict[str, Any]) -> Step:
    """bf16: the weights, and Newton-Schulz's products."""
    R, C, dtype, on = case["R"], case["C"], case["dtype"], device(case["device"])
    w, m, grad = random(R, C, dtype=dtype), empty(R, C), random(R, C)
    master = random(R, C) if dtype == "bf16" else None

    def step() -> None:
        _core.nesterov(on, grad, m, 0.95, 1)
        _core.orthogonalize(on, [grad], dtype == "bf16")
        _core.descend(on, w, master, grad, 1e-4, 0.2 * max(R, C)**0.5, 0.1)

    return step


def grad_norm(case: dict[str, Any]) -> Step:
    return partial(_core.sum_squares, device(case["device"]), empty(1), random(case["N"]))


def loader(case: dict[str, Any]) -> Step:
    """Batches out of a shard in the page cache, shuffled and prefetched as train_gpt2 does."""
    folder = tempfile.mkdtemp()         # in the one that llmc.bench removes
    with ShardWriter(folder, "bench", "train", 50257) as writer:
        writer.append(rng.integers(0, 50257, case["shard_tokens"]))
    batches = _core.Loader(folder, B=case["B"], T=case["T"], prefetch=2)

    def step() -> None:
        for _ in range(case["batches"]):
            batches.next()

    return step


def memory(case: dict[str, Any]) -> Step:
    """Every core reads its part of a block, or copies it: numpy computes without Python's lock."""
    threads = device(case["device"]).threads
    source = np.ones((threads, case["bytes"] // 4 // threads), np.float32)
    target = np.zeros_like(source) if case["way"] == "copy" else None
    pool = ThreadPoolExecutor(threads)

    def part(i: int) -> None:
        source[i].max() if target is None else np.copyto(target[i], source[i])

    return lambda: list(pool.map(part, range(threads)))


KINDS = {"train": train, "decode": decode, "first_token": first_token, "matmul": matmul,
         "attention": attention, "layer_norm": layer_norm, "adamw": adamw, "muon": muon,
         "grad_norm": grad_norm, "loader": loader, "memory": memory}

if __name__ == "__main__":
    serve(lambda case: KINDS[case["kind"]](case))
