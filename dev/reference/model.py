"""The PyTorch reference: GPT-2, Llama and Qwen by one Config, with this project's parameter names.

Numerics of the C core are checked against it, so it is written to be read, not to be fast.
Letters: B rows, T steps, C = n_embd, H query heads, G key/value heads, D = head_dim, F = n_ff,
V = padded_vocab_size.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def norm(config: dict) -> nn.Module:
    if config["norm"] == "rmsnorm":
        return nn.RMSNorm(config["n_embd"], eps=config["norm_eps"])
    return nn.LayerNorm(config["n_embd"], eps=config["norm_eps"], bias=config["bias"])


def frequencies(config: dict) -> torch.Tensor:
    """RoPE's theta^(-2i/D), (D/2), scaled for a longer context than the one first learned."""
    half, factor = config["head_dim"] // 2, config["rope_factor"]
    freq = config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
    if config["rope_scaling"] == "linear":
        return freq / factor
    if config["rope_scaling"] == "llama3":
        low, high = config["rope_low_freq_factor"], config["rope_high_freq_factor"]
        turns = config["rope_original_max_seq_len"] * freq / (2 * torch.pi)
        between = freq * ((turns - low) + (high - turns) / factor) / (high - low)
        slowed = torch.where(turns < low, freq / factor, between)
        return torch.where(turns > high, freq, slowed)
    return freq


def turn(x: torch.Tensor, pos: torch.Tensor, freq: torch.Tensor) -> torch.Tensor:
    """RoPE: (x[i], x[i + D/2]) turned by pos * freq[i]; x (B,heads,T,D), pos (B,T)."""
    half = x.shape[-1] // 2
    wide = torch.promote_types(x.dtype, torch.float32)
    angle = (pos[:, None, :, None] * freq.to(torch.float32)).to(wide)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Attention(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.heads = config["n_head"], config["n_kv_head"], config["head_dim"]
        self.freq = frequencies(config) if config["position"] == "rope" else None
        H, G, D = self.heads
        qkv_bias = config["bias"] or config["qkv_bias"]
        self.qkv = nn.Linear(config["n_embd"], (H + 2 * G) * D, bias=qkv_bias)
        self.normed = config["qk_norm"]
        if self.normed:
            self.q_norm = nn.RMSNorm(D, eps=config["norm_eps"])
            self.k_norm = nn.RMSNorm(D, eps=config["norm_eps"])
        self.proj = nn.Linear(H * D, config["n_embd"], bias=config["bias"])

    def forward(self, x: torch.Tensor, pos: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        (B, T, _), (H, G, D) = x.shape, self.heads
        heads = self.qkv(x).view(B, T, H + 2 * G, D).transpose(1, 2)            # (B,H+2G,T,D)
        q, k, v = heads.split([H, G, G], dim=1)
        if self.normed:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.freq is not None:
            q, k = turn(q, pos, self.freq), turn(k, pos, self.freq)
        k, v = k.repeat_interleave(H // G, dim=1), v.repeat_interleave(H // G, dim=1)
        scores = (q @ k.transpose(-1, -2)) / D**0.5                             # (B,H,T,T)
        weights = scores.masked_fill(~visible[:, None], float("-inf")).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, T, H * D))


class MLP(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.gated = config["mlp"] == "swiglu"
        C, F, bias = config["n_embd"], config["n_ff"], config["bias"]
        self.up = nn.Linear(C, 2 * F if self.gated else F, bias=bias)   # gate rows, then up rows
        self.down = nn.Linear(F, C, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        if not self.gated:
            return self.down(functional.gelu(x, approximate="tanh"))
        gate, up = x.chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.ln_1, self.attn = norm(config), Attention(config)
        self.ln_2, self.mlp = norm(config), MLP(config)

    def forward(self, x: torch.Tensor, pos: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), pos, visible)
        return x + self.mlp(self.ln_2(x))


class Model(nn.Module):
    """config: the dict in a checkpoint's config.json. `.double()` makes it the float64 judge."""

    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        V, C = config["padded_vocab_size"], config["n_embd"]
        self.wte = nn.Embedding(V, C)
        if config["position"] == "learned":
            self.wpe = nn.Embedding(config["max_seq_len"], C)
        self.h = nn.ModuleList(Block(config) for _ in range(config["n_layer"]))
        self.ln_f = norm(config)
        if config["head"] == "scalar":
            self.value = nn.Linear(C, 1, bias=False)
        elif not config["tied"]:
            self.lm_head = nn.Linear(C, V, bias=False)

    def load(self, params: dict[str, np.ndarray]) -> "Model":
        """Takes copies of the parameters by name; every one of them, and no other."""
        self.load_state_dict({name: torch.tensor(array) for name, array in params.items()})
        return self

    def hidden(
        self,
        tokens: torch.Tensor,
        pos: torch.Tensor | None = None,
        first: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The normalised stream (B,T,C). Step t of a row sees keys first[t] .. t; without pos and
        first a row is one document."""
        step = torch.arange(tokens.shape[1])
        pos = step.expand_as(tokens) if pos is None else pos
        first = torch.zeros_like(tokens) if first is None else first
        visible = (step <= step[:, None]) & (step >= first[:, :, None])         # (B,T query,T key)
        x = self.wte(tokens)
        if self.config["position"] == "learned":
            x = x + self.wpe(pos)
        for block in self.h:
            x = block(x, pos, visible)
        return self.ln_f(x)

    def forward(
        self,
        tokens: torch.Tensor,
        pos: torch.Tensor | None = None,
        first: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (B,T,vocab_size), or values (B,T) under the scalar head."""
        x = self.hidden(tokens, pos, first)
        if self.config["head"] == "scalar":
            return self.value(x)[..., 0]
        head = self.wte if self.config["tied"] else self.lm_head
        return functional.linear(x, head.weight)[..., : self.config["vocab_size"]]


def numbers(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """logp of each target (0 where it is -1), log-sum-exp and entropy, all (B,T)."""
    z = logits / temperature
    lse = z.logsumexp(dim=-1)
    logp = z.gather(-1, targets.clamp(min=0)[..., None])[..., 0] - lse
    entropy = lse - (z.softmax(dim=-1) * z).sum(dim=-1)
    return logp.masked_fill(targets < 0, 0.0), lse, entropy
