"""The peer of llmc.bench: what a careful user of PyTorch writes for the same work.

Runs as a process of its own, started by llmc.bench --against torch, and is the one module that
imports torch. A train step has scaled_dot_product_attention, AdamW(fused=True) and clipped
gradients, eager or compiled; bf16 is autocast over f32 weights, or "pure" bf16 weights.
"""
from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from llmc.bench_worker import Step, serve

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


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


# ---- what is timed -------------------------------------------------------------------------------


def train(case: dict[str, Any]) -> Step:
    torch.manual_seed(1)
    model = Transformer(case["config"])
    if case["way"] == "pure":
        model = model.bfloat16()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    mixed = case["dtype"] == "bf16" and case["way"] != "pure"
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=mixed)
    score = torch.compile(model) if case["way"] == "compiled" else model
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


def decode(case: dict[str, Any]) -> Step:
    """With a static cache, eager or compiled; all in the case's type."""
    c, dtype = case["config"], TYPES[case["dtype"]]
    rows, context, T = case["rows"], case["context"], case["T"]
    model = Transformer(c).to(dtype).eval()
    caches = [Cache(c, rows, context, T, dtype) for _ in model.h]
    tokens = torch.randint(c["vocab_size"], (rows, T))
    read = torch.compile(model.next_logits) if case["way"] == "compiled" else model.next_logits

    def step() -> torch.Tensor:
        with torch.inference_mode():
            return read(tokens, caches)

    return step


def first_token(case: dict[str, Any]) -> Step:
    """A prompt, and the likeliest token after it."""
    read = decode(case)
    return lambda: read().argmax().item()


def matmul(case: dict[str, Any]) -> Step:
    """out (N,O) = x (N,I) w^T; dx = dout w; dw = dout^T x."""
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape).to(TYPES[case["dtype"]])

    N, I, O = case["N"], case["I"], case["O"]
    if case["way"] == "forward":
        a, b = random(N, I), random(O, I).t()
    elif case["way"] == "dx":
        a, b = random(N, O), random(O, I)
    else:
        a, b = random(N, O).t(), random(N, I)
    out = torch.empty(a.shape[0], b.shape[1], dtype=a.dtype)
    return lambda: torch.mm(a, b, out=out)


def attention(case: dict[str, Any]) -> Step:
    shape = case["B"], case["H"], case["T"], case["D"]
    q, k, v, dout = (torch.randn(shape).to(TYPES[case["dtype"]]) for _ in range(4))
    return either_way(case, (q, k, v), dout,
                      lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))


def layer_norm(case: dict[str, Any]) -> Step:
    N, C = case["N"], case["C"]
    x, dout = (torch.randn(N, C).to(TYPES[case["dtype"]]) for _ in range(2))
    w, b = (torch.randn(C).to(TYPES[case["dtype"]]) for _ in range(2))
    return either_way(case, (x, w, b), dout, lambda: F.layer_norm(x, (C,), w, b))


def either_way(case: dict[str, Any], inputs: tuple[torch.Tensor, ...], dout: torch.Tensor,
               forward: Step) -> Step:
    """The forward pass, or the gradients by all inputs."""
    if case["way"] == "forward":
        return forward
    for tensor in inputs:
        tensor.requires_grad_(True)
    out = forward()
    return lambda: torch.autograd.grad(out, inputs, dout, retain_graph=True)


def adamw(case: dict[str, Any]) -> Step:
    """Of f32 weights also beside bf16 of ours, as autocast keeps them."""
    w = nn.Parameter(torch.randn(case["N"]))
    w.grad = torch.randn(case["N"])
    return torch.optim.AdamW([w], lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True).step


def muon(case: dict[str, Any]) -> Step:
    """Of f32 weights; Newton-Schulz's products are always in bf16."""
    w = nn.Parameter(torch.randn(case["R"], case["C"]))
    w.grad = torch.randn(case["R"], case["C"])
    return torch.optim.Muon([w], lr=1e-4, adjust_lr_fn="match_rms_adamw").step


def grad_norm(case: dict[str, Any]) -> Step:
    x = torch.randn(case["N"])
    return lambda: torch.linalg.vector_norm(x)


KINDS = {"train": train, "decode": decode, "first_token": first_token, "matmul": matmul,
         "attention": attention, "layer_norm": layer_norm, "adamw": adamw, "muon": muon,
         "grad_norm": grad_norm}

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    serve(lambda case: KINDS[case["kind"]](case))
