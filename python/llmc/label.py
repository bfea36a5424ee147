"""A person writes the answers that a model is to learn from: prompts in, conversations out.

Each prompt is shown, with a draft if there is one: the model's, or the answer that the prompt's
conversation had. Every answer is saved at once, as a line of --out; what was skipped or is bad, in
NAME.passed.jsonl beside it. Started again, it goes on where it stopped.

    llmc label prompts.jsonl --out answers.jsonl --model runs/quickstart
"""
from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llmc import asking, chat, cli, conversations, disk
from llmc.chat import Message
from llmc.checkpoint import Checkpoint, open_checkpoint
from llmc.prompts import read_prompts, read_text
from llmc.request import Request
from llmc.terminal import on_ctrl_c, printable, signals_heard

KEYS = {"w": "write", "e": "edit", "a": "accept", "s": "skip", "b": "bad", "g": "guidelines",
        "h": "help", "q": "quit"}
HELP = """w  write an answer here; a line with only a dot ends it
e  write it in your editor ($VISUAL or $EDITOR), beginning with the draft
a  accept: save the answer that is shown, and go on
s  skip: another person may know; --again brings it back
b  bad: the prompt makes no sense, or should not be answered by anyone
g  the guidelines
q  quit; all is saved, and the same command goes on here"""


@dataclass
class Label:
    """Write answers, or mend a model's, one prompt after the other."""
    prompts: Path = cli.positional()    # conversations that end with a question, or whose last
                                # answer is to be written anew; .txt: a question a line
    out: Path                   # the file: NAME.jsonl; what is there stays, and is gone on with
    model: str = ""             # a run or a checkpoint that writes drafts
    labeller: str = ""          # who writes, noted with each answer
    again: bool = False         # bring back what was skipped
    max_tokens: cli.Count = 400     # longest draft
    temperature: float = 0.7    # of drafts; 0: the likeliest
    seed: cli.Seed = 1337       # of drafts
    device: str = "cpu"         # as `llmc doctor` lists them
    dtype: Literal["auto", "f32", "bf16", "int8"] = "auto"  # of the weights and what is computed,
                                # int8 of the weights alone; auto: as they are stored
    threads: cli.Threads = 0    # 0: one for each processor


class Task(NamedTuple):
    """What is to be answered, and the answer that there was."""
    messages: list[Message]
    before: str = ""

    @property
    def key(self) -> str:
        """The same for the same prompt."""
        return json.dumps(chat.to_dict(self.messages))


class Answer(NamedTuple):
    """As far as it is written. own: a person has worked on it."""
    text: str
    whose: str                  # draft, answer before, answer
    own: bool = False


def run(config: Label) -> None:
    """Ask until all is answered, or the person leaves."""
    if config.out.suffix != ".jsonl":
        raise ValueError(f"--out is {config.out}, wanted a name that ends in .jsonl")
    if config.out.resolve() == config.prompts.resolve():
        raise ValueError(f"{config.out} has the prompts; give another file to --out")
    folder = next(each for each in config.out.absolute().parents if each.exists())
    if not os.access(config.out if config.out.exists() else folder, os.W_OK):
        raise ValueError(f"{config.out} cannot be written; give another place to --out")
    tasks = read_tasks(config.prompts)
    there = Store(config.out)
    done = there.done(config.again)
    left = [task for task in tasks if task.key not in done]
    if not left:
        print(f"all {len(tasks):,} prompts are done: {there.counted()}")
        return
    checkpoint = None
    if config.model:
        checkpoint = open_checkpoint(config.model, config.device, config.threads, config.dtype)
    with suppress(ImportError):
        import readline                 # noqa: F401  (input() then lets a line be edited)
    with signals_heard():
        Session(config, there, checkpoint).all(left, len(tasks))


def read_tasks(path: Path) -> list[Task]:
    """The prompts of a file, each once."""
    if path.suffix == ".txt":
        found = [Task([Message("user", text)]) for text in read_prompts(path)]
    else:
        found = [task_of(each) for file in conversations.find(path)
                 for each in conversations.read(file)]
    if not found:
        raise ValueError(f"{path} holds no prompt")
    once: dict[str, Task] = {}
    for task in found:
        once.setdefault(task.key, task)
    return list(once.values())


