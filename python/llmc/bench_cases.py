"""The rows of llmc.bench: what each side is told to do, and how many FLOP or bytes that is."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmc import cli
from llmc.model_files import INT8_GROUP

GROUPS = ("train", "decode", "matmul", "attention", "norm", "optimizer", "loader")
DTYPES = ("f32", "bf16")
WIDTH = {"f32": 4, "bf16": 2, "int8": 1 + 4 / INT8_GROUP}   # bytes of a weight
LAYERS = {"qkv": (768, 2304), "proj": (768, 768), "up": (768, 3072), "down": (3072, 768),
          "head": (768, 50304)}         # GPT-2's products: input and output width


@dataclass
class Case:
    """One row: what is done, and how much of it."""
    group: str
    name: str
    dtype: str                  # f32, bf16, int8, or empty
    work: dict[str, Any]        # what a worker is told
    amount: float               # FLOP or bytes of one call
    unit: str = "FLOP/s"
    tokens: int = 0

    def has(self, words: str) -> bool:
        return set(words.split()) <= {self.group, *self.name.split(), self.dtype}


def chosen(only: str, match: str, quick: bool) -> list[Case]:
    """The cases of some groups, all if none is named, that have all the words; a ValueError for
    what there is not."""
    groups = [group.strip() for group in only.split(",")] if only else GROUPS
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"--only: there is no group {group!r}{cli.nearest(group, GROUPS)}; "
                             f"wanted some of {','.join(GROUPS)}")
    makers = (train_cases, decode_cases, matmul_cases, attention_cases, norm_cases,
              optimizer_cases, loader_cases)
    cases = [case for make in makers for case in make(quick)
             if case.group in groups and case.has(match)]
    if not cases:
        raise ValueError(f"--match: no row has all of the words {match!r}; "
                         "words are those of the table, as gpt2 T=256 f32")
    return cases


def peak_cases() -> Iterator[Case]:
    """Large products, and more memory than caches hold. Those of one name are ways to one peak."""
    for dtype in WIDTH:
        for n in (1024, 2048):
            work = {"kind": "matmul", "way": "forward", "dtype": dtype, "N": n, "I": n, "O": n}
            yield Case("peak", dtype, dtype, work, 2 * n**3)
    block = 1 << 28
    for way, passes in (("read", 1), ("copy", 2)):
        yield Case("peak", way, "", {"kind": "memory", "way": way, "bytes": block}, passes * block,
                   "bytes/s")
    I, O = 4096, block // 4 // 4096     # a product of one row reads several of w's side by side
    work = {"kind": "matmul", "way": "forward", "dtype": "f32", "N": 1, "I": I, "O": O}
    yield Case("peak", "read", "", work, 4 * O * I, "bytes/s")


def train_cases(quick: bool) -> Iterator[Case]:
    """The quick start's model, and GPT-2 of 124M parameters."""
    from llmc import Config
    from llmc.quickstart import Recipe

    r = Recipe()
    small = Config.preset(r.preset, vocab_size=r.vocab_size, n_layer=r.n_layer, n_embd=r.n_embd,
                          n_head=r.n_head, n_kv_head=r.n_head, max_seq_len=r.max_seq_len,
                          tied=bool(r.tied))
    models = [("quickstart", small, r.batch_size, r.max_seq_len)]
    if not quick:
        gpt2 = Config.preset("gpt2")
        models += [("gpt2", gpt2, 4, 256), ("gpt2", gpt2, 4, 1024)]
    for name, model, B, T in models:
        for dtype in DTYPES:
            work = {"kind": "train", "config": model.to_dict(), "dtype": dtype, "B": B, "T": T}
            yield Case("train", f"{name} B={B} T={T}", dtype, work, model.train_flops(T) * B * T,
                       tokens=B * T)


