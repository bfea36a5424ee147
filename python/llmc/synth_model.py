"""A model writes answers to be learned from, and those that a verifier accepts are kept.

Each prompt of --seeds is answered until --keep answers are accepted, or --n were asked for. What a
model thinks is kept as thinking, so that a thinking model can be learned from. Every answer is on
the disk at once, in OUT.asked; stopped and started again, it goes on there and asks nothing twice.

    llmc synth_model runs/quickstart/assistant --seeds asked.jsonl --verify want --out right.jsonl
    llmc synth_model http://127.0.0.1:8080 --seeds asked.jsonl --verify number --n 8 --out a.jsonl
"""
from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from llmc import asking, chat, chat_api, cli, conversations, disk, judge, verify
from llmc.chat import Message
from llmc.label import append
from llmc.patience import ASKS, TRIES
from llmc.prompts import read_prompts
from llmc.request import STREAMS, Request

SAY_EVERY = 10.0                # seconds between two lines about how far it is
AT_ONCE = 1000                  # prompts in memory of a checkpoint's engine
MOST_REFUSED = 20               # questions that a server may refuse before it answers one
MADE_BY = ("name", "system", "max_tokens", "temperature", "top_p", "seed")


@dataclass
class SynthModel:
    """Have a model write answers, and keep those that a verifier accepts."""
    model: str = cli.positional()   # a run's folder (its newest checkpoint), a checkpoint's, or
                                # http://… of a server with /v1/chat/completions
    seeds: Path                 # prompts: conversations, whose last answer is written anew, or
                                # {"prompt"} or {"question"} a line; .txt: a question a line
    out: Path                   # the file: NAME.jsonl, a conversation a line
    verify: str = ""            # what is kept: number (its last number is that of the right
                                # answer), exact, want (it has the words that the row wants), or
                                # FILE.py:NAME, a function of a row and an answer; "": all
    n: Annotated[int, cli.Range(1, STREAMS)] = 1    # answers that a prompt is asked for, at most
    keep: cli.Count = 1         # of these kept, at most
    name: str = ""              # of the model, where a server has several
    system: str = ""            # said to the model beforehand, and not written
    max_tokens: cli.Count = 1024    # longest answer; a longer one is cut, and not kept
    temperature: float = 0.7    # 0: the likeliest token every time; 1: as the model has learned
    top_p: float = 1.0          # draw from the likeliest tokens that make up this probability
    seed: cli.Seed = 1337       # another seed, other answers
    parallel: cli.Count = 8     # answers that a server is asked for at a time
    overwrite: bool = False     # begin anew, though there are answers
    device: str = "cpu"         # as `llmc doctor` lists them
    dtype: Literal["auto", "f32", "bf16", "int8"] = "auto"  # of the weights and what is computed,
                                # int8 of the weights alone; auto: as they are stored
    threads: cli.Threads = 0    # 0: one for each processor


