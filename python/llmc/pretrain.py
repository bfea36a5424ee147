"""Token shards to a base model: starts train_gpt2, on one process or several, and shows it at work.

Every flag but the two here is train_gpt2's own and is passed on.
"""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from llmc import cli
from llmc.launch import cores, mpirun

MOST_RANKS = 16                 # for each processor; more would only swamp the machine


@dataclass
class Pretrain:
    """Pre-train a model on token shards. On a terminal its progress is drawn, elsewhere printed."""
    ranks: int = 1              # processes that train together, started by mpirun
    plain: bool = False         # print the program's lines, as where there is no terminal
    flags: list[str] = cli.rest()

    @staticmethod
    def more_help() -> str:
        """The flags that are passed on."""
        done = subprocess.run([program(), "--help"], stdout=subprocess.PIPE, text=True, check=True)
        return f"All other flags are passed on to train_gpt2:\n\n{done.stdout}"


def program() -> str:
    """The path of train_gpt2, which is built and installed beside the engine."""
    core = find_spec("llmc._core")
    if core is None or core.origin is None:
        raise ValueError("the engine is not built; run `make setup`")
    path = Path(core.origin).resolve().with_name("train_gpt2")
    if not path.is_file():
        raise ValueError(f"{path} is missing; run `make setup`")
    return str(path)


def run(config: Pretrain) -> None:
    status = train(config.flags, config.ranks, config.plain)
    if status:
        raise SystemExit(status)


def train(flags: Sequence[str], ranks: int = 1, plain: bool = False) -> int:
    """Runs train_gpt2 to its end; its exit status."""
    if ranks < 1:
        raise ValueError(f"--ranks is {ranks}, wanted 1 or more")
    if ranks > MOST_RANKS * cores():
        raise ValueError(f"--ranks is {ranks}, but this machine has {cores()} processors; wanted at "
                         f"most {MOST_RANKS} ranks for each")
    command, env = [program(), *flags], None
    if ranks > 1:
        command, env = mpirun(command, ranks)
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


if __name__ == "__main__":
    cli.main(run)
