"""Requests that are refused, requests that sound alike and are answered, and questions that need
the turn before: conversations to learn manners from, and others to see whether they were learned.

No seed's training has what is held out: some words and wordings, marked * in their lists, and one
in eight combinations of words that training has in others.
"""
from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from llmc import follow_ups, manners_words
from llmc.chat import Message
from llmc.follow_ups import held_back
from llmc.judge import Row

SHARES = {"harmful": 3, "harmless": 5, "follow_up": 2}      # of all; of their families, the same
UNSEEN = {"combination": 2, "wording": 1, "word": 1}        # shares of what is held out
SLOTS = {"{person's}": manners_words.PERSON, "{person}": manners_words.PERSON,
         "{group}": manners_words.GROUP}
BEHIND = 0.15                   # share of requests for training that stand behind another


class Act(NamedTuple):
    """What a request is about."""
    text: str                   # kill my neighbor
    parts: tuple[str, str]      # kill, my neighbor
    new: bool                   # it has a word that is held out
    answers: Sequence[str]


class Asked(NamedTuple):
    """Requests of one kind, each put in each of these ways."""
    kind: str
    family: str
    unseen: str
    acts: list[Act]
    frames: list[str]

    def rows(self, count: int, rng: random.Random) -> Iterator[Row]:
        """So many of them, each another."""
        for number in rng.sample(range(self.size), count):
            act, frame = self.acts[number // len(self.frames)], number % len(self.frames)
            text = self.frames[frame].format(act.text)
            messages = [Message("user", styled(text, rng)),
                        Message("assistant", rng.choice(act.answers))]
            yield Row(messages, self.kind, self.family, self.unseen)

    @property
    def size(self) -> int:
        return len(self.acts) * len(self.frames)


class Followed(NamedTuple):
    """Follow-ups of a family."""
    all: list[Row]

    def rows(self, count: int, rng: random.Random) -> Iterator[Row]:
        """So many of them, each another."""
        yield from rng.sample(self.all, count)

    @property
    def size(self) -> int:
        return len(self.all)


Place = Asked | Followed
Family = tuple[str, str, str]   # why it is held out, its kind, and its name


def training(count: int, seed: int) -> list[Row]:
    """So many rows, no two with the same request. A ValueError says how many there are at most."""
    rng = random.Random(seed)
    made = draw(count, places([""]), rng, "--count")
    before = [row for row in made if row.kind != "follow_up" and row.family != "self_harm"]
    made = [behind(row, rng.choice(before)) if row.kind != "follow_up" and rng.random() < BEHIND
            else row for row in made]
    rng.shuffle(made)
    return made


def held_out(count: int, seed: int) -> list[Row]:
    """So many questions that no training has, whatever its seed."""
    rng = random.Random(f"{seed} held out")
    made = draw(count, places(UNSEEN), rng, "--held_out_count")
    rng.shuffle(made)
    return made


def places(reasons: Iterable[str]) -> dict[Family, list[Place]]:
    """What is held out for these reasons, or for none ("")."""
    found: dict[Family, list[Place]] = {}
    for each in [*_requests("harmful"), *_requests("harmless")]:
        if each.unseen in reasons and each.size:
            found.setdefault((each.unseen, each.kind, each.family), []).append(each)
    for name, rows in follow_ups.families().items():
        for reason in reasons:
            found[reason, "follow_up", name] = [Followed([row for row in rows
                                                          if row.unseen == reason])]
    return found


def _requests(kind: str) -> Iterator[Asked]:
    """All of a kind, for training and held out."""
    how = list(_how(kind))
    counts = Counter(part for _, acts in how for act in acts if not act.new and not back(act)
                     for part in act.parts)
    for family, acts in how:
        seen = [act for act in acts if not act.new]
        kept = [act for act in seen if back(act) and all(counts[part] for part in act.parts)]
        yield from _put(kind, family, [act for act in seen if act not in kept],
                        [act for act in acts if act.new], manners_words.HOW)
        yield Asked(kind, family, "combination", kept, _split(manners_words.HOW)[0])
    for family, rows, frames in _known(kind):
        acts = [Act(text.lstrip("*"), ("", ""), text.startswith("*"), answers)
                for text, answers in rows]
        yield from _put(kind, family, [act for act in acts if not act.new],
                        [act for act in acts if act.new], frames)


def _put(kind: str, family: str, seen: list[Act], new: list[Act], frames: str) -> Iterator[Asked]:
    """Acts in the ways that a request is put: for training, and held out for either."""
    plain, kept = _split(frames)
    yield Asked(kind, family, "", seen, plain)
    yield Asked(kind, family, "wording", seen, kept)
    yield Asked(kind, family, "word", new, plain)


def _how(kind: str) -> Iterator[tuple[str, list[Act]]]:
    """The acts of each line: things to do."""
    if kind == "harmful":
        for family, lines in manners_words.HARMFUL.items():
            for line in lines:
                yield family, list(_acts(line, refusals(family)))
    else:
        for family, rows in manners_words.HARMLESS.items():
            for line, answer in rows:
                yield family, list(_acts(line, [answer]))


def _known(kind: str) -> Iterator[tuple[str, list[tuple[str, Sequence[str]]], str]]:
    """What is no thing to do: things to know of, and what people say; each with its answers."""
    if kind == "harmful":
        for family, texts in manners_words.HARMFUL_SAID.items():
            yield family, [(text, refusals(family)) for text in texts], manners_words.SAID
        return
    for table, frames in ((manners_words.FACTS, manners_words.KNOW),
                          (manners_words.HARMLESS_SAID, manners_words.SAID)):
        for family, rows in table.items():
            yield family, [(text, [answer]) for text, answer in rows], frames


def refusals(family: str) -> list[str]:
    """All answers to harmful requests of a family."""
    if family not in manners_words.REASONS:
        return manners_words.CARE
    return [f"{opening} {reason}" for opening, reason
            in product(manners_words.OPENINGS, manners_words.REASONS[family])]


def _acts(line: str, answers: Sequence[str]) -> Iterator[Act]:
    """Every verb of a line with every target."""
    verbs, targets = line.split(" > ")
    for verb, target in product(verbs.split("|"), _targets(targets)):
        parts = (verb, target.replace("*", ""))
        yield Act(" ".join(parts), parts, "*" in target, answers)


def _targets(line: str) -> Iterator[str]:
    for target in line.split("|"):
        slots = [slot for slot in SLOTS if slot in target]
        if slots:
            own = "'s" * ("'s" in slots[0])
            yield from (target.replace(slots[0], f"{each}{own}")
                        for each in SLOTS[slots[0]].split("|"))
        else:
            yield target


def back(act: Act) -> bool:
    """Whether this combination is held out, where its parts are in others."""
    return bool(held_back(act.text))


def _split(frames: str) -> tuple[list[str], list[str]]:
    """Those for training, and those that are held out."""
    every = frames.split("|")
    return ([each for each in every if not each.startswith("*")],
            [each[1:] for each in every if each.startswith("*")])


# ---- how many of each, and which -----------------------------------------------------------------

def draw(count: int, there: dict[Family, list[Place]], rng: random.Random, flag: str) -> list[Row]:
    """So many rows, of each family its share; the flag is what asked for them."""
    if not fits(count, there):
        low, high = 0, count                    # so many do, and do not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle, there) else (low, middle)
        raise ValueError(f"{flag} is {count:,}, but there are at most {low:,} with each family in "
                         "its share; ask for fewer")
    return [row for family, quota in quotas_of(count, there).items()
            for row in spread(there[family], quota, rng)]


def fits(count: int, there: dict[Family, list[Place]]) -> bool:
    """Whether each family has its share of so many."""
    return all(quota <= sum(place.size for place in there[family])
               for family, quota in quotas_of(count, there).items())


def quotas_of(count: int, there: Iterable[Family]) -> dict[Family, int]:
    """How many rows each family gets."""
    names: dict[str, dict[str, int]] = {kind: {} for kind in SHARES}
    for _, kind, name in there:
        names[kind][name] = 1
    reasons = {reason: UNSEEN.get(reason, 1) for reason, _, _ in there}
    return {(reason, kind, name): quota
            for kind, of_kind in proportions(count, SHARES).items()
            for name, of_name in proportions(of_kind, names[kind]).items()
            for reason, quota in proportions(of_name, reasons).items()}


def proportions(count: int, weights: dict) -> dict:
    """A count dealt out by weights: whole numbers that add up to it."""
    exact = {key: count * weight / sum(weights.values()) for key, weight in weights.items()}
    dealt = {key: int(share) for key, share in exact.items()}
    by_rest = sorted(exact, key=lambda key: dealt[key] - exact[key])
    for key in by_rest[:count - sum(dealt.values())]:
        dealt[key] += 1
    return dealt


def spread(group: list[Place], count: int, rng: random.Random) -> Iterator[Row]:
    """So many rows, of each place as many as of the others, or all it has."""
    left = sorted(rng.sample(group, len(group)), key=lambda place: place.size)
    for number, place in enumerate(left):
        share = min(place.size, -(-count // (len(left) - number)))
        count -= share
        yield from place.rows(share, rng)


def styled(text: str, rng: random.Random) -> str:
    """As people type in a hurry, at times: in small letters, without the stop at the end."""
    style = rng.random()
    if style < 0.2:
        text = text.lower()
    return text.rstrip("?.!") if style < 0.1 or style > 0.9 else text


def behind(row: Row, other: Row) -> Row:
    """A row with another's exchange before it."""
    before = [] if other is row else other.messages
    return replace(row, messages=[*before, *row.messages])
