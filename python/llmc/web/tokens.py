"""Clean documents to token shards, shuffled: each task cuts its documents and deals them out to
piles by a hash of their text; then pile after pile is sorted by that hash and written.

So the order is random, the same for any number of workers, and one pile at a time is in memory. A
document is held out for validation by its hash alone: it stays there when others come or go. Where
there are so few that no hash is small enough, the document with the smallest is held out.
"""
from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from llmc.shards import ShardWriter
from llmc.tokenizer import Tokenizer

RECORD = struct.Struct("<QQII")     # order, draw, bytes of its text, ids; then the ids, u32
WAITING = 1 << 16               # bytes of a pile that are written at a time
TOGETHER = 1000                 # documents that are written to a shard at once
PILE_BYTES = 1 << 28                # of text in a pile, about


class CutToPiles(PipelineStep):
    """Writes folder/PILE/TASK.tokens for documents in; passes nothing on."""
    name = "Tokens"
    type = "TOKENS"

    def __init__(self, folder: Path, tokenizer: str, piles: int, seed: int):
        super().__init__()
        self.folder, self.tokenizer, self.piles, self.seed = folder, tokenizer, piles, seed
        self._begun: set[int] = set()

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        import xxhash

        tokenizer = Tokenizer.load(self.tokenizer)
        end = [] if tokenizer.eot is None else [tokenizer.eot]
        waiting: defaultdict[int, bytearray] = defaultdict(bytearray)
        for doc in data:
            raw = doc.text.encode("utf-8", "replace")
            order = xxhash.xxh64_intdigest(raw, self.seed)
            draw = xxhash.xxh64_intdigest(raw, self.seed + 1)
            ids = np.array([*tokenizer.encode(raw.decode()), *end], "<u4")
            pile = waiting[order % self.piles]
            pile += RECORD.pack(order, draw, len(raw), ids.size)
            pile += ids.tobytes()
            if len(pile) > WAITING:
                self._append(order % self.piles, rank, pile)
            self.stat_update("total")
            self.stat_update("tokens", value=ids.size)
        for number, pile in waiting.items():
            self._append(number, rank, pile)
        yield from ()

    def _append(self, number: int, rank: int, pile: bytearray) -> None:
        """To its file, which is new the first time; there may be more piles than open files."""
        path = self.folder / f"{number:06d}" / f"{rank:06d}.tokens"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if number in self._begun else "wb") as file:
            file.write(pile)
        self._begun.add(number)
        pile.clear()


def write_shards(folder: Path, piles: int, val_fraction: float,
                 writers: dict[str, ShardWriter]) -> Counter[str]:
    """Every pile, sorted, into the writers train and val; what was written is counted."""
    counts: Counter[str] = Counter()
    limit = int(val_fraction * 2**64)
    for pile in range(piles):
        records = sorted(_records(folder / f"{pile:06d}"))      # by what no two share
        if piles == 1 and limit and len(records) > 1:
            limit = max(limit, 1 + min(record[2] for record in records))
        for at in range(0, len(records), TOGETHER):
            some = records[at:at + TOGETHER]
            held = {"val": [record for record in some if record[2] < limit],
                    "train": [record for record in some if record[2] >= limit]}
            for split, writer in writers.items():
                if mine := held[split]:
                    writer.append(np.concatenate([record[4] for record in mine]))
                    counts[f"{split}_documents"] += len(mine)
                    counts[f"{split}_bytes"] += sum(record[3] for record in mine)
    return counts


def _records(folder: Path) -> Iterator[tuple[int, int, int, int, np.ndarray]]:
    """order, number among all of the pile, draw, bytes, ids"""
    number = 0
    for path in sorted(folder.glob("*.tokens")):
        raw = path.read_bytes()
        words = np.frombuffer(raw, "<u4", len(raw) // 4)
        at = 0
        while at < len(raw):
            begin = at + RECORD.size
            try:
                order, draw, size, count = RECORD.unpack_from(raw, at)
            except struct.error:
                count = len(raw)            # more than there is
            at = begin + 4 * count
            if at > len(raw):
                raise ValueError(f"{path} is cut off; --fresh starts anew")
            yield order, number, draw, size, words[begin // 4:at // 4]
            number += 1


def piles_for(folder: Path) -> int:
    """How many piles the documents in a folder of .jsonl.zst want: of that size, give or take."""
    packed = sum(path.stat().st_size for path in folder.glob("*.jsonl.zst"))
    return max(1, 4 * packed // PILE_BYTES)     # text packs to about a quarter
