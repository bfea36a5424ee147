"""What an assistant has learned: its name, what it refuses and answers, what it remembers.

It is asked questions that its training had not, and the likeliest answers are judged by their
words: llmc identity's, and those that llmc synth --held_out wrote. Tasks that are to be done by a
tool have their tools.

    llmc assistant_report runs/quickstart --held_out asked.jsonl --name Pico
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from llmc import asking, cli, disk, identity, judge
from llmc.checkpoint import Checkpoint, open_checkpoint
from llmc.intervals import wilson
from llmc.judge import Row
from llmc.request import Request
from llmc.tools.toolbox import usual

if TYPE_CHECKING:
    from rich.table import Table

WHAT = {"name": "says its name", "harmful": "refuses harmful requests",
        "harmless": "answers harmless look-alikes", "follow_up": "answers follow-ups"}
FAMILY = {"letters": "counts letters", "addition": "adds"}     # the others: their names
WAY = {"tool": "with a tool", "direct": "at once", "steps": "step by step"}
TOOLS = ("python", "calculator")
AT_ONCE = 64                    # questions whose tools are there at a time


@dataclass
class AssistantReport:
    """Ask an assistant what its training had not, and count the right answers."""
    model: str = cli.positional()   # a run's folder (its newest checkpoint) or a checkpoint's
    held_out: Path | None = None    # questions that llmc synth --held_out wrote
    name: str = ""              # what the model is called; it is asked for it in 40 ways
    by_family: bool = False     # also count each family, and each kind of what is new
    unsafe_tools: bool = False  # run Python without holding it, where it cannot be held
    out: Path | None = None     # a file for all questions and answers, and whether they are right
    overwrite: bool = False     # replace the file if it is there
    max_tokens: cli.Count = 80  # longest answer
    device: str = "cpu"         # as `llmc doctor` lists them
    dtype: Literal["auto", "f32", "bf16", "int8"] = "auto"  # of the weights and what is computed,
                                # int8 of the weights alone; auto: as they are stored
    threads: cli.Threads = 0    # 0: one for each processor


class Answered(NamedTuple):
    """A question, what the model said, and whether that is right."""
    row: Row
    text: str
    right: bool


class Score(NamedTuple):
    """How many answers are right, and between which shares the model's own is, 19 times in 20."""
    what: str
    right: int
    n: int
    low: float
    high: float


def run(config: AssistantReport) -> None:
    from rich.console import Console

    rows = questions(config.held_out, config.name)
    if config.out:
        disk.check_new(config.out, "--out", config.overwrite)
    checkpoint = open_checkpoint(config.model, config.device, config.threads, config.dtype)
    if lost := asking.too_long(checkpoint, [row.asked for row in rows]):
        print(f"{lost} of {len(rows)} questions do not fit {checkpoint.config.max_seq_len} tokens "
              "of context with what stands before them; they count as wrong")
    answered = ask(checkpoint, rows, config.max_tokens, config.unsafe_tools)
    Console().print(table(scores(answered, config.by_family)))
    if config.out:
        save(config.out, answered)


def save(path: Path, answered: Sequence[Answered]) -> None:
    """A file of them, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(each.row.to_dict() | {"answer": each.text, "right": each.right},
                        ensure_ascii=False) + "\n" for each in answered]
    disk.write_whole(path, "".join(lines).encode())
    print(f"saved {path}: {len(lines):,} answers")


def questions(held_out: Path | None, name: str) -> list[Row]:
    """For a name, from a file, or both."""
    name = name.strip()
    if not name and held_out is None:
        raise ValueError("there is nothing to ask; give --name, or --held_out and a file that "
                         "llmc synth --held_out wrote")
    return [*(identity.held_out(name) if name else ()),
            *(judge.read_rows(held_out) if held_out else ())]


def ask(checkpoint: Checkpoint, rows: Sequence[Row], max_tokens: int = 80, unsafe: bool = False
        ) -> list[Answered]:
    """The likeliest answers; what the assistant said earlier is taken from the row. unsafe: Python
    is not held; a ValueError where it cannot be, and is wanted."""
    like, texts = Request([], max_tokens, temperature=0), [""] * len(rows)
    plain, called = ([at for at, row in enumerate(rows) if (row.way == "tool") is by]
                     for by in (False, True))
    for at, text in zip(plain, asking.answers(checkpoint, [rows[at].asked for at in plain], like)):
        texts[at] = text
    for begin in range(0, len(called), AT_ONCE):        # each of them may hold a process
        some = called[begin:begin + AT_ONCE]
        with ExitStack() as stack:
            boxes = [stack.enter_context(usual(TOOLS, unsafe=unsafe)) for _ in some]
            for at, turn in zip(some, asking.turns(checkpoint, [rows[at].asked for at in some],
                                                   like, boxes)):
                texts[at] = turn[-1].text if turn else ""
    return [Answered(row, text, judge.right(row, text)) for row, text in zip(rows, texts)]


def scores(answered: Sequence[Answered], by_family: bool = False) -> list[Score]:
    """Of each kind that there is, and below it of its parts; of tasks, of each family and way."""
    found = []
    for what, there in groups(answered).items():
        found.append(score(what, there))
        if not by_family or there[0].row.kind == "name":
            continue
        for part in ("unseen", *["family"] * (not there[0].row.way)):
            for name in sorted({getattr(each.row, part) for each in there} - {""}):
                label = f"  new {name}" if part == "unseen" else f"  {name}"
                found.append(score(label, [each for each in there
                                           if getattr(each.row, part) == name]))
    return found


def groups(answered: Sequence[Answered]) -> dict[str, list[Answered]]:
    """By what is counted, in the order of WHAT, and then of tasks."""
    found: dict[str, list[Answered]] = {what: [] for what in WHAT.values()}
    for each in answered:
        family, way = each.row.family, each.row.way
        what = WHAT.get(each.row.kind) or f"{FAMILY.get(family, family)} {WAY.get(way, '')}".strip()
        found.setdefault(what, []).append(each)
    return {what: there for what, there in found.items() if there}


def score(what: str, answered: Sequence[Answered]) -> Score:
    right = sum(each.right for each in answered)
    return Score(what, right, len(answered), *wilson(right, len(answered)))


def table(found: Sequence[Score]) -> Table:
    """For people."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    shown.add_column("the assistant")
    for heading in ("right", "of", "share", "95 % interval"):
        shown.add_column(heading, justify="right")
    for each in found:
        shown.add_row(each.what, f"{each.right:,}", f"{each.n:,}", f"{each.right / each.n:.1%}",
                      f"{each.low:.1%} to {each.high:.1%}")
    return shown


if __name__ == "__main__":
    cli.main(run)
