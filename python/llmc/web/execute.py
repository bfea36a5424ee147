"""Runs phases with datatrove's executors: on this machine, on a Slurm cluster, on a Ray cluster.

A task that has ended is never run again; one that was killed writes its files anew, and they come
out the same. Each task's log lies under work/logs/PHASE/logs, what its blocks have counted under
stats, and until it ends, under so_far.
"""
from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dill
import multiprocess
from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from loguru import logger
from multiprocess.connection import Connection, wait
from multiprocess.resource_tracker import ensure_running

from llmc import cli, disk
from llmc.web.extra import needed
from llmc.web.orphans import end_with_parent
from llmc.web.phases import Phase, any_in

EVERY = 1.0                     # seconds between two notes of what was counted
ASK = 5.0                       # seconds between two questions to Slurm
DUPLICATES = "\U0001fac2"       # how datatrove marks the blocks that find them, in their type
LOADED = [                      # once, not by every process of every phase; spacy takes 2.5 s
    "llmc.web.execute", "datatrove.pipeline.dedup", "trafilatura", "spacy"]
PROCESS = 1 << 28               # bytes that one process takes for it, with a part of the signatures


@dataclass
class Where:
    """executor: local, slurm or ray; workers: tasks at a time, 0: as many as there are cores, or as
    the cluster takes; memory: bytes for all tasks that find duplicates, on this machine;
    task_memory: GB for a task, that a cluster sets aside; slurm: options of sbatch, by their long
    names."""
    executor: str = "local"
    workers: int = 0
    memory: int = 4_000_000_000
    task_memory: int = 4
    slurm: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.executor == "slurm":
            if missing := [key for key in ("partition", "time") if key not in self.slurm]:
                raise ValueError(f"--executor slurm wants a {' and a '.join(missing)}, as in "
                                 "--slurm partition=cpu time=20:00:00")
        elif self.slurm:
            raise ValueError(f"--slurm is for --executor slurm, and this is {self.executor}")


class _Alone:
    """For executors: a task runs once at a time, ends with the program that began it, and notes
    while it runs what its blocks have counted."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        place = Path(self.logging_dir.resolve_paths(f"so_far/{rank:05d}.json"))
        place.parent.mkdir(parents=True, exist_ok=True)
        done = threading.Event()
        if multiprocess.parent_process():
            end_with_parent()

        def note() -> None:
            while not done.wait(EVERY):
                counted = [{"stats": {key: value.total for key, value in
                                      dict(each.stats.stats).items()}} for each in self.pipeline]
                try:
                    disk.write_whole(place, json.dumps(counted).encode())
                except OSError as error:        # the blocks hear of a full disk themselves
                    logger.warning("{}", error)

        _allow_open_files()
        with _lock(place.with_suffix(".lock")):
            noting = threading.Thread(target=note, daemon=True)
            noting.start()
            try:
                return super()._run_for_rank(rank, local_rank, node_rank)
            finally:
                done.set()
                noting.join()
                place.unlink(missing_ok=True)


def _allow_open_files() -> None:
    """As many as the system lets a user have: to compare signatures, datatrove has a file of every
    task open, and the usual 1,024 is less than a crawl may have."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(now, 10_240) if most == resource.RLIM_INFINITY else most   # macOS gives no more
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One task at a time: after a kill, one of the run before may not have ended yet."""
    with path.open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)    # which no process has that it starts
        except OSError as error:                # not every file system has locks
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield


class Local(_Alone, LocalPipelineExecutor):
    """datatrove's, whose tasks write to their logs and not to the terminal. A process that is
    killed, as by a system short of memory, ends the run; datatrove's pool would wait for ever."""

    def run(self) -> None:
        ranks, raw = self.get_incomplete_ranks(), dill.dumps(self)
        if self.workers == 1:
            for rank in ranks:
                dill.loads(raw)._run_for_rank(rank)     # each with blocks of its own, which count
            return
        context = multiprocess.get_context("forkserver")
        context.set_forkserver_preload(LOADED)
        ensure_running()    # multiprocess's tracker, whose start would let Ctrl-C through again
        _allow_open_files()
        workers: dict[Connection, Any] = {}
        try:
            with _no_interrupt():               # for them; this program ends them
                for _ in ranks[:self.workers]:
                    ours, theirs = context.Pipe()
                    process = context.Process(target=_tasks, args=(theirs,))
                    process.start()
                    workers[ours] = process
                    theirs.close()
            for ours in workers:
                ours.send(raw)
            _share_out(ranks, workers)
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError("the process of a task was killed, as a system does that is "
                                    "short of memory") from error
        finally:
            for process in workers.values():
                process.terminate()
            for process in workers.values():
                process.join()

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            try:
                return super()._run_for_rank(rank, local_rank, node_rank)
            except Exception as error:
                # Its frames hold open files, which are closed here, while stderr leads nowhere:
                # on a full disk that fails once more, and Python prints it. The log has it all.
                error.__context__ = error.__cause__ = None
                raise error.with_traceback(None)
            finally:
                logger.remove()     # what writes to nowhere


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes that are started meanwhile, and theirs, never get Ctrl-C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tasks(told: Connection) -> None:
    """In a process: an executor, pickled, then the ranks of its tasks, each answered when it has
    ended with what went wrong or None."""
    end_with_parent()
    with suppress(EOFError, ConnectionError):           # that program was killed
        raw = told.recv()
        while True:
            rank, wrong = told.recv(), None
            try:
                dill.loads(raw)._run_for_rank(rank)
            except Exception as error:                  # of any library
                wrong = cli.sentence(error)
            told.send(wrong)


