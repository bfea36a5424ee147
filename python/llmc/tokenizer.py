"""Text to token ids and back, for the published encodings and any byte-level tokenizer.json.

tiktoken does the merging. A tokenizer.json is read into what tiktoken wants (a pattern, and each
token's rank) and written from it again, always in the same form: equal tokenizers are equal files.
"""
from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import tiktoken

from llmc import encodings
from llmc.encodings import Encoding
from llmc.tokenizer_json import Foreign, read_json, write_json

EOT_NAMES = (encodings.EOT, "<|end_of_text|>", "</s>")      # GPT's, Llama 3's, older models'

# tiktoken's matcher backtracks over white space and gives up at 500,000 to a million in a row.
LONGEST_SPACE = 100_000
LONG_SPACE = re.compile(r"(?<!\s)\s{%d,}" % LONGEST_SPACE)


class Tokenizer:
    """A BPE: ids of a text, and bytes of ids. Made by `Tokenizer.load`."""
    space_first = False         # a space is put before each text, and taken away by decoding

    def __init__(self, name: str, encoding: Encoding):
        self.name = name
        self.pattern, self.ranks, self.special, self.bos = encoding
        try:
            self._tiktoken = tiktoken.Encoding(name, pat_str=self.pattern,
                                               mergeable_ranks=self.ranks,
                                               special_tokens=self.special)
        except ValueError as error:
            raise ValueError(f"{name}: tiktoken cannot use it: {error}") from error
        known = bytes(token[0] for token in self.ranks if len(token) == 1)
        self._known_bytes = None if len(known) == 256 else known
        self.eot = next((self.special[n] for n in EOT_NAMES if n in self.special), None)
        self.vocab_size = 1 + max([*self.ranks.values(), *self.special.values()])

    @staticmethod
    def load(name: str | Path) -> Tokenizer:
        """A published encoding (encodings.names()), a tokenizer.json, or a folder that holds one:
        a data folder, a run or a checkpoint."""
        if str(name) in encodings.names():
            return _published(str(name))
        path = Path(name)
        if not path.exists():
            raise ValueError(f"{name} is no file or folder, and no encoding is called so; "
                             f"there are {', '.join(encodings.names())}")
        if path.is_dir():
            path = in_folder(path)
        return from_json(path.read_bytes(), str(name), str(path))

    def encode(self, text: str,
               allowed_special: Collection[str] | Literal["all"] = ()) -> list[int]:
        """The ids of a text. A special token's name in it is plain text, unless it is allowed."""
        allowed = set(self.special if allowed_special == "all" else allowed_special)
        if unknown := allowed - self.special.keys():
            raise ValueError(f"{self.name} has no special token {sorted(unknown)[0]}; "
                             f"it has {', '.join(self.special) or 'none'}")
        try:
            raw = text.encode()
        except UnicodeEncodeError:                  # halves of surrogate pairs: joined, or U+FFFD
            raw = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
            text = raw.decode()
        if self._known_bytes is not None:
            self._check_bytes(raw)
        ids: list[int] = []
        for part in cut_runs(text, LONG_SPACE, LONGEST_SPACE):
            ids += self._encode(part, allowed)
        # tiktoken drops what the pattern does not match
        if (self.pattern not in encodings.MATCH_ALL
                and sum(len(self._bytes_of[id]) for id in ids) != len(raw)):
            raise ValueError(f"{self.name} loses some of the text: its pattern, {self.pattern!r}, "
                             "does not match every character; choose another tokenizer")
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """The ids of a text that is nothing but text: no special or added token among them."""
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no whole character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, exactly."""
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token. A number below vocab_size that no token has shows itself."""
        if not 0 <= id < self.vocab_size:
            raise ValueError(f"{id} is no token of {self.name}: "
                             f"they are 0 to {self.vocab_size - 1}")
        return self._bytes_of[id]

    def with_special(self, names: Iterable[str]) -> Tokenizer:
        """The same with these special tokens too: those that it lacks get the ids behind its last.
        A ValueError where one of its tokens is text that is called so."""
        new = self._numbered(names)
        special = self.special | new
        return Tokenizer(self.name, Encoding(self.pattern, self.ranks, special, self.bos)
                         ) if new else self

    def as_tiktoken(self) -> tiktoken.Encoding:
        """The same tokenizer as an object of the tiktoken library."""
        return self._tiktoken

    def to_json(self) -> bytes:
        """The same tokenizer as a Hugging Face tokenizer.json, UTF-8."""
        return self._json

    def fingerprint(self) -> int:
        """What token shards remember their tokenizer by: the hash of to_json()."""
        from llmc import _core

        return _core.fingerprint(self._json)

    @cached_property
    def special_names(self) -> dict[int, str]:
        """The special tokens by their ids."""
        return {id: name for name, id in self.special.items()}

    @cached_property
    def _json(self) -> bytes:
        return write_json(Encoding(self.pattern, self.ranks, self.special, self.bos), self.name)

    @cached_property
    def _bytes_of(self) -> list[bytes]:
        table = [b"<|unused_%d|>" % id for id in range(self.vocab_size)]
        for token, id in self.ranks.items():
            table[id] = token
        for token, id in self.special.items():
            table[id] = token.encode()
        return table

    def _numbered(self, names: Iterable[str]) -> dict[str, int]:
        """Those of the names that are no special tokens yet, and the ids that they get."""
        new = [name for name in dict.fromkeys(names) if name not in self.special]
        for name in new:
            if name.encode() in self._bytes_of:
                raise ValueError(f"{self.name} has the token {name} already, as text; it cannot be "
                                 "a special token too, choose another tokenizer")
        return {name: self.vocab_size + number for number, name in enumerate(new)}

    def _encode(self, text: str, allowed: set[str]) -> list[int]:
        """What tiktoken makes of it; where that panics, as it does when the pattern matches no
        characters at all, a ValueError."""
        try:
            if not allowed:
                return self._tiktoken.encode_ordinary(text)
            return self._tiktoken.encode(text, allowed_special=allowed, disallowed_special=())
        except BaseException as error:          # a panic is no Exception, and cannot be imported
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"{self.name}: tiktoken fails at the text with the pattern "
                             f"{self.pattern!r}; choose another tokenizer") from error

    def _check_bytes(self, raw: bytes) -> None:
        """A vocabulary without merges may lack bytes; tiktoken would panic at them."""
        strange = raw.translate(None, self._known_bytes)
        if strange:
            raise ValueError(f"byte 0x{strange[0]:02X} is not in the tokenizer {self.name}, which "
                             f"knows only the {len(self._known_bytes)} bytes it was trained on")


@cache
def _published(name: str) -> Tokenizer:
    """Made once: GPT-2's takes a sixth of a second, and its tokenizer.json more than one."""
    return Tokenizer(name, encodings.load(name))


def cut_runs(text: str, runs: re.Pattern[str], longest: int) -> Iterator[str]:
    """The text in parts, so that of each of the runs at most `longest` characters are in one."""
    begin = 0
    if len(text) > longest:
        for run in runs.finditer(text):
            for cut in range(run.start() + longest, run.end(), longest):
                yield text[begin:cut]
                begin = cut
    yield text[begin:]


def from_json(raw: bytes, name: str, where: str) -> Tokenizer:
    """By tiktoken if that means the same, or else by Hugging Face's library."""
    from llmc.tokenizer_library import LibraryTokenizer

    try:
        return Tokenizer(name, read_json(raw, where))
    except Foreign:
        return LibraryTokenizer(name, raw, where)


def in_folder(folder: Path) -> Path:
    """The tokenizer.json of a data folder, a checkpoint or a run."""
    places = ("", "latest", "checkpoints/latest")
    for place in places:
        path = folder / place / "tokenizer.json"
        if path.is_file():
            return path
    raise ValueError(f"{folder} holds no tokenizer.json (nor do its checkpoints)")
