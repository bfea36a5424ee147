"""Conversations that teach when and how to call a tool: each question of llmc.synth_families with
the call that answers it, without a tool, or step by step.

The question says which is wanted: "Answer at once." and its like, "Think step by step." and its
like; with neither, or with "Use python.", the tool is called. What a call gives stands as its
output, and is what the call really printed when the conversation was made.
"""
from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace

from llmc import follow_ups, judge, synth_families
from llmc.chat import Call, Message
from llmc.judge import Row
from llmc.synth_families import Family, Problem, frame
from llmc.tools.calculator import calculate

WAYS = ("tool", "direct", "steps")
ASKED_FOR = {                   # what stands behind a question; * as in llmc.synth_families
    "tool": "|||| Use {tool}.| Use {tool} for this.|* Work it out with {tool}.",
    "direct": " Answer at once.| Just the answer, please.| Only the answer.| Without a tool."
              "|* Give me the answer alone.",
    "steps": " Think step by step.| Go step by step.| Show your steps.|* Step after step, please."}
TOOLS = {"python": "python", "calculator": "the calculator", "search": "search"}
SAID = ("The answer is {}.", "It is {}.", "{}.", "That is {}.")


def training(families: Mapping[str, Family], ways: Sequence[str], count: int, seed: int,
             behind: float = 0.0) -> list[Row]:
    """So many conversations, each family and of it each way as often; no question twice. This share
    of them stands behind other turns: those of another, or small talk."""
    rng = random.Random(seed)
    rows = _rows(families, ways, count, rng, out=False)
    if not behind:
        return rows
    talk = [row for some in follow_ups.families().values() for row in some if not row.unseen]
    return [replace(row, messages=[*rng.choice(rng.choice((rows, talk))).messages, *row.messages])
            if rng.random() < behind else row for row in rows]


def held_out(families: Mapping[str, Family], ways: Sequence[str], count: int, seed: int
             ) -> list[Row]:
    """So many about words and numbers that no training has, whatever its seed; one in five is also
    put in other words."""
    return _rows(families, ways, count, random.Random(f"{seed} held out"), out=True)


def _rows(families: Mapping[str, Family], ways: Sequence[str], count: int, rng: random.Random,
          out: bool) -> list[Row]:
    problems = synth_families.drawn(families, count, rng, out)
    made = [conversation(problem, name, ways[at // len(families) % len(ways)], rng)
            for at, (name, problem) in enumerate(problems)]
    rng.shuffle(made)
    return made


def conversation(problem: Problem, family: str, way: str, rng: random.Random) -> Row:
    """A problem answered in this way. A ValueError if its call does not print what is right: the
    family has an error then."""
    more, kept = frame(rng, ASKED_FOR[way], problem.unseen == "wording")
    question = problem.question + more.format(tool=TOOLS[problem.call.tool])
    if problem.passage and way != "tool":
        question = f"{problem.passage}\n\n{question}"
    answer = rng.choice(SAID).format(problem.want)
    messages = [Message("user", question)]
    if way == "tool":
        output, answer = problem.output or printed(problem.call), problem.answer or answer
        if not problem.output and output != problem.want:
            raise ValueError(f"{problem.call.text!r} printed {output!r}, and {problem.want!r} is "
                             f"the answer to {problem.question!r}")
        messages += [Message("assistant", call=problem.call), Message("tool", output),
                     Message("assistant", answer)]
    elif way == "direct":
        messages.append(Message("assistant", f"{problem.want}."))
    else:
        messages.append(Message("assistant", f"{problem.steps} {answer}"))
    kind = "fact" if problem.output else "task"
    row = Row(messages, kind, family, problem.unseen, want=problem.want, way=way)
    if not judge.right(row, messages[-1].text):
        raise ValueError(f"{messages[-1].text!r} is not seen to answer {question!r}")
    return row


def printed(call: Call) -> str:
    """What a call of ours prints, without the line end. The code is our own and runs here."""
    if call.tool == "calculator":
        return calculate(json.loads(call.text)["expression"])
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(call.text, "<call>", "exec"), {})
    return out.getvalue().removesuffix("\n")
