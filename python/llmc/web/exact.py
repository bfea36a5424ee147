"""Exact duplicates: of documents whose normalised texts are one and the same, the first is kept.

The three stages are datatrove's ExactDedup (signatures of each task, those that agree, documents
that go). All that is added is which one is the first: left alone, its finder keeps the one that
comes earliest in its own task, so the choice would depend on how sources were dealt out to tasks.
It gives way to a priority, and that is here the place of the document's file among the sources.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.dedup import ExactDedupFilter, ExactDedupSignature, ExactFindDedups
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig, get_sig_dtype
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig, simplify_text
from datatrove.utils.typeshelper import StatHints

MOST_SOURCES = 65_535           # a priority has 16 bits, and none is 0
GATHERED = 1 << 16              # documents whose signatures are Python's numbers, 180 bytes each


class Signatures(ExactDedupSignature):
    """datatrove's, which holds those of a task's documents in 14 bytes each, and three times that
    where it sorts them."""

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        dtype, signed = get_sig_dtype(self.config.hash_config), self._signed(data)
        found = [np.empty(0, dtype)]
        while some := list(islice(signed, GATHERED)):
            found.append(np.array(some, dtype))
        self.save_hashes(rank, np.concatenate(found))

    def _signed(self, data: DocumentsPipeline) -> Iterator[tuple[int, int, int]]:
        for place, document in enumerate(data):
            with self.track_time():
                self.stat_update(StatHints.total)
                yield from self.get_hashes(document, place)


def exact_dedup(sources: Sequence[str], folder: str, tasks: int = 1, same_numbers: bool = True,
                exclusion_writer: Any = None) -> tuple[Any, Any, Any]:
    """The blocks of the three phases. The first runs after a reader, in as many tasks as there are;
    the second alone in `tasks` tasks; the third after the same reader in as many as the first.

    sources: what metadata["file_path"] says, in the order of the sources; datatrove's readers
    note it, and a file's documents all have to go through one task, in the file's order. Of more
    than MOST_SOURCES, neighbours count as one; there the place in the task decides.
    folder: for what the phases tell each other.
    same_numbers: False takes 1998 and 2024 for the same, as CCNet's comparison of paragraphs does
    (G. Wenzek et al., "CCNet", 2020, https://arxiv.org/abs/1911.00359). All else is as there: no
    case, no accents, no punctuation, one blank between words.
    Two texts of the same 64-bit hash (xxhash) are taken for the same: among 10**8 documents with
    chance 0.0003.
    """
    rules = TextNormConfig(norm_numbers=not same_numbers)
    share = max(1, -(-len(sources) // MOST_SOURCES))    # of sources that have one priority
    place = {name: at // share for at, name in enumerate(sources)}

    def priority(doc: Document) -> int:
        try:
            return MOST_SOURCES - place[doc.metadata["file_path"]]
        except KeyError as error:
            found = doc.metadata.get("file_path", "no file_path")
            raise ValueError(f"document {doc.id} is of none of the sources: {found}; its reader "
                             "must note the file it is from") from error

    config = ExactDedupConfig(content_getter=lambda doc: simplify_text(doc.text, rules),
                              document_priority=priority,
                              hash_config=HashConfig(precision=64, hash_fc="xxhash"))
    return (Signatures(f"{folder}/signatures", config, finder_workers=tasks),
            ExactFindDedups(f"{folder}/signatures", f"{folder}/remove", config),
            ExactDedupFilter(f"{folder}/remove", config, exclusion_writer))
