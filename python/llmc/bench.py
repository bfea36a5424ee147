"""How fast this machine trains and writes, and what each part reaches of the machine's own peak.

    llmc bench --against torch --json bench.json --png bench.png
    llmc bench --device cuda --against torch

The peak is measured in the same run: the rate of large products, and of memory read or copied by
all cores, or by the GPU. Each side computes in a process of its own, in turns. A round is the
fastest of the calls that fill a fifth of a second (a single one, of a long train step); a figure is
the median of the rounds. Small tensors stay in a CPU's caches, so shares of memory's peak may be
over 100 %. On a CPU, writing text reads memory from beginning to end, and how fast that goes
changes with what others do: there memory is read in turns with it, and its share is of that.

On a GPU sizes are larger, all is of bf16, and PyTorch is compiled: attention is the fastest of its
kernels, decoding runs in CUDA graphs. A call is over when the GPU is done (PyTorch's side asks
CUDA's events); short calls are timed many at a time. Train steps take the largest of some
micro-batches that fits both sides, each of which has the GPU for itself. A train step's share of
the peak is its model FLOPs utilization (MFU), also of the data sheet's rate where the GPU is known;
that of other rows is of products, or of a copy inside the GPU's memory. The emulated GPU computes
tiny sizes, beside PyTorch on the CPU, to show that all of this runs.

--json holds

    machine   processor, device, gpu (its name, or ""), sheet (FLOP/s in bf16 by its data sheet, or
              null), threads, peer (its name and version, or null), date, load (average over the
              minute before the start: how much others did)
    peak      f32, bf16, int8 (FLOP/s), read, copy (bytes/s), each the best of some ways
    rows      of each line of the table: group, name, dtype, work (its sizes), amount (FLOP or
              bytes), unit (of rate: "FLOP/s" or "bytes/s"), tokens (0 where there are none), sides,
              rate, share (of the peak), and with a peer: peer (the fastest), ratio (over 1: llmc is
              faster); of a train step parts, by op: calls, seconds, flops, bytes. A row without
              rate could not be measured
    sides     by name: seconds (the median), rounds (of each), peak_bytes (of the process; on a GPU
              of its memory, 0 where that is not counted), tried (seconds by attention kernel);
              or error. Sides of a train step are llmc, recompute (less memory), eager and compiled
              (PyTorch; bf16 is autocast) and pure (bf16 weights without masters); recompute and
              pure are not compared; of decode llmc and eager and compiled (PyTorch with a static
              cache, bf16 weights) or plain and flash (llama.cpp, without flash attention and with),
              and memory (a call reads a block; bytes: how large it is)

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
from llmc.bench_cases import Case, Sizes, chosen, kind_of, peak_cases, read_case, sizes_of
from llmc.bench_worker import Worker, WorkerEnded

PEERS = {"torch": ("PyTorch", "torch"), "llama.cpp": ("llama.cpp's wheel cyllama", "cyllama")}
COMPARED = ("torch", "eager", "compiled", "flash", "plain")     # their sides; the fastest counts
MODELS = ("train", "decode")                    # groups that take a whole model
MODULES = {**dict.fromkeys(("llmc", "recompute", "memory"), "llmc.bench_engine"),
           **dict.fromkeys(("torch", "eager", "compiled", "pure"), "llmc.bench_torch"),
           **dict.fromkeys(("flash", "plain"), "llmc.bench_llama_cpp")}
SHEET = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}    # FLOP/s: bf16, not sparse


@dataclass
class Bench:
    """Measure training and decoding and their parts in one table, against this machine's peak, and
    PyTorch or llama.cpp."""
    against: Literal["none", "torch", "llama.cpp"] = "none"     # whom to alternate with; llama.cpp:
                                # in decode alone
    only: str = ""              # some of train, decode, matmul, attention, norm, elementwise,
                                # optimizer, loader, with commas
    match: str = ""             # only rows that have all these words: "gpt2 T=256 f32"
    quick: bool = False         # small sizes, short looks
    rounds: cli.Count = 5       # turns of each side
    device: str = "cpu"         # as `llmc doctor` lists them, or cuda, or cuda-emu
    threads: cli.Threads = 0    # of each side, on the CPU; 0: one for each processor
    json: Path | None = None    # where to write all figures
    png: Path | None = None     # where to draw the ratios, or else the shares of the peak


def run(config: Bench) -> None:
    sizes = sizes_of(config.device, config.quick)
    cases = chosen(config.only, config.match, sizes)
    machine = check(config, cases)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="llmc-bench-") as folder:
        bench = Conductor(config, sizes, machine["threads"], Path(folder))
        peak = bench.peak(peak_cases(sizes))
        print(bench_report.head(machine, peak), flush=True)
        for case, sides in bench.measure(cases):
            if not rows or case.group != rows[-1]["group"]:
                compared = any(peers(config, each) for each in cases if each.group == case.group)
                print(bench_report.columns(case.group, config.against if compared else ""))
            rows.append(summed_up(case, sides, peak, kind_of(config.device)))
            print(bench_report.line(rows[-1]), flush=True)
    print(bench_report.sides(machine, rows) + bench_report.parts(rows, peak)
          + bench_report.summary(rows), end="")
    if config.json:
        result = {"machine": machine, "peak": peak, "rows": rows}
        config.json.write_text(json.dumps(result, indent=1) + "\n")
    measured = [row for row in rows if "rate" in row]
    if config.png and measured:
        bench_report.draw(machine, measured).savefig(config.png, dpi=120, format="png")
    failed = [side["error"] for row in rows for side in row["sides"].values() if "error" in side]
    if failed:
        raise ValueError(f"{len(failed)} figures are missing; the first: {failed[0]}")


def peers(config: Bench, case: Case) -> list[str]:
    """The peer's sides that a case is compared with; none if it does no such work."""
    if config.against == "llama.cpp":
        sides = ["plain", "flash"] if case.group == "decode" else []
    elif config.against == "none" or case.group == "loader" or case.dtype == "int8":
        sides = []
    elif kind_of(config.device) == "cuda":
        sides = ["compiled"] if case.group in MODELS else ["torch"]
    else:
        sides = ["eager", "compiled"] if case.group in MODELS else ["torch"]
    return sides[:1] if small(config) else sides


