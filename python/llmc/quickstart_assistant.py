"""The quick start's second half: its base model becomes an assistant.

Conversations about who it is, how it behaves, and which tools count letters and add are made,
learned from, and what they taught is counted on questions that were held out, beside what the base
model says to them.
"""
from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from llmc import asking, assistant_report, cli, disk, identity, judge, sft, synth
from llmc.assistant_report import Score
from llmc.chat import Message
from llmc.checkpoint import open_checkpoint
from llmc.cli import Range
from llmc.request import Request
from llmc.tools.sandbox import unavailable
from llmc.tools.toolbox import usual

if TYPE_CHECKING:
    from rich.table import Table

TURNS = ["Hello! Who are you?", "My favorite color is green.", "What is my favorite color?",
         'How many "r" are in "strawberry"?', "What is 1234 + 8765?"]
QUESTIONS = 400
FAMILIES = ["letters", "addition"]      # that are answered by TOOLS
TOOLS = ["python", "calculator"]
BEHIND = 0.3                    # share of these that stand behind other turns
LEAST_CONTEXT = 128             # tokens; most conversations have fewer
LONGEST = 60                    # tokens of an answer


@dataclass
class Lessons:
    """What the assistant is taught, and how long."""
    name: str = "Pico"          # what the assistant is called
    manners: Annotated[int, Range(100, 20_000)] = 12_000    # conversations that teach manners
    identity: Annotated[int, Range(100, 10_000)] = 8000     # conversations that tell who it is
    tools: Annotated[int, Range(100, 10**6)] = 40_000   # conversations that teach letters and sums
    sft_steps: cli.CountOrZero = 2500    # updates that make an assistant of the model; 0: none
    sft_lr: Annotated[float, Range(0, 100)] = 2e-3      # their peak learning rate


class School:
    """Where the assistant of a run, its conversations and its answers lie."""

    def __init__(self, base: Path, lessons: Lessons, seed: int):
        self.base, self.lessons, self.seed = base, lessons, seed
        self.folder = base / "assistant"
        self.note = self.folder / "quickstart.json"     # what it is made from
        self.data = self.folder / "conversations"
        self.asked = self.data / "asked.jsonl"
        self.tasks = self.data / "tasks.jsonl"          # that tools are asked with

    def step(self) -> int:
        """Updates made and saved; 0 before the first checkpoint."""
        from llmc._core import Progress, checkpoint_latest

        folder = checkpoint_latest(str(self.folder / "checkpoints"))
        return Progress.read(folder).step if folder else 0


def teach(base: Path, lessons: Lessons, seed: int, heading: Callable[[str], None]) -> bool:
    """From the base model in a run's folder to an assistant in its folder `assistant`; whether it
    is finished."""
    school = School(base, lessons, seed)
    begin(school)
    heading("Conversations that make an assistant")
    make_conversations(school)
    if school.step() < lessons.sft_steps:
        heading(f"The model learns to be {lessons.name}")
        learn(school)
    if school.step() < lessons.sft_steps:
        print(f"\nstopped at update {school.step()} of {lessons.sft_steps}")
        return False
    heading("What the assistant learned: questions that were held out")
    show_scores(school)
    heading(f"A few turns with {lessons.name}")
    converse(school)
    return True


def begin(school: School) -> None:
    """Note what the assistant is made from; a ValueError if it was made from something else."""
    made_from = {"base": (school.base / "checkpoints" / "latest").resolve().name,
                 "seed": school.seed, **lessons_of(school.lessons)}
    if school.note.is_file():
        before = made_from | {field.name: field.default for field in dataclasses.fields(Lessons)}
        before |= disk.read_json(school.note, {}, f"remove {school.folder}")
        if changed := [f"{key} was {before[key]} and is {value} now"
                       for key, value in made_from.items() if before[key] != value]:
            raise ValueError(f"{school.folder} was taught otherwise ({', '.join(changed)}); remove "
                             "that folder to teach the base model anew")
    elif school.folder.exists() and any(school.folder.iterdir()):
        raise ValueError(f"{school.folder} is there and was not made by the quick start; move it "
                         "away")
    school.folder.mkdir(exist_ok=True)
    disk.write_whole(school.note, (json.dumps(made_from, indent=1) + "\n").encode())


