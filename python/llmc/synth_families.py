"""What a model neither counts, spells nor computes reliably: questions, each with its right answer,
the steps to it, and the call of a tool that finds it.

    problem = FAMILIES["letters"](random.Random(1), out=False)

A family draws words and numbers for training or (out) held out ones. The right answer comes from
counting or computing here; llmc.synth_tools compares it with what the call really prints.
"""
from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from itertools import accumulate, cycle
from typing import NamedTuple

from llmc.chat import Call
from llmc.synth_words import LETTERS, held, held_numbers, number, numbers, word, word_with

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
ORDINALS = {2: "second", 3: "third", 4: "fourth"}
NAMES = "Emily|Tom|Ann|Peter|Mary|Oliver|*Nina|*Hugo"
FRUITS = "apples|pears|plums|lemons|*oranges|*cherries"


class Problem(NamedTuple):
    """A question and what is right of it."""
    question: str
    want: str                   # the right answer: numbers, or words
    call: Call                  # what finds it
    steps: str                  # how one comes to it without a tool, up to the answer
    unseen: str = ""            # wording: the question is put as training never has it; else "word"
                                # or "number" where these are held out
    output: str = ""            # what a search gives; "" where the call is run to see
    answer: str = ""            # to what a search gives
    passage: str = ""           # where the answer stands, for who does not search


def frame(rng: random.Random, frames: str, out: bool) -> tuple[str, bool]:
    """A way to put a question, and whether training has it not: of those that are held out, marked
    with *, one time in five, and then alone."""
    every = frames.split("|")
    kept = [each[1:] for each in every if each.startswith("*")]
    if out and kept and rng.random() < 0.2:
        return rng.choice(kept), True
    return rng.choice([each for each in every if not each.startswith("*")]), False


def _problem(rng: random.Random, out: bool, frames: str, fill: dict[str, object], want: object,
             call: Call, steps: str, new: str) -> Problem:
    text, kept = frame(rng, frames, out)
    unseen = "" if not out else "wording" if kept else new
    return Problem(text.format_map(fill), str(want), call, steps, unseen)


def python(code: str) -> Call:
    return Call("python", code)


def calculator(expression: str) -> Call:
    return Call("calculator", json.dumps({"expression": expression}))


# ---- letters -------------------------------------------------------------------------------------

COUNTED = ('How many times does the letter "{letter}" occur in "{word}"?|'
           'How many "{letter}" are in "{word}"?|'
           'How often is the letter "{letter}" in the word "{word}"?|'
           'Count the letter "{letter}" in "{word}".|'
           'How many times is there "{letter}" in "{word}"?|'
           'In the word "{word}", how many times does "{letter}" occur?|'
           'Tell me how many "{letter}" are in "{word}".|'
           'What is the count of "{letter}" in "{word}"?|'
           'Number of "{letter}" in "{word}"?|'
           'How many times can I find "{letter}" in "{word}"?|'
           'How many letters of "{word}" are "{letter}"?|'
           'Please count how often "{letter}" is in the word "{word}".|'
           'Is "{letter}" in "{word}", and how many times?|'
           '"{word}" has how many "{letter}"?|'
           '*What number of "{letter}" does "{word}" have?|'
           '*Tell me how often the letter "{letter}" stands in "{word}".')
SPELLED = ('What is every {nth} letter of "{word}"?|Write every {nth} letter of "{word}".|'
           'Take every {nth} letter of the word "{word}".|'
           '*Which letters are left of "{word}" if only every {nth} one stays?')


def letters(rng: random.Random, out: bool) -> Problem:
    """How often a letter is in a word: each of 0 to 4 as often."""
    letter, count = rng.choice(LETTERS), rng.randint(0, 4)
    text = word_with(rng, out, letter, count)
    so_far = accumulate(int(each == letter) for each in text)
    steps = ", ".join(f"{each} {total}" for each, total in zip(text, so_far)) + "."
    return _problem(rng, out, COUNTED, {"letter": letter, "word": text},
                    sum(each == letter for each in text),
                    python(f'print("{text}".count("{letter}"))'), steps, "word")


