"""How fast this machine trains and writes, and what each part reaches of the machine's own peak.

    llmc bench --against torch --json bench.json --png bench.png

The peak is measured in the same run: the rate of large products, and of memory read or copied by
all cores. Each side computes in a process of its own, in turns. A round is the fastest of the calls
that fill a fifth of a second (a single one, of a long train step); a figure is the median of the
rounds. Small tensors stay in the caches, so shares of memory's peak may be over 100 %. --json holds

    machine   processor, device, threads, torch (its version or null), date, load (average over the
              minute before the start: how much others did)
    peak      f32, bf16 (FLOP/s), read, copy (bytes/s)
    rows      of each line of the table: group, name, dtype, work (its sizes), amount (FLOP or
              bytes), unit (of rate: "FLOP/s" or "bytes/s"), tokens (0 where there are none), sides,
              rate, share (of the peak), and with a peer: peer (the fastest), ratio (over 1: llmc is
              faster)
    sides     by name: seconds (the median), rounds (of each), peak_bytes (of the process). Sides of
              a train step are llmc, recompute (less memory), eager and compiled (PyTorch; bf16 is
              autocast) and pure (bf16 weights without masters); recompute and pure are not compared;
              of decode (PyTorch with a static cache, bf16 weights) llmc, eager and compiled
"""
from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from llmc import bench_report, cli
from llmc.bench_cases import Case, chosen, peak_cases
from llmc.bench_worker import Worker

COMPARED = ("torch", "eager", "compiled")       # peers; the fastest counts
MODELS = ("train", "decode")                    # groups that take a whole model
MODULES = {"llmc": "llmc.bench_engine", "recompute": "llmc.bench_engine",
           **{side: "llmc.bench_torch" for side in (*COMPARED, "pure")}}


@dataclass
class Bench:
    """Measure training and its parts in one table, against this machine's peak and PyTorch."""
    against: Literal["none", "torch"] = "none"  # whom to alternate with
    only: str = ""              # some of train,decode,matmul,attention,norm,optimizer,loader
    match: str = ""             # only rows that have all these words: "gpt2 T=256 f32"
    quick: bool = False         # small sizes, short looks
    rounds: cli.Count = 5       # turns of each side
    device: str = "cpu"         # as `llmc doctor` lists them
    threads: cli.Threads = 0    # of each side; 0: one for each processor
    json: Path | None = None    # where to write all figures
    png: Path | None = None     # where to draw the ratios, or else the shares of the peak


def run(config: Bench) -> None:
    machine = check(config)
    cases = chosen(config.only, config.match, config.quick)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="llmc-bench-") as folder:
        bench = Conductor(config, machine["threads"], Path(folder))
        peak = bench.peak()
        print(bench_report.head(machine, peak), flush=True)
        for case, sides in bench.measure(cases):
            if not rows or case.group != rows[-1]["group"]:
                print(bench_report.columns(case.group, config.against))
            rows.append(summed_up(case, sides, peak))
            print(bench_report.line(rows[-1]), flush=True)
    print(bench_report.memory(rows) + bench_report.summary(rows), end="")
    if config.json:
        result = {"machine": machine, "peak": peak, "rows": rows}
        config.json.write_text(json.dumps(result, indent=1) + "\n")
    if config.png:
        bench_report.draw(machine, rows).savefig(config.png, dpi=120, format="png")