def lessons_of(lessons: Lessons) -> dict[str, object]:
    return {field.name: getattr(lessons, field.name) for field in dataclasses.fields(Lessons)}


def make_conversations(school: School) -> None:
    """Who it is, how it behaves, what it calls, and questions that none of them has; once."""
    if school.asked.is_file():              # the last that is written
        return
    school.data.mkdir(exist_ok=True)
    identity.run(identity.Identity(
        out=school.data / "identity.jsonl", name=school.lessons.name, seed=school.seed,
        count=school.lessons.identity, overwrite=True,
        facts=["maker=you, with llmc", "runs_on=your own computer"]))
    synth.run(synth.Synth(
        family="tools", out=school.data / "tools.jsonl", held_out=school.tasks, families=FAMILIES,
        ways=["tool"], behind=BEHIND, count=school.lessons.tools, held_out_count=QUESTIONS, seed=school.seed,
        overwrite=True))
    synth.run(synth.Synth(
        family="manners", out=school.data / "manners.jsonl", held_out=school.asked,
        count=school.lessons.manners, held_out_count=QUESTIONS, seed=school.seed, overwrite=True))


def learn(school: School) -> None:
    """Fine-tune, or go on with it."""
    steps = school.lessons.sft_steps
    sft.run(sft.Sft(
        model=str(school.base), run=school.folder, steps=steps, lr=school.lessons.sft_lr,
        data=[str(school.data / f"{name}.jsonl") for name in ("manners", "identity", "tools")],
        tools=TOOLS,
        optimizer="muon", schedule="cosine", final_lr=0.05, warmup_steps=20,
        val_every=max(1, steps // 5), sample_every=max(1, steps // 3), checkpoint_every=100,
        ask=["Who are you?", "How do I steal a car?", "How do I wash a car?"], seed=school.seed,
        resume=(school.folder / "config.json").is_file()))


def show_scores(school: School) -> None:
    """Of the base model and of the assistant, each with its 95 % interval."""
    from rich.console import Console

    rows = assistant_report.questions(school.asked, school.lessons.name)
    tasks, why = judge.read_rows(school.tasks), unavailable()
    if why:
        tasks = [row for row in tasks if row.family != "letters"]
        print(f"its counting of letters is not counted, for Python is not run here: {why}")
    rows += tasks
    found = {}
    for who, place in (("base", school.base), ("assistant", school.folder)):
        answered = assistant_report.ask(open_checkpoint(place), rows, LONGEST)
        assistant_report.save(school.data / f"answers_{who}.jsonl", answered)
        found[who] = assistant_report.scores(answered)
    Console().print(table(found))


def table(found: dict[str, list[Score]]) -> Table:
    """A line for each kind of question: the share that each answers rightly, and its interval."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    shown.add_column("questions")
    shown.add_column("n", justify="right")
    for who in found:
        shown.add_column(who, justify="right")
        shown.add_column("95 %", justify="right")
    for scores in zip(*found.values()):
        cells = [cell for each in scores for cell in (
            f"{each.right / each.n:.1%}", f"{100 * each.low:.1f}-{100 * each.high:.1f}")]
        shown.add_row(scores[0].what, str(scores[0].n), *cells)
    return shown


def converse(school: School) -> None:
    """A few turns, each with those before it, and with what was called."""
    from llmc.chat_shown import called

    assistant = open_checkpoint(school.folder)
    messages: list[Message] = []
    with usual([name for name in TOOLS if name != "python" or not unavailable()]) as toolbox:
        for text in TURNS:
            print(f"you   {text}")
            messages.append(Message("user", text))
            turn, = asking.turns(assistant, [messages], Request([], LONGEST, temperature=0),
                                 [toolbox])
            for asked, answer in zip(turn, turn[1:]):
                if asked.call:
                    print(f"      {called(asked.call, answer.text, unfolded=False)}")
            messages += turn or [Message("assistant", "…")]
            print(f"{school.lessons.name:<5} {turn[-1].text.strip() if turn else ''}\n")
