"""The two ends of a benchmark's pipe: a process for one side, and the side's loop inside it.

Two OpenMP pools in one process spin against each other, so each side has a process of its own,
which computes only when it is told to. A request is a line of JSON: {"case": {…}} to prepare
something, {"seconds": s} to repeat it for so long. The answer is a line as well.
"""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

Step = Callable[[], object]     # what is timed


class Worker:
    """A process that runs `python -m MODULE`, for use in `with`: it is ended when the block is."""

    def __init__(self, module: str, folder: Path, threads: int):
        quiet = {
            "OMP_NUM_THREADS": str(threads),
            "NUMPY_MADVISE_HUGEPAGE": "0",              # memory as the other side gets it
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",       # no processes beside this one
            "TMPDIR": str(folder),
        }
        self.module = module
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, text=True, env=os.environ | quiet)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer; a ValueError with the worker's own sentence if it fails."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        status = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip().splitlines()
        why = "out of memory?" if status == -9 else said[-1] if said else "without a word"
        raise ValueError(f"{self.module} ended with status {status}: {why}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def serve(prepare: Callable[[dict[str, Any]], Step]) -> None:
    """Inside the worker: answers requests until the pipe is closed. What libraries print goes to
    standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is for the one who asks
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    step: Step | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if "case" in request:
            step = None                 # its memory first
            step = prepare(request["case"])
            answer: dict[str, Any] = {}
        else:
            answer = {"seconds": fastest(step, request["seconds"]), "peak_bytes": peak_bytes()}
        print(json.dumps(answer), file=answers, flush=True)


def fastest(step: Step, least: float) -> float:
    """Seconds of the fastest of the calls that fill so many seconds, at least one. Other work on
    the machine makes calls slower, never faster."""
    seconds: list[float] = []
    while not seconds or sum(seconds) < least:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_bytes() -> int:
    """The most memory this process held at once; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.is_file() else None
    return 1024 * int(found[1]) if found else 0
