"""Conversations into rows of a batch: several in a row, each blind to the others, little room lost.

A conversation of n ids fills n - 1 places: each asks for the id that follows, where the assistant
is to write that one. The longest are placed first, each into the row with the least room that it
fits (best fit decreasing: D. Johnson, "Near-optimal bin packing algorithms", 1973).
"""
from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from llmc.chat import Message, Rendered

NOTHING = -1                    # the target of a place where nothing is learned


class Rows(NamedTuple):
    """What a model trains on, int32 each and (rows, T)."""
    tokens: np.ndarray
    targets: np.ndarray         # NOTHING where nothing is asked
    pos: np.ndarray             # of a token in its conversation
    first: np.ndarray           # the first column that it may see

    @property
    def learned(self) -> int:
        """How many targets there are."""
        return int((self.targets != NOTHING).sum())


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which of these go into a row together, each by its number; no row has more than `room`. A
    ValueError if one is longer than that."""
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []        # room and number of each row, the fullest first
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        size = lengths[number]
        if size > room:
            raise ValueError(f"number {number} takes {size} places, and a row has {room}")
        at = bisect_left(left, (size, 0))
        if at < len(left):
            space, row = left.pop(at)
        else:
            space, row = room, len(rows)
            rows.append([])
        rows[row].append(number)
        insort(left, (space - size, row))
    return rows


def together(lengths: Sequence[int], room: int) -> list[list[int]]:
    """best_fit's rows; in each the numbers rise, and rows stand in the order of their first one."""
    return sorted(map(sorted, best_fit(lengths, room)))


def packed(conversations: Sequence[Rendered], T: int) -> Rows:
    """Rows of T places, as few as best_fit finds."""
    return laid_out([[conversations[number] for number in row] for row in
                     together([len(each.ids) - 1 for each in conversations], T)], T)


def unpacked(conversations: Sequence[Rendered], T: int) -> Rows:
    """A row for each."""
    return laid_out([[each] for each in conversations], T)


def fitted(messages: Sequence[Message], T: int,
           render: Callable[[Sequence[Message]], Rendered]) -> tuple[Rendered | None, bool]:
    """A conversation that T places hold, and whether it was cut: of one that is too long the first
    turns, as many as fit and end with an answer; None if not even the first answer does."""
    whole = render(messages)
    if len(whole.ids) - 1 <= T:
        return whole, False
    ends = _answers(messages)
    few, many = 0, len(ends)                # answers that fit, and that do not
    while few + 1 < many:
        middle = (few + many) // 2
        if len(render(messages[:ends[middle - 1]]).ids) - 1 <= T:
            few = middle
        else:
            many = middle
    return render(messages[:ends[few - 1]]) if few else None, True


def least(messages: Sequence[Message], render: Callable[[Sequence[Message]], Rendered]) -> int:
    """The places that `fitted` wants for a conversation's first answer, or for all of one without.
    """
    first = next(iter(_answers(messages)), len(messages))
    return len(render(messages[:first]).ids) - 1


def _answers(messages: Sequence[Message]) -> list[int]:
    """How many messages there are up to each answer."""
    return [number for number, message in enumerate(messages, 1)
            if message.role == "assistant" and message.call is None]


def laid_out(together: Sequence[Sequence[Rendered]], T: int) -> Rows:
    """These conversations in these rows; a row may have none."""
    shape = len(together), T
    # what is left of a row sees itself alone, and nothing is asked of it
    rows = Rows(np.zeros(shape, np.int32), np.full(shape, NOTHING, np.int32),
                np.zeros(shape, np.int32),
                np.tile(np.arange(T, dtype=np.int32), (len(together), 1)))
    for row, conversations in enumerate(together):
        at = 0
        for ids, learned in conversations:
            end = at + len(ids) - 1
            rows.tokens[row, at:end] = ids[:-1]
            rows.targets[row, at:end] = np.where(learned[1:], ids[1:], NOTHING)
            rows.pos[row, at:end] = np.arange(end - at)
            rows.first[row, at:end] = at
            at = end
    return rows
