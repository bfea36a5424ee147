"""Plain text of the families of llmc.synth_families, for a tokenizer and a base model's corpus.

Quoted words are repeated, spelled and counted in, numbers copied and added, questions answered by
calls. A tokenizer that has read it cuts them the same wherever they stand, and a model learns to
copy what it has never seen before it learns to answer. It has no word or number that is held out.
"""
from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from llmc import synth_families
from llmc.chat_templates import as_json
from llmc.synth_tools import printed
from llmc.synth_words import LETTERS, numbers, word, word_with


def text(families: Sequence[str], characters: int, seed: int) -> str:
    """At least so many characters of it, in paragraphs."""
    rng = random.Random(seed)
    made: list[str] = []
    length = 0
    while length < characters:
        paragraph = asked(rng, families) if rng.random() < 0.5 else rng.choice(PARAGRAPHS)(rng)
        made.append(f"{paragraph}\n\n")
        length += len(made[-1])
    return "".join(made)


def asked(rng: random.Random, families: Sequence[str]) -> str:
    """A question, the call, what it prints, and the answer."""
    problem = synth_families.FAMILIES[rng.choice(families)](rng, False)
    call = problem.call
    code = call.text if call.tool == "python" else as_json(call, "arguments")
    return f"{problem.question}\n{code}\n{printed(call)}"


def again(rng: random.Random) -> str:
    """Words, and the same words."""
    words = [f'"{word(rng, False)}"' for _ in range(rng.randint(1, 5))]
    once = "Words: " + ", ".join(words)     # where a quote begins a line it is cut otherwise
    if rng.random() < 0.5:
        return f"{once}\n{once}\n{once}"
    return f"{once}\n" + "\n".join(f'print({rng.choice(words)})' for _ in words)


def spelled(rng: random.Random) -> str:
    """A word in letters, and its length."""
    drawn = word(rng, False)
    return (f'The word "{drawn}" is {" ".join(drawn)}\nprint("{drawn}")\n{drawn}\n'
            f'print(len("{drawn}"))\n{len(drawn)}')


def counted(rng: random.Random) -> str:
    """Several letters of a word."""
    letter, count = rng.choice(LETTERS), rng.randint(0, 4)
    drawn = word_with(rng, False, letter, count)
    letters = dict.fromkeys([letter, *rng.sample(LETTERS, 2)])
    return "\n".join(f'print("{drawn}".count("{each}"))\n{drawn.count(each)}' for each in letters)


def copied(rng: random.Random) -> str:
    """Numbers, and the same numbers."""
    drawn = numbers(rng, False, rng.randint(1, 5))
    once = ", ".join(map(str, drawn))
    return f"{once}\n{once}\n" + "\n".join(f"print({rng.choice(drawn)})" for _ in drawn)


def summed(rng: random.Random) -> str:
    """Two numbers in all ways that they are written."""
    a, b = numbers(rng, False, 2)
    return f"{a} + {b}\nprint({a} + {b})\n{a + b}\n{a} + {b} = {a + b}"


PARAGRAPHS: list[Callable[[random.Random], str]] = [again, again, spelled, counted, copied, summed]
