"""The peer of llmc.bench: what a careful user of PyTorch writes for the same work.

Runs as a process of its own, started by llmc.bench --against torch, and is the one module that
imports torch. A train step has scaled_dot_product_attention, AdamW(fused=True) and clipped
gradients, eager or compiled; bf16 is autocast over f32 weights, or "pure" bf16 weights. On a GPU
attention takes the fastest of flash's, cuDNN's and the memory-efficient kernels, decoding is in
CUDA graphs, all but products and the optimizer is compiled, and CUDA's events take the time. Beside
the emulated GPU it computes on the CPU.
"""
from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._functorch import config as autograd_config
from torch.nn import functional as F

from llmc.bench_cases import kind_of
from llmc.bench_worker import Step, Work, fastest, serve

Case = dict[str, Any]
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
TOGETHER = 5e-3         # seconds of short calls on a GPU that are timed as one


# ---- the model, with the engine's names of parameters --------------------------------------------


def norm(c: dict[str, Any]) -> nn.Module:
    if c["norm"] == "rmsnorm":
        return nn.RMSNorm(c["n_embd"], eps=c["norm_eps"])
    return nn.LayerNorm(c["n_embd"], eps=c["norm_eps"], bias=c["bias"])


class Cache:
    """A block's keys and values, with room for all steps; T more are added at the same place."""

    def __init__(self, c: dict[str, Any], rows: int, context: int, T: int, dtype: torch.dtype):
        shape = rows, c["n_kv_head"], context + T, c["head_dim"]
        self.k, self.v = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
        for cache in (self.k, self.v) if self.k.is_cuda else ():
            torch._dynamo.mark_static_address(cache)    # a CUDA graph writes it in place
        self.pos = torch.arange(context, context + T)
        self.seen = torch.arange(context + T) <= self.pos[:, None]

    def add(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.k.index_copy_(2, self.pos, k), self.v.index_copy_(2, self.pos, v)


class Attention(nn.Module):
    def __init__(self, c: dict[str, Any]):
        super().__init__()
        self.heads = H, G, D = c["n_head"], c["n_kv_head"], c["head_dim"]
        self.qkv = nn.Linear(c["n_embd"], (H + 2 * G) * D, bias=c["bias"])
        self.proj = nn.Linear(H * D, c["n_embd"], bias=c["bias"])
        self.rope = c["position"] == "rope"
        if self.rope:
            turns = c["rope_theta"] ** (-torch.arange(D // 2) * 2 / D)
            angle = torch.arange(c["max_seq_len"])[:, None] * turns
            self.register_buffer("cos", angle.cos(), persistent=False)
            self.register_buffer("sin", angle.sin(), persistent=False)

    def turn(self, x: torch.Tensor, pos: torch.Tensor | None) -> torch.Tensor:
        """RoPE; x (B,heads,T,D)."""
        a, b = x.chunk(2, dim=-1)
        at = slice(x.shape[2]) if pos is None else pos
        cos, sin = self.cos[at].to(x.dtype), self.sin[at].to(x.dtype)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def forward(self, x: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        (B, T, _), (H, G, D) = x.shape, self.heads
        heads = self.qkv(x).view(B, T, H + 2 * G, D).transpose(1, 2)
        q, k, v = heads.split([H, G, G], dim=1)
        if self.rope:
            pos = cache.pos if cache else None
            q, k = self.turn(q, pos), self.turn(k, pos)
        if cache:
            k, v = cache.add(k, v)
            y = F.scaled_dot_product_attention(q, k, v, cache.seen, enable_gqa=H != G)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != G)
        return self.proj(y.transpose(1, 2).reshape(B, T, H * D))


class MLP(nn.Module):
    def __init__(self, c: dict[str, Any]):
        super().__init__()
        self.gated = c["mlp"] == "swiglu"
        self.up = nn.Linear(c["n_embd"], (1 + self.gated) * c["n_ff"], bias=c["bias"])
        self.down = nn.Linear(c["n_ff"], c["n_embd"], bias=c["bias"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.gated:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, c: dict[str, Any]):
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = norm(c), Attention(c), norm(c), MLP(c)

    def forward(self, x: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """GPT-2 or Llama by the fields of a Config; its forward pass is the mean loss."""

    def __init__(self, c: dict[str, Any]):
        super().__init__()
        self.wte = nn.Embedding(c["padded_vocab_size"], c["n_embd"])
        if c["position"] == "learned":
            self.wpe = nn.Embedding(c["max_seq_len"], c["n_embd"])
        self.h = nn.ModuleList(Block(c) for _ in range(c["n_layer"]))
        self.ln_f = norm(c)
        if not c["tied"]:
            self.lm_head = nn.Linear(c["n_embd"], c["padded_vocab_size"], bias=False)
        self.learned, self.tied = c["position"] == "learned", c["tied"]
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens)
        if self.learned:
            x = x + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        return F.cross_entropy(self.head(x).flatten(0, 1).float(), targets.flatten())

    def head(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.ln_f(x), self.wte.weight if self.tied else self.lm_head.weight)

    def next_logits(self, tokens: torch.Tensor, caches: list[Cache]) -> torch.Tensor:
        """(rows,V), after the last of (rows,T) tokens."""
        x = self.wte(tokens)
        if self.learned:
            x = x + self.wpe.weight[caches[0].pos]
        for block, cache in zip(self.h, caches):
            x = block(x, cache)
        return self.head(x[:, -1])


# ---- on a GPU ------------------------------------------------------------------------------------


def place_of(case: Case) -> str:
    """PyTorch's name of the device: the same GPU, and the CPU beside the emulated one."""
    return case["device"] if kind_of(case["device"]) == "cuda" else "cpu"


def on_gpu(case: Case) -> bool:
    return place_of(case) != "cpu"


def by_events(step: Step, count: int) -> float:
    """Seconds of so many calls on the GPU's own clock, from the first to the end of the last."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def use_attention(kernels: str) -> None:
    """Of scaled_dot_product_attention's on a GPU: flash, cudnn, mem_efficient."""
    for name in ("flash", "cudnn", "mem_efficient", "math"):
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(name == kernels)


def with_fastest_attention(case: Case) -> tuple[Step, dict[str, float]]:
    """The case with the kernels that are the fastest at it, and the seconds of each that has one
    for this shape. They stay chosen."""
    tried: dict[str, float] = {}
    for kernels in ("flash", "cudnn", "mem_efficient"):
        use_attention(kernels)
        try:
            work = Work(made(case), by_events, TOGETHER)
            fastest(work, 0)                    # the first calls choose and compile
            tried[kernels] = fastest(work, 0.05)
        except RuntimeError as error:
            if not re.search("No available kernel|No viable backend", str(error)):
                raise
    if not tried:
        raise ValueError("PyTorch has no attention kernel for this shape on this GPU")
    use_attention(min(tried, key=tried.get))
    return made(case), tried


def fused(case: Case, function: Callable[..., Any]) -> Callable[..., Any]:
    """One kernel of several small operations, on a GPU."""
    if not on_gpu(case):
        return function
    autograd_config.donated_buffer = False      # its backward pass is timed again and again
    return torch.compile(function)


# ---- what is timed -------------------------------------------------------------------------------


def train(case: Case) -> Step:
    torch.manual_seed(1)
    pure, compiled = case["way"] == "pure", case["way"] == "compiled" or on_gpu(case)
    model = Transformer(case["config"])
    if pure:
        model = model.bfloat16()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    mixed = case["dtype"] == "bf16" and not pure
    autocast = torch.autocast(kind_of(place_of(case)), torch.bfloat16, enabled=mixed)
    score = torch.compile(model) if compiled else model
    rows = torch.randint(case["config"]["vocab_size"], (case["B"], case["T"] + 1))
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def step() -> float:
        with autocast:
            loss = score(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def attention_of(case: Case) -> Case:
    """Of a train step's blocks, forward and backward."""
    c = case["config"]
    return case | {"kind": "attention", "way": "both", "H": c["n_head"], "D": c["head_dim"]}


def decode(case: Case) -> Step:
    """With a static cache, eager or compiled, in CUDA graphs on a GPU; all in the case's type."""
    c, dtype = case["config"], TYPES[case["dtype"]]
    rows, context, T = case["rows"], case["context"], case["T"]
    model = Transformer(c).to(dtype).eval()
    caches = [Cache(c, rows, context, T, dtype) for _ in model.h]
    tokens = torch.randint(c["vocab_size"], (rows, T))
    read = model.next_logits
    if case["way"] == "compiled":
        read = torch.compile(read, mode="reduce-overhead" if on_gpu(case) else None)

    def step() -> torch.Tensor:
        with torch.inference_mode():
            return read(tokens, caches)

    return step


def first_token(case: Case) -> Step:
    """A prompt, and the likeliest token after it."""
    read = decode(case)
    return lambda: read().argmax().item()


def random(case: Case, *shape: int) -> torch.Tensor:
    return torch.randn(shape).to(TYPES[case["dtype"]])


def matmul(case: Case) -> Step:
    """out (N,O) = x (N,I) w^T; dx = dout w; dw = dout^T x."""
    N, I, O = case["N"], case["I"], case["O"]
    if case["way"] == "forward":
        a, b = random(case, N, I), random(case, O, I).t()
    elif case["way"] == "dx":
        a, b = random(case, N, O), random(case, O, I)
    else:
        a, b = random(case, N, O).t(), random(case, N, I)
    out = torch.empty(a.shape[0], b.shape[1], dtype=a.dtype)
    return lambda: torch.mm(a, b, out=out)


def attention(case: Case) -> Step:
    shape = case["B"], case["H"], case["T"], case["D"]
    q, k, v, dout = (random(case, *shape) for _ in range(4))
    return either_way(case, (q, k, v), dout,
                      lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))


def layer_norm(case: Case) -> Step:
    N, C = case["N"], case["C"]
    x, dout, w, b = (random(case, *shape) for shape in ((N, C), (N, C), (C,), (C,)))
    norm = fused(case, lambda x, w, b: F.layer_norm(x, (C,), w, b))
    return either_way(case, (x, w, b), dout, norm)


def residual_norm(case: Case) -> Step:
    """The sum is kept, and its norm."""
    N, C = case["N"], case["C"]
    x, branch, w, b = (random(case, *shape) for shape in ((N, C), (N, C), (C,), (C,)))

    @partial(fused, case)
    def both(x: torch.Tensor, branch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (total := x + branch), F.layer_norm(total, (C,), w, b)

    return lambda: both(x, branch)


def swiglu(case: Case) -> Step:
    x, dout = random(case, case["N"], 2 * case["F"]), random(case, case["N"], case["F"])

    @partial(fused, case)
    def gated(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    return either_way(case, (x,), dout, gated)


def rope(case: Case) -> Step:
    """q and k out of a packed qkv, which stays."""
    N, H, D = case["N"], case["H"], case["D"]
    qk, angle = random(case, N, 3, H, D)[:, :2], torch.rand(N, 1, 1, D // 2)
    cos, sin = angle.cos(), angle.sin()

    @partial(fused, case)
    def turned(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)

    return lambda: turned(qk)


def embedding(case: Case) -> Step:
    """Back: a gradient of the whole table, in its own type."""
    N, C, V = case["N"], case["C"], case["V"]
    tokens, table, dout = torch.randint(V, (N,)), random(case, V, C), random(case, N, C)
    return either_way(case, (table,), dout, lambda table: F.embedding(tokens, table))


def copy(case: Case) -> Step:
    to, source = random(case, case["N"], case["C"]), random(case, case["N"], case["C"])
    return lambda: to.copy_(source)


def either_way(case: Case, inputs: tuple[torch.Tensor, ...], dout: torch.Tensor,
               forward: Callable[..., torch.Tensor]) -> Step:
    """The forward pass, or the gradients by all inputs, or one after the other."""
    if case["way"] == "forward":
        return lambda: forward(*inputs)
    for tensor in inputs:
        tensor.requires_grad_(True)
    if case["way"] == "both":
        return lambda: torch.autograd.grad(forward(*inputs), inputs, dout)
    out = forward(*inputs)
    return lambda: torch.autograd.grad(out, inputs, dout, retain_graph=True)


def adamw(case: Case) -> Step:
    """Of f32 weights also beside bf16 of ours, as autocast keeps them."""
    w = nn.Parameter(torch.randn(case["N"]))
    w.grad = torch.randn(case["N"])
    return torch.optim.AdamW([w], lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True).step


def muon(case: Case) -> Step:
    """Of f32 weights; Newton-Schulz's products are always in bf16."""
    w = nn.Parameter(torch.randn(case["R"], case["C"]))
    w.grad = torch.randn(case["R"], case["C"])
    return torch.optim.Muon([w], lr=1e-4, adjust_lr_fn="match_rms_adamw").step


def grad_norm(case: Case) -> Step:
    x = torch.randn(case["N"])
    return lambda: torch.linalg.vector_norm(x)


KINDS = {"train": train, "decode": decode, "first_token": first_token, "matmul": matmul,
         "attention": attention, "layer_norm": layer_norm, "residual_norm": residual_norm,
         "swiglu": swiglu, "rope": rope, "embedding": embedding, "copy": copy, "adamw": adamw,
         "muon": muon, "grad_norm": grad_norm}


def made(case: Case) -> Step:
    with torch.device(place_of(case)):
        return KINDS[case["kind"]](case)


def prepare(case: Case) -> Work:
    if not on_gpu(case):
        return Work(made(case))
    torch.compiler.reset()              # or what has the code of a case before may go uncompiled
    torch.cuda.empty_cache()            # of the case before; the other side may want it
    tried: dict[str, float] = {}
    if case["kind"] == "train":
        _, tried = with_fastest_attention(attention_of(case))
        torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    if case["kind"] == "attention":
        step, tried = with_fastest_attention(case)
    else:
        step = made(case)
    return Work(step, by_events, TOGETHER, torch.cuda.max_memory_allocated, tried=tried)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    serve(prepare)
