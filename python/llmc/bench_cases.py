"""The rows of llmc.bench: what each side is told to do, and how many FLOP or bytes that is."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from llmc import cli
from llmc.model_files import INT8_GROUP

GROUPS = ("train", "decode", "matmul", "attention", "norm", "elementwise", "optimizer", "loader")
WIDTH = {"f32": 4, "bf16": 2, "int8": 1 + 4 / INT8_GROUP}   # bytes of a weight


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
    smaller: Case | None = None     # what is measured instead where memory does not suffice

    def has(self, words: str) -> bool:
        return set(words.split()) <= {self.group, *self.name.split(), self.dtype}


@dataclass(frozen=True)
class Sizes:
    """How large the rows are, on a kind of device."""
    dtypes: tuple[str, ...] = ("f32", "bf16")
    products: tuple[int, ...] = (1024, 2048)        # n x n, for the peak
    block: int = 1 << 28                            # bytes that are read or copied, for the peak
    train: tuple[tuple[str, tuple[int, ...], int], ...] = (     # model, B (the first that fits), T
        ("quickstart", (4,), 256), ("gpt2", (4,), 256), ("gpt2", (4,), 1024))
    decode: str = "gpt2"                            # the model that reads and writes
    prompts: dict[str, int] = field(default_factory=lambda: {"prefill": 512, "first token": 128})
    context: int = 128
    rows: tuple[int, ...] = (1, 4, 16, 64)          # texts written side by side
    layers: dict[str, tuple[int, int]] = field(default_factory=lambda: {    # input, output width
        "qkv": (768, 2304), "proj": (768, 768), "up": (768, 3072), "down": (3072, 768),
        "head": (768, 50304)})
    inputs: tuple[int, ...] = (256, 1024, 4096)     # rows of x in products
    attention: tuple[tuple[int, int, int, int], ...] = ((4, 12, 256, 64), (4, 12, 1024, 64))
    both_ways: bool = False             # attention's backward pass is timed with the forward pass
    N: tuple[int, ...] = (1024, 4096)               # rows of the kernels that memory limits
    C: int = 768
    V: int = 50304
    D: int = 64
    adamw: int = 50304 * 768
    muon: tuple[int, int] = (3072, 768)
    shard: int = 20_000_000                         # tokens; 0: no loader, which is no device's


CPU = Sizes()
CPU_QUICK = replace(
    CPU, train=CPU.train[:1], decode="gpt2, cut", prompts={"prefill": 64, "first token": 128},
    rows=(1, 4), layers=dict(list(CPU.layers.items())[:2]), inputs=(256,),
    attention=CPU.attention[:1], N=(1024,), V=4096, adamw=CPU.adamw // 64, muon=(192, 192),
    shard=1_000_000)
# What a GPU's second-level cache holds is small beside each tensor.
GPU = Sizes(
    dtypes=("bf16",), products=(4096, 8192), block=1 << 30,
    train=(("gpt2", (64, 32), 1024), ("gpt2-xl", (8, 4), 1024)), rows=(1, 256),
    inputs=(4096, 32768), attention=((16, 32, 1024, 64),), both_ways=True, N=(65536,),
    adamw=124_000_000, shard=0)
GPU_QUICK = replace(GPU, train=(("gpt2", (32,), 1024),), layers=CPU_QUICK.layers, inputs=(32768,))
EMULATED = Sizes(
    dtypes=("bf16",), products=(64,), block=1 << 18, train=(("tiny", (2, 1), 16),), decode="tiny",
    prompts={"prefill": 8}, context=8, rows=(1, 3), layers={"qkv": (32, 96)}, inputs=(32,),
    attention=((1, 2, 32, 32),), both_ways=True, N=(32,), C=64, V=128, D=32, adamw=4096,
    muon=(16, 16), shard=0)


def kind_of(device: str) -> str:
    """cpu, cuda or cuda-emu, of a device's name."""
    return device.split(":")[0]


def sizes_of(device: str, quick: bool) -> Sizes:
    kind = kind_of(device)
    if kind == "cuda-emu":
        return EMULATED
    if kind == "cuda":
        return GPU_QUICK if quick else GPU
    return CPU_QUICK if quick else CPU


def model_named(name: str) -> Any:
    """The Config of a row's model: one of bench's own, or a preset."""
    from llmc import Config
    from llmc.quickstart import Recipe

    if name == "quickstart":
        r = Recipe()
        return Config.preset(r.preset, vocab_size=r.vocab_size, n_layer=r.n_layer, n_embd=r.n_embd,
                             n_head=r.n_head, n_kv_head=r.n_head, max_seq_len=r.max_seq_len,
                             tied=bool(r.tied))
    if name == "tiny":
        return Config.preset("gpt2-tiny", vocab_size=128, n_layer=2, n_embd=64, n_head=2,
                             max_seq_len=32)
    return Config.preset("gpt2", n_layer=2) if name == "gpt2, cut" else Config.preset(name)


