"""A program in a terminal that is not there: keys go in, and what a user would see can be read."""
from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pyte

WIDTH, HEIGHT = 80, 200


def take_terminal() -> None:
    """In the child: standard input becomes the terminal whose Ctrl-C is a signal. A shell that runs the tests beside
    itself may have told them to ignore that signal, and nohup the other; a terminal's own shell does neither."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """The program runs until the `with` ends. Whatever is waited for has to come within a minute."""

    def __init__(self, argv: Sequence[object], width: int, height: int, cwd: Path | None = None, **environment: str):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process = subprocess.Popen([*map(str, argv)], cwd=cwd, stdin=slave, stdout=slave, stderr=slave,
                                        start_new_session=True, preexec_fn=take_terminal,
                                        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": str(width),
                                                          "LINES": str(height)} | environment)
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def new(self, seconds: float) -> bytes:
        """What came in this time; nothing where the program has ended."""
        if not select.select([self.master], [], [], seconds)[0]:
            return b""
        try:
            return os.read(self.master, 1 << 16)
        except OSError:
            return b""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


class Screen(Terminal):
    """What a user sees can be read. erased: what was typed is no longer shown when it was sent."""

    def __init__(self, *argv: object, erased: bool = False):
        super().__init__(argv, WIDTH, HEIGHT, TERM="xterm-256color")
        self.erased = erased
        self.screen = pyte.Screen(WIDTH, HEIGHT)
        self.screen.write_process_input = self.type
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def lines(self) -> list[str]:
        """What is on the screen, down to the last line with anything on it."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip().split("\n")

    def read(self, seconds: float) -> bool:
        """Whether anything came in this time."""
        new = self.new(seconds)
        self.raw += new
        self.stream.feed(new)
        return bool(new)

    def until(self, seen, what: str = "", seconds: float = 60) -> list[str]:
        """Read until seen(lines)."""
        end = time.monotonic() + seconds
        while not seen(lines := self.lines()):
            assert time.monotonic() < end, "\n".join([f"waited for {what}; on the screen is", *lines])
            self.read(0.05)
        return lines

    def ready(self) -> list[str]:
        """Read until a message can be typed: an empty prompt is the last line."""
        return self.until(lambda lines: lines[-1].strip() == ">" and not self.read(0.05), "an empty prompt")

    def say(self, text: str, enter: str = "\r") -> list[str]:
        """Type a line; what stands between it and the next prompt."""
        before = len(self.ready()) - self.erased
        self.type(text + enter)
        self.until(lambda lines: len(lines) > before, "an answer")
        return [line for line in self.ready()[before:-1] if line]

    def end(self) -> int:
        """Read until the program has ended; its status."""
        end = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < end, "it does not end"
            self.read(0.05)
        while self.read(0.05):
            pass
        return self.process.returncode