def letters_bare(rng: random.Random, out: bool) -> Problem:
    """The same, with no quotes around the word and the letter in the question."""
    problem = letters(rng, out)
    return problem._replace(question=problem.question.replace('"', ""))


def spelling(rng: random.Random, out: bool) -> Problem:
    """Every second, third or fourth letter of a word."""
    step, text = rng.randint(2, 4), word(rng, out)
    while len(text) < 2 * step:
        text = word(rng, out)
    steps = ", ".join(f"{place} {each}" for place, each in enumerate(text, 1)) + "."
    kept = "".join(each for place, each in enumerate(text, 1) if place % step == 0)
    return _problem(rng, out, SPELLED, {"nth": ORDINALS[step], "word": text}, kept,
                    python(f'print("{text}"[{step - 1}::{step}])'), steps, "word")


DOTTED = ('How many dots are in "{dots}"?|Count the dots: "{dots}"|'
          'How many dots does "{dots}" have?|*What number of dots is "{dots}"?')


def dots(rng: random.Random, out: bool) -> Problem:
    """How many there are among dashes: each of 1 to 20 as often."""
    count, text = rng.randint(1, 20), ""
    while not text or held(text) is not out:
        mixed = ["."] * count + ["-"] * rng.randint(0, 12)
        rng.shuffle(mixed)
        text = "".join(mixed)
    so_far = accumulate(int(each == ".") for each in text)
    return _problem(rng, out, DOTTED, {"dots": text}, count, python(f'print("{text}".count("."))'),
                    " ".join(map(str, so_far)) + ".", "word")


# ---- numbers -------------------------------------------------------------------------------------

ADDED = ("What is {a} + {b}?|What is {a} plus {b}?|How much is {a} + {b}?|Add {a} and {b}.|"
         "What is the sum of {a} and {b}?|Compute {a} + {b}.|{a} + {b} = ?|Work out {a} + {b}.|"
         "Calculate {a} plus {b}.|Find the sum of {a} and {b}.|{a} plus {b} is what?|"
         "What do I get if I add {b} to {a}?|Tell me what {a} and {b} add up to.|"
         "How many are {a} and {b} more?|What do {a} and {b} make?|How much is {a} and {b}?|"
         "If I have {a} and get {b}, how many are there?|"
         "*How much do {a} and {b} make?|*{a} and {b} together are what?")
TAKEN = ("What is {a} - {b}?|What is {a} minus {b}?|How much is {a} - {b}?|"
         "Take {b} from {a}.|Compute {a} - {b}.|*How much is left of {a} without {b}?")
TIMES = ("What is {a} * {b}?|What is {a} times {b}?|How much is {a} * {b}?|Multiply {a} by {b}.|"
         "Compute {a} * {b}.|*What is the product of {a} and {b}?")


def addition(rng: random.Random, out: bool) -> Problem:
    """Of two numbers of 1 to 4 digits."""
    a, b = numbers(rng, out, 2)
    return _problem(rng, out, ADDED, {"a": a, "b": b}, a + b, calculator(f"{a} + {b}"),
                    placewise(a, "+", b), "number")


def subtraction(rng: random.Random, out: bool) -> Problem:
    """The same; never below 0."""
    b, a = sorted(numbers(rng, out, 2))
    return _problem(rng, out, TAKEN, {"a": a, "b": b}, a - b, calculator(f"{a} - {b}"),
                    placewise(a, "-", b), "number")


def multiplication(rng: random.Random, out: bool) -> Problem:
    """The same."""
    a, b = numbers(rng, out, 2)
    return _problem(rng, out, TIMES, {"a": a, "b": b}, a * b, calculator(f"{a} * {b}"),
                    multiplied(a, b), "number")


