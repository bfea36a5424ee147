"""Conversations of several files, mixed, into rows to learn from: another order each epoch.

    conversations, report = mixture.load(["chat.jsonl", "identity.jsonl=2"], render, T, fraction)
    rows = Order(conversations, T, seed, packed=True).rows(cursor, 8)
"""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmc import chat, cli, conversations, packing
from llmc.chat import Message, Rendered

TOGETHER = 1024                 # conversations that are packed at a time: 99 % of room is used
MOST_WEIGHT = 1000.0
LEFT_OUT = "left_out.txt"         # of a run: a line for each row that could not be read

Render = Callable[[Sequence[Message]], Rendered]


class Source(NamedTuple):
    """A file, a folder or a dataset of the hub, and how often an epoch brings it."""
    name: str
    weight: float


class Conversations:
    """Many of them, rendered: five bytes a token. weights: of each source, whose conversations
    stand in a row."""

    def __init__(self, rendered: Iterable[tuple[int, Rendered]], weights: Sequence[float]):
        ids, learned, ends, sources = [], [], [0], []
        for source, each in rendered:
            ids.append(np.array(each.ids, np.int32))
            learned.append(np.array(each.learned, bool))
            ends.append(ends[-1] + len(each.ids))
            sources.append(source)
        self.ids = np.concatenate([np.zeros(0, np.int32), *ids])
        self.learned = np.concatenate([np.zeros(0, bool), *learned])
        self.ends, self.sources = np.array(ends), np.array(sources, np.int32)
        self.weights = list(weights)
        self.lengths = np.diff(self.ends) - 1       # places that each takes in a row
        sums = np.concatenate([[0], np.cumsum(self.learned)])
        self.targets = np.diff(sums[self.ends]) - self.learned[self.ends[:-1]]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, number: int) -> Rendered:
        if number >= len(self):
            raise IndexError(number)
        begin, end = self.ends[number:number + 2]
        return Rendered(self.ids[begin:end], self.learned[begin:end])

    def fingerprint(self) -> str:
        """Tells data apart, by all that decides what is learned and in which order."""
        whole = hashlib.sha256(json.dumps(self.weights).encode())
        for part in (self.ids, self.learned, self.ends, self.sources):
            whole.update(np.ascontiguousarray(part).tobytes())
        return whole.hexdigest()


@dataclass
class Report:
    """What became of the conversations that were read."""
    read: int = 0
    cut: int = 0                # longer than the context: their last turns are left out
    too_long: int = 0           # left out: not even the first answer fits
    shortest: int = 0           # of these: places that a first answer takes with what is before
    nothing_to_learn: int = 0   # left out: no answer of the assistant's is to be learned from
    faults: list[str] = field(default_factory=list)     # left out: unreadable, and why
    tokens: int = 0             # of those that are trained on
    learned: int = 0            # of these

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield (f"{self.read:,} conversations, {self.tokens:,} tokens, {self.learned:,} of them to "
               "be learned")
        for count, what in ((self.cut, "cut at a turn to fit the context"),
                            (self.too_long, "left out: their first answer does not fit it"),
                            (self.nothing_to_learn, "left out: nothing in them is to be learned"),
                            (len(self.faults), f"left out: unreadable, each named in {LEFT_OUT} "
                             f"of the run, the first {''.join(self.faults[:1])}")):
            if count:
                yield f"{count:,} {what}"


def source(text: str) -> Source:
    """FILE, or FILE=WEIGHT."""
    name, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        if not text.strip():
            raise ValueError("--data is empty; wanted a file, a folder or a dataset of the hub")
        return Source(text, 1.0)
    try:
        number = float(weight)
    except ValueError:
        return Source(text, 1.0)                # the sign belongs to the name
    if not 0 < number <= MOST_WEIGHT:
        raise ValueError(f"--data {text}: the weight is {weight}, wanted more than 0 and at most "
                         f"{MOST_WEIGHT:g}: how often an epoch brings the conversations")
    if not name.strip():
        raise ValueError(f"--data {text} names no file")
    return Source(name, number)


def load(given: Sequence[str], render: Render, T: int, held_out: float, seed: int = 0,
         skip_bad: bool = False) -> tuple[Conversations, Conversations, Report]:
    """Those to train on, those held out, and what became of all. held_out: the share of them; what
    a conversation says decides, so one that is there twice is on one side. A ValueError names the
    place of what is wrong, unless skip_bad counts it."""
    report = Report()
    found = [source(text) for text in given]
    train: list[tuple[int, Rendered]] = []
    kept: list[tuple[int, Rendered]] = []
    for number, each in enumerate(found):
        for said, rendered in _rendered(each, render, T, report, skip_bad):
            (kept if _share(said, seed) < held_out else train).append((number, rendered))
    if not train and kept:                      # few, and chance held all of them out
        train, kept = kept, []
    if not train:
        raise ValueError(f"{', '.join(each.name for each in found)}: nothing is there to learn "
                         f"from ({'; '.join(report.lines())})"
                         + f"; give --seq_len {report.shortest} or more, as far as "
                         "the model's context goes"
                         * bool(report.too_long))
    weights = [each.weight for each in found]
    counts = [sum(number == of for of, _ in train) for number in range(len(found))]
    if all(count * weight < 1 for count, weight in zip(counts, weights)):
        raise ValueError(f"an epoch of {', '.join(given)} brings less than one conversation; give "
                         "larger weights")
    made = Conversations(train, weights), Conversations(kept, weights)
    report.tokens, report.learned = len(made[0].ids), int(made[0].learned.sum())
    return *made, report


