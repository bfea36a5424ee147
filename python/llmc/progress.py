"""How far a long job is and what time is left: a bar on a terminal, elsewhere a line at times."""
from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 10.0                    # seconds between two lines where there is no terminal


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a job of `total` bytes on stderr; the function it gives is told of bytes done."""
    if not sys.stderr.isatty():
        yield _lines(title, total)
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn(),
               bars.TransferSpeedColumn(), bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(title, total=total)
        yield lambda count: display.advance(task, count)


def _lines(title: str, total: int) -> Callable[[int], None]:
    begin = time.monotonic()
    done, said = 0, begin

    def advance(count: int) -> None:
        nonlocal done, said
        done = min(done + count, total)
        now = time.monotonic()
        if now - said >= EVERY and done:
            said = now
            left = (now - begin) * (total - done) / done
            print(f"{title}: {100 * done // total} %, about {left:.0f} s left", file=sys.stderr)

    return advance