def places(value: int) -> list[int]:
    """4071 -> [4000, 70, 1]"""
    text = str(value)
    return [int(digit) * 10 ** (len(text) - 1 - at) for at, digit in enumerate(text)
            if digit != "0"]


def placewise(a: int, sign: str, b: int) -> str:
    """a + b or a - b, one place of b after the other."""
    lines = []
    for part in places(b):
        result = a + part if sign == "+" else a - part
        lines.append(f"{a} {sign} {part} = {result}.")
        a = result
    return " ".join(lines)


def multiplied(a: int, b: int) -> str:
    """a times each place of b, and the sum."""
    lines, total = [f"{a} * {part} = {a * part}." for part in places(b)], 0
    for part in places(b):
        if total:
            lines.append(f"{total} + {a * part} = {total + a * part}.")
        total += a * part
    return " ".join(lines)


BOUGHT = ("{name} has {a} {fruits} and buys {b} bags of {c}. How many {fruits} does {name} have?|"
          "{name} has {a} {fruits}. Then {name} buys {b} bags with {c} {fruits} each. How many "
          "{fruits} are there now?|*There are {a} {fruits} in the kitchen of {name}, who brings "
          "{b} bags of {c}. How many {fruits} are there in the end?")


def apples(rng: random.Random, out: bool, digits: int = 0) -> Problem:
    """Emily has A apples and buys B bags of C; each number has so many digits, 0: 1 to 4."""
    digits = digits or rng.randint(1, 4)
    while True:
        a, b, c = (number(rng, digits) for _ in range(3))
        if held_numbers(a, b, c) is out:
            break
    name, fruits = (rng.choice([each.lstrip("*") for each in words.split("|")
                                if out or not each.startswith("*")]) for words in (NAMES, FRUITS))
    bought = b * c
    steps = f"{multiplied(b, c)} {placewise(bought, '+', a)}"
    return _problem(rng, out, BOUGHT, {"name": name, "fruits": fruits, "a": a, "b": b, "c": c},
                    bought + a, python(f"print({a} + {b} * {c})"), steps, "number")


COMPARED = ("Which is {larger}, {a} or {b}?|Which number is {larger}: {a} or {b}?|"
            "What is the {larger} number, {a} or {b}?|*Of {a} and {b}, which is {larger}?")


def decimals(rng: random.Random, out: bool) -> Problem:
    """The larger or smaller of two with the same whole part, one of one place and one of two:
    as often the one as the other, and as often the first that is named."""
    longer = rng.random() < 0.5
    while True:
        whole, tenth, places_of_two = rng.randint(0, 99), rng.randint(1, 9), rng.randint(1, 99)
        short, long = f"{whole}.{tenth}", f"{whole}.{places_of_two:02}"
        if (places_of_two % 10 and (places_of_two > 10 * tenth) is longer
                and held(f"{short} {long}") is out):
            break
    a, b = rng.sample([short, long], 2)
    larger = rng.random() < 0.5
    # in cents, so that nothing is rounded
    want = (max if larger else min)(a, b, key=lambda text: 100 * int(text.split(".")[0])
                                    + int(text.split(".")[1].ljust(2, "0")))
    steps = f"{short} is {short}0. The whole part of both is {whole}. " \
            f"{10 * tenth} {'>' if 10 * tenth > places_of_two else '<'} {places_of_two}."
    return _problem(rng, out, COMPARED, {"a": a, "b": b, "larger": "larger" if larger else
                                         "smaller"}, want,
                    python(f"print({'max' if larger else 'min'}({a}, {b}))"), steps, "number")


SORTED = ("Sort these: {items}.|Put these in order: {items}.|Sort {items}.|"
          "*In which order do these come: {items}?")


