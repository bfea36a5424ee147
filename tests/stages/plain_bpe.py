"""Byte pair encoding learned the plain way, to hold the library's learner against."""
from __future__ import annotations

from collections import Counter

import regex

from llmc.encodings import byte_characters


def learn(text: str, pattern: str, merges: int) -> list[tuple[bytes, bytes]]:
    """The merges in the order they are found: each time the most frequent pair that occurs twice or more; of several
    the one with the lowest ids, first the left one's. The bytes are numbered as GPT-2's characters for them are."""
    order = sorted(range(256), key=lambda byte: byte_characters()[byte])
    tokens = [bytes([byte]) for byte in order]
    id_of = {token: id for id, token in enumerate(tokens)}
    counts = Counter(regex.findall(pattern, text))
    words = [([id_of[bytes([byte])] for byte in word.encode()], count) for word, count in counts.items()]
    pairs: Counter[tuple[int, int]] = Counter()
    for ids, count in words:
        for pair in zip(ids, ids[1:]):
            pairs[pair] += count
    found = []
    while len(found) < merges:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        joined = tokens[best[0]] + tokens[best[1]]
        assert joined not in id_of, f"{joined} is made twice, and this trainer does not say what then"
        id_of[joined] = len(tokens)
        tokens.append(joined)
        found.append((tokens[best[0]], tokens[best[1]]))
        for ids, count in words:
            if best[0] in ids:
                merge(ids, best, id_of[joined], count, pairs)
    return found


def merge(ids: list[int], pair: tuple[int, int], new: int, count: int, pairs: Counter[tuple[int, int]]) -> None:
    """The pair's every occurrence in one word, from the left, becomes `new`; the counts of pairs follow."""
    merged, at = [], 0
    while at < len(ids):
        if (ids[at], *ids[at + 1:at + 2]) == pair:
            merged.append(new)
            at += 2
        else:
            merged.append(ids[at])
            at += 1
    if len(merged) < len(ids):
        for before in zip(ids, ids[1:]):
            pairs[before] -= count
        for after in zip(merged, merged[1:]):
            pairs[after] += count
        ids[:] = merged
