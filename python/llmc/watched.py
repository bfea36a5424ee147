"""A program that trains, started and shown at work: its lines drawn, our signals passed on."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext


def watched(command: Sequence[str], env: Mapping[str, str] | None, plain: bool) -> int:
    """Runs it to its end; its exit status. plain: its lines are printed, not drawn."""
    draw = not plain and sys.stdout.isatty()
    sys.stdout.flush()
    with tempfile.TemporaryFile() if draw else nullcontext() as errors:
        # in a group of its own, so that Ctrl-C reaches it once: passed on from here
        process = subprocess.Popen(command, env=env, preexec_fn=os.setpgrp,
                                   stdout=subprocess.PIPE if draw else None, stderr=errors)
        with signals_passed_on(process):
            if draw:
                show(process)
            status = process.wait()
        if draw:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
    return status if status >= 0 else 128 - status


def show(process: subprocess.Popen) -> None:
    """Draw the program's lines until it closes its output. If the terminal goes away the program
    goes on, or ends as it was told to."""
    from rich.console import Console

    from llmc.train_display import TrainDisplay

    lines = (line.decode(errors="replace").rstrip("\n") for line in process.stdout)
    try:
        with TrainDisplay(Console()) as display:
            for line in lines:
                display.feed(line)
    except OSError:
        for line in lines:
            pass


@contextmanager
def signals_passed_on(process: subprocess.Popen) -> Iterator[None]:
    """Ctrl-C, a polite end, a closed terminal: the program finishes its step, saves and exits.
    Ctrl-Z stops both, and what continues this process continues the other."""
    def pass_on(number: int, frame: object) -> None:
        process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def suspend(number: int, frame: object) -> None:
        process.send_signal(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)

    handlers = {signal.SIGINT: pass_on, signal.SIGTERM: pass_on, signal.SIGHUP: pass_on,
                signal.SIGTSTP: suspend}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:       # nohup: the run is to go on
        del handlers[signal.SIGHUP]
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