def sorting(rng: random.Random, out: bool) -> Problem:
    """Three to six numbers, or as often words."""
    count = rng.randint(3, 6)
    drawn: set[int] | set[str] = set()
    if rng.random() < 0.5:
        while len(drawn) < count:
            drawn = set(numbers(rng, out, count, 3))
        order, new = [*map(str, sorted(drawn))], "number"
        code = ", ".join(items := rng.sample(order, count))
    else:
        while len(drawn) < count:
            drawn.add(word(rng, out))
        order, new = sorted(drawn), "word"
        items = [f'"{each}"' for each in rng.sample(order, count)]
        code = ", ".join(items)
    steps = " ".join(f"{at} is {each}." for at, each in enumerate(order, 1)) if new == "word" else \
        " ".join(f"Then {each}." for each in order)
    return _problem(rng, out, SORTED, {"items": ", ".join(items)}, ", ".join(order),
                    python(f'print(*sorted([{code}]), sep=", ")'), steps, new)


# ---- dates ---------------------------------------------------------------------------------------

WEEKDAY = ("What day of the week is {day}?|Which day of the week is {day}?|"
           "On what day of the week does {day} fall?|*Name the weekday of {day}.")
BETWEEN = ("How many days are there from {day} to {other}?|How many days lie between {day} and "
           "{other}?|*{day} to {other}: how many days?")


def a_day(rng: random.Random, out: bool) -> date:
    """From 1950 to 2049."""
    while True:
        day = date(1950, 1, 1) + timedelta(rng.randrange(36524))
        if held(day.isoformat()) is out:
            return day


def weekday(rng: random.Random, out: bool) -> Problem:
    """Of a date: each day as often."""
    wanted = rng.randrange(7)
    day = a_day(rng, out)
    while day.weekday() != wanted:
        day = a_day(rng, out)
    first = DAYS[date(day.year, 1, 1).weekday()]
    after = (day - date(day.year, 1, 1)).days
    steps = (f"The year {day.year} begins with a {first}. {day} is {after} days later. "
             f"{after} = 7 * {after // 7} + {after % 7}.")
    return _problem(rng, out, WEEKDAY, {"day": day}, DAYS[wanted], python(
        f'from datetime import date\nprint(date({day.year}, {day.month}, {day.day})'
        '.strftime("%A"))'), steps, "number")


def days_between(rng: random.Random, out: bool) -> Problem:
    """Of two dates of a year, the earlier first."""
    day = a_day(rng, out)
    other = a_day(rng, out)
    while other.year != day.year or other == day:
        other = a_day(rng, out)
    day, other = min(day, other), max(day, other)
    nth = [(each - date(day.year, 1, 1)).days + 1 for each in (day, other)]
    steps = (f"{day} is day {nth[0]} of {day.year}. {other} is day {nth[1]}. "
             f"{nth[1]} - {nth[0]} = {nth[1] - nth[0]}.")
    made = [f"date({each.year}, {each.month}, {each.day})" for each in (other, day)]
    return _problem(rng, out, BETWEEN, {"day": day, "other": other}, nth[1] - nth[0], python(
        f"from datetime import date\nprint(({made[0]} - {made[1]}).days)"), steps, "number")


Family = Callable[[random.Random, bool], Problem]
FAMILIES: dict[str, Family] = {each.__name__: each for each in (
    letters, letters_bare, spelling, dots, addition, subtraction, multiplication, decimals, apples,
    sorting, weekday, days_between)}


def drawn(families: Mapping[str, Family], count: int, rng: random.Random, out: bool
          ) -> list[tuple[str, Problem]]:
    """So many problems of these families in turn, no question twice. A ValueError says of which
    family there are no more."""
    made: dict[str, tuple[str, Problem]] = {}
    for name, _ in zip(cycle(families), range(count)):
        for _ in range(1000):
            problem = families[name](rng, out)
            if problem.question not in made:
                break
        else:
            raise ValueError(f"there are no {-(-count // len(families)):,} questions of {name} "
                             "that differ; ask for fewer")
        made[problem.question] = name, problem
    return [*made.values()]
