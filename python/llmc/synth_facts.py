"""Questions whose answers stand in an index that llmc index made, to be looked up and cited.

They are made by rule from the first sentence of a document, where that says what its title is or
was, where it is, or when somebody was born. Each is searched for when it is made: the results are
those that a model gets, and a question is kept if one of them has the answer.
"""
from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llmc.chat import Call
from llmc.judge import words
from llmc.synth_families import Problem, frame
from llmc.synth_words import held
from llmc.tools.passages import sentences
from llmc.tools.search import Index, as_text, one_line

RESULTS, CHARACTERS = 3, 300    # what a search gives a model
LONGEST = 200                   # characters of a sentence that is cited
NOTE = re.compile(r"\s*\([^()]*\)|\s*\[[^\[\]]*\]")
IS = re.compile(r"^(?P<name>.{2,60}?) (?P<verb>is|was|are|were) "
                r"(?P<what>(?:a|an|the|one) [^,;:.()]{3,80})")
PLACE = re.compile(r" in (?:the )?(?P<place>[A-Z]\w+(?:[ -][A-Z]\w+){0,3})")
MONTH, YEAR = r"[A-Z][a-z]+", r"(1[0-9]{3}|20[0-9]{2})"
BORN = re.compile(r"\((?:[^()]*?\b)?(?:born )?"
                  rf"(?:(?:c\. )?\d{{1,2}} {MONTH} {YEAR}|{MONTH} \d{{1,2}}, {YEAR})\b[^()]*\)")
PERSON = re.compile(r"\bborn\b|\)\s+(?:is|was) an? ")
ASKED = {
    "what": "What {verb} {name}?|Look up what {name} {verb}.|*Find out what {name} {verb}.",
    "where": "Where {verb} {name}?|In which place {verb} {name}?|*Where would I find {name}?",
    "born": "When was {name} born?|In which year was {name} born?|*What is the year of birth of "
            "{name}?"}
ANSWERS = {"what": "{name} {verb} {want}", "where": "{name} {verb} in {want}",
           "born": "{name} was born in {want}"}


class Fact(NamedTuple):
    """What a sentence says of a title."""
    kind: str                   # what, where or born
    name: str
    verb: str
    want: str
    sentence: str


class Facts:
    """A family: a fact of an index that training may have, or (out) may not, by its title."""

    def __init__(self, path: Path):
        self.index, self.path = Index(path), path
        every = [fact for title, text in self.index.passages() for fact in facts(title, text)]
        self.facts = {out: [each for each in every if held(each.name) is out]
                      for out in (False, True)}

    def __call__(self, rng: random.Random, out: bool) -> Problem:
        if not self.facts[out]:
            raise ValueError(f"{self.path} has no fact to ask for"
                             + " that is held out" * out + "; wanted documents that begin with "
                             "what their title is, such as an encyclopedia's")
        for _ in range(200):
            fact = rng.choice(self.facts[out])
            text, kept = frame(rng, ASKED[fact.kind], out)
            question = text.format_map(fact._asdict())
            results = self.index.search(question, RESULTS, CHARACTERS)
            number = next((at for at, each in enumerate(results, 1) if
                           words(fact.want) in words(each.snippet)
                           and words(fact.name) in words(f"{each.title} {each.snippet}")), 0)
            if number:
                said = ANSWERS[fact.kind].format_map(fact._asdict())
                return Problem(
                    question, fact.want, Call("search", question),
                    f'The text says: "{fact.sentence}"',
                    "" if not out else "wording" if kept else "word", as_text(results),
                    f"{said} [{number}].", fact.sentence)
        raise ValueError(f"{self.path}: of 200 questions none finds its answer")


def facts(title: str, text: str) -> Iterator[Fact]:
    """Those of a passage's first sentence, if it is about the title."""
    first = next(map(one_line, sentences(text)), "")
    if not title or len(first) > LONGEST or not first.startswith(title.split(" (")[0]):
        return
    found = IS.match(plain := NOTE.sub("", first))
    if not found or '"' in first:
        return
    name, verb, what = found["name"], found["verb"], found["what"].strip()
    yield Fact("what", name, verb, what, first)
    if place := PLACE.search(what):
        yield Fact("where", name, verb, place["place"], first)
    if (born := BORN.search(first)) and PERSON.search(first) and verb in ("is", "was") and plain:
        yield Fact("born", name, verb, born[1] or born[2], first)