def task_of(conversation: conversations.Conversation) -> Task:
    """What comes before the answer."""
    messages, before = conversation.messages, ""
    if messages[-1].role == "assistant":
        messages, before = messages[:-1], messages[-1].text
    if not messages or messages[-1].role not in ("user", "tool"):
        raise ValueError(f"{conversation.place}: there is no question to answer; wanted a "
                         "conversation that ends with the user, or an answer to the user")
    return Task(messages, before)


class Store:
    """What was written, in files that only grow."""

    def __init__(self, out: Path):
        self.out = out
        self.passed = out.with_name(f"{out.stem}.passed.jsonl")
        out.parent.mkdir(parents=True, exist_ok=True)

    def done(self, again: bool) -> set[str]:
        """The keys of the prompts that need no answer any more."""
        done = {task_of(each).key for each in self._read(self.out)}
        for row in self._rows(self.passed):
            if row["why"] != "skipped" or not again:
                done.add(Task(chat.from_dict(row)).key)
        return done

    def counted(self) -> str:
        """What there is, for people."""
        why = Counter(row["why"] for row in self._rows(self.passed))
        parts = [f"{sum(1 for _ in self._read(self.out)):,} answers in {self.out}",
                 *(f"{why[each]:,} {each}" for each in sorted(why))]
        return ", ".join(parts)

    def answer(self, task: Task, text: str, more: dict[str, Any]) -> None:
        row = chat.to_dict([*task.messages, Message("assistant", text)])
        append(self.out, row | more)

    def leave(self, task: Task, why: str, more: dict[str, Any]) -> None:
        append(self.passed, chat.to_dict(task.messages) | {"why": why} | more)

    def unfinished(self, task: Task) -> Path:
        """Where what was typed and not accepted waits for the next time."""
        name = hashlib.sha256(task.key.encode()).hexdigest()[:16]
        return self.out.with_name(f".{self.out.stem}.{name}.unfinished.md")

    @staticmethod
    def _read(path: Path) -> Iterable[conversations.Conversation]:
        return conversations.read(path) if path.is_file() else ()

    @staticmethod
    def _rows(path: Path) -> list[dict[str, Any]]:
        if not path.is_file():
            return []
        wanted = {"messages": list, "why": str}
        return [disk.parse_json(line, f"{path}, line {number}", wanted)
                for number, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()]


def append(path: Path, row: dict[str, Any]) -> None:
    """A line more, which is on the disk when this returns."""
    line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
    with disk.naming(path), path.open("ab+", buffering=0) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":           # written by hand, or cut off
                line = b"\n" + line
        file.write(line)
        os.fsync(file.fileno())


