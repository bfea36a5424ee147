"""Counts and samples of any number of things in bounded memory, which merge task by task."""
from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np


class Frequent:
    """The most frequent keys (J. Misra and D. Gries, "Finding repeated elements", 1982; merged as
    P. Agarwal et al., "Mergeable Summaries", 2013, do).

    A key occurred at least counts[key] and at most counts[key] + error times, one that is not there
    at most error times. error <= total / (room + 1), and 0 until there are more keys than room.
    adding: keys are counted with room for so many until as_json or merge, which leave `room` of
    them: what is rare among very many keys is lost less early.
    """

    def __init__(self, room: int, total: int = 0, error: int = 0,
                 counts: dict[str, int] | None = None, adding: int = 0) -> None:
        self.room, self.total, self.error = room, total, error
        self.counts = Counter(counts)
        self.adding = max(room, adding)

    def add(self, keys: Collection[str]) -> None:
        """Each once. After a call there are at most twice as many keys as there is room for; their
        order within a call plays no role."""
        self.counts.update(keys)
        self.total += len(keys)
        if len(self.counts) > 2 * self.adding:
            self._shrink(self.adding)

    def merge(self, other: Frequent) -> None:
        self.counts.update(other.counts)
        self.total += other.total
        self.error += other.error
        self._shrink(self.room)

    def as_json(self) -> dict[str, Any]:
        """What the constructor takes, room aside."""
        self._shrink(self.room)
        return {"total": self.total, "error": self.error,
                "counts": dict(sorted(self.counts.items()))}

    def top(self, most: int) -> list[tuple[str, int]]:
        """The most frequent with their counts; of equal ones in the order of their keys."""
        return heapq.nsmallest(most, self.counts.items(), key=lambda item: (-item[1], item[0]))

    def _shrink(self, room: int) -> None:
        """The count of the first for which there is no room is taken from all: room + 1 of them
        lose as much, which is what bounds the error."""
        if len(self.counts) <= room:
            return
        values = np.fromiter(self.counts.values(), np.int64, len(self.counts))
        least = int(np.partition(values, -room - 1)[-room - 1])
        self.counts = Counter({key: count - least for key, count in self.counts.items()
                               if count > least})
        self.error += least


class Smallest:
    """The things whose hashes are the smallest, `room` of them: a sample that is the same however
    the things were dealt out. Of equal hashes the things are taken to be equal, too."""

    def __init__(self, room: int, items: Iterable[tuple[int, Any]] = ()) -> None:
        self.room, self._heap, self._number = room, [], itertools.count()
        for order, thing in items:
            self.add(order, thing)

    def wants(self, order: int) -> bool:
        """Whether a thing of this hash would be taken, if nothing smaller comes."""
        return len(self._heap) < self.room or -self._heap[0][0] > order

    def add(self, order: int, thing: Any) -> None:
        if self.wants(order):
            heapq.heappush(self._heap, (-order, next(self._number), thing))
            if len(self._heap) > self.room:
                heapq.heappop(self._heap)

    def change(self, function: Callable[[Any], Any]) -> None:
        """function(thing) in the place of each thing."""
        self._heap = [(order, number, function(thing)) for order, number, thing in self._heap]

    def items(self) -> list[tuple[int, Any]]:
        """Hash and thing, in the order of the hashes."""
        return sorted(((-order, thing) for order, _, thing in self._heap), key=lambda each: each[0])
