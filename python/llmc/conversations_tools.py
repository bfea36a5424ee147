"""Calls of tools out of the texts that published files write them in.

    tags        <tool_call>{"name", "arguments"}</tool_call> and <tool_response>…</tool_response>:
                Hermes, Qwen; <functioncall> {"name", "arguments"}: Glaive
    glaive      {"system", "chat": "USER: … ASSISTANT: … FUNCTION RESPONSE: …"}: Glaive's own files
    xlam        {"query", "tools", "answers"}: xLAM, APIGen
    toolformer  {"instruction": "toolformer: enabled …", "response": "It is python('6 * 7')."}:
                GPTeacher. It holds no outputs: where a text goes on behind a call the output is
                empty, and what follows is kept but not learned from
    notes       {"question", "answer"}: GSM8K, whose <<48/2=24>> become calls of the calculator;
                its last line, #### 72, stays as it is

Nothing is left out but marks: what cannot be told for sure is a ValueError with the reason.
"""
from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from llmc import chat, disk
from llmc.chat import Call, Message
from llmc.chat_calls import Turn, once, one_by_one
from llmc.chat_templates import ARGUMENT

TAG = re.compile(r"^[ \t]*(?:<tool_call>|<functioncall>)", re.M)
TAGGED = re.compile(r"\s*(?:<tool_call>(.*?)</tool_call>|<functioncall>(.*?)(?=<functioncall>|\Z))",
                    re.S)
RESPONSE = re.compile(r"\s*<tool_response>\n?(.*?)\n?</tool_response>\s*", re.S)
# Glaive's arguments are JSON between apostrophes, inside of JSON
APOSTROPHES = re.compile(r"""\{\s*"name":\s*("(?:[^"\\]|\\.)*"),\s*"arguments":\s*'(.*)'\s*\}""",
                         re.S)
SPEAKER = re.compile(r"(?:\A|\n\n)(USER|ASSISTANT|FUNCTION RESPONSE):")
ENDED = "<|endoftext|>"
HEADER = re.compile(r"toolformer: enabled\ntoolformer access: ([^\n]*)\n", re.S)
NOTE = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
NOTED = re.compile(r"[-+]?(?:\d{1,100}(?:\.\d{0,100})?|\.\d{1,100})")
RESULT = re.compile(r"^#### ", re.M)


# ---- tags in texts -------------------------------------------------------------------------------


def tagged(turns: Iterable[Turn]) -> Iterator[Turn]:
    """With the calls and outputs that texts hold between tags; a text that has such a tag in the
    middle of a line speaks of it, and stays. A ValueError where a tag holds no call."""
    for number, turn in enumerate(turns, 1):
        try:
            if turn.message.role == "assistant" and not turn.calls:
                yield _calls(turn)
            elif turn.message.role == "tool":
                yield from _responses(turn)
            else:
                yield turn
        except ValueError as error:
            raise ValueError(f"message {number}{error}") from None


def _calls(turn: Turn) -> Turn:
    text = turn.message.text
    tag = TAG.search(text)
    if not tag:
        return turn
    calls, at = [], tag.start()
    while match := TAGGED.match(text, at):
        calls.append(call_in(match[1] if match[2] is None else match[2].replace(ENDED, "")))
        at = match.end()
    if text[at:].strip():
        what = "text behind its call" if calls else "a <tool_call> that does not end"
        raise ValueError(f", the assistant's, has {what}: {text[at:].strip()[:40]!r}")
    return Turn(replace(turn.message, text=text[:tag.start()].rstrip()), tuple(calls))


def _responses(turn: Turn) -> Iterator[Turn]:
    """Several outputs may stand in one text."""
    at, found = 0, []
    while match := RESPONSE.match(turn.message.text, at):
        found.append(match[1])
        at = match.end()
    if not found or turn.message.text[at:]:
        yield turn
        return
    yield from (Turn(replace(turn.message, text=text), ids=turn.ids[len(found) - 1:])
                for text in found)


