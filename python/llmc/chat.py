"""Conversations as token ids: what a message is, and which tokens the assistant is to write.

    rendered = chat.render([Message("user", "Hello")], tokenizer, answer=True)
    rendered.ids, rendered.learned

Structure is special tokens alone. A text is encoded with none of them allowed, so that what someone
says cannot end a turn or begin another, whatever names of tokens are in it.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, get_args

from llmc import encodings
from llmc.chat_templates import TEMPLATES, Call, Message, Piece, Role, Template
from llmc.tokenizer import Tokenizer

__all__ = ["Call", "Message", "Rendered", "check", "from_dict", "load_tokenizer", "parse", "render",
           "to_dict"]


class Rendered(NamedTuple):
    """A conversation's ids, and of each whether the assistant is to write it: what it thinks and
    says, its calls with the token that ends them, the end of its turn. Not headers, other sides'
    turns, and outputs of tools."""
    ids: list[int]
    learned: list[bool]


def template_of(name: str) -> Template:
    """By its name; a ValueError lists those there are."""
    if name not in TEMPLATES:
        raise ValueError(f"no template is called {name!r}; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def load_tokenizer(name: str) -> Tokenizer:
    """As Tokenizer.load; cl100k_base and o200k_base with the tokens that GPT-4 and GPT-4o have for
    conversations."""
    tokenizer = Tokenizer.load(name)
    if first := encodings.CHAT_FIRST.get(name):
        turns = {token: first + number for number, token in enumerate(encodings.TURN_TOKENS)}
        tokenizer = Tokenizer(name, encodings.load(name)._replace(
            special=tokenizer.special | turns))
    return tokenizer


def render(messages: Sequence[Message], tokenizer: Tokenizer, template: str = "llmc",
           answer: bool = False) -> Rendered:
    """The ids of a conversation. answer: it ends with what stands before the assistant's next
    words, which are to be generated. A ValueError where `check` finds a fault, or the tokenizer
    lacks a special token that the template wants."""
    check(messages)
    if answer and (messages[-1].role == "assistant"):
        raise ValueError("the last message is the assistant's already; wanted a question")
    format = template_of(template)
    pieces = [*format.pieces(messages), *(format.answer(messages[-1]) if answer else ())]
    ids: list[int] = []
    learned: list[bool] = []
    for special, run in groupby((piece for piece in pieces if piece.text), lambda p: p.special):
        made = _specials(run, tokenizer, template) if special else _text(list(run), tokenizer)
        ids += made.ids
        learned += made.learned
    return Rendered(ids, learned)


def parse(ids: Iterable[int], tokenizer: Tokenizer, template: str = "llmc") -> list[Message]:
    """The messages that ids hold, as a model may have written them: what it left open ends with the
    ids; an assistant's turn that has only begun is none."""
    names = {id: name for name, id in tokenizer.special.items()}
    pieces = [piece for special, run in groupby(ids, names.__contains__)
              for piece in ((Piece(names[id], True) for id in run) if special
                            else [Piece(tokenizer.decode(run))])]
    found = template_of(template).messages(pieces)
    if found and found[-1] == Message("assistant"):
        found.pop()
    return found


def check(messages: Sequence[Message]) -> None:
    """A ValueError names the first message that is wrong, counted from 1, and why."""
    if not messages:
        raise ValueError("the conversation has no messages")
    before = None
    for number, message in enumerate(messages, 1):
        if fault := _fault(message, before):
            raise ValueError(f"message {number}{fault}")
        before = message


def _fault(message: Message, before: Message | None) -> str:
    """What is wrong with a message behind another, or nothing."""
    role, called = message.role, before is not None and before.call
    if role not in get_args(Role):
        return f": there is no role {role!r}; wanted {', '.join(get_args(Role))}"
    if role != "assistant" and (message.thinking or message.call):
        return f" is the {role}'s, and thinks or calls a tool; only the assistant does"
    if role == "system" and before is not None:
        return " is the system's, which is to come first"
    if (role == "tool") != bool(called):
        return (" follows a call of a tool, and is not its output" if called
                else " is the output of a tool that was not called")
    if role == "assistant" and before is not None and before.role == "assistant":
        return " is the assistant's, and so is the one before"
    if role != "tool" and not (message.text.strip() or message.thinking or message.call):
        return f", the {role}'s, is empty"
    return ""