def decode_cases(quick: bool) -> Iterator[Case]:
    """GPT-2 of 124M parameters, or two of its layers, reads a prompt, answers a request for the
    first token after one, and writes one token more in each of some rows; the latter reads all
    weights and the rows' caches, and of the embeddings next to nothing. Beside int8 weights all
    else is of bf16."""
    from llmc import Config

    model = Config.preset("gpt2", **({"n_layer": 2} if quick else {}))
    read = model.param_count() - model.max_seq_len * model.n_embd
    context, prompt = 128, 64 if quick else 512
    head = 2 * model.padded_vocab_size * model.n_embd           # once: after the last token
    for dtype in WIDTH:
        work = {"kind": "decode", "config": model.to_dict(), "dtype": dtype}
        for kind, name, T in (("decode", "prefill", prompt), ("first_token", "first token", 128)):
            yield Case("decode", f"{name} {T}", dtype,
                       work | {"kind": kind, "rows": 1, "context": 0, "T": T},
                       (model.train_flops(T) / 3 - head) * T + head, tokens=T)
        for rows in (1, 4) if quick else (1, 4, 16, 64):
            cache = 2 * model.n_layer * model.n_kv_head * model.head_dim * context * rows
            yield Case("decode", f"decode rows={rows}", dtype,
                       work | {"rows": rows, "context": context, "T": 1},
                       read * WIDTH[dtype] + cache * max(WIDTH[dtype], 2), "bytes/s", tokens=rows)


def matmul_cases(quick: bool) -> Iterator[Case]:
    for dtype in DTYPES:
        for name, (I, O) in list(LAYERS.items())[:2 if quick else None]:
            for N in (256,) if quick else (256, 1024, 4096):
                for way in ("forward", "dx", "dw"):
                    work = {"kind": "matmul", "way": way, "dtype": dtype, "N": N, "I": I, "O": O}
                    yield Case("matmul", f"{name} {way} M={N} {I}x{O}", dtype, work, 2 * N * I * O)


def attention_cases(quick: bool) -> Iterator[Case]:
    """GPT-2's heads. Causal: half of the products of T x T, two forward and five backward."""
    B, H, D = 4, 12, 64
    for dtype in DTYPES:
        for T in (256,) if quick else (256, 1024):
            for way, products in (("forward", 2), ("backward", 5)):
                work = {"kind": "attention", "way": way, "dtype": dtype,
                        "B": B, "H": H, "T": T, "D": D}
                yield Case("attention", f"attention {way} B={B} T={T}", dtype, work,
                           products * B * H * D * T * (T + 1))


def norm_cases(quick: bool) -> Iterator[Case]:
    """Read x, write out; read x and dout, write dx."""
    C = 768
    for dtype in DTYPES:
        for N in (1024,) if quick else (1024, 4096):
            for way, tensors in (("forward", 2), ("backward", 3)):
                work = {"kind": "layer_norm", "way": way, "dtype": dtype, "N": N, "C": C}
                yield Case("norm", f"layer_norm {way} {N}x{C}", dtype, work,
                           tensors * N * C * WIDTH[dtype], "bytes/s")


def optimizer_cases(quick: bool) -> Iterator[Case]:
    """AdamW reads weight, moments and gradient, and writes all but the last; bf16 weights are
    written beside their masters. Muon of a matrix is five times three products (Newton-Schulz)."""
    N = 50304 * 768 // (64 if quick else 1)
    for dtype in DTYPES:
        work = {"kind": "adamw", "dtype": dtype, "N": N}
        yield Case("optimizer", f"adamw {N}", dtype, work, N * (28 + 2 * (dtype == "bf16")),
                   "bytes/s")
    R, C = (192, 192) if quick else (3072, 768)
    for dtype in DTYPES:
        work = {"kind": "muon", "dtype": dtype, "R": R, "C": C}
        yield Case("optimizer", f"muon {R}x{C}", dtype, work, 5 * (4 * R * C * C + 2 * C**3))
    yield Case("optimizer", f"gradient_norm {N}", "f32", {"kind": "grad_norm", "N": N}, 4 * N,
               "bytes/s")


def loader_cases(quick: bool) -> Iterator[Case]:
    """A token is read as a token and as a target, two bytes each, and becomes four numbers. Many
    batches a call: the first few have been prefetched."""
    B, T, batches = 16, 1024, 64
    tokens = batches * B * T
    work = {"kind": "loader", "B": B, "T": T, "batches": batches,
            "shard_tokens": 1_000_000 if quick else 20_000_000}
    yield Case("loader", f"shuffled B={B} T={T}", "", work, tokens * (2 * 2 + 4 * 4), "bytes/s",
               tokens)
