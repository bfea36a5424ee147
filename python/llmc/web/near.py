"""Near-duplicates in bounded memory: datatrove's MinHash, of parts of the documents.

datatrove holds three things in memory: a number for each n-gram of a document and hash (2.7 kB for
each of its words), to find the least; all signatures of a task's documents in a bucket, to sort
them; and every document that has a near-duplicate, to join them to clusters. Here the least is
found in blocks of n-grams, and the signatures are sorted and compared in parts of a task; both give
the same documents. What it takes is left: see Clusters.memory.
"""
from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupSignature

PART = 1 << 18                  # documents of a task that are sorted together: 18 MB in a bucket
PARTS = 1 << 12                 # a task has at most
FIRST = 1_000_000_000           # the first part's number: with ten digits all names are in order
BLOCK = 512                     # n-grams whose hashes are in memory at a time, 0.5 MB; and in cache
CLUSTERED = 260                 # bytes for a document with a near-duplicate:
                                # dev/notes/2026-11-23-web-speed.md


class Signatures(MinhashDedupSignature):
    """datatrove's; a part of a task's documents signs as a task of its own, number FIRST + PARTS *
    task + part."""

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        for part, documents in enumerate(_parts(data)):
            if part == PARTS:
                raise ValueError(f"near-duplicates are found among at most {PART * PARTS:,} "
                                 "documents of a file; cut it in parts")
            super().run(documents, FIRST + PARTS * rank + part, world_size)

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """Of the n-grams' hashes (N,1): the least of each function's, (buckets, hashes)."""
        blocks = [super(Signatures, self).get_signature(shingles[at:at + BLOCK])
                  for at in range(0, len(shingles), BLOCK)]
        return blocks[0] if len(blocks) == 1 else np.min(blocks, axis=0).tolist()


class Clusters(MinhashDedupCluster):
    """datatrove's, which says of each part's documents which are to be removed: here of each
    task's."""

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        super().run(data, rank, world_size)
        begun = set()
        for name in sorted(self.output_folder.list_files(glob_pattern="*.remove")):
            number = int(name.removesuffix(".remove"))
            if number < FIRST:                  # of a run that was stopped here
                continue
            task, part = divmod(number - FIRST, PARTS)
            with self.output_folder.open(name, "rb") as file:
                places = np.frombuffer(file.read(), "<u4") + PART * part
            mode = "ab" if task in begun else "wb"
            with self.output_folder.open(f"{task:06d}.remove", mode) as file:
                file.write(places.astype("<u4").tobytes())
            begun.add(task)

    def memory(self) -> int:
        """Bytes it takes beside the process itself, once the matches are written: for each document
        that has a near-duplicate, however many it has."""
        matched = np.empty(0, np.uint64)
        for name in self.input_folder.list_files(glob_pattern="*.dups"):
            with self.input_folder.open(name, "rb") as file:
                numbers = np.frombuffer(file.read(), "<u4").reshape(-1, 2).astype(np.uint64)
            matched = np.union1d(matched, numbers[:, 0] << np.uint64(32) | numbers[:, 1])
        return CLUSTERED * len(matched)


def _parts(data: DocumentsPipeline) -> Iterator[DocumentsPipeline]:
    """The documents in parts, at least one; each has to be read before the next is asked for."""
    data = iter(data)
    yield islice(data, PART)
    for first in data:
        yield chain([first], islice(data, PART - 1))
