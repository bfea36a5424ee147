"""A program in a terminal that is not there: keys go in, and what a user would see can be read."""
from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

import pyte

WIDTH, HEIGHT = 80, 200


class Screen:
    """The program runs until the `with` ends. It has to show what is waited for within a minute. erased: what was
    typed is no longer shown when it was sent."""

    def __init__(self, *argv: object, erased: bool = False):
        self.erased = erased
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        self.process = subprocess.Popen(
            [*map(str, argv)], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=os.environ | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"})
        os.close(slave)
        self.screen = pyte.Screen(WIDTH, HEIGHT)
        self.screen.write_process_input = lambda text: os.write(self.master, text.encode())
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def lines(self) -> list[str]:
        """What is on the screen, down to the last line with anything on it."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip().split("\n")

    def read(self, seconds: float) -> bool:
        """Whether anything came in this time."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            new = os.read(self.master, 1 << 16)
        except OSError:                 # the program has ended
            return False
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

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

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