def _share_out(ranks: list[int], workers: dict[Connection, Any]) -> None:
    """Tells each process the next task whenever it has none, until all have ended. A
    ChildProcessError for the first that failed, an EOFError or a ConnectionError where a process
    was killed."""
    left, at = iter(ranks), dict(zip(workers, ranks))
    for ours in workers:
        ours.send(next(left))
    while at:
        ready = wait([*at, *(workers[ours].sentinel for ours in at)])
        for ours in list(at):
            if workers[ours].sentinel in ready:         # none ends by itself
                raise EOFError
            if ours in ready:
                if said := ours.recv():
                    raise ChildProcessError(said)
                del at[ours]
                if (rank := next(left, None)) is not None:
                    ours.send(rank)
                    at[ours] = rank


class Ray(_Alone, RayPipelineExecutor):
    """datatrove's."""


class Slurm(_Alone, SlurmPipelineExecutor):
    """datatrove's, which waits for its job; started again, it waits for the one that runs."""

    def run(self) -> None:
        if "SLURM_ARRAY_TASK_ID" in os.environ:     # in the job
            super().run()
            return
        noted = Path(self.logging_dir.resolve_paths("slurm_job"))
        self.job_id = noted.read_text() if noted.is_file() else None
        if not (self.job_id and _in_queue(self.job_id)):
            self.job_id = None
            super().run()
            if self.job_id == -1:                   # every task has ended
                return
            disk.write_whole(noted, self.job_id.encode())
        asked = time.monotonic()
        while self.get_incomplete_ranks():
            time.sleep(EVERY)
            if time.monotonic() - asked >= ASK:
                if not _in_queue(self.job_id):
                    break
                asked = time.monotonic()

    def launch_merge_stats(self) -> None:
        """Nothing: counts() reads what each task wrote."""


def _in_queue(job: str) -> bool:
    """Whether Slurm has not done with a job; what it cannot say now is asked again."""
    while True:
        asked = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True,
                               text=True)
        if asked.returncode == 0:
            return bool(asked.stdout.strip())
        if "Invalid job id" in asked.stderr:        # what it says of jobs long ended
            return False
        print(f"squeue cannot say whether job {job} has ended, asked again in {ASK:g} s: "
              f"{asked.stderr.strip()}", file=sys.stderr)
        time.sleep(ASK)


