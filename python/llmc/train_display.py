"""The lines of train_gpt2 as a picture that stays in its place: how far, how well, how fast.

A line that says something else than progress is printed above the picture, as it came.
"""
from __future__ import annotations

import math
import re
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmc.plot import read_metrics
from llmc.terminal import curve, printable

STEP = re.compile(r"step +(\d+)/(\d+) \| loss +(\S+) \| lr +(\S+) \| norm +(\S+) \| +(\S+) ms \| "
                  r"+(\S+) tok/s \| (\S+ TFLOP/s(?: \(.*\))?)")
VALIDATION = re.compile(r"validation loss (.*), over \d+ tokens")
RUN = re.compile(r"run +(.*), step (\d+) of (\d+)")
SAVED = re.compile(r"saved +(\S.*)")
SAMPLE = re.compile(r"---- sample at step (\d+)")
CURVE_HEIGHT = 6
AROUND_SAMPLE = 16              # lines of the display that are not the sample
SHOWN_A_SECOND = 10


class TrainDisplay:
    """Used in `with`; `feed` it each line."""

    def __init__(self, console: Console, now=time.monotonic):
        self.live = Live(console=console, auto_refresh=False)
        self.now = now
        self.step = self.steps = self.first = 0     # first: where this process began
        self.begin = self.shown = now()
        self.losses: list[tuple[float, float]] = []
        self.numbers = self.validation = self.saved = ""
        self.sample: list[str] = []
        self.sample_step = ""
        self.in_sample = False

    def __enter__(self) -> TrainDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        self.refresh()
        self.live.stop()

    def feed(self, line: str) -> None:
        """Take one line, without its end."""
        if not self._take(line):
            self.live.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
        if self.now() - self.shown > 1 / SHOWN_A_SECOND:
            self.refresh()

    def refresh(self) -> None:
        if self.steps:
            self.live.start()
            self.live.update(self.picture(), refresh=True)
            self.shown = self.now()

    def _take(self, line: str) -> bool:
        """Whether the line belongs into the picture."""
        if self.in_sample:
            self.in_sample = line != "----"
            if self.in_sample:
                self.sample.append(printable(line))
        elif match := STEP.match(line):
            step, steps, loss, lr, norm, ms, speed, flops = match.groups()
            self.step, self.steps = int(step), int(steps)
            if math.isfinite(float(loss)):
                self.losses.append((self.step, float(loss)))
            self.numbers = (f"loss {loss}   lr {lr}   norm {norm}   {float(ms):,.0f} ms   "
                            f"{int(speed):,} tok/s   {flops}")
        elif match := VALIDATION.match(line):
            self.validation = f"{match[1]}, at step {self.step}"
        elif match := SAMPLE.match(line):
            self.sample, self.sample_step, self.in_sample = [], match[1], True
        elif match := SAVED.match(line):
            self.saved = match[1]
        elif match := RUN.match(line):
            self.first = self.step = int(match[2])
            self.begin = self.now()
            if self.first:
                self._remember(Path(match[1]))
            return False
        else:
            return False
        return True

    def _remember(self, run: Path) -> None:
        """The losses of a run that is continued, if they are still there."""
        with suppress(OSError, ValueError):
            self.losses = [(s, loss) for s, loss in read_metrics(run)["loss"] if loss == loss]

    def picture(self) -> Group:
        """The display as it stands."""
        width, height = self.live.console.size
        width = min(max(width, 40), 100)
        parts: list[object] = [Text(), self._bar()]
        if self.losses:
            parts += [Text(line, style="cyan", no_wrap=True)
                      for line in curve(self.losses, self.step, width, CURVE_HEIGHT)]
        parts.append(Text(self.numbers, style="bold"))
        if self.validation:
            parts.append(Text(f"validation {self.validation}", style="green"))
        if self.saved:
            parts.append(Text(f"saved {self.saved}", style="dim"))
        if self.sample_step:
            room = max(3, min(12, height - AROUND_SAMPLE))
            lines = Text("\n".join(self.sample)).wrap(self.live.console, width - 4)
            parts.append(Panel(Text("\n").join(lines[:room]), width=width, border_style="dim",
                               title=f"sample at step {self.sample_step}", title_align="left"))
        return Group(*parts)

    def _bar(self) -> Table:
        done, elapsed = self.step - self.first, self.now() - self.begin
        left = elapsed / done * (self.steps - self.step) if done else 0
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(self.steps, self.step, width=40),
                    f"{self.step:,} of {self.steps:,}", f"{100 * self.step // self.steps} %",
                    f"{clock(elapsed)} elapsed" + (f", {clock(left)} left" if done else ""))
        return bar


def clock(seconds: float) -> str:
    """3725 -> 1:02:05"""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
