"""One model twice: in the engine and in the PyTorch reference, same weights, same batch."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import torch
from dev.reference.model import Model as Reference
from dev.reference.model import numbers

import llmc

BF16 = np.dtype(ml_dtypes.bfloat16)
Arrays = dict[str, np.ndarray]

# Sizes are odd, prime or multiples of nothing; heads are grouped, and H * D is not n_embd.
TINY = {
    "gpt2": dict(vocab_size=61, max_seq_len=23, n_layer=3, n_embd=36, n_head=3),
    "gpt2 without biases, untied, grouped": dict(
        vocab_size=67, padded_vocab_size=67, max_seq_len=19, n_layer=2, n_embd=29,
        n_head=6, n_kv_head=3, head_dim=7, n_ff=53, bias=False, tied=False,
    ),
    "llama, grouped": dict(
        vocab_size=71, max_seq_len=31, n_layer=3, n_embd=30,
        n_head=6, n_kv_head=2, head_dim=10, n_ff=41,
    ),
    "llama with biases, tied, one key head": dict(
        vocab_size=64, max_seq_len=23, n_layer=2, n_embd=37, n_head=5, n_kv_head=1, head_dim=6,
        n_ff=31, bias=True, tied=True,
    ),
    "llama like Qwen 2: biases on q, k and v": dict(
        vocab_size=59, max_seq_len=23, n_layer=2, n_embd=28, n_head=4, n_kv_head=2, head_dim=6,
        n_ff=37, qkv_bias=True,
    ),
    "llama like Qwen 3: QK-norm": dict(
        vocab_size=59, max_seq_len=23, n_layer=3, n_embd=20, n_head=4, n_kv_head=2, head_dim=14,
        n_ff=37, norm_eps=1e-6, qk_norm=True, tied=True,
    ),
    "llama like Llama 3.1: stretched RoPE": dict(
        vocab_size=59, max_seq_len=23, n_layer=2, n_embd=24, n_head=2, head_dim=14, n_ff=37,
        rope_theta=50.0, rope_scaling="llama3", rope_factor=3.0, rope_original_max_seq_len=36,
    ),
}  # fmt: skip
CASES = [(name, head) for name in TINY for head in ("lm", "scalar")]


def tiny(name: str, head: str = "lm") -> llmc.Config:
    changes = dict(TINY[name], head=head)
    if head == "scalar":
        changes["tied"] = False
    return llmc.Config.preset(f"{name.split()[0].strip(',')}-tiny", **changes)


def weights(config: llmc.Config, seed: int = 0, spread: float = 0.15) -> Arrays:
    """Numbers that leave no term out: biases are not 0, norms not 1, the value head not 0."""
    rng = np.random.default_rng(seed)
    model = llmc.Model(llmc.Device("cpu", 1), config)
    result = {}
    for name in model.names:
        about = np.float32(("ln_" in name or "_norm" in name) and name.endswith("weight"))
        shape = model.get(name).shape
        result[name] = about + np.float32(spread) * rng.standard_normal(shape, np.float32)
    return result


def as_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(BF16 if dtype == "bf16" else np.float32)


def engine(
    config: llmc.Config,
    params: Arrays,
    B: int,
    T: int,
    device: str = "cpu",
    threads: int = 2,
    dtype: str = "f32",
    **plan: bool,
) -> llmc.Model:
    model = llmc.Model(llmc.Device(device, threads), config, dtype)
    for name, array in params.items():
        model.set(name, array)
    model.plan(B, T, **plan)
    return model


def reference(config: llmc.Config, params: Arrays, dtype: torch.dtype = torch.float64) -> Reference:
    wide = {name: array.astype(np.float32) for name, array in params.items()}
    return Reference(config.to_dict()).load(wide).to(dtype)


def batch(config: llmc.Config, B: int, T: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and targets; one target in six is -1."""
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(0, config.vocab_size, (2, B, T), dtype=np.int32)
    targets[rng.random((B, T)) < 1 / 6] = -1
    return tokens, targets


def packed(B: int, T: int, length: int) -> dict[str, np.ndarray]:
    """pos and first of rows that hold one document of `length` tokens after the other."""
    column = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    return dict(pos=column % length, first=column - column % length)


def slopes(config: llmc.Config, B: int, T: int, names: str | None = None, seed: int = 0) -> Arrays:
    rng = np.random.default_rng([seed, 1])
    names = names or ("value" if config.head == "scalar" else "logp lse entropy")
    return {name: rng.normal(0, 1, (B, T)).astype(np.float32) for name in names.split()}


def reference_numbers(
    ref: Reference,
    tokens: np.ndarray,
    targets: np.ndarray | None = None,
    temperature: float = 1.0,
    **where: np.ndarray,
) -> dict[str, torch.Tensor]:
    as_tensor = {k: torch.tensor(v, dtype=torch.long) for k, v in where.items()}
    out = ref(torch.tensor(tokens, dtype=torch.long), **as_tensor)
    if ref.config["head"] == "scalar":
        return {"value": out}
    given = torch.tensor(targets, dtype=torch.long)
    return dict(zip(("logp", "lse", "entropy"), numbers(out, given, temperature), strict=True))


def reference_grads(ref: Reference, found: dict[str, torch.Tensor], slopes: Arrays) -> Arrays:
    ref.zero_grad()
    sum((found[name] * torch.tensor(slope)).sum() for name, slope in slopes.items()).backward()
    return {name: p.grad.to(torch.float64).numpy() for name, p in ref.named_parameters()}


def grads(model: llmc.Model) -> Arrays:
    return {name: model.grad(name) for name in model.names}


def parts(config: llmc.Config, name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A parameter, with q, k and v apart."""
    if "attn.qkv" not in name:
        yield name, array
        return
    H, G, D = config.n_head, config.n_kv_head, config.head_dim
    cuts = np.split(array, [H * D, (H + G) * D])
    yield from ((f"{name} {which}", cut) for which, cut in zip("qkv", cuts, strict=True))


def worst(config: llmc.Config, got: Arrays, wanted: Arrays) -> tuple[float, str]:
    """The largest ||got - wanted|| / ||wanted|| of any part of any parameter, and whose it is.

    A part whose gradient is zero but for rounding is held against its whole parameter's: a key's
    bias adds the same to all scores of a query unless RoPE turns it, and one key has softmax 1.
    The weights of QK-norm are held against the packed weight that makes what they multiply.
    """
    assert got.keys() == wanted.keys()
    found = []
    for name, array in wanted.items():
        whole = wanted[name.replace("q_norm", "qkv").replace("k_norm", "qkv")]
        pairs = zip(parts(config, name, got[name]), parts(config, name, array), strict=True)
        for (part, a), (_, b) in pairs:
            scale = np.linalg.norm(b)
            if scale < 1e-6 * np.linalg.norm(whole):
                scale = np.linalg.norm(whole)
            found.append((float(np.linalg.norm(a.astype(np.float64) - b) / scale), part))
    assert np.isfinite([distance for distance, _ in found]).all(), found
    return max(found)
