"""Token shards: arrays of token ids in, files NAME_train_000001.bin that the loader maps out.

The format is described in csrc/shards.h. A shard is written beside its name and renamed when it is
whole, so a file with a shard's name is a shard. Tokens take 2 bytes where the vocabulary fits and
4 elsewhere; 4-byte tokens can be marked as read but not learned, in their top bit.
"""
from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from types import TracebackType

import numpy as np

from llmc.disk import naming

MAGIC, VERSION = 0x6C6D6C63, 1
HEADER = struct.Struct("<iiqiiQi")      # magic, version, count, width, vocab_size, fingerprint, eot
HEADER_BYTES = 1024
MARK = 0x80000000                       # in 4-byte tokens: read, but not learned

# llm.c's files say no more than (magic, version, count): width, vocab_size and eot follow from it
LLMC_KINDS = {(20240520, 1): (2, 50257, 50256), (20240801, 7): (4, 128256, 128000)}


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says about its tokens."""
    count: int
    width: int                  # bytes a token, 2 or 4
    vocab_size: int             # every token is below it
    fingerprint: int            # of the tokenizer.json that cut the text; 0: unknown
    eot: int                    # token that ends a document; -1: none
    marked: bool                # tokens may carry MARK


def fingerprint(data: bytes) -> int:
    """FNV-1a (64 bits) of a tokenizer.json: tells shards of another tokenizer apart."""
    from llmc import _core

    return _core.fingerprint(data)


def shard_path(folder: str | Path, name: str, split: str, number: int) -> Path:
    return Path(folder) / f"{name}_{split}_{number:06d}.bin"


def read_shard(path: str | Path) -> tuple[np.memmap, ShardHeader]:
    """The tokens, mapped as they lie in the file (marks included), and the header."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise ValueError(f"{path}: {size} bytes are too few for a header of {HEADER_BYTES} bytes")
    magic, version, count, width, vocab_size, digest, eot = HEADER.unpack_from(head)
    if (magic, version) in LLMC_KINDS:
        count, digest = count & 0xFFFFFFFF, 0
        width, vocab_size, eot = LLMC_KINDS[magic, version]
    elif (magic, version) != (MAGIC, VERSION):
        raise ValueError(f"{path}: begins with {magic}, version {version}; wanted {MAGIC}, version "
                         f"{VERSION} (a token shard) or one of llm.c's")
    if width not in (2, 4) or size != HEADER_BYTES + count * width:
        raise ValueError(f"{path}: {size} bytes, but the header promises {count} tokens of {width} "
                         f"bytes after itself; copy or write it again")
    header = ShardHeader(count, width, vocab_size, digest, eot, magic == MAGIC and width == 4)
    return np.memmap(path, f"<u{width}", "r", HEADER_BYTES, (count,)), header


class ShardWriter:
    """Writes one split of a data set; used in `with`, it finishes the last shard at the end.

    If the block is left by an exception, shards that are whole stay and the unfinished one goes.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        split: str,                 # "train" or "val"
        vocab_size: int,
        fingerprint: int = 0,       # fingerprint(bytes of tokenizer.json); 0: unknown
        eot: int = -1,              # token that ends a document; -1: none
        shard_tokens: int = 100_000_000,
        marks: bool = False,        # some tokens will be read but not learned
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"the split is {split!r}, wanted 'train' or 'val'")
        if not 1 <= vocab_size < MARK or not -1 <= eot < vocab_size:
            raise ValueError(f"vocab_size {vocab_size} and end-of-text token {eot}: wanted 1 to "
                             f"{MARK - 1}, and -1 (none) or a token of that vocabulary")
        if shard_tokens < 1:
            raise ValueError(f"shards of {shard_tokens} tokens, wanted at least 1")
        self.folder, self.name, self.split = Path(folder), name, split
        self.vocab_size, self.fingerprint, self.eot = vocab_size, fingerprint, eot
        self.shard_tokens, self.marks = shard_tokens, marks
        self.width = 4 if marks or vocab_size > 65536 else 2
        self.paths: list[Path] = []         # of finished shards
        self.tokens = 0                     # of all of them, the unfinished one included
        self._file = None
        self._count = 0                     # tokens in the unfinished shard
        self.folder.mkdir(parents=True, exist_ok=True)
        old = sorted(self.folder.glob(f"{escape(name)}_{split}_[0-9]*.bin"))
        if old:
            raise FileExistsError(f"{old[0]} exists already; remove it and its like first, or "
                                  f"choose another name: shards of two data sets would mix")

    def append(self, tokens: np.ndarray, learned: np.ndarray | None = None) -> None:
        """Add token ids; `learned`, booleans of that length, says which may be targets."""
        ids = np.asarray(tokens)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise ValueError(f"tokens are {ids.dtype} of shape {ids.shape}, wanted integers (n,)")
        if ids.size == 0:
            return
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocab_size:
            raise ValueError(f"token {low if low < 0 else high} is not in a vocabulary of "
                             f"{self.vocab_size}; the text was cut with another tokenizer")
        ids = ids.astype(f"<u{self.width}")
        if learned is not None:
            if not self.marks:
                raise ValueError("some tokens are not learned: open the writer with marks=True")
            ids[~np.asarray(learned, bool)] |= np.uint32(MARK)
        while ids.size:
            if self._file is None:
                self._begin()
            part, ids = np.split(ids, [self.shard_tokens - self._count])
            with naming(self._file.name):
                self._file.write(part.data)
            self._count += part.size
            self.tokens += part.size
            if self._count == self.shard_tokens:
                self._finish()

    def close(self) -> None:
        """Finish the last shard."""
        if self._file is not None:
            self._finish()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            if self._file is not None:
                file, self._file = self._file, None
                os.unlink(file.name)
                with suppress(OSError):     # what is left to write has no room on a full disk
                    file.close()

    def _begin(self) -> None:
        path = shard_path(self.folder, self.name, self.split, len(self.paths) + 1)
        self._file = open(f"{path}.tmp", "wb")
        self._file.write(bytes(HEADER_BYTES))
        self._count = 0

    def _finish(self) -> None:
        file = self._file
        with naming(file.name):
            file.seek(0)
            file.write(HEADER.pack(MAGIC, VERSION, self._count, self.width, self.vocab_size,
                                   self.fingerprint, self.eot))
            file.flush()
            os.fsync(file.fileno())
            file.close()
        path = Path(file.name.removesuffix(".tmp"))
        os.rename(file.name, path)
        self.paths.append(path)
        self._file = None
