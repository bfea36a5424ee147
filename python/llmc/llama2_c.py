"""llama2.c's models and tokenizers to a model of ours and a tokenizer.json.

A model: seven int32 (n_embd, n_ff, n_layer, n_head, n_kv_head, vocab_size, max_seq_len; a negative
vocab_size says that the head is not tied) and the parameters in f32, of each kind all layers, one
after the other. RoPE turns neighbouring rows of q and k.

A tokenizer: the longest token's length, and of each token its score (f32), length (int32) and bytes.
It is SentencePiece's BPE: of all neighbours that together are a token, the pair of the highest score
is merged first, the leftmost of equals.
"""
from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmc import flat_file, lazy
from llmc.lazy import Piece, Pieces, Shape
from llmc.model_files import GENERATION, ModelFiles, as_json, shapes
from llmc.tokenizer_json import added_tokens
from llmc.tokenizer_library import BYTE, SPACE

HEADER = struct.Struct("<7i")
NEWER = b"24ka"                         # how versions 1 and 2 begin
UNK, BOS, EOS = 0, 1, 2
SPECIAL = ("<unk>", "<s>", "</s>")
# of each kind, our name; several kinds of one name are stacked
KINDS = [("attention_norm", "ln_1"), ("wq", "attn.qkv"), ("wk", "attn.qkv"), ("wv", "attn.qkv"),
         ("wo", "attn.proj"), ("ffn_norm", "ln_2"), ("w1", "mlp.up"), ("w2", "mlp.down"),
         ("w3", "mlp.up")]


def from_file(path: Path) -> ModelFiles:
    """Open such a model, without its tokenizer."""
    from llmc import Config

    with path.open("rb") as file:
        head = file.read(HEADER.size)
    if head[:4] == NEWER:
        raise ValueError(f"{path} is llama2.c's version {int.from_bytes(head[4:8], 'little')}; the "
                         "first (version 0) is read: export it again with --version 0")
    if len(head) < HEADER.size:
        raise ValueError(f"{path} has {len(head)} bytes, wanted llama2.c's header of {HEADER.size}")
    n_embd, n_ff, n_layer, n_head, n_kv_head, vocab_size, max_seq_len = HEADER.unpack(head)
    if min(n_embd, n_ff, n_layer, n_head, n_kv_head, max_seq_len) <= 0 or n_embd % n_head:
        raise ValueError(f"{path} is neither llm.c's nor llama2.c's: it begins with "
                         f"{', '.join(map(str, HEADER.unpack(head)))}")
    tied = vocab_size > 0
    config = Config.preset("llama-tiny", n_embd=n_embd, n_ff=n_ff, n_layer=n_layer, n_head=n_head,
                           n_kv_head=n_kv_head, vocab_size=abs(vocab_size), max_seq_len=max_seq_len,
                           tied=tied)
    theirs = flat_file.tensors(path, HEADER.size, _layout(config), "f32")
    for unused in ("freqs_cos", "freqs_sin"):           # they follow from the config
        del theirs[unused]
    ours = lazy.assemble(_pieces(config), theirs, shapes(config), str(path))
    # its models were trained with <s> between two documents, so that ends a text as well
    ends = {GENERATION: as_json({"bos_token_id": BOS, "eos_token_id": [EOS, BOS]})}
    return ModelFiles(path.stem, "llama2.c", config, ours, ends)


def _rows(config: Any) -> dict[str, Shape]:
    """Of each kind, the shape of one layer's."""
    C, F, D = config.n_embd, config.n_ff, config.head_dim
    H, G = config.n_head, config.n_kv_head
    return {"attention_norm": (C,), "wq": (H * D, C), "wk": (G * D, C), "wv": (G * D, C),
            "wo": (C, H * D), "ffn_norm": (C,), "w1": (F, C), "w2": (C, F), "w3": (F, C)}


