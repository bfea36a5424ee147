"""How fast this machine trains and writes, and what each part reaches of the machine's own peak.

    llmc bench --against torch --json bench.json --png bench.png

The peak is measured in the same run: the rate of large products, and of memory read or copied by
all cores. Each side computes in a process of its own, in turns. A round is the fastest of the calls
that fill a fifth of a second (a single one, of a long train step); a figure is the median of the
rounds. Small tensors stay in the caches, so shares of memory's peak may be over 100 %. --json holds

    machine   processor, device, threads, peer (its name and version, or null), date, load (average
              over the minute before the start: how much others did)
    peak      f32, bf16, int8 (FLOP/s), read, copy (bytes/s), each the best of some ways
    rows      of each line of the table: group, name, dtype, work (its sizes), amount (FLOP or
              bytes), unit (of rate: "FLOP/s" or "bytes/s"), tokens (0 where there are none), sides,
              rate, share (of the peak), and with a peer: peer (the fastest), ratio (over 1: llmc is
              faster)
    sides     by name: seconds (the median), rounds (of each), peak_bytes (of the process). Sides of
              a train step are llmc, recompute (less memory), eager and compiled (PyTorch; bf16 is
              autocast) and pure (bf16 weights without masters); recompute and pure are not
              compared; of decode llmc and eager and compiled (PyTorch with a static cache, bf16
              weights) or plain and flash (llama.cpp, without flash attention and with it)

llama.cpp reads the same weights, those of int8 as q8_0. It comes in the wheel cyllama, which is
built for AVX2 (0.2.18), not for AVX-512 or AMX; one built for this machine may be faster.
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

PEERS = {"torch": ("PyTorch", "torch"), "llama.cpp": ("llama.cpp's wheel cyllama", "cyllama")}
COMPARED = ("torch", "eager", "compiled", "flash", "plain")     # their sides; the fastest counts
MODELS = ("train", "decode")                    # groups that take a whole model
MODULES = {"llmc": "llmc.bench_engine", "recompute": "llmc.bench_engine",
           **dict.fromkeys(("torch", "eager", "compiled", "pure"), "llmc.bench_torch"),
           **dict.fromkeys(("flash", "plain"), "llmc.bench_llama_cpp")}


@dataclass
class Bench:
    """Measure training and decoding and their parts in one table, against this machine's peak, and
    PyTorch or llama.cpp."""
    against: Literal["none", "torch", "llama.cpp"] = "none"     # whom to alternate with; llama.cpp:
                                # in decode alone
    only: str = ""              # some of train,decode,matmul,attention,norm,optimizer,loader
    match: str = ""             # only rows that have all these words: "gpt2 T=256 f32"
    quick: bool = False         # small sizes, short looks
    rounds: cli.Count = 5       # turns of each side
    device: str = "cpu"         # as `llmc doctor` lists them
    threads: cli.Threads = 0    # of each side; 0: one for each processor
    json: Path | None = None    # where to write all figures
    png: Path | None = None     # where to draw the ratios, or else the shares of the peak


def run(config: Bench) -> None:
    cases = chosen(config.only, config.match, config.quick)
    machine = check(config, cases)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="llmc-bench-") as folder:
        bench = Conductor(config, machine["threads"], Path(folder))
        peak = bench.peak()
        print(bench_report.head(machine, peak), flush=True)
        for case, sides in bench.measure(cases):
            if not rows or case.group != rows[-1]["group"]:
                compared = any(peers(config, each) for each in cases if each.group == case.group)
                print(bench_report.columns(case.group, config.against if compared else ""))
            rows.append(summed_up(case, sides, peak))
            print(bench_report.line(rows[-1]), flush=True)
    print(bench_report.memory(rows) + bench_report.summary(rows), end="")
    if config.json:
        result = {"machine": machine, "peak": peak, "rows": rows}
        config.json.write_text(json.dumps(result, indent=1) + "\n")
    if config.png:
        bench_report.draw(machine, rows).savefig(config.png, dpi=120, format="png")


def peers(config: Bench, case: Case) -> list[str]:
    """The peer's sides that a case is compared with; none if it does no such work."""
    if config.against == "llama.cpp":
        sides = ["plain", "flash"] if case.group == "decode" else []
    elif config.against == "none" or case.group == "loader" or case.dtype == "int8":
        sides = []
    else:
        sides = ["eager", "compiled"] if case.group in MODELS else ["torch"]
    return sides[:1] if config.quick else sides


def check(config: Bench, cases: list[Case]) -> dict[str, Any]:
    """What is measured on; a ValueError for what cannot be done, before minutes are spent."""
    from llmc import Device
    from llmc.doctor import processor

    peer = None
    if config.against != "none":
        name, package = PEERS[config.against]
        if find_spec(package) is None:
            raise ValueError(f"--against {config.against} needs {name}, which is not installed "
                             f"(pip install {package})")
        if config.against == "llama.cpp" and not any(peers(config, case) for case in cases):
            raise ValueError("--against llama.cpp compares decode only, and none of its rows is "
                             "among these")
        peer = f"{name} {metadata.version(package)}"
    if config.png and config.png.suffix.lower() != ".png":
        raise ValueError(f"--png is {config.png}, wanted a name that ends in .png")
    for path in filter(None, (config.json, config.png)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise ValueError(f"{path} is a folder, wanted the name of a file")
    device = Device(config.device, config.threads)
    return {"processor": processor(), "device": device.name, "threads": device.threads,
            "peer": peer, "date": time.strftime("%Y-%m-%d %H:%M"), "load": os.getloadavg()[0]}


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
        wanted = [["llmc", *peers(self.config, case)] for case in ops]
        with self.workers(*dict.fromkeys(sum(wanted, []))) as workers:
            for case, sides in zip(ops, wanted):
                yield case, self.turns(case, {side: workers[side] for side in sides})

    def whole_model(self, case: Case) -> dict[str, Any]:
        """New processes for each case, so that their peak of memory is its own. Sides that are not
        compared run by themselves afterwards."""
        compared = ["llmc", *peers(self.config, case)]
        others = ["recompute"] if case.group == "train" else []
        if case.group == "train" and case.dtype == "bf16" and self.config.against == "torch":
            others += ["pure"]
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
