"""A base model learns to answer: conversations in, a model that one can chat with out.

    llmc sft runs/quickstart --data chat.jsonl identity.jsonl=2 --run runs/assistant

Only what the assistant is to write is learned: its thoughts, answers and calls, and the tokens that
end them. Several conversations share a row, and none sees another; the loss is the mean over all
tokens that are learned in an update.
"""
from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from llmc import chat, cli, disk, packing, tuned_model
from llmc._core import Comm, Device, Model, training_bytes
from llmc.chat import Message, Rendered
from llmc.checkpoint import find_checkpoint
from llmc.cli import Range
from llmc.engine import Engine
from llmc.mixture import LEFT_OUT, Conversations, Order, Report, load
from llmc.packing import Rows
from llmc.request import Request
from llmc.training import Load, Look, Loop, processes, shown
from llmc.tools.toolbox import check_names
from llmc.training_flags import Training, start_ranks
from llmc.tuned_model import Base

ASKED = ["Hello!", "Who are you?", "What is the capital of France?"]


@dataclass
class Taught:
    """What is taught to which model."""
    model: str = cli.positional("")     # a run's folder (its newest checkpoint) or a checkpoint's
    data: list[str] = field(default_factory=list)   # conversations: files, folders, or datasets as
                                # hub:OWNER/NAME; with =2 behind it an epoch brings them twice, with
                                # =0.1 a tenth of them, the next epoch another
    epochs: Annotated[float, Range(0.001, 1000)] = 2.0  # times that all are learned from
    val_fraction: Annotated[float, Range(0, 0.5)] = 0.02    # share of the conversations held out
    val_conversations: cli.Count = 256  # of them the loss is measured on, at most
    template: Literal["", "llmc", "chatml", "llama3"] = ""  # how they are written; without it as the
                                # model knows it, or llmc
    system: str = ""            # the system's message where a conversation has none, here and later
    tools: list[str] = field(default_factory=list)  # python, calculator, search: those that the
                                # conversations call, so that llmc chat has them ready
    packed: bool = True         # several conversations in a row; off: one, with room left
    skip_bad: bool = False      # leave out rows and lines that cannot be read; left_out.txt of the
                                # run names each
    ask: list[str] = field(default_factory=lambda: list(ASKED))     # what samples answer
    sample_tokens: cli.Count = 100  # longest answer of a sample
    lora_rank: Annotated[int, Range(0, 2**16)] = 0  # train adapters of this rank beside frozen
                                # weights; 0: train the weights
    lora_alpha: Annotated[float, Range(0, 1e6)] = 0.0   # adapters count alpha / rank times; 0: twice
                                # the rank
    lora_matrices: list[str] = field(default_factory=lambda: ["qkv", "proj", "up", "down"])
                                # the matrices that get adapters


@dataclass
class Sft(Training, Taught):
    """Teach a base model to answer, from conversations."""
    run: Path = Path("runs/sft")

    def same(self, name: str, before: object, now: object) -> bool:
        """A model is the same by any of its names."""
        if name == "model" and Path(str(now)).exists():
            return find_checkpoint(str(now)).resolve() == Path(str(before)).resolve()
        return super().same(name, before, now)


def run(config: Sft) -> None:
    """Train, or go on; a run's failure leaves its checkpoints."""
    if start_ranks(config, "llmc.sft"):
        return
    if config.resume and config.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite removes it; give one of them")
    given = config.given
    if config.resume:
        config = config.resumed()
        config.given = given
    check(config)
    with processes(config) as comm, shown(config.plain) as say:
        train(config, comm, say)


def check(config: Sft) -> None:
    """A ValueError for what cannot be."""
    if not config.model:
        raise ValueError("the model is missing: give a run or a checkpoint to start from, such as "
                         "runs/quickstart")
    if not config.data:
        raise ValueError("--data is missing: give files of conversations, such as chat.jsonl")
    if unused := {"lora_alpha", "lora_matrices"} & config.given if not config.lora_rank else ():
        raise ValueError(f"--{min(unused)} is for adapters; give --lora_rank too, or leave it out")
    check_names(config.tools)
    if "" in map(str.strip, config.ask):
        raise ValueError("--ask is empty; wanted a question")
    if config.dtype == "int8" and not config.lora_rank:
        raise ValueError("int8 weights are not trained; give --lora_rank, or another --dtype")