def _rendered(each: Source, render: Render, T: int, report: Report, skip_bad: bool
              ) -> Iterator[tuple[list[Message], Rendered]]:
    def on_bad(error: ValueError) -> None:
        report.faults.append(cli.sentence(error))

    for path in conversations.sources(each.name):
        for said, place in conversations.read(path, on_bad if skip_bad else None):
            report.read += 1
            try:
                rendered, cut = packing.fitted(said, T, render)
            except ValueError as error:
                if not skip_bad:
                    raise ValueError(f"{place}: {error}") from None
                on_bad(ValueError(f"{place}: {error}"))
                continue
            report.cut += cut and rendered is not None
            if rendered is None:
                report.too_long += 1
                least = packing.least(said, render)
                report.shortest = min(report.shortest or least, least)
            if rendered is not None and any(rendered.learned[1:]):
                yield said, rendered
            elif rendered is not None:
                report.nothing_to_learn += 1


def _share(messages: Sequence[Message], seed: int) -> float:
    """A number of 0 to 1 that what is said decides."""
    said = json.dumps([seed, chat.to_dict(messages)]).encode()
    return int.from_bytes(hashlib.sha256(said).digest()[:6], "big") / 2**48


@dataclass
class Order:
    """The rows of all epochs, one after the other; which and in what order the seed decides. A row
    is the numbers of its conversations: packed, as many as T places hold, or one."""
    of: Conversations
    T: int
    seed: int
    packed: bool = True
    _begins: list[int] = field(default_factory=lambda: [0])     # of the epochs that were planned
    _plan: tuple[int, list[list[int]]] = (-1, [])               # an epoch, and its rows

    def begin(self, epoch: int) -> int:
        """How many rows stand before an epoch."""
        while len(self._begins) <= epoch:
            self._epoch(len(self._begins) - 1)
        return self._begins[epoch]

    def row_at(self, epochs: float) -> int:
        """How many rows so many epochs have."""
        whole = math.floor(epochs)
        begin, end = self.begin(whole), self.begin(whole + 1)
        return max(1, begin + round((epochs - whole) * (end - begin)))

    def epoch_at(self, cursor: int) -> int:
        """The epoch of a row."""
        epoch = 0
        while self.begin(epoch + 1) <= cursor:
            epoch += 1
        return epoch

    def rows(self, cursor: int, count: int) -> list[list[int]]:
        """So many, from the cursor on."""
        found: list[list[int]] = []
        epoch = self.epoch_at(cursor)
        while len(found) < count:
            at = cursor + len(found) - self.begin(epoch)
            found += self._epoch(epoch)[at:at + count - len(found)]
            epoch += 1
        return found

    def _epoch(self, number: int) -> list[list[int]]:
        if self._plan[0] != number:
            chosen = self._chosen(number)
            self._plan = number, list(self._packed(chosen) if self.packed
                                      else [[each] for each in chosen])
        if len(self._begins) == number + 1:
            self._begins.append(self._begins[number] + len(self._plan[1]))
        return self._plan[1]

    def _chosen(self, epoch: int) -> list[int]:
        """The numbers of an epoch's conversations, in its order. Of a source with weight 2.5 all
        twice and a half of them, the next epoch the other half."""
        numbers = []
        for source, weight in enumerate(self.of.weights):
            own = np.flatnonzero(self.of.sources == source)
            own = own[self._random(source).permutation(len(own))]
            begin, end = (math.floor(each * weight * len(own)) for each in (epoch, epoch + 1))
            numbers.append(np.take(own, np.arange(begin, end), mode="wrap"))
        chosen = np.concatenate(numbers)
        return chosen[self._random(-1 - epoch).permutation(len(chosen))].tolist()

    def _random(self, stream: int) -> np.random.Generator:
        key = np.array([self.seed, stream % 2**64], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def _packed(self, chosen: list[int]) -> Iterator[list[int]]:
        for begin in range(0, len(chosen), TOGETHER):
            part = chosen[begin:begin + TOGETHER]
            yield from ([part[at] for at in row] for row in packing.together(
                [int(self.of.lengths[number]) for number in part], self.T))