@dataclass
class Seed:
    """A prompt, where it stands, and of its answers by their number what is kept, or why not."""
    messages: list[Message]
    right: str                  # the right answer, if it is known
    row: dict[str, Any]
    place: str
    kept: dict[int, list[Message]] = field(default_factory=dict)
    verdicts: dict[int, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for the same prompt."""
        said = json.dumps(chat.to_dict(self.messages))
        return hashlib.sha256(said.encode()).hexdigest()[:16]


class Answer(NamedTuple):
    """The messages of a turn, or why there is nothing to keep of it."""
    messages: list[Message]
    fault: str = ""


# What asks a model: of seeds, and the number of the answer, the answers as they come.
Ask = Callable[[Sequence[Seed], int], Iterable[tuple[Seed, Answer]]]


def run(config: SynthModel) -> None:
    """Ask, judge, and write what is kept, also where it is stopped."""
    if config.temperature == 0 and config.n > 1:
        raise ValueError(f"--n is {config.n}, and with --temperature 0 all answers would be the "
                         "same; raise it, or leave --n out")
    if config.keep > config.n:
        raise ValueError(f"--keep is {config.keep}, but only --n {config.n} answers are asked for")
    accepts = verify.by_name(config.verify)
    log = Log(config)
    disk.check_new(config.out, "--out", config.overwrite or log.path.is_file(), ".jsonl")
    if config.out.resolve() == config.seeds.resolve():
        raise ValueError(f"{config.out} has the prompts; give another file to --out")
    seeds = read_seeds(config.seeds)
    if config.verify in verify.BY_RIGHT_ANSWER:
        for seed in seeds:
            judged(seed, Answer([Message("assistant")]), accepts)   # it has what is to be compared
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with log.locked():
        known = log.read()
        for seed in seeds:
            for number, answer in sorted(known.get(seed.key, {}).items()):
                take(seed, number, answer, accepts, config)
        before = sum(len(seed.verdicts) for seed in seeds)
        try:
            ask_all(config, seeds, accepts, log)
        finally:
            if any(seed.verdicts for seed in seeds):
                save(config, seeds, before)


def ask_all(config: SynthModel, seeds: Sequence[Seed], accepts: verify.Verify, log: Log) -> None:
    """What is left to ask; each answer is written down before it is judged."""
    ask: Ask | None = None
    said = time.monotonic()
    for number in range(config.n):
        if all(len(seed.kept) >= config.keep for seed in seeds):
            return
        left = [seed for seed in seeds
                if number not in seed.verdicts and len(seed.kept) < config.keep]
        if left and ask is None:
            ask = by_server(config) if chat_api.is_url(config.model) else by_model(config)
        for count, (seed, answer) in enumerate(ask(left, number) if ask else (), 1):
            log.add(seed, number, answer)
            take(seed, number, answer, accepts, config)
            if time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                print(f"answer {number + 1} of {config.n}: {count:,} of {len(left):,} asked, "
                      f"{sum(bool(each.kept) for each in seeds):,} of {len(seeds):,} prompts have "
                      "one", file=sys.stderr)


# ---- prompts -------------------------------------------------------------------------------------


def read_seeds(path: Path) -> list[Seed]:
    """The prompts of a file or a folder, each once."""
    if path.suffix == ".txt":
        found = [Seed([Message("user", text)], "", {"prompt": text}, f"{path}: {text[:40]!r}")
                 for text in read_prompts(path)]
    else:
        found = []
        for file in conversations.find(path):
            for row, place in conversations.rows(file):
                try:
                    found.append(seed_of(row, place))
                except ValueError as error:
                    raise ValueError(f"{place}: {error}") from None
    if not found:
        raise ValueError(f"{path} holds no prompt")
    once: dict[str, Seed] = {}
    for seed in found:
        once.setdefault(seed.key, seed)
    if again := len(found) - len(once):
        print(f"{again:,} of {len(found):,} prompts are there already")
    return list(once.values())


def seed_of(row: Any, place: str) -> Seed:
    """Of a row of any file that llmc sft reads, also without an answer."""
    if isinstance(row, ValueError):
        raise row
    more = {"response", "answer", "completion", "messages", "conversations", "message_tree_id"}
    alone = [] if not isinstance(row, dict) or more & {*row} else [row[key] for key in ("prompt", "question")
                                 if isinstance(row.get(key), str)]
    messages = [Message("user", alone[0])] if alone else conversations.messages_of(row)
    chat.check(messages)
    asked = max((at for at, each in enumerate(messages, 1) if each.role == "user"), default=0)
    if not asked:
        raise ValueError("nobody asks anything; wanted a conversation with the user")
    right = row.get("want") or (messages[-1].text if len(messages) > asked else "")
    return Seed(messages[:asked], str(right), row, place)


# ---- answers -------------------------------------------------------------------------------------


def take(seed: Seed, number: int, answer: Answer, accepts: verify.Verify,
         config: SynthModel) -> None:
    """An answer is kept, or the reason is."""
    if len(seed.kept) >= config.keep or number >= config.n:
        seed.verdicts[number] = "not needed"
        return
    seed.verdicts[number] = judged(seed, answer, accepts)
    if not seed.verdicts[number]:
        seed.kept[number] = answer.messages


def judged(seed: Seed, answer: Answer, accepts: verify.Verify) -> str:
    """Why an answer is not kept, or nothing."""
    if answer.fault:
        return answer.fault
    if answer.messages in seed.kept.values():
        return "the same as another"
    try:
        right = accepts(seed.row, seed.right, answer.messages[-1].text)
    except ValueError as error:
        raise ValueError(f"{seed.place}: {error}") from error
    return "" if right else "wrong"


def whole(seed: Seed, messages: Sequence[Message], cut: bool) -> Answer:
    """What a model wrote, if it can be learned from."""
    if cut:
        return Answer([], "cut at --max_tokens")
    if not messages or not messages[-1].text.strip() and not messages[-1].call:
        return Answer([], "empty")
    if messages[-1].call:
        return Answer([], "ends with the call of a tool")
    try:
        chat.check([*seed.messages, *messages])
    except ValueError:
        return Answer([], "no turn of an assistant")
    return Answer([*messages])


def asked_with(seed: Seed, system: str) -> list[Message]:
    """With what is said to the model beforehand."""
    return chat.with_system(seed.messages, system)


def by_model(config: SynthModel) -> Ask:
    """A checkpoint's answers."""
    from llmc.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(config.model, config.device, config.threads, config.dtype)
    manner = chat.manner_of(checkpoint.path, checkpoint.tokenizer)
    like = Request([], config.max_tokens, config.temperature, top_p=config.top_p, seed=config.seed)

    def ask(seeds: Sequence[Seed], number: int) -> Iterator[tuple[Seed, Answer]]:
        for begin in range(0, len(seeds), AT_ONCE):
            requests = {}
            for at, seed in enumerate(seeds[begin:begin + AT_ONCE], begin):
                request = asking.request(checkpoint, manner, asked_with(seed, config.system),
                                         replace(like, stream=number))
                if len(request.prompt) < checkpoint.config.max_seq_len:
                    requests[at] = request
                else:
                    yield seed, Answer([], "longer than the context")
            for at, result in asking.results(checkpoint, requests):
                messages = asking.turn(checkpoint, manner, asked_with(seeds[at], config.system),
                                       requests[at], result)
                yield seeds[at], whole(seeds[at], messages, result.finish in ("length", "context"))

    return ask


def by_server(config: SynthModel) -> Ask:
    """A server's. It may refuse a question, for instance one that is too long, but not all."""
    settings = {"model": config.name or "default", "max_tokens": config.max_tokens,
                "temperature": config.temperature, "top_p": config.top_p}
    server, answered = chat_api.Server(config.model, settings), False

    def ask(seeds: Sequence[Seed], number: int) -> Iterator[tuple[Seed, Answer]]:
        nonlocal answered
        refused: list[tuple[Seed, Exception]] = []

        def one(seed: Seed) -> tuple[Message, str]:
            return server.ask(asked_with(seed, config.system), TRIES if answered else ASKS,
                              seed=config.seed + number)

        for seed, found in chat_api.in_threads(one, seeds, config.parallel):
            if isinstance(found, chat_api.Refused):
                refused.append((seed, found))
                if not answered and len(refused) >= min(MOST_REFUSED, len(seeds)):
                    raise found
            elif isinstance(found, Exception):
                raise found
            else:
                answered = True
                message, end = found
                fault = "ends with the call of a tool" if end == "tool_calls" else ""
                yield seed, (Answer([], fault) if fault
                             else whole(seed, [message], end == "length"))
            while answered and refused:
                yield refused.pop()[0], Answer([], "refused by the server")
        if refused:
            raise refused[0][1]

    return ask


# ---- files ---------------------------------------------------------------------------------------


class Log:
    """What a model answered, in a file that only grows; its first line says how it was asked."""

    def __init__(self, config: SynthModel):
        self.config, self.path = config, config.out.with_name(f"{config.out.name}.asked")
        self.anew = config.overwrite        # what is there goes when the first answer comes

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other program writes meanwhile; a file in which nothing was written goes again."""
        with self.path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(f"{self.path}: another program is writing there; wait for it, or "
                                 "give another --out") from None
            try:
                yield
            finally:
                if not self.path.stat().st_size:
                    self.path.unlink()

    def read(self) -> dict[str, dict[int, Answer]]:
        """By prompt and number. A ValueError where it was asked otherwise."""
        raw = b"" if self.anew else self.path.read_bytes()
        if b"\n" not in raw:
            self.anew = True
            return {}
        lines = raw.splitlines()
        before = disk.parse_json(lines[0], f"{self.path}, line 1", {"made_by": dict})["made_by"]
        for name, value in self._made_by().items():
            if before.get(name) != value:
                raise ValueError(f"{self.path} has answers that were asked for with --{name} "
                                 f"{before.get(name)}, and now it is {value}; give the same, "
                                 "another --out, or --overwrite")
        found: dict[str, dict[int, Answer]] = {}
        lost = 0
        for line in filter(bytes.strip, lines[1:]):
            try:
                row = disk.parse_json(line, "", {"key": str, "answer": int, "messages": list,
                                                 "fault": str})
                messages = chat.from_dict(row) if row["messages"] or not row["fault"] else []
            except ValueError:              # cut off as it was written
                lost += 1
                continue
            found.setdefault(row["key"], {})[row["answer"]] = Answer(messages, row["fault"])
        if lost:
            print(f"{self.path}: {lost} lines are damaged, and their answers are asked for again")
        return found

    def add(self, seed: Seed, number: int, answer: Answer) -> None:
        """It is on the disk when this returns."""
        if self.anew:
            os.truncate(self.path, 0)
            append(self.path, {"made_by": self._made_by()})
            self.anew = False
        rows = chat.to_dict(answer.messages)["messages"]
        append(self.path, {"key": seed.key, "answer": number, "messages": rows,
                           "fault": answer.fault})

    def _made_by(self) -> dict[str, str]:
        """What decides how an answer comes out."""
        from llmc.checkpoint import find_checkpoint

        model = self.config.model
        given = model if chat_api.is_url(model) else find_checkpoint(model)
        return {"model": str(given)} | {name: str(getattr(self.config, name)) for name in MADE_BY}


def save(config: SynthModel, seeds: Iterable[Seed], before: int) -> None:
    """What is kept, and say what became of the rest."""
    seeds = list(seeds)
    extra = [each.name for each in fields(judge.Row) if each.name != "messages"]
    lines = [json.dumps(chat.to_dict([*seed.messages, *messages])
                        | {key: seed.row[key] for key in extra if key in seed.row},
                        ensure_ascii=False) + "\n"
             for seed in seeds for _, messages in sorted(seed.kept.items())]
    disk.write_whole(config.out, "".join(lines).encode("utf-8", "replace"))
    why = Counter(reason or "kept" for seed in seeds for reason in seed.verdicts.values())
    total = sum(why.values())
    parts = [f"{why.pop('kept', 0):,} kept", *(f"{count:,} {reason}"
                                               for reason, count in why.most_common())]
    print(f"asked for {total:,} answers" + f" ({before:,} of them earlier)" * bool(before)
          + f": {', '.join(parts)}")
    have = sum(bool(seed.kept) for seed in seeds)
    left = sum(len(seed.kept) < config.keep and len(seed.verdicts) < config.n for seed in seeds)
    print(f"saved {config.out}: {len(lines):,} conversations, of {have:,} of {len(seeds):,} prompts"
          + f"; {left:,} prompts are left, and the same command goes on" * bool(left))


if __name__ == "__main__":
    cli.main(run)
