"""Texts to words and how often each occurs, counted by several processes in bounded memory.

A word is a piece that the pattern of a tokenizer cuts from a text: no merge reaches beyond it, so
the words and their counts are all that is to be known of a text to learn merges from it. Blocks of
text are counted apart and added up in their order: any number of workers gives the same.
"""
from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache

from llmc import documents
from llmc.documents import Block
from llmc.tokenizer import cut_runs

# A word of a million letters takes the learner minutes: each merge reads it again, all of it.
LONGEST_WORD = 1000
LONG_WORD = re.compile(r"(?<!\S)\S{%d,}|(?<!\s)\s{%d,}" % (LONGEST_WORD, LONGEST_WORD))
BLOCKS_A_WORKER = 3             # that wait or are counted: all that is in memory of the text

# What words take, in bytes a word and a byte of them, each time the most that was measured (64-bit
# Linux, Python 3.11, tokenizers 0.23): in a dict that has just grown; in the learner, which keeps
# a record for each letter and the places of each pair.
AS_COUNTED, AS_LEARNED = (180, 2), (100, 130)


class WordCounts:
    """How often each word occurs. What would take more than `memory` bytes to count and to learn
    from is left out, the rarest words first; the same blocks in the same order lose the same."""

    def __init__(self, memory: int):
        self.memory = memory
        self.counts: dict[str, int] = {}
        self.seen = 0               # words in the text, each as often as it occurs
        self._size = 0              # bytes of the different words

    def add(self, words: Mapping[str, int]) -> None:
        """Add a block's. Where they outgrow half the memory, the rarer part is forgotten: a word
        that comes again is counted anew, so its count is too low by what was forgotten of it
        (Manku and Motwani, Approximate Frequency Counts over Data Streams, VLDB 2002)."""
        counts = self.counts
        for word, count in words.items():
            self.seen += count
            if word in counts:
                counts[word] += count
            else:
                counts[word] = count
                self._size += len(word.encode())
        if self._takes(*AS_COUNTED) > self.memory / 2:
            self._drop_rarest(*AS_COUNTED, self.memory / 4)

    def fit(self) -> None:
        """Leave out the rarest words until the learner has room for the others."""
        if self._takes(*AS_LEARNED) > self.memory:
            self._drop_rarest(*AS_LEARNED, self.memory)

    @property
    def kept(self) -> int:
        """Words of the text, each as often as it occurs, that are counted; less than `seen` where
        some were left out."""
        return sum(self.counts.values())

    def _takes(self, a_word: int, a_byte: int) -> int:
        return a_word * len(self.counts) + a_byte * self._size

    def _drop_rarest(self, a_word: int, a_byte: int, limit: float) -> None:
        """Words of equal count stay or go together, so that none depends on the others' order."""
        room: Counter[int] = Counter()
        for word, count in self.counts.items():
            room[count] += a_word + a_byte * len(word.encode())
        takes, rarest = room.total(), 0
        for count in sorted(room):
            if takes <= limit:
                break
            takes, rarest = takes - room[count], count
        self.counts = {word: count for word, count in self.counts.items() if count > rarest}
        self._size = sum(len(word.encode()) for word in self.counts)


def count_words(blocks: Iterable[Block], pattern: str, text_key: str, skip_bad: bool, workers: int,
                memory: int) -> WordCounts:
    """The words of all blocks. `workers` processes count, or this one where that is 1; each takes
    some 100 MB beside `memory`, which is in bytes."""
    total = WordCounts(memory)
    for words in _in_order(blocks, (pattern, text_key, skip_bad), workers):
        total.add(words)
    total.fit()
    return total


def count_block(block: Block, pattern: str, text_key: str, skip_bad: bool) -> dict[str, int]:
    """The words of one block; a BadRow for a bad row, unless skip_bad."""
    return words_of(block_texts(block, text_key, skip_bad), pattern)


def block_texts(block: Block, text_key: str, skip_bad: bool) -> Iterator[str]:
    """The texts of a block, very long words cut in parts."""
    for text in documents.texts(block, text_key, skip_bad):
        if text:
            yield from cut_runs(text, LONG_WORD, LONGEST_WORD)


def words_of(texts: Iterable[str], pattern: str) -> dict[str, int]:
    """How often each word occurs in the texts. Stretches of text that no piece reaches across are
    counted first: that is quick, and most of them occur again."""
    stretches: Counter[str] = Counter()
    for text in texts:
        stretches.update(documents.BETWEEN_WORDS.split(text))
    words: dict[str, int] = {}
    cut = splitter(pattern)
    for stretch, count in stretches.items():
        for word in cut(stretch):
            words[word] = words.get(word, 0) + count
    return words


@cache
def splitter(pattern: str) -> Callable[[str], list[str]]:
    """A function from a text to the pieces that the pattern cuts it into."""
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return lambda text: [piece for piece, _ in split.pre_tokenize_str(text)]


def _in_order(blocks: Iterable[Block], how: tuple[str, str, bool],
              workers: int) -> Iterator[dict[str, int]]:
    """Each block's words, in the blocks' order."""
    if workers == 1:
        yield from (count_block(block, *how) for block in blocks)
        return
    waiting: deque[Future] = deque()
    spawned = multiprocessing.get_context("spawn")      # a fork would copy locks that threads hold
    with ProcessPoolExecutor(workers, spawned, _begin_worker) as pool:
        try:
            for block in blocks:
                waiting.append(pool.submit(count_block, block, *how))
                if len(waiting) >= BLOCKS_A_WORKER * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ValueError("a process that counts words was ended, perhaps because memory ran "
                             "out; try fewer --workers") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker() -> None:
    """Ctrl-C is for the main process; where that ends, however it does, so does this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