def small(config: Bench) -> bool:
    return config.quick or kind_of(config.device) == "cuda-emu"


def check(config: Bench, cases: list[Case]) -> dict[str, Any]:
    """What is measured on; a ValueError for what cannot be done, before minutes are spent."""
    from llmc import Device
    from llmc.doctor import gpu_name, processor

    gpu = kind_of(config.device) == "cuda"
    peer = None
    if config.against != "none":
        name, package = PEERS[config.against]
        if find_spec(package) is None:
            raise ValueError(f"--against {config.against} needs {name}, which is not installed "
                             f"(pip install {package})")
        if config.against == "llama.cpp" and not any(peers(config, case) for case in cases):
            raise ValueError("--against llama.cpp compares decode only, and none of its rows is "
                             "among these")
        if config.against == "llama.cpp" and kind_of(config.device) != "cpu":
            raise ValueError(f"--against llama.cpp compares on the CPU, not on {config.device}")
        peer = f"{name} {metadata.version(package)}"
        if gpu and peer.endswith("+cpu"):
            raise ValueError(f"{peer} was built without CUDA, so it cannot be compared on a GPU; "
                             "install PyTorch for CUDA (https://pytorch.org)")
    if config.png and config.png.suffix.lower() != ".png":
        raise ValueError(f"--png is {config.png}, wanted a name that ends in .png")
    for path in filter(None, (config.json, config.png)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise ValueError(f"{path} is a folder, wanted the name of a file")
    device = Device(config.device, config.threads)
    name = gpu_name(device) if gpu else ""
    return {"processor": processor(), "device": device.name, "gpu": name, "sheet": SHEET.get(name),
            "threads": device.threads, "peer": peer, "date": time.strftime("%Y-%m-%d %H:%M"),
            "load": os.getloadavg()[0]}


# ---- measuring -----------------------------------------------------------------------------------


class Conductor:
    """Starts workers and lets them compute in turns."""

    def __init__(self, config: Bench, sizes: Sizes, threads: int, folder: Path):
        self.config, self.threads, self.folder = config, threads, folder
        self.read = read_case(sizes)
        self.look = 0.05 if small(config) else 0.2      # seconds of a turn, at least one call
        self.on_gpu = kind_of(config.device) == "cuda"

    def peak(self, cases: Iterator[Case]) -> dict[str, float]:
        """FLOP/s and bytes/s: the best of all rounds."""
        best: dict[str, float] = {}
        with self.workers("llmc") as workers:
            for case in cases:
                side = self.turns(case, workers, count=5)["llmc"]
                if "error" in side:
                    raise WorkerEnded(side["error"])
                best[case.name] = max(best.get(case.name, 0), case.amount / min(side["rounds"]))
        return best

    def measure(self, cases: list[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
        """Each case, or the smaller one that fits, with what its sides took."""
        ops = [case for case in cases if case.group not in MODELS]
        for case in cases:
            if case not in ops:
                yield self.whole_model(case)
        wanted = [["llmc", *peers(self.config, case)] for case in ops]
        with self.workers(*dict.fromkeys(sum(wanted, []))) as workers:
            for case, sides in zip(ops, wanted):
                yield case, self.turns(case, {side: workers[side] for side in sides})

    def whole_model(self, case: Case) -> tuple[Case, dict[str, Any]]:
        """New processes for each case, so that their peak of memory is its own. Sides that are not
        compared run by themselves afterwards; on a GPU, whose memory may hold but one, all do."""
        compared = ["llmc", *peers(self.config, case)]
        if case.unit == "bytes/s" and kind_of(self.config.device) == "cpu":
            compared.append("memory")
        others = ["recompute"] if case.group == "train" else []
        if case.group == "train" and case.dtype == "bf16" and self.config.against == "torch":
            others += ["pure"]
        alone = case.group == "train" and self.on_gpu
        sides: dict[str, Any] = {}
        for together in ([side] for side in compared) if alone else [compared]:
            with self.workers(*together) as workers:
                sides |= self.turns(case, workers)
                if case.group == "train" and "llmc" in together and "error" not in sides["llmc"]:
                    sides["llmc"]["parts"] = self.asked(workers["llmc"], parts=True).get("parts")
            if case.smaller and any(side.get("out_of_memory") for side in sides.values()):
                return self.whole_model(case.smaller)
        for side in others:
            with self.workers(side) as workers:
                sides |= self.turns(case, workers)
        return case, sides

    @contextmanager
    def workers(self, *sides: str) -> Iterator[dict[str, Worker]]:
        with ExitStack() as stack:
            yield {side: stack.enter_context(Worker(MODULES[side], self.folder, self.threads))
                   for side in sides}

    def asked(self, worker: Worker, **request: Any) -> dict[str, Any]:
        """The answer, or the sentence with which the worker ended."""
        try:
            return worker.ask(**request)
        except WorkerEnded as ended:
            return {"error": str(ended), "out_of_memory": ended.out_of_memory}

    def turns(self, case: Case, workers: dict[str, Worker], count: int = 0) -> dict[str, Any]:
        """By side: the median of its rounds, the rounds, and its process's peak of memory."""
        rounds: dict[str, list[float]] = {side: [] for side in workers}
        found: dict[str, dict[str, Any]] = {}

        def ask(side: str, **request: Any) -> None:
            if "error" not in found.get(side, {}):
                found[side] = found.get(side, {}) | self.asked(workers[side], **request)

        for side in workers:
            way = side if case.group in MODELS else case.work.get("way")
            work = self.read.work if side == "memory" else case.work | {"way": way}
            ask(side, case=work | {"device": self.config.device})
            for _ in range(3 if self.on_gpu else 1):    # not counted: compiles, takes its memory,
                ask(side, seconds=0)                    # records CUDA graphs
        for number in range(count or self.config.rounds):
            for side in workers:
                bench_report.status(f"{case.name} {case.dtype}: {side}, round {number + 1}")
                ask(side, seconds=self.look)
                rounds[side].append(found[side].get("seconds", 0))
        bench_report.status("")
        if "memory" in found:
            found["memory"]["bytes"] = self.read.amount
        return {side: answer if "error" in answer else
                answer | {"seconds": statistics.median(rounds[side]), "rounds": rounds[side]}
                for side, answer in found.items()}


def summed_up(case: Case, sides: dict[str, Any], peak: dict[str, float],
              kind: str) -> dict[str, Any]:
    """A row of the result, on a kind of device."""
    row = asdict(case) | {"sides": sides}
    del row["smaller"]
    seconds = {side: answer["seconds"] for side, answer in sides.items() if "error" not in answer}
    if "llmc" not in seconds:
        return row
    if parts := sides["llmc"].pop("parts", None):
        row["parts"] = parts
    memory = max(peak["read"], peak["copy"]) if kind == "cpu" else peak["copy"]
    if "memory" in seconds:
        memory = sides["memory"]["bytes"] / seconds["memory"]
    rate = case.amount / seconds["llmc"]
    row |= {"rate": rate, "share": rate / (peak[case.dtype] if case.unit == "FLOP/s" else memory)}
    if compared := [side for side in seconds if side in COMPARED]:
        peer = min(compared, key=seconds.get)
        row |= {"peer": peer, "ratio": seconds[peer] / seconds["llmc"]}
    return row


if __name__ == "__main__":
    cli.main(run)
