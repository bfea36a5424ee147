"""Packed rows: what they hold, how little they lose, and that a model learns the same from them."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.chat import Call, Message, Rendered
from llmc.packing import best_fit, fitted, packed, unpacked


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 80))
def test_each_is_in_one_row_that_holds_it(lengths, room):
    rows = best_fit(lengths, room)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    sums = sorted(sum(lengths[number] for number in row) for row in rows)
    assert max(sums, default=0) <= room
    # best fit leaves no two rows that would go into one
    assert len(sums) < 2 or sums[0] + sums[1] > room


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=7))
def test_rows_are_few(lengths):
    """Of best fit decreasing: at most 11/9 of the fewest there can be, found by trying all, and one."""
    def fewest(left: tuple[int, ...], rooms: tuple[int, ...]) -> int:
        if not left:
            return len(rooms)
        size, rest = left[0], left[1:]
        ways = {rooms[:i] + (room - size,) + rooms[i + 1:] for i, room in enumerate(rooms) if room >= size}
        return min([fewest(rest, way) for way in ways] + [fewest(rest, (*rooms, 12 - size))])
    assert len(best_fit(lengths, 12)) <= 11 / 9 * fewest(tuple(lengths), ()) + 1


def test_little_room_is_lost():
    lengths = np.random.default_rng(3).lognormal(4.6, 0.8, 2000).astype(int).clip(5, 512).tolist()
    rows = best_fit(lengths, 512)
    assert sum(lengths) / (len(rows) * 512) > 0.995
    with pytest.raises(ValueError, match="number 1 takes 513 places, and a row has 512"):
        best_fit([5, 513], 512)


def test_rows_hold_the_conversations_and_nothing_else():
    one, two = Rendered([5, 6, 7, 8], [False, False, True, True]), Rendered([9, 1, 2], [False, True, False])
    rows = packed([one, two], 6)
    assert rows.tokens.tolist() == [[5, 6, 7, 9, 1, 0]] and rows.targets.tolist() == [[-1, 7, 8, 1, -1, -1]]
    assert rows.pos.tolist() == [[0, 1, 2, 0, 1, 0]] and rows.first.tolist() == [[0, 0, 0, 3, 3, 5]]
    assert rows.learned == 3 and unpacked([one, two], 6).tokens.tolist() == [[5, 6, 7, 0, 0, 0], [9, 1, 0, 0, 0, 0]]


def test_what_is_too_long_is_cut_at_a_turn_or_left_out():
    def render(messages):
        size = sum(len(message.text) for message in messages)
        return Rendered([0] * size, [True] * size)
    messages = [Message("user", "x" * 10), Message("assistant", "y", call=Call("search", "z")),
                Message("tool", "x" * 5), Message("assistant", "y" * 10), Message("user", "x" * 10),
                Message("assistant", "y" * 10)]
    assert len(fitted(messages, 45, render)[0].ids) == 46 and fitted(messages, 45, render)[1] is False
    part, cut = fitted(messages, 44, render)
    assert (len(part.ids), cut) == (26, True)
    assert fitted(messages, 24, render) == (None, True)
