"""llm.c's GPT-2 checkpoints (gpt2_124M.bin, gpt2_124M_bf16.bin) to a model of ours.

A header of 256 int32: magic, version (3: f32, 5: bf16), max_seq_len, vocab_size, n_layer, n_head,
n_embd, padded_vocab_size. Then the parameters; of each kind all layers, one after the other.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llmc import flat_file, lazy
from llmc.lazy import Piece, Shape
from llmc.model_files import ModelFiles, shapes

MAGIC, HEADER_BYTES = 20240326, 1024
DTYPES = {3: "f32", 5: "bf16"}
ORDER = ("ln_1.weight", "ln_1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight",
         "attn.proj.bias", "ln_2.weight", "ln_2.bias", "mlp.up.weight", "mlp.up.bias",
         "mlp.down.weight", "mlp.down.bias")


def is_checkpoint(path: Path) -> bool:
    """Whether a file begins as llm.c's do."""
    with path.open("rb") as file:
        return file.read(4) == MAGIC.to_bytes(4, "little")


def from_file(path: Path) -> ModelFiles:
    """Open such a checkpoint; its tokenizer is GPT-2's, and not in it."""
    from llmc import Config

    header = np.fromfile(path, "<i4", HEADER_BYTES // 4)
    if len(header) < HEADER_BYTES // 4:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, wanted a header of "
                         f"{HEADER_BYTES}; it was cut")
    version, max_seq_len, vocab_size, n_layer, n_head, n_embd, padded = map(int, header[1:8])
    if version not in DTYPES:
        raise ValueError(f"{path} is of version {version}; 3 (f32) and 5 (bf16) are read")
    config = Config.preset("gpt2", max_seq_len=max_seq_len, vocab_size=vocab_size, n_layer=n_layer,
                           n_head=n_head, n_embd=n_embd, padded_vocab_size=padded)
    wanted = shapes(config)
    theirs = flat_file.tensors(path, HEADER_BYTES, _layout(wanted, n_layer), DTYPES[version])
    same = [Piece(name, name, 0, shape[0]) for name, shape in wanted.items()]
    ours = lazy.assemble(same, theirs, wanted, str(path))
    return ModelFiles(path.stem, "llm.c", config, ours, {})


def _layout(wanted: dict[str, Shape], n_layer: int) -> Iterator[tuple[str, Shape]]:
    names = ["wte.weight", "wpe.weight"]
    names += [f"h.{layer}.{part}" for part in ORDER for layer in range(n_layer)]
    names += ["ln_f.weight", "ln_f.bias"]
    return ((name, wanted[name]) for name in names)
