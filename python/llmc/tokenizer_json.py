"""Hugging Face's tokenizer.json to an Encoding, and an Encoding to tokenizer.json.

Only byte-level BPE without a normalizer is read: what GPT-2, GPT-4, Llama 3 and our own are; others
are left to tokenizer_library.py. For these the two libraries agree, as long as merges are in the
order of the ids they make: before a merge takes place, the bytes it covers have been merged as if
they stood alone, so tiktoken, which merges any two neighbours whose bytes together are a token,
finds the pair that the file lists.
"""
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmc import disk
from llmc.encodings import EOT, GPT2_PATTERN, Encoding, byte_characters

SPELLING = byte_characters()


class Foreign(ValueError):
    """A tokenizer.json that may be whole, but means something else than tiktoken can."""


def read_json(raw: bytes, where: str) -> Encoding:
    """The encoding of a tokenizer.json; `where` names it in a ValueError's sentence."""
    data = disk.parse_json(raw, where, {"model": dict})
    with reading(where):
        return _read(data)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """What goes wrong with the object of a tokenizer.json, as a ValueError that names it."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{where} is no whole tokenizer.json: {error!r}") from error
    except ValueError as error:
        raise type(error)(f"{where} is no BPE that llmc reads: {error}") from error


def from_vocab_and_merges(vocab: bytes, merges: bytes, where: str) -> bytes:
    """The tokenizer.json of GPT-2's older two files, vocab.json and merges.txt."""
    ids = disk.parse_json(vocab, where, {})
    lines = merges.decode().removeprefix("#version: 0.2\n").splitlines()
    data = {"added_tokens": [{"content": EOT, "id": ids[EOT]}] if EOT in ids else [],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
            "model": {"vocab": ids, "merges": [line for line in lines if line]}}
    with reading(where):
        return write_json(_read(data), where)


