"""A tokenizer.json to the vocabulary of a GGUF file.

llama.cpp has its own code for both kinds of BPE. Byte-level BPE ("gpt2") takes merges, and knows how
text is cut into pieces by a name. SentencePiece's ("llama") takes a score for each token: of all
neighbours that together are a token, the pair whose token has the highest score is merged first.
"""
from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from llmc.disk import parse_json
from llmc.encodings import GPT2_PATTERN, GPT4_PATTERN, GPT4O_PATTERN
from llmc.model_files import TOKENIZER, ModelFiles, token_ids
from llmc.tokenizer import from_json
from llmc.tokenizer_library import BYTE, is_byte_level

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE_TOKEN = range(1, 7)     # llama.cpp's types
QWEN_PATTERN = GPT4_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")                 # digits one by one
CUTS = {GPT2_PATTERN: "gpt-2", GPT4_PATTERN: "llama-bpe", GPT4O_PATTERN: "gpt-4o",
        QWEN_PATTERN: "qwen2"}
DIGITS = {"type": "Digits", "individual_digits": True}


@dataclass
class Vocabulary:
    """What a GGUF file says of a tokenizer."""
    model: str                      # gpt2 or llama
    cut: str                        # llama.cpp's name of how text is cut
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)       # bos, eos, unk
    bos_first: bool = False
    space_first: bool = False

    def write(self, writer: Any) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.cut)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.model == "llama":
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.space_first)
        else:
            writer.add_token_merges(self.merges)
        for name, id in self.ids.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", id)
        writer.add_add_bos_token(self.bos_first)


def vocabulary(model: ModelFiles) -> Vocabulary:
    """The vocabulary of a model, as many tokens as it has; a ValueError says why there is none."""
    where = f"{model.name}: {TOKENIZER}"
    if TOKENIZER not in model.texts:
        raise ValueError(f"{where} is missing, and a GGUF file holds its tokenizer")
    raw = model.texts[TOKENIZER]
    tokenizer, data = from_json(raw, where, where), parse_json(raw, where, {"model": dict})
    size = model.config.vocab_size
    result = Vocabulary("gpt2" if is_byte_level(data) else "llama", "default",
                        [f"[PAD{id}]" for id in range(size)], [UNUSED] * size)
    for token, id in data["model"]["vocab"].items():
        result.tokens[id], result.types[id] = token, NORMAL
    for added in data.get("added_tokens") or []:
        kind = CONTROL if added.get("special") else USER_DEFINED
        result.tokens[added["id"]], result.types[added["id"]] = added["content"], kind
    ends = token_ids(model.texts, "eos_token_id") + [tokenizer.eot]
    if ends[0] is not None and ends[0] >= size:
        raise ValueError(f"{model.name}: eos_token_id is {ends[0]}, but its tokens are 0 "
                         f"to {size - 1}")
    result.ids = {name: id for name, id in (("bos", tokenizer.bos), ("eos", ends[0]))
                  if id is not None}
    if result.model == "gpt2":
        result.cut = _cut(data, where)
        result.merges = [" ".join(_pair(merge)) for merge in data["model"]["merges"]]
    else:
        _spell_as_sentencepiece(result, data, where)
    result.bos_first, result.space_first = tokenizer.bos is not None, tokenizer.space_first
    return result


def _cut(data: dict[str, Any], where: str) -> str:
    """llama.cpp's name of a pre_tokenizer."""
    whole = data.get("pre_tokenizer") or {}
    steps = whole.get("pretokenizers", [whole])
    if len(steps) == 2 and steps[0] == DIGITS and steps[1].get("use_regex", True):
        return "smollm"
    if len(steps) == 1 and steps[0].get("use_regex", True):
        return CUTS[GPT2_PATTERN]
    pattern = steps[0].get("pattern", {}).get("Regex")
    if len(steps) == 2 and pattern in CUTS and not steps[1].get("use_regex", True):
        return CUTS[pattern]
    raise ValueError(f"{where}: its pre_tokenizer, {json.dumps(whole)}, is none that llama.cpp has a "
                     "name for; a GGUF file could not say how to cut text")


def _spell_as_sentencepiece(result: Vocabulary, data: dict[str, Any], where: str) -> None:
    """The scores, so that llama.cpp merges in the order of the merges; and what bytes are."""
    unknown = data["model"].get("unk_token")
    for id, token in enumerate(result.tokens):
        if BYTE.fullmatch(token):
            result.types[id] = BYTE_TOKEN
        elif token == unknown:
            result.types[id], result.ids["unk"] = UNKNOWN, id
    order = _order([_pair(merge) for merge in data["model"]["merges"]], where)
    result.scores = [-float(order.get(token, len(order))) if type == NORMAL else 0.0
                     for token, type in zip(result.tokens, result.types)]


def _pair(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _order(merges: list[tuple[str, str]], where: str) -> dict[str, int]:
    """Of each token that merges make, its place among them. Tokens have one place where their merges
    stand mixed: those of equal scores do, the longer first part before the shorter."""
    last = {"".join(pair): at for at, pair in enumerate(merges)}
    order: dict[str, int] = {}
    place = begin = end = 0             # merges[begin:end] share this place
    for at, pair in enumerate(merges):
        if at == end and at:
            place, begin = place + 1, at
        order["".join(pair)] = place
        end = max(end, last["".join(pair)] + 1)
        group = merges[begin:end] if at + 1 == end else []
        if len({a + b for a, b in group}) > 1 and group != sorted(
                group, key=lambda pair: (-len(pair[0]), -len(pair[1]))):
            raise ValueError(f"{where}: its merges from {begin} to {end - 1} are in an order that no "
                             "scores give, and a GGUF file has scores")
    return order
