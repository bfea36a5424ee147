"""Conversations and text made by rule, to be learned from by llmc sft and llmc pretrain.

manners: harmful requests that are refused, requests that sound alike and are answered, and
questions that need the turn before. tools: letters, numbers, dates and facts, each answered by a
tool, at once, or step by step. text: plain text of the same, for a tokenizer and a base model.
--held_out writes questions of the same kinds that no such data has, whatever the seed.

    llmc synth manners --out manners.jsonl --held_out asked.jsonl --count 3000
    llmc synth tools --out tools.jsonl --families letters addition --ways tool --count 8000
    llmc synth text --out exercises.txt --characters 1000000
"""
from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from llmc import cli, disk, manners, synth_facts, synth_text, synth_tools
from llmc.judge import Row
from llmc.synth_families import FAMILIES, Family

FLAGS = {                       # that only some take
    "families": ("tools", "text"), "ways": ("tools",), "index": ("tools",), "behind": ("tools",),
    "characters": ("text",), "count": ("manners", "tools"), "held_out": ("manners", "tools"),
    "held_out_count": ("manners", "tools")}


@dataclass
class Synth:
    """Write conversations or text made by rule; llmc synth_model has a model write them."""
    given: ClassVar[frozenset[str]] = frozenset()
    family: Literal["manners", "tools", "text"] = cli.positional()  # what they teach
    out: Path                   # the file: NAME.jsonl, a conversation a line; of text NAME.txt
    held_out: Path | None = None    # another, of questions that none of them has
    count: Annotated[int, cli.Range(1, 10**9)] = 3000   # conversations
    held_out_count: Annotated[int, cli.Range(1, 10**9)] = 400   # questions
    families: list[str] | None = None   # of tools and text: letters, letters_bare (without quotes),
                                # spelling, dots, addition, subtraction, multiplication, decimals,
                                # apples, sorting, weekday, days_between, and of tools facts; all of
                                # them if not given, facts where there is an --index
    ways: list[Literal["tool", "direct", "steps"]] | None = None    # how tools' questions are
                                # answered: by a tool, at once, step by step; all if not given
    behind: Annotated[float, cli.Range(0, 1)] = 0.0     # share of tools' conversations that stand
                                # behind other turns
    index: Path | None = None   # what llmc index made: where tools' facts are looked up
    characters: Annotated[int, cli.Range(1, 10**10)] = 1_000_000    # of text, at least
    seed: cli.Seed = 1337       # decides which
    overwrite: bool = False     # replace files that are there


def run(config: Synth) -> None:
    """Write the file, or both."""
    check(config)
    if config.family == "text":
        made = synth_text.text([*families(config)], config.characters, config.seed)
        save(config.out, made.encode(), f"{len(made):,} characters")
        return
    if config.family == "manners":
        training = manners.training(config.count, config.seed)
        held_out = manners.held_out(config.held_out_count, config.seed) if config.held_out else []
    else:
        named, ways = families(config), list(dict.fromkeys(config.ways or synth_tools.WAYS))
        training = synth_tools.training(named, ways, config.count, config.seed, config.behind)
        held_out = synth_tools.held_out(named, ways, config.held_out_count,
                                        config.seed) if config.held_out else []
    for path, rows in ((config.out, training), (config.held_out, held_out)):
        if path:
            save(path, as_lines(rows), f"{len(rows):,} conversations, {counted(rows)}")


def check(config: Synth) -> None:
    """A ValueError for what cannot be, before anything is made."""
    for flag, takers in FLAGS.items():
        if config.family not in takers and (flag in config.given or (
                flag in ("families", "ways", "index", "held_out") and getattr(config, flag))):
            raise ValueError(f"--{flag} is for {' and '.join(takers)}, and this is "
                             f"{config.family}; leave it out")
    outs = [path for path in (config.out, config.held_out) if path]
    if len({path.resolve() for path in outs}) < len(outs):
        raise ValueError(f"--out and --held_out are both {config.out}; wanted two files")
    ending = ".txt" if config.family == "text" else ".jsonl"
    for flag, path in zip(("--out", "--held_out"), outs):
        disk.check_new(path, flag, config.overwrite, ending)


def families(config: Synth) -> dict[str, Family]:
    """Those that are asked for."""
    known = [*FAMILIES, *["facts"] * (config.family == "tools")]
    names = list(dict.fromkeys(config.families or
                               [*FAMILIES, *["facts"] * bool(config.index)]))
    for name in names:
        if name not in known:
            raise ValueError(f"--families has {name!r}{cli.nearest(name, known)}; there are "
                             f"{', '.join(known)}")
    if ("facts" in names) != bool(config.index):
        raise ValueError("--families facts wants --index, a file that llmc index made"
                         if "facts" in names else
                         "--index is for facts, and --families does not name them; name them too")
    return {name: FAMILIES.get(name) or synth_facts.Facts(config.index) for name in names}


def counted(rows: Iterable[Row]) -> str:
    """How many of each kind, or of each family of tasks."""
    found: dict[str, int] = {}
    for row in rows:
        name = row.family if row.way else row.kind
        found[name] = found.get(name, 0) + 1
    return ", ".join(f"{found[name]:,} {name}" for name in sorted(found))


def save(path: Path, raw: bytes, what: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_whole(path, raw)
    print(f"saved {path}: {what}")


def as_lines(rows: Iterable[Row]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row.to_dict(), ensure_ascii=False) + "\n" for row in rows).encode()


if __name__ == "__main__":
    cli.main(run)
