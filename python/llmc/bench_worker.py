"""The two ends of a benchmark's pipe: a process for one side, and the side's loop inside it.

Two OpenMP pools in one process spin against each other, so each side has a process of its own,
which computes only when it is told to. A request is a line of JSON: {"case": {…}} to prepare
something, {"seconds": s} to repeat it for so long, {"parts": true} for what its parts take. The
answer is a line as well.
"""
from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

Step = Callable[[], object]     # what is timed
Parts = dict[str, dict[str, float]]


class WorkerEnded(ValueError):
    """A side that could not do what it was told; its own sentence."""

    @property
    def out_of_memory(self) -> bool:
        return "out of memory" in str(self).lower()


class Worker:
    """A process that runs `python -m MODULE`, for use in `with`: it is ended when the block is. One
    that failed is replaced when something is asked again."""

    def __init__(self, module: str, folder: Path, threads: int):
        self.module = module
        self.environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "NUMPY_MADVISE_HUGEPAGE": "0",              # memory as the other side gets it
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",       # no processes beside this one
            "TRITON_CACHE_DIR": str(folder / "triton"),
            "TMPDIR": str(folder),
        }
        self.errors = tempfile.TemporaryFile()
        self.process: subprocess.Popen | None = self.start()

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", self.module], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, text=True, env=self.environment)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer; WorkerEnded with the worker's own sentence if it fails."""
        self.process = self.process or self.start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        self.process.communicate()
        status, self.process = self.process.returncode, None
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip().splitlines()
        self.errors.seek(0)
        self.errors.truncate()
        errors = [text for text in said if re.match(r"[\w.]+(Error|Exception)\b", text)]
        why = "out of memory?" if status == -9 else (errors or said or ["without a word"])[-1]
        raise WorkerEnded(f"{self.module} ended with status {status}: {why}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()
        self.errors.close()


def by_clock(wait: Step) -> Callable[[Step, int], float]:
    """Seconds of so many calls, until `wait` says that all have ended."""
    def timed(step: Step, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        return time.perf_counter() - start
    return timed


def peak_bytes() -> int:
    """The most memory this process held at once; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.is_file() else None
    return 1024 * int(found[1]) if found else 0


@dataclass
class Work:
    """What a side was told to do, ready to be repeated. On a GPU, where a call returns before its
    work is done and may take microseconds, so many are timed together that they take `together`
    seconds; 0: each by itself."""
    step: Step
    timed: Callable[[Step, int], float] = by_clock(lambda: None)
    together: float = 0
    taken: Callable[[], int] = peak_bytes   # of memory, so far
    parts: Callable[[], Parts] = dict       # of one step, by name: calls, seconds, flops and bytes
    tried: dict[str, float] = field(default_factory=dict)   # seconds of ways of which it is one


def serve(prepare: Callable[[dict[str, Any]], Work]) -> None:
    """Inside the worker: answers requests until the pipe is closed. What libraries print goes to
    standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is for the one who asks
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work: Work | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if "case" in request:
            work = None                 # its memory first
            work = prepare(request["case"])
            answer: dict[str, Any] = {"tried": work.tried}
        elif "parts" in request:
            answer = {"parts": work.parts()}
        else:
            answer = {"seconds": fastest(work, request["seconds"]), "peak_bytes": work.taken()}
        print(json.dumps(answer), file=answers, flush=True)


def fastest(work: Work, least: float) -> float:
    """Seconds of the fastest of the calls that fill so many seconds, at least one. Other work on
    the machine makes calls slower, never faster."""
    once = work.timed(work.step, 1)
    count = max(1, math.ceil(work.together / once))
    seconds = [once] if count == 1 else []
    while not seconds or sum(seconds) * count < least:
        seconds.append(work.timed(work.step, count) / count)
    return min(seconds)