def write_json(encoding: Encoding, name: str) -> bytes:
    """The tokenizer.json of an encoding, the same bytes each time."""
    by_rank = sorted(encoding.ranks.items(), key=lambda item: item[1])
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if encoding.pattern == GPT2_PATTERN:
        pieces = {**byte_level, "use_regex": True}
    else:
        split = {"type": "Split", "pattern": {"Regex": encoding.pattern},
                 "behavior": "Isolated", "invert": False}
        pieces = {"type": "Sequence", "pretokenizers": [split, {**byte_level, "use_regex": False}]}
    special = dict(sorted(encoding.special.items(), key=lambda item: item[1]))
    # special tokens stand in the vocabulary too, or Hugging Face's library would number them anew
    vocab = {_spell(token): rank for token, rank in by_rank} | special
    data = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": added_tokens(special),
        "normalizer": None, "pre_tokenizer": pieces,
        "post_processor": _before(encoding),
        "decoder": {**byte_level, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
                  "merges": [f"{_spell(a)} {_spell(b)}"
                             for a, b in merges(encoding.ranks, name)]},
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def added_tokens(special: dict[str, int]) -> list[dict[str, Any]]:
    """Special tokens as a tokenizer.json lists them."""
    return [{"id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for token, id in special.items()]


def _before(encoding: Encoding) -> dict[str, Any] | None:
    """The post_processor that puts the encoding's bos before each text."""
    if encoding.bos is None:
        return None
    name = next(token for token, id in encoding.special.items() if id == encoding.bos)
    token = {"SpecialToken": {"id": name, "type_id": 0}}
    a, b = ({"Sequence": {"id": each, "type_id": i}} for i, each in enumerate("AB"))
    return {"type": "TemplateProcessing", "single": [token, a], "pair": [token, a, b],
            "special_tokens": {name: {"id": name, "ids": [encoding.bos], "tokens": [name]}}}


def merges(ranks: dict[bytes, int], name: str) -> Iterator[tuple[bytes, bytes]]:
    """The two tokens that each longer token is merged from, in the order of ranks."""
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = _merged_below(token, rank, ranks)
        if len(parts) != 2:
            raise ValueError(f"{name}: its token {rank}, {token!r}, cannot be merged from two "
                             "earlier ones, so no tokenizer.json is equal to it")
        yield parts[0], parts[1]


def merge_steps(token: bytes, ranks: dict[bytes, int], limit: int) -> Iterator[tuple[int, int]]:
    """The merges ranked below `limit` that a piece's bytes undergo, in order: the rank of what
    each makes, and where in the piece its two parts join."""
    cuts = list(range(len(token) + 1))          # part i is token[cuts[i]:cuts[i + 1]]
    pairs = [ranks.get(token[i:i + 2], limit) for i in range(len(token) - 1)]
    while pairs and (best := min(pairs)) < limit:
        at = pairs.index(best)                  # parts at and at + 1 become one
        yield best, cuts[at + 1]
        del cuts[at + 1], pairs[at]
        if at > 0:
            pairs[at - 1] = ranks.get(token[cuts[at - 1]:cuts[at + 1]], limit)
        if at < len(pairs):
            pairs[at] = ranks.get(token[cuts[at]:cuts[at + 2]], limit)


def _merged_below(token: bytes, limit: int, ranks: dict[bytes, int]) -> list[bytes]:
    """What the merges ranked below `limit` make of a token's bytes."""
    joined = {place for _, place in merge_steps(token, ranks, limit)}
    cuts = [at for at in range(len(token) + 1) if at not in joined]
    return [token[a:b] for a, b in zip(cuts, cuts[1:])]


def _spell(token: bytes) -> str:
    return "".join([SPELLING[byte] for byte in token])


def _read(data: dict[str, Any]) -> Encoding:
    model = data["model"]
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback"):
        kind = "BPE with byte fallback" if model.get("byte_fallback") else model["type"]
        raise Foreign(f"its model is {kind}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ValueError(f"its model has a {key}, {model[key]!r}")
    if data.get("normalizer"):
        raise Foreign(f"it has a normalizer, {data['normalizer'].get('type')}")
    added = {token["content"]: token["id"] for token in data.get("added_tokens") or []}
    ids = {token: id for token, id in model["vocab"].items() if token not in added}
    if not ids:
        raise ValueError("its vocabulary is empty")
    check_ids(ids | added)
    byte_of = {character: byte for byte, character in enumerate(SPELLING)}
    try:
        ranks = {bytes(byte_of[c] for c in token): id for token, id in ids.items()}
    except KeyError as error:
        raise ValueError(f"its vocabulary spells no bytes: it holds {error.args[0]!r}") from error
    _check_merges(model["merges"], ids)
    return Encoding(_pattern(data.get("pre_tokenizer")), ranks, added, first_token(data))


def check_ids(tokens: dict[str, int]) -> None:
    """A ValueError for ids and special tokens that no vocabulary has."""
    taken = list(tokens.values())
    if any(type(id) is not int or id < 0 for id in taken) or len(set(taken)) < len(taken):
        raise ValueError("its ids are not distinct whole numbers")
    # published vocabularies leave numbers out, but never more than they use; csrc/detokenizer.c
    if max(taken) >= 2 * len(taken) + 64:
        raise ValueError(f"it has {len(taken)} tokens, and one of them is number {max(taken)}")
    for token in tokens:
        if type(token) is not str or not token or re.search(r"[\ud800-\udfff]", token):
            raise ValueError(f"{token!r} is no text, and is to be a token")


def first_token(data: dict[str, Any]) -> int | None:
    """The id that the post_processor of a tokenizer.json puts before each text, if it does."""
    steps = [data.get("post_processor") or {}]
    steps += steps[0].get("processors") or []
    for step in steps:
        first = step["single"][0] if step.get("type") == "TemplateProcessing" else {}
        if "SpecialToken" in first:
            return step["special_tokens"][first["SpecialToken"]["id"]]["ids"][0]
    return None


def _check_merges(listed: list[Any], ids: dict[str, int]) -> None:
    """The merges make tokens in the order of their ids, which is what tiktoken merges by, and they
    make all tokens but the bytes: it merges to any token there is."""
    last, unmade = -1, {token for token in ids if len(token) != 1}
    for merge in listed:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        made = ids.get(first + second)
        if made is None:
            raise ValueError(f"its merge of {first!r} and {second!r} makes no token")
        if made < last:
            raise Foreign(f"its merge of {first!r} and {second!r} makes an earlier token")
        last = made
        unmade.discard(first + second)
    if unmade:
        raise ValueError(f"no merge makes its token {min(unmade, key=ids.get)!r}")


def _pattern(pieces: dict[str, Any] | None) -> str:
    """The pattern of a ByteLevel, or of a Split and a ByteLevel after it."""
    steps = pieces.get("pretokenizers") if pieces and pieces["type"] == "Sequence" else [pieces]
    byte_level = steps[-1] or {"type": "nothing"}
    if byte_level["type"] != "ByteLevel":
        raise Foreign(f"its pre_tokenizer ends in {byte_level['type']}")
    if byte_level.get("add_prefix_space"):
        raise Foreign("its pre_tokenizer adds a space before the text")
    if len(steps) == 1 and byte_level.get("use_regex", True):
        return GPT2_PATTERN
    split = steps[0]
    if (len(steps) != 2 or byte_level.get("use_regex", True) or split["type"] != "Split"
            or split["behavior"] != "Isolated" or split.get("invert")):
        raise Foreign(f"its pre_tokenizer is {json.dumps(pieces)}")
    pattern = split["pattern"]["Regex"]
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"its pattern is {pattern!r}")
    return pattern
