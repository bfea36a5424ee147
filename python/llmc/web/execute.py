"""Runs phases with datatrove's executor for one machine.

A task that has ended is never run again; one that was killed writes its files anew, and they come
out the same. Each task's log lies under work/logs/PHASE/logs.
"""
from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from loguru import logger

from llmc.web.phases import Phase

LOOK = 0.5                      # seconds between two looks at how many tasks have ended


class Local(LocalPipelineExecutor):
    """datatrove's, whose tasks write to their logs and not to the terminal."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            try:
                return super()._run_for_rank(rank, local_rank, node_rank)
            finally:
                logger.remove()     # what writes to nowhere


def run(phases: list[Phase], work: Path, workers: int,
        tell: Callable[[Phase, int], None]) -> None:
    """One phase after the other; tell(phase, tasks that have ended) is called now and then."""
    for phase in phases:
        logs = work / "logs" / phase.name
        with _watched(phase, logs, tell):
            made = Local(phase.blocks, tasks=phase.tasks, workers=min(workers, phase.tasks),
                         logging_dir=str(logs))
            logger.remove()     # tell says it
            try:
                made.run()
            except Exception as error:      # whatever ended a task, of any library
                said = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(f"{phase.name} ended: {said[:500]}; {logs / 'logs'} tells more, "
                                 "and started again it goes on from here") from error


def counts(phase: Phase, work: Path) -> list[Counter[str]]:
    """Of each block of a phase, what its tasks counted: total, forwarded, dropped_REASON, …"""
    found = [Counter() for _ in phase.blocks]
    for path in sorted((work / "logs" / phase.name / "stats").glob("*.json")):
        for block, counted in zip(found, json.loads(path.read_text())):
            for key, value in counted["stats"].items():
                block[key] += value["total"] if isinstance(value, dict) else value
    return found


@contextmanager
def _watched(phase: Phase, logs: Path, tell: Callable[[Phase, int], None]) -> Iterator[None]:
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK):
            tell(phase, ended(logs))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        tell(phase, ended(logs))


def ended(logs: Path) -> int:
    """How many tasks of a phase have ended."""
    folder = logs / "completions"
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
