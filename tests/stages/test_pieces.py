"""llmc.pieces: bytes that come in pieces are a text, which ends where it was told to."""
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from llmc.pieces import Pieces


def cut_at_stop(whole: str, stop: list[str]) -> str:
    ends = [(i + len(s), i) for s in stop for i in range(len(whole)) if whole.startswith(s, i)]
    return whole[:min(ends)[1]] if ends else whole


@given(st.lists(st.text("abé", max_size=3), max_size=12),
       st.lists(st.text("abé", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_stop_however_it_is_cut(parts, stop):
    pieces = Pieces(stop)
    for part in parts:
        if not pieces.stopped:
            pieces.add(part.encode())
    pieces.end()
    assert pieces.text() == pieces.news() == cut_at_stop("".join(parts), stop)


@given(st.lists(st.binary(max_size=4), max_size=12))
def test_bytes_in_pieces_are_the_text_of_all_bytes(parts):
    pieces = Pieces()
    for part in parts:
        pieces.add(part)
    pieces.end()
    assert pieces.text() == b"".join(parts).decode("utf-8", "replace")
