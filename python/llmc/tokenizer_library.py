"""Any other BPE of a tokenizer.json, encoded by Hugging Face's library.

Those are SentencePiece's BPE (Llama 1 and 2, llama2.c: spaces are spelled U+2581, and what the
vocabulary lacks is spelled byte by byte) and byte-level BPE with what tiktoken has not: a normalizer
(Qwen's NFC), several pre-tokenizers, merges in another order. Decoding needs no library: a token is
its bytes.
"""
from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any, Literal

import tokenizers

from llmc import disk
from llmc.encodings import byte_characters
from llmc.tokenizer import EOT_NAMES, Tokenizer
from llmc.tokenizer_json import added_tokens, check_ids, first_token, reading

SPACE = "\u2581"
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
NORMALIZERS = {"NFC", "Prepend", "Replace"}


class LibraryTokenizer(Tokenizer):
    """A Tokenizer whose ids are those of Hugging Face's library."""

    def __init__(self, name: str, raw: bytes, where: str):
        data = disk.parse_json(raw, where, {"model": dict})
        with reading(where):
            check(data)
            vocab, added = data["model"]["vocab"], data.get("added_tokens") or []
            self.special = {token["content"]: token["id"] for token in added}
            check_ids(vocab | self.special)
            self.bos = first_token(data)
        try:
            self._library = tokenizers.Tokenizer.from_str(raw.decode())
        except Exception as error:              # the library knows no other
            raise ValueError(f"{where}: the library tokenizers cannot use it: {error}") from error
        self.name, self._json = name, raw
        self.eot = next((self.special[n] for n in EOT_NAMES if n in self.special), None)
        self.byte_level = is_byte_level(data)
        self.space_first = any(
            step["type"] == "Prepend" or step.get("prepend_scheme", "never") != "never"
            for step in _steps(data, "normalizer") + _steps(data, "pre_tokenizer"))
        self.vocab_size = 1 + max([*vocab.values(), *self.special.values()])
        self._bytes_of = [b"<|unused_%d|>" % id for id in range(self.vocab_size)]
        for token, id in vocab.items():
            self._bytes_of[id] = spelled(token, self.byte_level)
        for token, id in self.special.items():
            self._bytes_of[id] = token.encode()

    def encode(self, text: str,
               allowed_special: Collection[str] | Literal["all"] = ()) -> list[int]:
        """As Tokenizer's; special tokens are allowed all or none. (Added tokens that the file does
        not call special are found in any text, as their vocabulary means them.)"""
        if allowed_special not in ("all", ()) and set(allowed_special) != self.special.keys():
            raise ValueError(f"{self.name} reads all of its special tokens in a text, or none")
        self._library.encode_special_tokens = not allowed_special
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._library.encode(text, add_special_tokens=False).ids

    def encode_plain(self, text: str) -> list[int]:
        """As Tokenizer's: added tokens that the file does not call special are not found either.
        What the vocabulary has no token for becomes its token for the unknown, if it has one."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._plain.encode(text, add_special_tokens=False).ids

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The model without its added tokens: some of them are in its vocabulary, where merges, or
        a piece as a whole, would lead to them."""
        data = json.loads(self._json) | {"added_tokens": [], "truncation": None, "padding": None}
        model = data["model"]
        names = self.special.keys() - {model.get("unk_token")}
        model["vocab"] = {f"\0{token}" if token in names else token: id
                          for token, id in model["vocab"].items()}
        model["merges"] = [pair for pair in model["merges"] if "".join(
            pair.split(" ") if isinstance(pair, str) else pair) not in names]
        return tokenizers.Tokenizer.from_str(json.dumps(data))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, without the space that was put before the text."""
        raw = super().decode_bytes(ids)
        return raw[1:] if self.space_first and raw.startswith(b" ") else raw

    def with_special(self, names: Iterable[str]) -> Tokenizer:
        """As Tokenizer's."""
        new = self._numbered(names)
        if not new:
            return self
        data = json.loads(self._json)
        # in the vocabulary too, or the library would number them anew where it leaves out ids
        data["model"]["vocab"] |= new
        data["added_tokens"] = [*(data.get("added_tokens") or []), *added_tokens(new)]
        raw = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        return LibraryTokenizer(self.name, raw, self.name)

    def as_tiktoken(self) -> Any:
        raise ValueError(f"{self.name} is no tokenizer that tiktoken can be")


def check(data: dict[str, Any]) -> None:
    """A ValueError that says what of a tokenizer.json would be encoded or decoded otherwise."""
    model = data["model"]
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"its model is {model['type']}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ValueError(f"its model has a {key}, {model[key]!r}")
    pieces = _steps(data, "pre_tokenizer")
    if model.get("byte_fallback"):
        wanted, byte_level = {"Metaspace", "Split", "Digits"}, False
    else:
        wanted, byte_level = {"ByteLevel", "Split", "Digits"}, True
    if is_byte_level(data) != byte_level:
        kind = (data.get("decoder") or {}).get("type")
        raise ValueError(f"its model is BPE {'without' if byte_level else 'with'} byte fallback, "
                         f"and its decoder is {kind}")
    if byte_level and not any(step["type"] == "ByteLevel" for step in pieces):
        raise ValueError(f"its pre_tokenizer ends in {pieces[-1]['type'] if pieces else 'nothing'}")
    for step in _steps(data, "normalizer"):
        if step["type"] not in NORMALIZERS:
            raise ValueError(f"it has a normalizer, {step['type']}")
    for step in pieces:
        if step["type"] not in wanted or step.get("behavior") == "Removed":
            raise ValueError(f"its pre_tokenizer is {json.dumps(step)}")
        if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            raise ValueError("its pre_tokenizer adds a space before the text")


def is_byte_level(data: dict[str, Any]) -> bool:
    """Whether the vocabulary spells bytes, as GPT-2's does."""
    return (data.get("decoder") or {}).get("type") == "ByteLevel"


def spelled(token: str, byte_level: bool) -> bytes:
    """The bytes that a token of the vocabulary stands for."""
    if byte_level:
        known = _BYTE_OF.keys() >= set(token)
        return bytes(_BYTE_OF[c] for c in token) if known else token.encode()
    if byte := BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.replace(SPACE, " ").encode()


def _steps(data: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre_tokenizer."""
    whole = data.get(kind) or {"type": "Sequence"}
    if whole["type"] != "Sequence":
        return [whole]
    return whole.get(f"{kind}s") or whole.get("pretokenizers") or []


_BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}
