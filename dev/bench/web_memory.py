"""How much memory prepare_fineweb takes to find duplicates: short documents are generated, and while it runs the
proportional set sizes of all its processes are added up, four times a second, phase by phase; those of tokens are also those of the shards.

    python dev/bench/web_memory.py [--documents 1000000] [--files 1] [--workers 2] [--memory 4000000000]

A tenth of the documents are copies, and a tenth copies but for a word. Linux alone.
"""
from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "web"))

from prose import Writer  # noqa: E402

REMEMBERED = 200_000            # documents that others may be copies of


def write(folder: Path, documents: int, files: int) -> None:
    writer, known = Writer(1), []
    rng = writer.rng
    outs = [(folder / f"{i}.jsonl").open("w") for i in range(files)]
    for i in range(documents):
        kind = rng.random() if known else 1
        text = writer.text(int(rng.integers(15, 26))) if kind > 0.2 else known[int(rng.integers(len(known)))]
        if kind < 0.1:
            words = text.split(" ")
            words[int(rng.integers(len(words)))] = "altered"
            text = " ".join(words)
        known += [text] * (len(known) < REMEMBERED)
        outs[i * files // documents].write(json.dumps({"text": text, "id": str(i)}) + "\n")
    for out in outs:
        out.close()


def tree(pid: int) -> list[int]:
    """A process and all that it started, and those started."""
    try:
        children = [int(each) for path in Path(f"/proc/{pid}/task").glob("*/children")
                    for each in path.read_text().split()]
    except OSError:                             # it has ended
        children = []
    return [pid, *(each for child in children for each in tree(child))]


def proportional(pid: int) -> int:
    """Bytes; of pages that several processes share, each has its part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=1, help="each is a task's share")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", type=int, default=4_000_000_000)
    config = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "in").mkdir()
        write(folder / "in", config.documents, config.files)
        (folder / "recipe.yaml").write_text("steps: [exact, minhash]")
        ran = subprocess.Popen(
            [sys.executable, "-m", "llmc", "prepare_fineweb", "--source", str(folder / "in"), "--out",
             str(folder / "out"), "--recipe", str(folder / "recipe.yaml"), "--workers", str(config.workers),
             "--memory", str(config.memory)])
        logs, peaks = folder / "out" / "work" / "logs", {}
        while ran.poll() is None:
            begun = {path.stat().st_mtime: path.name for path in logs.glob("*")}
            phase = begun[max(begun)] if begun else "start"
            each = [proportional(pid) for pid in tree(ran.pid)]
            peaks[phase] = max(peaks.get(phase, (0, 0, 0)), (sum(each), max(each), len(each)))
            time.sleep(0.25)
        for name, (whole, largest, count) in peaks.items():
            print(f"{name:<24}{whole / 1e6:>8,.0f} MB in {count} processes, the largest {largest / 1e6:,.0f}")
        sys.exit(ran.returncode)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