def chosen(only: str, match: str, sizes: Sizes) -> list[Case]:
    """The cases of some groups, all if none is named, that have all the words; a ValueError for
    what there is not."""
    groups = [group.strip() for group in only.split(",")] if only else GROUPS
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"--only: there is no group {group!r}{cli.nearest(group, GROUPS)}; "
                             f"wanted some of {','.join(GROUPS)}")
    makers = (train_cases, decode_cases, matmul_cases, attention_cases, norm_cases,
              elementwise_cases, optimizer_cases, loader_cases)
    cases = [case for make in makers for case in make(sizes)
             if case.group in groups and case.has(match)]
    if not cases:
        raise ValueError(f"--match: no row has all of the words {match!r}; "
                         "words are those of the table, as gpt2 T=256 f32")
    return cases


def read_case(sizes: Sizes) -> Case:
    """A block is read."""
    work = {"kind": "memory", "way": "read", "bytes": sizes.block}
    return Case("peak", "read", "", work, sizes.block, "bytes/s")


def peak_cases(sizes: Sizes) -> Iterator[Case]:
    """Large products, and more memory than caches hold. Those of one name are ways to one peak."""
    for dtype in (*sizes.dtypes, "int8"):
        for n in sizes.products:
            work = {"kind": "matmul", "way": "forward", "dtype": dtype, "N": n, "I": n, "O": n}
            yield Case("peak", dtype, dtype, work, 2 * n**3)
    read = read_case(sizes)
    yield read
    yield replace(read, name="copy", work=read.work | {"way": "copy"}, amount=2 * sizes.block)
    I, O = 4096, sizes.block // 4 // 4096       # a product of one row reads several of w's at once
    work = {"kind": "matmul", "way": "forward", "dtype": "f32", "N": 1, "I": I, "O": O}
    yield Case("peak", "read", "", work, 4 * O * I, "bytes/s")


def train_cases(sizes: Sizes) -> Iterator[Case]:
    """On a CPU the quick start's model, and GPT-2 of 124M parameters; on a GPU that and GPT-2 of
    1,558M. 6 FLOP a token and parameter, positions not counted, and 12 L C T for attention."""
    for name, batches, T in sizes.train:
        model = model_named(name)
        for dtype in sizes.dtypes:
            case = None
            for B in reversed(batches):
                work = {"kind": "train", "config": model.to_dict(), "dtype": dtype, "B": B, "T": T}
                case = Case("train", f"{name} B={B} T={T}", dtype, work,
                            model.train_flops(T) * B * T, tokens=B * T, smaller=case)
            yield case


def decode_cases(sizes: Sizes) -> Iterator[Case]:
    """GPT-2 of 124M parameters, or two of its layers, reads a prompt, answers a request for the
    first token after one, and writes one token more in each of some rows; the latter reads all
    weights and the rows' caches, and of the embeddings next to nothing. Beside int8 weights all
    else is of bf16."""
    model, context = model_named(sizes.decode), sizes.context
    read = model.param_count() - model.max_seq_len * model.n_embd
    head = 2 * model.padded_vocab_size * model.n_embd           # once: after the last token
    for dtype in (*sizes.dtypes, "int8"):
        work = {"kind": "decode", "config": model.to_dict(), "dtype": dtype}
        for name, T in sizes.prompts.items():
            kind = "first_token" if name == "first token" else "decode"
            yield Case("decode", f"{name} {T}", dtype,
                       work | {"kind": kind, "rows": 1, "context": 0, "T": T},
                       (model.train_flops(T) / 3 - head) * T + head, tokens=T)
        for rows in sizes.rows:
            cache = 2 * model.n_layer * model.n_kv_head * model.head_dim * context * rows
            yield Case("decode", f"decode rows={rows}", dtype,
                       work | {"rows": rows, "context": context, "T": 1},
                       read * WIDTH[dtype] + cache * max(WIDTH[dtype], 2), "bytes/s", tokens=rows)


def matmul_cases(sizes: Sizes) -> Iterator[Case]:
    for dtype in sizes.dtypes:
        for name, (I, O) in sizes.layers.items():
            for N in sizes.inputs:
                for way in ("forward", "dx", "dw"):
                    work = {"kind": "matmul", "way": way, "dtype": dtype, "N": N, "I": I, "O": O}
                    yield Case("matmul", f"{name} {way} M={N} {I}x{O}", dtype, work, 2 * N * I * O)


