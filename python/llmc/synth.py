"""Conversations made by rule, to be learned from by llmc sft: manners.

manners: harmful requests that are refused, requests that sound alike and are answered, and
questions that need the turn before. --held_out writes questions of the same kinds that no such
data has, for llmc assistant_report.

    llmc synth manners --out manners.jsonl --held_out asked.jsonl --count 3000
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from llmc import cli, disk, manners
from llmc.judge import Row

# Of each family of data: the rows to learn from, and those to ask, of a count and a seed.
Maker = Callable[[int, int], list[Row]]
FAMILIES: dict[str, tuple[Maker, Maker]] = {"manners": (manners.training, manners.held_out)}


@dataclass
class Synth:
    """Write conversations that are made by rule; llmc synth_model has a model write them."""
    family: Literal["manners"] = cli.positional()   # what they teach
    out: Path                   # the file: NAME.jsonl, a conversation a line
    held_out: Path | None = None    # another, of questions that none of them has
    count: Annotated[int, cli.Range(1, 10**9)] = 3000   # conversations
    held_out_count: Annotated[int, cli.Range(1, 10**9)] = 400   # questions
    seed: cli.Seed = 1337       # decides which
    overwrite: bool = False     # replace files that are there


def run(config: Synth) -> None:
    """Write the file, or both."""
    outs = [path for path in (config.out, config.held_out) if path]
    if len({path.resolve() for path in outs}) < len(outs):
        raise ValueError(f"--out and --held_out are both {config.out}; wanted two files")
    for flag, path in zip(("--out", "--held_out"), outs):
        disk.check_new(path, flag, config.overwrite, ".jsonl")
    training, held_out = FAMILIES[config.family]
    made = {config.out: training(config.count, config.seed)}
    if config.held_out:
        made[config.held_out] = held_out(config.held_out_count, config.seed)
    for path, rows in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.write_whole(path, as_lines(rows))
        kinds = {row.kind: sum(each.kind == row.kind for each in rows) for row in rows}
        print(f"saved {path}: {len(rows):,} conversations, "
              + ", ".join(f"{kinds[kind]:,} {kind}" for kind in sorted(kinds)))


def as_lines(rows: Iterable[Row]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in rows).encode()


if __name__ == "__main__":
    cli.main(run)
