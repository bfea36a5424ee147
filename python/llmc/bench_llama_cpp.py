"""A peer of llmc.bench: llama.cpp, as the wheel cyllama brings it, reads the same model and tokens.

Runs as a process of its own, started by llmc.bench --against llama.cpp, and is the one module that
imports cyllama. The model is the one of llmc's own side, written by our GGUF export: f32 and bf16
as they are, int8 as q8_0. Keys and values are of f32 beside f32, else of f16, llama.cpp's own
choice; attention is "flash" or "plain", by the way of the case.
"""
from __future__ import annotations

import hashlib
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cyllama.llama import llama_cpp

from llmc import Config, Device, Model, gguf_file
from llmc.bench_worker import Step, Work, serve
from llmc.convert import replacing
from llmc.gguf_tokenizer import NORMAL, Vocabulary
from llmc.lazy import Lazy
from llmc.model_files import ModelFiles

STORED = {"f32": "f32", "bf16": "bf16", "int8": "q8_0"}
F32, F16 = 0, 1                 # ggml's types of keys and values
PLAIN, FLASH = 0, 1             # llama.cpp's types of attention


class LlamaModel(llama_cpp.LlamaModel):
    n_vocab = property(lambda self: self.get_vocab().n_vocab)   # what a context asks its model for


def model_file(config: dict[str, Any], dtype: str) -> Path:
    """The model in the folder of this run, written by the first process that asks for it."""
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"{key}-{dtype}.gguf"
    if not path.exists():
        model = Model(Device("cpu", 1), Config(**config))
        model.init(1)
        tensors = {name: Lazy(model.shapes[name], "f32", partial(model.get, name))
                   for name in model.names}
        size = config["vocab_size"]
        words = Vocabulary("gpt2", "default", list(map(str, range(size))), [NORMAL] * size, ["0 1"])
        with replacing(path, folder=False) as beside:
            gguf_file.to_file(ModelFiles("bench", "llmc", model.config, tensors, {}), beside,
                              STORED[dtype], words)
    return path


def opened(case: dict[str, Any], threads: int) -> llama_cpp.LlamaContext:
    """The model with an empty cache for `rows` texts of context + T tokens."""
    settings = llama_cpp.LlamaModelParams()
    settings.n_gpu_layers = 0
    model = LlamaModel(str(model_file(case["config"], case["dtype"])), settings, verbose=False)
    rows, context, T = case["rows"], case["context"], case["T"]
    params = llama_cpp.LlamaContextParams()
    params.n_seq_max, params.n_ctx = rows, rows * (context + T)
    params.n_batch = params.n_ubatch = max(context, rows * T)
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = F32 if case["dtype"] == "f32" else F16
    params.flash_attn_type = FLASH if case["way"] == "flash" else PLAIN
    return llama_cpp.LlamaContext(model, params, verbose=False)


def batch(tokens: np.ndarray, rows: list[int], begin: int) -> llama_cpp.LlamaBatch:
    """(len(rows),T) tokens, from place `begin` on; logits after the last of each row."""
    T = tokens.shape[1]
    made = llama_cpp.LlamaBatch(n_tokens=tokens.size, embd=0, n_seq_max=1)
    for row, line in zip(rows, tokens.tolist()):
        for t, token in enumerate(line):
            made.add(token, begin + t, [row], t == T - 1)
    return made


def feed(context: llama_cpp.LlamaContext, tokens: llama_cpp.LlamaBatch) -> None:
    status = context.decode(tokens)
    if status:
        raise ValueError(f"llama_decode failed with status {status}")
    context.synchronize()


def logits(context: llama_cpp.LlamaContext, rows: int, T: int) -> np.ndarray:
    """(rows,V), of the batch that was read last."""
    return np.array([context.get_logits_ith(row * T + T - 1) for row in range(rows)], np.float32)


# ---- what is timed -------------------------------------------------------------------------------


def decode(case: dict[str, Any], context: llama_cpp.LlamaContext) -> Step:
    """Each of some rows, of `context` tokens, reads T more, and forgets them again."""
    rng = np.random.default_rng(1)
    size, rows, begin, T = case["config"]["vocab_size"], case["rows"], case["context"], case["T"]
    for row in range(rows if begin else 0):
        feed(context, batch(rng.integers(0, size, (1, begin)), [row], 0))
    tokens = batch(rng.integers(0, size, (rows, T)), list(range(rows)), begin)

    def step() -> None:
        feed(context, tokens)
        for row in range(rows):
            context.memory_seq_rm(row, begin, -1)

    step()
    found = logits(context, rows, T)
    if not np.isfinite(found).all() or (found.min(axis=1) == found.max(axis=1)).any():
        raise ValueError("llama.cpp computed no logits")
    return step


def first_token(case: dict[str, Any], context: llama_cpp.LlamaContext) -> Step:
    """A prompt, and the likeliest token after it."""
    read, likeliest = decode(case, context), llama_cpp.LlamaSampler()
    likeliest.add_greedy()

    def step() -> int:
        read()
        return likeliest.sample(context, -1)

    return step


KINDS = {"decode": decode, "first_token": first_token}

if __name__ == "__main__":
    llama_cpp.disable_logging()
    count = int(os.environ["OMP_NUM_THREADS"])
    serve(lambda case: Work(KINDS[case["kind"]](case, opened(case, count))))