def call_in(text: str) -> Call:
    """{"name": …, "arguments": …} as JSON, as Python writes it, or with Glaive's apostrophes. A
    ValueError says what is wrong, to stand behind "message 5"."""
    text = text.strip()
    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        found = _loosely(text)
        if found is None:
            raise ValueError(" has a call that is no object in JSON: "
                             f"{disk.json_fault(error).strip()}") from None
    return whole_call(found)


def whole_call(found: Any) -> Call:
    """As chat.call_of; a ValueError where the object holds more than a call has."""
    if isinstance(found, dict) and (more := found.keys() - {"name", "arguments", "id", "type"}):
        raise ValueError(f" has a call with {', '.join(sorted(more))[:80]} beside its arguments")
    return chat.call_of({"function": found})


def _loosely(text: str) -> Any:
    """None where it is nothing that can be read."""
    if match := APOSTROPHES.fullmatch(text):
        return {"name": json.loads(match[1], strict=False),
                "arguments": match[2].replace("\\'", "'")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # of backslashes, which are the file's
            found = ast.literal_eval(text)
        json.dumps(found, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


# ---- files of their own --------------------------------------------------------------------------


def glaive(row: dict[str, Any]) -> list[Message]:
    """Glaive's "system" and "chat"."""
    system, text = row.get("system") or "", row["chat"]
    if not isinstance(system, str) or not isinstance(text, str):
        raise ValueError("system and chat are to be texts")
    parts = SPEAKER.split(text)
    if parts[0].strip():
        raise ValueError(f"chat begins with {parts[0].strip()[:40]!r}, wanted USER: or ASSISTANT:")
    roles = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
    turns = [Turn(Message(roles[who], said.strip().removesuffix(ENDED).strip()))
             for who, said in zip(parts[1::2], parts[2::2])]
    if ENDED in "".join(turn.message.text for turn in turns):
        raise ValueError(f"{ENDED} stands in the middle of what somebody says")
    return chat.with_system(one_by_one(tagged(turns)),
                            system.removeprefix("SYSTEM:").strip())


def xlam(row: dict[str, Any]) -> list[Message]:
    """A question, the tools there are, and the calls that answer it; they end the conversation, for
    their outputs are not there."""
    query, answers = row["query"], row["answers"]
    try:
        answers = json.loads(answers) if isinstance(answers, str) else answers
        tools = json.loads(row["tools"]) if isinstance(row["tools"], str) else row["tools"]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tools or answers are no JSON: {disk.json_fault(error)}") from None
    if not isinstance(query, str) or not isinstance(answers, list):
        raise ValueError("query is to be a text, and answers a list of calls")
    if len(answers) != 1:
        raise ValueError(f"it has {len(answers)} calls at a time, and no outputs; wanted one call")
    try:
        call = whole_call(answers[0])
    except ValueError as error:
        raise ValueError(f"the answer{error}") from None
    return chat.with_system([Message("user", query), Message("assistant", call=call)],
                            chat.tools_text(tools))


# ---- Toolformer ----------------------------------------------------------------------------------


def is_toolformer(row: dict[str, Any]) -> bool:
    return str(row.get("instruction")).startswith("toolformer: enabled\n")


def toolformer(row: dict[str, Any]) -> list[Message]:
    """GPTeacher's: the tools and the task in the instruction, calls in the response."""
    if more := {key for key, value in row.items() if value} - {"instruction", "input", "response",
                                                               "output"}:
        raise ValueError(f"it has {', '.join(sorted(more))} beside the response, which the format "
                         "does not know")
    given = row.get("input") or ""
    response = row["output"] if row.get("response") is None else row["response"]
    if not isinstance(given, str) or not isinstance(response, str):
        raise ValueError("input and response are to be texts")
    tools, task = _header(row["instruction"])
    parameters = {name: argument for name, _, argument in tools}
    described = [{"name": name, "description": description, "parameters": {
        "type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}}
        for name, description, argument in tools]
    asked = Message("user", "\n\n".join(filter(None, (task, given))))
    return chat.with_system([asked, *_inline(response, parameters)], chat.tools_text(described))


def _header(text: str) -> tuple[list[tuple[str, str, str]], str]:
    """Of each tool its name, description and parameter, as they stand before the task; and that."""
    access = HEADER.match(text)
    names = [name.strip() for name in access[1].split(",")] if access else []
    at, tools = access.end() if access else 0, []
    for name in names:
        match = re.compile(rf"(.*?)^{re.escape(name)}\((\w+)\)\n", re.S | re.M).match(text, at)
        if not name or not match:
            raise ValueError(f"the instruction does not describe {name!r}")
        tools.append((name, match[1].strip(), ARGUMENT.get(name, match[2])))
        at = match.end()
    if not tools or not text[at:].strip():
        raise ValueError("the instruction has no tool, or no task behind the tools")
    return tools, text[at:]


def _inline(text: str, parameters: dict[str, str]) -> Iterator[Message]:
    """A response as the assistant's messages, a call at the end of each but the last."""
    names = "|".join(map(re.escape, parameters))
    begins = re.compile(rf"\b({names})\(")
    # an apostrophe inside of a word, as in What's, does not end a text in apostrophes
    quoted = re.compile(r"""'((?:\\.|[^'\\]|(?<=\w)'(?=\w))*)'\)|"((?:\\.|[^"\\])*)"\)""", re.S)
    at, learned = 0, True
    while begin := begins.search(text, at):
        match = quoted.match(text, begin.end())
        if not match:
            raise ValueError(f"its call of {begin[1]} does not hold one text in quotes: "
                             f"{text[begin.start():][:60]!r}")
        given = re.sub(r"""\\(['"])""", r"\1", match[1] if match[2] is None else match[2])
        if "\\" in given:
            raise ValueError(f"its call of {begin[1]} has a backslash, and does not say whether it "
                             f"is one: {text[begin.start():match.end()][:60]!r}")
        if inner := begins.search(given):
            raise ValueError(f"its call of {begin[1]} has one of {inner[1]} inside")
        argument = given if begin[1] in ARGUMENT else json.dumps({parameters[begin[1]]: given},
                                                                 ensure_ascii=False)
        yield Message("assistant", text[at:begin.start()], call=Call(begin[1], argument),
                      learned=learned)
        at, learned = match.end(), False
        if text[at:].strip():
            yield Message("tool", "")
    if text[at:].strip() or at == 0:
        yield Message("assistant", text[at:], learned=learned)


# ---- notes in answers ----------------------------------------------------------------------------


def notes(row: dict[str, Any]) -> list[Message]:
    """GSM8K's, each note checked by the calculator. An answer without its line "#### 72" is another
    set's, and has no notes."""
    question, answer = row["question"], row["answer"]
    if not isinstance(question, str) or not isinstance(answer, str):
        raise ValueError("question and answer are to be texts")
    found, at = [Message("user", question)], 0
    for match in NOTE.finditer(answer) if RESULT.search(answer) else ():
        found += [Message("assistant", answer[at:match.start()],
                          call=Call("calculator", json.dumps({"expression": match[1]}))),
                  Message("tool", _checked(match))]
        at = match.end()
    if at and (stray := re.search("<<|>>", NOTE.sub("", answer))):
        raise ValueError(f"its answer has {stray[0]} outside of a note like <<48/2=24>>")
    return [*found, Message("assistant", answer[at:])]


def _checked(match: re.Match[str]) -> str:
    """What the calculator answers, which the note is to say too."""
    from llmc.tools.calculator import calculate

    note = repr(match[0][:60])
    try:
        answer = calculate(match[1])
    except ValueError as error:
        raise ValueError(f"its note {note} is no calculation: {error}") from None
    if not _rounded(answer, match[2].strip()):
        raise ValueError(f"its note {note} is wrong: it is {answer}")
    return answer


def _rounded(answer: str, noted: str) -> bool:
    """Whether what was noted is the answer, to as many decimals as it has."""
    if not NOTED.fullmatch(noted):
        return False
    try:
        off = abs(Fraction(answer) - Fraction(noted))
    except (ValueError, ZeroDivisionError):
        return False
    decimals = len(noted.partition(".")[2])
    return not off or bool(decimals) and 2 * off <= Fraction(1, 10**decimals)
