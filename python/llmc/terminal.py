"""What a terminal can show: text without control characters, and curves out of braille dots; and
what its Ctrl-C does."""
from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

# the bit of each dot of a braille character, by row and column
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def printable(text: str) -> str:
    """The text with U+FFFD for characters that would move the cursor or change the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}"
                   for c in text)


def curve(points: Sequence[tuple[float, float]], last: float, width: int, height: int) -> list[str]:
    """Lines of text with a curve through points (x, y), x rising from 0 to `last`; the y axis
    stands at the left. Points that share a column of dots are averaged. The first tenth may lie
    above the top: a loss falls so far at first that little of the rest could be seen."""
    wide, tall = 2 * (width - 8), 4 * height        # in dots
    columns: dict[int, list[float]] = {}
    for x, y in points:
        columns.setdefault(min(int(x / last * wide), wide - 1), []).append(y)
    means = np.array([np.mean(values) for values in columns.values()])
    low, high = means.min(), means[len(means) // 10:].max()
    drawn = range(min(columns), max(columns) + 1)
    along = np.minimum(np.interp(drawn, list(columns), means), high)
    rows = np.round((high - along) / ((high - low) or 1) * (tall - 1)).astype(int).tolist()
    cells = [[0] * (wide // 2) for _ in range(height)]
    for column, row, before in zip(drawn, rows, rows[:1] + rows):
        for dot in range(min(row, before), max(row, before) + 1):
            cells[dot // 4][column // 2] |= DOTS[dot % 4][column % 2]
    labels = [f"{high:.2f} ┤", *["│"] * (height - 2), f"{low:.2f} ┤"]
    return [f"{label:>8}" + "".join(chr(0x2800 + bits) for bits in line)
            for label, line in zip(labels, cells)]


@contextmanager
def on_ctrl_c(do: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C does this meanwhile, and nothing else."""
    before = signal.signal(signal.SIGINT, lambda *_: do())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def signals_heard() -> Iterator[None]:
    """input() loses no Ctrl-C meanwhile. With readline it looks for signals only where one ends its
    wait for a key; one that came just before, while a key was shown, would stay unknown until the
    next. So one comes ten times a second."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)      # it ends that wait, but cuts off no output
    timer = signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