def run(phases: list[Phase], work: Path, where: Where, watch: Any) -> None:
    """One phase after the other, as long as documents are left; `with watch(phase, logs)` is around
    each, see watch.py."""
    for phase in phases:
        logs = work / "logs" / phase.name
        with watch(phase, logs):
            logger.remove()     # watch says it
            made = _executor(phase, logs, where)
            try:
                made.run()
            except Exception as error:      # whatever ended a task, of any library
                raise _ended(phase, logs, cli.sentence(error)) from error
            if left := made.get_incomplete_ranks(skip_completed=True):
                raise _ended(phase, logs, f"{len(left)} of {phase.tasks} tasks failed, the first "
                             f"of them number {left[0]}")
        if phase.writes and not any_in(phase.writes):
            return


def _ended(phase: Phase, logs: Path, said: str) -> ValueError:
    return ValueError(f"{phase.name} ended: {said[:500]}; {logs} tells more, and started "
                      "again it goes on from here")


def _executor(phase: Phase, logs: Path, where: Where) -> Any:
    ended = sum(1 for _ in (logs / "completions").glob("*"))
    common = {"tasks": phase.tasks, "logging_dir": str(logs),
              "workers": at_a_time(phase, where) if ended < phase.tasks else 1}
    if where.executor == "local":
        return Local(phase.blocks, **common)
    common["mem_per_cpu_gb"] = where.task_memory
    if where.executor == "ray":
        with needed("--executor ray", "ray"):
            import ray
        if not ray.is_initialized():        # the cluster that RAY_ADDRESS names, or that runs here
            ray.init(logging_level="error", log_to_driver=False)
        return Ray(phase.blocks, **common)
    options = dict(where.slurm)
    return Slurm(phase.blocks, time=options.pop("time"), partition=options.pop("partition"),
                 qos=options.pop("qos", ""), job_name=f"llmc_{phase.name}", sbatch_args=options,
                 venv_path=f"{sys.prefix}/bin/activate" if sys.prefix != sys.base_prefix else None,
                 mail_type="NONE", **common)


def at_a_time(phase: Phase, where: Where) -> int:
    """How many tasks, -1: any. Of a phase that finds duplicates, on this machine, as many as have
    room in the memory, at PROCESS each and what a block says it takes besides; a ValueError if not
    one has."""
    local = where.executor == "local"
    workers = min(where.workers or os.cpu_count() or 1, phase.tasks) if local else (
        where.workers or -1)
    finding = [block for block in phase.blocks if block.type.startswith(DUPLICATES)]
    if not finding:
        return workers
    wanted = PROCESS + max(block.memory() if hasattr(block, "memory") else 0 for block in finding)
    given, option = (where.memory, "--memory") if local else (
        where.task_memory * 10**9, "--task_memory")
    if wanted > given:
        raise ValueError(f"{phase.name} takes about {wanted:,} bytes of memory, and {option} gives "
                         f"{given:,}; give it more, or prepare the sources in parts")
    return min(workers, given // wanted) if local else workers


def counts(phase: Phase, work: Path) -> list[Counter[str]]:
    """Of each block of a phase, what its tasks counted: total, forwarded, dropped_REASON, …"""
    found = [Counter() for _ in phase.blocks]
    for path in sorted((work / "logs" / phase.name / "stats").glob("*.json")):
        add(found, path)
    return found


def add(found: list[Counter[str]], path: Path) -> None:
    """What a file of stats/ or so_far/ says of each block."""
    raw = path.read_text()
    try:
        for block, counted in zip(found, json.loads(raw)):
            for key, value in counted["stats"].items():
                block[key] += value["total"] if isinstance(value, dict) else value
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); --fresh starts anew") from error