def attention_cases(sizes: Sizes) -> Iterator[Case]:
    """Causal: half of the products of T x T, two forward and five backward. "both" is one pass
    after the other."""
    ways = {"forward": 2, "both": 7} if sizes.both_ways else {"forward": 2, "backward": 5}
    for dtype in sizes.dtypes:
        for B, H, T, D in sizes.attention:
            for way, products in ways.items():
                work = {"kind": "attention", "way": way, "dtype": dtype,
                        "B": B, "H": H, "T": T, "D": D}
                yield Case("attention", f"attention {way} B={B} H={H} T={T}", dtype, work,
                           products * B * H * D * T * T)


def kernel(group: str, name: str, dtype: str, numbers: float, shape: str, **work: Any) -> Case:
    """A row of so many numbers read and written."""
    return Case(group, f"{name} {shape}", dtype, {"dtype": dtype, **work}, numbers * WIDTH[dtype],
                "bytes/s")


def norm_cases(sizes: Sizes) -> Iterator[Case]:
    """Read x, write out; read x and dout, write dx. residual: read x and a branch, write their sum
    and out."""
    C = sizes.C
    for dtype in sizes.dtypes:
        for N in sizes.N:
            for kind, way, tensors in (("layer_norm", "forward", 2), ("layer_norm", "backward", 3),
                                       ("residual_norm", "forward", 4)):
                yield kernel("norm", f"{kind} {way}", dtype, tensors * N * C, f"{N}x{C}",
                             kind=kind, way=way, N=N, C=C)


def elementwise_cases(sizes: Sizes) -> Iterator[Case]:
    """SwiGLU reads gate and up, and writes their product; back it reads dout as well, and writes
    the slopes of both. RoPE turns q and k where they lie. Embedding copies a row a token; back it
    writes the whole table, in f32 here. copy: as the peak is measured."""
    C, F, V, D = sizes.C, 4 * sizes.C, sizes.V, sizes.D
    for dtype in sizes.dtypes:
        for N in sizes.N:
            for way, tensors in (("forward", 3), ("backward", 5)):
                yield kernel("elementwise", f"swiglu {way}", dtype, tensors * N * F, f"{N}x{F}",
                             kind="swiglu", way=way, N=N, F=F)
            yield kernel("elementwise", "rope forward", dtype, 4 * N * C, f"{N}x{C}",
                         kind="rope", N=N, H=C // D, D=D)
            table = V * C * 4 / WIDTH[dtype]
            for way, numbers in (("forward", 2 * N * C), ("backward", N * C + table)):
                yield kernel("elementwise", f"embedding {way}", dtype, numbers, f"{N}x{C}",
                             kind="embedding", way=way, N=N, C=C, V=V)
            yield kernel("elementwise", "copy", dtype, 2 * N * F, f"{N}x{F}",
                         kind="copy", N=N, C=F)


def optimizer_cases(sizes: Sizes) -> Iterator[Case]:
    """AdamW reads weight, moments and gradient, and writes all but the last; bf16 weights are
    written beside their masters. Muon of a matrix is five times three products (Newton-Schulz)."""
    N, (R, C) = sizes.adamw, sizes.muon
    for dtype in sizes.dtypes:
        work = {"kind": "adamw", "dtype": dtype, "N": N}
        yield Case("optimizer", f"adamw {N}", dtype, work, N * (28 + 2 * (dtype == "bf16")),
                   "bytes/s")
    for dtype in sizes.dtypes:
        work = {"kind": "muon", "dtype": dtype, "R": R, "C": C}
        yield Case("optimizer", f"muon {R}x{C}", dtype, work, 5 * (4 * R * C * C + 2 * C**3))
    yield Case("optimizer", f"gradient_norm {N}", "f32", {"kind": "grad_norm", "N": N}, 4 * N,
               "bytes/s")


def loader_cases(sizes: Sizes) -> Iterator[Case]:
    """A token is read as a token and as a target, two bytes each, and becomes four numbers. Many
    batches a call: the first few have been prefetched."""
    if not sizes.shard:
        return
    B, T, batches = 16, 1024, 64
    tokens = batches * B * T
    work = {"kind": "loader", "B": B, "T": T, "batches": batches, "shard_tokens": sizes.shard}
    yield Case("loader", f"shuffled B={B} T={T}", "", work, tokens * (2 * 2 + 4 * 4), "bytes/s",
               tokens)