def train(config: Sft, comm: Comm, say: Callable[[str], None]) -> None:
    """One run, on this rank."""
    base = tuned_model.open_base(config.model, config.template, config.system, config.tools)
    keep_apart(config.run, base.path)
    T = config.seq_len or base.config.max_seq_len
    if T > base.config.max_seq_len:
        raise ValueError(f"--seq_len is {T:,}, but the model's context holds "
                         f"{base.config.max_seq_len:,}")
    if base.manner.system and len(_ids(base, "Hi")) >= T:
        raise ValueError(f"--system takes {len(_ids(base, 'Hi')):,} tokens with a question, and a "
                         f"row has {T:,}; shorten it, or give a longer --seq_len")
    config = dataclasses.replace(       # what a run that is resumed goes on with
        config, seq_len=T, model=str(base.path),
        total_batch_size=config.total_batch_size or config.batch_size * comm.ranks * T,
        lora_alpha=config.lora_alpha or 2.0 * config.lora_rank)
    learned, held_out, report = load(config.data, partial(render, base), T, config.val_fraction,
                                     config.seed, config.skip_bad)
    order = Order(learned, T, config.seed, config.packed)
    stage = Conversing(config, base, order, held_out, comm)
    device = Device(config.device, config.threads)
    model = tuned_model.make_model(base, device, _dtype(config, base), comm.ranks, config.seed)
    if config.lora_rank:
        model.adapt(config.lora_rank, config.lora_alpha, config.lora_matrices, config.seed)
    check_memory(config, model, device)
    model.plan(config.batch_size, T, True, config.recompute)
    stage.model = model
    loop = Loop(config, stage, model, comm, stage.steps, base.fingerprint, say)
    frozen = disk.sha256(base.path / "model.safetensors") if config.lora_rank else ""
    loop.open(learned.fingerprint() + frozen)
    if report.faults and comm.rank == 0:
        disk.write_whole(Path(config.run) / LEFT_OUT,
                         "\n".join([*report.faults, ""]).encode("utf-8", "replace"))
    for line in _begin(config, base, report, stage, loop, device):
        loop.say(line)
    loop.train()


def keep_apart(run: Path, base: Path) -> None:
    """A ValueError where a run would be made in, or in place of, the model that it starts from."""
    run, base = run.resolve(), base.resolve()
    if base.is_relative_to(run) or run.is_relative_to(base) or run == base.parent:
        raise ValueError(f"--run {run} is a folder of the model that is tuned, {base}; give the run "
                         "another")


def check_memory(config: Sft, model: Model, device: Device) -> None:
    """A ValueError where a batch takes more than the device has, with the largest that fits."""
    def takes(rows: int) -> int:
        return training_bytes(model, rows, config.seq_len, config.recompute, config.optimizer)

    room, rows = device.free + device.taken, config.batch_size
    if takes(rows) <= room:
        return
    fits = bisect_right(range(1, rows), 0.9 * room, key=takes)     # samples take some, too
    fits = fits or int(takes(1) <= room)
    advice = (f"--batch_size {fits} would fit" if fits else "nothing would fit: give a shorter "
              "--seq_len" + ", or --recompute" * (not config.recompute))
    if config.resume:
        advice = "end what else takes memory, or start another run with a smaller --batch_size"
    raise ValueError(f"--batch_size {rows:,} takes {takes(rows) / 1e9:.3f} GB on {device.name}, "
                     f"which has {room / 1e9:.3f} GB for it; {advice}")