def check(config: Bench) -> dict[str, Any]:
    """What is measured on; a ValueError for what cannot be done, before minutes are spent."""
    from llmc import Device
    from llmc.doctor import processor

    if config.against == "torch" and find_spec("torch") is None:
        raise ValueError("--against torch needs PyTorch, which is not installed "
                         "(pip install torch)")
    if config.png and config.png.suffix.lower() != ".png":
        raise ValueError(f"--png is {config.png}, wanted a name that ends in .png")
    for path in filter(None, (config.json, config.png)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise ValueError(f"{path} is a folder, wanted the name of a file")
    device = Device(config.device, config.threads)
    version = metadata.version("torch") if config.against == "torch" else None
    return {"processor": processor(), "device": device.name, "threads": device.threads,
            "torch": version, "date": time.strftime("%Y-%m-%d %H:%M"), "load": os.getloadavg()[0]}


# ---- measuring -----------------------------------------------------------------------------------


class Conductor:
    """Starts workers and lets them compute in turns."""

    def __init__(self, config: Bench, threads: int, folder: Path):
        self.config, self.threads, self.folder = config, threads, folder
        self.look = 0.05 if config.quick else 0.2       # seconds of a turn, at least one call

    def peak(self) -> dict[str, float]:
        """FLOP/s and bytes/s: the best of all rounds."""
        best: dict[str, float] = {}
        with self.workers("llmc") as workers:
            for case in peak_cases():
                seconds = min(self.turns(case, workers, count=5)["llmc"]["rounds"])
                best[case.name] = max(best.get(case.name, 0), case.amount / seconds)
        return best

    def measure(self, cases: list[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
        """Each case with what its sides took."""
        ops = [case for case in cases if case.group not in MODELS]
        for case in cases:
            if case not in ops:
                yield case, self.whole_model(case)
        peer = ["torch"] if self.config.against == "torch" else []
        with self.workers(*(["llmc"] + peer if ops else [])) as workers:
            for case in ops:
                alone = case.group == "loader"
                yield case, self.turns(case, {"llmc": workers["llmc"]} if alone else workers)

    def whole_model(self, case: Case) -> dict[str, Any]:
        """New processes for each case, so that their peak of memory is its own. Sides that are not
        compared run by themselves afterwards."""
        compared, others = ["llmc"], ["recompute"] if case.group == "train" else []
        if self.config.against == "torch":
            compared += ["eager"] if self.config.quick else ["eager", "compiled"]
            others += ["pure"] if case.group == "train" and case.dtype == "bf16" else []
        sides: dict[str, Any] = {}
        for together in (compared, *([side] for side in others)):
            with self.workers(*together) as workers:
                sides |= self.turns(case, workers)
        return sides

    @contextmanager
    def workers(self, *sides: str) -> Iterator[dict[str, Worker]]:
        with ExitStack() as stack:
            yield {side: stack.enter_context(Worker(MODULES[side], self.folder, self.threads))
                   for side in sides}

    def turns(self, case: Case, workers: dict[str, Worker], count: int = 0) -> dict[str, Any]:
        """By side: the median of its rounds, the rounds, and its process's peak of memory."""
        rounds: dict[str, list[float]] = {side: [] for side in workers}
        answer: dict[str, Any] = {}
        for side, worker in workers.items():
            way = side if case.group in MODELS else case.work.get("way")
            worker.ask(case=case.work | {"way": way, "device": self.config.device})
            worker.ask(seconds=0)               # compiles, takes its memory; not counted
        for number in range(count or self.config.rounds):
            for side, worker in workers.items():
                bench_report.status(f"{case.name} {case.dtype}: {side}, round {number + 1}")
                answer[side] = worker.ask(seconds=self.look)
                rounds[side].append(answer[side]["seconds"])
        bench_report.status("")
        return {side: {"seconds": statistics.median(rounds[side]), "rounds": rounds[side],
                       "peak_bytes": answer[side]["peak_bytes"]} for side in workers}


def summed_up(case: Case, sides: dict[str, Any], peak: dict[str, float]) -> dict[str, Any]:
    """A row of the result."""
    rate = case.amount / sides["llmc"]["seconds"]
    top = peak[case.dtype] if case.unit == "FLOP/s" else max(peak["read"], peak["copy"])
    row = asdict(case) | {"sides": sides, "rate": rate, "share": rate / top}
    peers = [side for side in sides if side in COMPARED]
    if peers:
        peer = min(peers, key=lambda side: sides[side]["seconds"])
        row |= {"peer": peer, "ratio": sides[peer]["seconds"] / sides["llmc"]["seconds"]}
    return row


if __name__ == "__main__":
    cli.main(run)