class Session:
    """A person at a terminal."""

    def __init__(self, config: Label, store: Store, checkpoint: Checkpoint | None):
        from rich.console import Console

        self.config, self.store, self.checkpoint = config, store, checkpoint
        self.console = Console(highlight=False, soft_wrap=True)
        self.answer = Answer("", "answer")
        self.written = 0

    def all(self, tasks: Sequence[Task], total: int) -> None:
        """One after the other."""
        before, stopped = total - len(tasks), False
        for number, task in enumerate(tasks, before + 1):
            self.console.rule(f"{number:,} of {total:,}")
            try:
                self.one(task)
            except (KeyboardInterrupt, EOFError):
                stopped = True
            finally:                            # also where the terminal is closed
                if self.answer.own and self.answer.text:
                    disk.write_whole(self.store.unfinished(task), self.answer.text.encode())
            if stopped:
                break
        print(f"\n{self.written:,} answers now; {self.store.counted()}")

    def one(self, task: Task) -> None:
        """Until it is saved or passed; EOFError where the person leaves."""
        began = time.monotonic()
        for message in task.messages:
            self.show(message.role, message.text)
        self.answer = self.begin(task)
        if self.answer.text:
            self.show(self.answer.whose, self.answer.text)
        while True:
            key = self.key()
            more = {"labeller": self.config.labeller} if self.config.labeller else {}
            more["seconds"] = round(time.monotonic() - began, 1)
            if key == "a" and self.answer.text.strip():
                self.store.answer(task, self.answer.text.strip(), more)
                self.written += 1
                break
            if key in ("s", "b"):
                self.store.leave(task, {"s": "skipped", "b": "bad"}[key], more)
                break
            self.do(key)
        self.store.unfinished(task).unlink(missing_ok=True)
        self.answer = Answer("", "answer")

    def begin(self, task: Task) -> Answer:
        """What was typed before, or the model's draft, or the answer that there was."""
        if (kept := self.store.unfinished(task)).is_file():
            return Answer(read_text(kept), "answer", own=True)
        if self.checkpoint:
            like = Request([], self.config.max_tokens, self.config.temperature,
                           seed=self.config.seed)
            try:
                if draft := asking.answers(self.checkpoint, [task.messages], like)[0]:
                    return Answer(draft, "draft")
                print("no draft: the model says nothing, or its context is too short for the prompt")
            except KeyboardInterrupt:
                print("no draft")
            except ValueError as error:
                print(f"no draft: {cli.sentence(error)}")
        return Answer(task.before, "answer before")

    def key(self) -> str:
        """What the person wants to do."""
        options = " ".join(f"[{key}]{word[1:]}" for key, word in KEYS.items()
                           if key != "a" or self.answer.text.strip())
        return input(f"{options} > ").strip().lower()[:1]

    def do(self, key: str) -> None:
        """What leaves the prompt where it is."""
        if key == "q":
            raise EOFError
        if key in ("w", "e"):
            before = self.answer
            self.write() if key == "w" else self.edit()
            if self.answer != before:
                self.show(self.answer.whose, self.answer.text)
        elif key == "g":
            self.guidelines()
        elif key == "a":
            print("there is no answer yet; w or e writes one")
        else:
            print(HELP)

    def write(self) -> None:
        """Lines, up to one with a dot; Ctrl-C ends it, too, and keeps them."""
        print("your answer; a line with only a dot ends it")
        lines: list[str] = []
        try:
            while (line := input()) != ".":
                lines.append(line)
        except EOFError:
            print()
        except KeyboardInterrupt:
            print()
            lines.append(typed())
        finally:
            if any(line.strip() for line in lines):
                text = "\n".join(lines).encode("utf-8", "replace").decode()     # odd bytes become ?
                self.answer = Answer(text.strip(), "answer", own=True)

    def edit(self) -> None:
        """In the person's editor."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "answer.md")
            path.write_text(self.answer.text + "\n" * bool(self.answer.text), encoding="utf-8")
            try:
                status = call([*editor(), str(path)])
                if status:
                    print(f"the editor ended with status {status}")
            except (OSError, ValueError) as error:
                print(f"no editor: {cli.sentence(error)}; set EDITOR, or write with w")
            finally:
                self.take(path)

    def take(self, path: Path) -> None:
        """What an editor left."""
        try:
            text = read_text(path).strip()
        except (OSError, ValueError) as error:
            print(f"nothing was taken: {cli.sentence(error)}")
            return
        if text != self.answer.text.strip():
            self.answer = Answer(text, "answer", own=True)

    def show(self, whose: str, text: str) -> None:
        from rich.text import Text

        style = {"user": "bold cyan", "answer": "bold green"}.get(whose, "bold magenta")
        self.console.print(Text.assemble((f"{whose}: ", style), printable(text)))

    def guidelines(self) -> None:
        from rich.markdown import Markdown

        self.console.print(Markdown(read_text(find_guidelines())), soft_wrap=False)


def editor() -> list[str]:
    """The person's own; else one that is there."""
    own = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if own:
        return shlex.split(own)
    if there := next((name for name in ("nano", "vim", "vi") if shutil.which(name)), None):
        return [there]
    raise ValueError("neither nano nor vi is there")


def typed() -> str:
    """The line that Ctrl-C has interrupted, as far as it was typed."""
    readline = sys.modules.get("readline")
    return readline.get_line_buffer() if readline else ""


def call(argv: list[str]) -> int:
    """Run a program in the terminal; Ctrl-C is its own affair meanwhile."""
    with on_ctrl_c(lambda: None):
        return subprocess.run(argv).returncode


def find_guidelines() -> Path:
    """At the top of the repository, or in the installed package."""
    places = [Path(__file__).parents[2], *map(Path, sys.modules["llmc"].__path__)]
    for place in places:
        if (place / "GUIDELINES.md").is_file():
            return place / "GUIDELINES.md"
    raise ValueError("GUIDELINES.md is not there; it lies at the top of the repository")


if __name__ == "__main__":
    cli.main(run)