class Conversing:
    """What training.Loop trains: log-probabilities of what the assistant is to write."""

    def __init__(self, config: Sft, base: Base, order: Order, held_out: Conversations, comm: Comm):
        self.config, self.base, self.order, self.comm = config, base, order, comm
        self.model: Model | None = None         # set when there is memory for it
        self.T, self.rows = config.seq_len, rows_an_update(config, comm.ranks)
        self.of = order.of
        self.end = None if config.steps else order.row_at(config.epochs)
        self.steps = config.steps or -(-self.end // self.rows)
        few = [held_out[number] for number in range(min(len(held_out), config.val_conversations))]
        self.held_out = packing.packed(few, self.T) if few else None
        self.asked = {each: ids for each in config.ask if (ids := _question(base, each))}

    def load(self, cursor: int, comm: Comm) -> Load:
        """Rows of the order; this rank takes its part of them."""
        left = self.end - cursor if self.end else self.rows     # 0: where rows were passed over
        count = left if 0 < left < self.rows else self.rows
        rows = self.order.rows(cursor, count)
        numbers = [number for row in rows for number in row]
        rows += [[]] * (-count % comm.ranks)            # the last update may have fewer
        share = len(rows) // comm.ranks
        mine, B = rows[comm.rank * share:][:share], self.config.batch_size
        self.batches = [mine[at:at + B] for at in range(0, share, B)]
        self.learned = int(self.of.targets[numbers].sum())
        return Load(len(self.batches), cursor + count, self.learned,
                    int(self.of.lengths[numbers].sum()))

    def learn(self, micro_batch: int, accumulate: bool) -> float:
        """Mean of -log p over the targets of the update, as far as they are in this micro-batch."""
        batch = self._batch(micro_batch)
        slope = np.full(batch.tokens.shape, -1 / self.learned, np.float32)
        numbers = self.model.train(batch.tokens, batch.targets, {"logp": slope}, batch.pos,
                                   batch.first, accumulate)
        return -float(numbers["logp"].sum(dtype=np.float64)) / self.learned

    def _batch(self, micro_batch: int) -> Rows:
        """What it learns from in this micro-batch; no wider than its longest row."""
        rows = self.batches[micro_batch]
        width = max(1, *(int(self.of.lengths[row].sum()) for row in rows))
        return packing.laid_out([[self.of[number] for number in row] for row in rows], width)

    def sound(self) -> bool:
        """By the rows of the last update, this rank's first ones."""
        batch = self._batch(0)
        found = self.model.score(batch.tokens, batch.targets, batch.pos, batch.first)
        return bool(np.isfinite(found["logp"]).all())

    def look(self) -> Look | None:
        """The loss on what is held out, over all ranks."""
        held_out, B = self.held_out, self.config.batch_size
        if held_out is None:
            return None
        nats = 0.0
        for at in range(self.comm.rank * B, len(held_out.tokens), self.comm.ranks * B):
            part = Rows(*(each[at:at + B] for each in held_out))
            found = self.model.score(part.tokens, part.targets, part.pos, part.first)
            nats -= float(found["logp"].sum(dtype=np.float64))
        loss = self.comm.sums([nats])[0] / held_out.learned
        return Look(f"validation loss {loss:.4f} nats a token, over {held_out.learned} tokens",
                    {"val_loss": loss})

    def sample(self, step: int) -> str:
        """The likeliest answers to the questions that are asked every time."""
        if not self.asked:
            return ""
        base, most = self.base, self.base.config.max_seq_len
        stops = chat.stops(base.manner.template, base.tokenizer)
        engine = Engine(self.model, base.tokenizer, rows=min(len(self.asked), 8))
        requests = [Request(ids, min(self.config.sample_tokens, most + 1 - len(ids)), 0.0,
                            stop_tokens=stops) for ids in self.asked.values()]
        answers = [texts[0].text.strip() for texts in engine.generate(requests)]
        return "\n\n".join(f"> {asked}\n{answer}" for asked, answer in zip(self.asked, answers))

    def save(self, folder: Path) -> None:
        """Its tokenizer and its manner; of adapters the weights that they make."""
        for name, text in tuned_model.texts(self.base):
            (folder / name).write_bytes(text)
        chat.save_manner(self.base.manner, folder)
        if self.config.lora_rank:
            scale = self.config.lora_alpha / self.config.lora_rank
            tuned_model.save_merged(self.model, scale, folder / "model.safetensors")


def rows_an_update(config: Sft, ranks: int) -> int:
    """Of all ranks together."""
    total, T = config.total_batch_size, config.seq_len
    if total % (T * ranks):
        raise ValueError(f"--total_batch_size is {total:,}, wanted a multiple of {T * ranks:,}: "
                         f"rows of {T:,} tokens for each of the ranks ({ranks})")
    return total // T


def render(base: Base, messages: Sequence[Message]) -> Rendered:
    """A conversation as the model learns it."""
    return chat.render(chat.introduced(messages, base.manner), base.tokenizer, base.manner.template)


def _ids(base: Base, text: str) -> list[int]:
    asked = chat.introduced([Message("user", text)], base.manner)
    return chat.render(asked, base.tokenizer, base.manner.template, answer=True).ids


def _question(base: Base, text: str) -> list[int] | None:
    """The ids that its answer follows; None of one of our own that is too long."""
    ids = _ids(base, text)
    if len(ids) > base.config.max_seq_len:
        if text in ASKED:
            return None
        raise ValueError(f"--ask {text[:40]!r} takes {len(ids):,} tokens, but the model's context "
                         f"holds {base.config.max_seq_len:,}; shorten it")
    return ids


def _dtype(config: Sft, base: Base) -> str:
    """Of the weights: as asked, or as they are stored; int8 is for frozen ones."""
    if config.dtype != "auto":
        return config.dtype
    return "bf16" if base.dtype == "int8" and not config.lora_rank else base.dtype


def _begin(config: Sft, base: Base, report: Report, stage: Conversing, loop: Loop,
           device: Device) -> Iterator[str]:
    """What a run says first."""
    model, progress, order = loop.model, loop.progress, stage.order
    yield (f"model      {base.path}: {model.config.param_count() / 1e6:.1f}M parameters, "
           f"{model.dtype}, template {base.manner.template}")
    if base.fresh:
        yield (f"tokens     {len(base.fresh)} special tokens that it has never seen begin as the "
               "mean of the others, and noise" + ", which adapters do not change"
               * bool(config.lora_rank))
    if config.lora_rank:
        trained = sum(math.prod(model.get(name).shape) for name in model.adapters)
        yield (f"adapters   rank {config.lora_rank}, {trained / 1e6:.2f}M parameters; the rest is "
               "frozen")
    for line in report.lines():
        yield f"data       {line}"
    rows = order.begin(1)
    room = 100 * int(stage.of.lengths.sum()) / (rows * stage.T) if config.packed else 0
    yield (f"update     {stage.rows} rows of {stage.T} tokens; an epoch has {rows:,}"
           + (f", {room:.1f} % filled" if config.packed and set(stage.of.weights) == {1.0} else ""))
    yield (f"machine    {device.name}, {device.threads} threads, {model.dtype}; "
           f"{device.taken / 1e9:.3f} GB taken")
    yield f"run        {config.run}, step {progress.step} of {stage.steps}\n"


if __name__ == "__main__":
    cli.main(run)