def _layout(config: Any) -> Iterator[tuple[str, Shape]]:
    V, C, T, D = config.vocab_size, config.n_embd, config.max_seq_len, config.head_dim
    yield "wte", (V, C)
    for kind, shape in _rows(config).items():
        yield from ((f"{kind}.{layer}", shape) for layer in range(config.n_layer))
    yield "ln_f", (C,)
    yield from (("freqs_cos", (T, D // 2)), ("freqs_sin", (T, D // 2)))
    if not config.tied:
        yield "lm_head", (V, C)


def _pieces(config: Any) -> Pieces:
    shape, V = _rows(config), config.vocab_size
    pieces = [Piece("wte.weight", "wte", 0, V), Piece("ln_f.weight", "ln_f", 0, config.n_embd)]
    if not config.tied:
        pieces.append(Piece("lm_head.weight", "lm_head", 0, V))
    for layer in range(config.n_layer):
        filled: dict[str, int] = {}
        for kind, part in KINDS:
            begin = filled.get(part, 0)
            filled[part] = end = begin + shape[kind][0]
            head = config.head_dim if kind in ("wq", "wk") else 0
            pieces.append(Piece(f"h.{layer}.{part}.weight", f"{kind}.{layer}", begin, end,
                                head=head))
    return pieces


# ---- the tokenizer --------------------------------------------------------------------------------

def tokenizer_json(path: Path, vocab_size: int) -> bytes:
    """The tokenizer.json of a tokenizer.bin of so many tokens."""
    scores = _read_tokenizer(path, vocab_size)
    vocab = {token: id for id, token in enumerate(scores)}
    special = {name: id for id, name in enumerate(SPECIAL)}
    token = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    a, b = ({"Sequence": {"id": each, "type_id": i}} for i, each in enumerate("AB"))
    data = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": added_tokens(special),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [token, a],
                           "pair": [token, a, token, b], "special_tokens": {
                               "<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>",
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": vocab,
                  "merges": [[a, b] for a, b in _merges(scores)]},
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def _read_tokenizer(path: Path, vocab_size: int) -> dict[str, float]:
    """Each token, spelled as SentencePiece does, and its score; in the order of ids."""
    raw = path.read_bytes()
    scores: dict[str, float] = {}
    at = 4
    while at < len(raw):
        if at + 8 > len(raw):
            raise ValueError(f"{path} ends within token {len(scores)}; it was cut")
        score, length = struct.unpack_from("<fi", raw, at)
        at += 8 + length
        if length < 0 or at > len(raw):
            raise ValueError(f"{path}: token {len(scores)} has {length} bytes, and the file ends "
                             "before them; it was cut, or is another kind of file")
        token = _spell(raw[at - length:at], len(scores), path)
        if token in scores:
            raise ValueError(f"{path}: its token {len(scores)}, {token!r}, is there twice")
        scores[token] = score
    if len(scores) != vocab_size:
        raise ValueError(f"{path} holds {len(scores)} tokens, but the model knows {vocab_size}; "
                         "it is another model's")
    if not all(f"<0x{byte:02X}>" in scores for byte in range(256)):
        raise ValueError(f"{path} has not all of the tokens <0x00> to <0xFF>; it is no "
                         "tokenizer.bin")
    return scores


def _spell(raw: bytes, id: int, path: Path) -> str:
    """Spaces and the special tokens stand there as they are printed."""
    try:
        token = raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: token {id}, {raw!r}, is no UTF-8; it is no "
                         "tokenizer.bin") from error
    if id < len(SPECIAL):
        return SPECIAL[id]
    return token.replace(" ", SPACE)


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """The pairs that make tokens, those of higher scores first. Of equal scores, those of the longer
    first token come first: what has grown from the left grows on, as if the leftmost were taken."""
    plain = [token for token in scores if token not in SPECIAL and not BYTE.fullmatch(token)]
    parts = set(plain)
    pairs = [(token[:cut], token[cut:]) for token in plain for cut in range(1, len(token))]
    pairs = [(a, b) for a, b in pairs if a in parts and b in parts]
    return sorted(pairs, key=lambda pair: (-scores["".join(pair)], -len(pair[0]), -len(pair[1])))
