"""Starts the ranks of a group one by one, as by hand or by torchrun: they meet over TCP."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from dataclasses import dataclass

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_")
WAITS = re.compile(r"llmc: rank \d+ of \d+ waits for .* at .*, for up to \d+ seconds")


@dataclass
class Ended:
    status: int
    out: list[str]      # lines
    err: list[str]      # without those that only explain a wait, as on a busy machine


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as asked:
        asked.bind((host, 0))
        return asked.getsockname()[1]


def start_one(command: list[object], **environment: object) -> subprocess.Popen:
    """A process that knows nothing of a launcher but what is given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    pipe = subprocess.PIPE
    return subprocess.Popen(list(map(str, command)), stdout=pipe, stderr=pipe, text=True,
                            env=clean | {name: str(value) for name, value in environment.items()})


def start(ranks: int, *command: object, **environment: object) -> list[subprocess.Popen]:
    """Rank 0 first. They meet at a free port of this machine where the environment does not say otherwise."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [start_one(list(command), RANK=rank, WORLD_SIZE=ranks, **place | environment) for rank in range(ranks)]


def ended(processes: list[subprocess.Popen], timeout: float = 60) -> list[Ended]:
    """What each has come to; none is left behind."""
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Ended(process.returncode, out.splitlines(), [line for line in err.splitlines() if not WAITS.match(line)])
            for process, (out, err) in zip(processes, said, strict=True)]


def together(parts: list[Ended]) -> Ended:
    """As if one launcher had started them: all that was said, and the worst status."""
    return Ended(max(abs(part.status) for part in parts), sum((part.out for part in parts), []),
                 sum((part.err for part in parts), []))
