"""How far a phase is, while it runs: tasks, documents, how many are kept, their rate, time left."""
from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmc.progress import EVERY
from llmc.web.execute import add
from llmc.web.phases import Phase

LOOK = 0.5                      # seconds between two looks


class Tally:
    """What the tasks of a phase have counted so far, those that run now included."""

    def __init__(self, phase: Phase, logs: Path):
        self.phase, self.logs = phase, logs
        self._ended: set[str] = set()
        self._counted = [Counter() for _ in phase.blocks]
        for path in (logs / "so_far").glob("?????.json"):   # of tasks that a kill has ended; those
            path.unlink(missing_ok=True)                    # that run write theirs every second
        self.look()
        self.begun_with = len(self._ended)      # tasks that an earlier run has ended, and theirs
        self.before = _passed(self._counted)[0]

    def look(self) -> None:
        """Reads what came since."""
        folder = self.logs / "completions"
        for rank in sorted(each.name for each in folder.glob("*") if each.name not in self._ended):
            self._ended.add(rank)
            with suppress(FileNotFoundError):   # what is missing is noticed in the end
                add(self._counted, self.logs / "stats" / f"{rank}.json")
        self.tasks = len(self._ended)
        found = [Counter(block) for block in self._counted]
        for path in (self.logs / "so_far").glob("?????.json"):
            if path.stem not in self._ended:
                try:
                    add(found, path)
                except FileNotFoundError:       # it has ended just now
                    continue
        self.documents, self.kept = _passed(found)


def _passed(counted: list[Counter[str]]) -> tuple[int, int]:
    """Documents that came, and those that are left behind the last block."""
    totals = [block["total"] for block in counted if block["total"]]
    return (int(totals[0]), int(totals[-1])) if totals else (0, 0)


def said(tally: Tally, share: float, rate: float, left: float | None) -> str:
    """For people."""
    parts = [f"{tally.tasks:,} of {tally.phase.tasks:,} tasks"]
    if tally.documents:
        parts.append(f"{tally.documents:,} documents")
        if tally.phase.filters:
            parts.append(f"{tally.kept:,} kept, {tally.documents - tally.kept:,} dropped")
        parts.append(f"{rate:,.0f}/s")
    if left is not None and share < 1:
        parts.append(f"about {left:.0f} s left")
    return ", ".join(parts)


class Watcher:
    """Shows one phase after the other; documents of the one before tell how many will come."""

    def __init__(self) -> None:
        self._known = 0

    @contextmanager
    def __call__(self, phase: Phase, logs: Path) -> Iterator[None]:
        tally, begin = Tally(phase, logs), time.monotonic()
        known = self._known
        done = threading.Event()

        def now() -> tuple[float, str]:
            tally.look()
            seconds = time.monotonic() - begin
            read = tally.documents - tally.before
            first = tally.begun_with / phase.tasks
            share = max(tally.tasks / phase.tasks, tally.documents / known if known else 0)
            left = seconds * (1 - share) / (share - first) if share > first else None
            return share, said(tally, share, read / seconds if seconds else 0, left)

        def look(show: Callable[[float, str], None]) -> None:
            while not done.wait(LOOK):
                show(*now())

        with _shown(phase.name) as show:
            thread = threading.Thread(target=look, args=(show,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()
        if tally.begun_with < phase.tasks:
            print(f"{phase.name:<28} {now()[1]}, {time.monotonic() - begin:.1f} s", flush=True)
        if tally.documents:
            self._known = tally.kept if phase.filters else tally.documents


@contextmanager
def _shown(name: str) -> Iterator[Callable[[float, str], None]]:
    """A bar on a terminal, elsewhere a line now and then, on stderr: on the one that is there now,
    as tasks in this process have another."""
    stderr = sys.stderr
    if not stderr.isatty():
        last = time.monotonic()

        def line(share: float, text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                print(f"{name}: {text}", file=stderr, flush=True)

        yield line
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(),
               bars.TextColumn("{task.fields[text]}"))
    with bars.Progress(*columns, console=Console(file=stderr), transient=True) as display:
        task = display.add_task(name, total=1, text="")
        yield lambda share, text: display.update(task, completed=share, text=text)
