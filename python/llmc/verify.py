"""Whether an answer that a model wrote is to be kept: by the right answer, or by one's own function.

    number      its last number is the last one of the right answer: 72, 72.0 and $72 are the same
    exact       it is the right answer, but for blanks around it
    want        it has the words that the row wants, and is judged as llmc assistant_report does
    FILE:NAME   the function NAME(row, answer) of a Python file says True
"""
from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from llmc import judge
from llmc.chat import Message

BY_RIGHT_ANSWER = ("number", "exact", "want")
NUMBER = re.compile(r"(?<![\d.])-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
Verify = Callable[[dict[str, Any], str, str], bool]     # of a row, the right answer, and an answer


def by_name(name: str) -> Verify:
    """A ValueError lists those there are."""
    own = {"": lambda row, right, answer: True, "number": _number, "exact": _exact, "want": _want}
    if name in own:
        return own[name]
    file, _, function = name.rpartition(":")
    if not file or not function.isidentifier():
        raise ValueError(f"--verify is {name!r}; wanted number, exact, want, or FILE.py:NAME")
    return _own(Path(file), function)


def last_number(text: str) -> Fraction | None:
    """None where it has none, or one of more digits than anybody reads."""
    found = NUMBER.findall(text)
    return Fraction(found[-1].replace(",", "")) if found and len(found[-1]) < 1000 else None


def _number(row: dict[str, Any], right: str, answer: str) -> bool:
    wanted = last_number(right)
    if wanted is None:
        raise ValueError(f"its right answer has no number: {right[:40]!r}")
    return last_number(answer) == wanted


def _exact(row: dict[str, Any], right: str, answer: str) -> bool:
    if not right.strip():
        raise ValueError("it has no right answer")
    return answer.strip() == right.strip()


def _want(row: dict[str, Any], right: str, answer: str) -> bool:
    known = {"kind": "follow_up", "family": ""} | {
        field.name: row[field.name] for field in fields(judge.Row)
        if row.get(field.name) is not None and field.name != "messages"}
    if not known.get("want") and known["kind"] not in ("harmful", "harmless"):
        raise ValueError('it has no "want", the words of a right answer')
    if odd := [key for key, value in known.items()
               if not isinstance(value, int if key == "at_most" else str)]:
        raise ValueError(f"{odd[0]!r} is {type(known[odd[0]]).__name__}")
    return judge.right(judge.Row([Message("assistant", right)], **known), answer)


def _own(path: Path, name: str) -> Verify:
    if not path.is_file():
        raise ValueError(f"--verify: there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--verify: {path} is no Python file; wanted FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:                      # whatever is wrong with somebody's program
        raise ValueError(f"--verify: {path} fails: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"--verify: {path} has no function {name}")

    def verify(row: dict[str, Any], right: str, answer: str) -> bool:
        try:
            said = function(row, answer)
        except Exception as error:
            kind = type(error).__name__
            raise ValueError(f"{path}:{name} fails on it: {kind}: {error}") from error
        if not isinstance(said, bool):
            kind = type(said).__name__
            raise ValueError(f"{path}:{name} says {kind} of it, wanted True or False")
        return said

    return verify