def from_dict(data: Any) -> list[Message]:
    """OpenAI's form: {"messages": [{"role", "content"}, …]}, or the list. Of an assistant also
    tool_calls, one at a time, and thinking or reasoning_content. A ValueError says what is wrong;
    the conversation is one that `check` lets pass."""
    if isinstance(data, dict):
        data = data.get("messages")
    if not isinstance(data, list):
        raise ValueError(f"the messages are {type(data).__name__}, wanted a list")
    messages = []
    for number, each in enumerate(data, 1):
        try:
            messages.append(_message(each))
        except ValueError as error:
            raise ValueError(f"message {number}{error}") from None
    check(messages)
    return messages


def to_dict(messages: Iterable[Message]) -> dict[str, Any]:
    """What from_dict reads."""
    rows = []
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.text}
        if message.thinking:
            row["thinking"] = message.thinking
        if call := message.call:
            row["tool_calls"] = [{"type": "function", "function": {
                "name": call.tool, "arguments": call.text}}]
        rows.append(row)
    return {"messages": rows}


def _message(row: Any) -> Message:
    if not isinstance(row, dict):
        raise ValueError(f" is {type(row).__name__}, wanted an object")
    text, thinking = row.get("content"), row.get("thinking") or row.get("reasoning_content") or ""
    calls = row.get("tool_calls") or []
    if isinstance(text, list):              # parts, of which text is one kind
        if odd := [part for part in text if not isinstance(part, dict) or part.get("type") != "text"
                   or not isinstance(part.get("text"), str)]:
            raise ValueError(f" has a part that is no text: {json.dumps(odd[0])[:80]}")
        text = "".join(part["text"] for part in text)
    if text is None and calls:
        text = ""
    if not isinstance(row.get("role"), str):
        raise ValueError(" has no role")
    if not isinstance(text, str) or not isinstance(thinking, str):
        raise ValueError(f", the {row['role']}'s, has no content that is text")
    if not isinstance(calls, list) or len(calls) > 1:
        raise ValueError(", the assistant's, has several calls of tools; wanted one, and its "
                         "output behind it")
    return Message(row["role"], text, thinking, _call(calls[0]) if calls else None)


def _call(call: Any) -> Call:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not name or not isinstance(name, str):
        raise ValueError(" has a call that names no function")
    arguments = function.get("arguments", "")
    if name in ("search", "python") and isinstance(arguments, str):
        return Call(name, arguments)
    try:
        found = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError as error:
        raise ValueError(f" calls {name} with arguments that are no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f" calls {name} with {type(found).__name__}, wanted an object")
    return Call(name, json.dumps(found, ensure_ascii=False))


def _specials(run: Iterable[Piece], tokenizer: Tokenizer, template: str) -> Rendered:
    pieces = list(run)
    for piece in pieces:
        if piece.text not in tokenizer.special:
            raise ValueError(f"{tokenizer.name} has no special token {piece.text}, which the "
                             f"template {template} writes; choose another template, or a tokenizer "
                             "that has it, as llmc train_tokenizer --special chat makes one")
    return Rendered([tokenizer.special[piece.text] for piece in pieces],
                    [piece.learned for piece in pieces])


def _text(run: list[Piece], tokenizer: Tokenizer) -> Rendered:
    """Of pieces that stand side by side and are one text to the tokenizer. A token is learned if all
    of it is; those that are learned stand behind those that are not."""
    text = "".join(piece.text for piece in run)
    given = "".join(piece.text for piece in run if not piece.learned)
    ids = tokenizer.encode_plain(text)
    if not given or given == text:
        return Rendered(ids, [not given] * len(ids))
    at, begins = -int(tokenizer.space_first), []
    for id in ids:
        begins.append(at)
        at += len(tokenizer.token_bytes(id))
    before = len(given.encode("utf-8", "replace"))
    return Rendered(ids, [begin >= before for begin in begins])
