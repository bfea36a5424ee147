"""A conversation with a model, in the terminal; and how one is written as token ids.

    rendered = chat.render([Message("user", "Hello")], tokenizer, answer=True)
    rendered.ids, rendered.learned

A message is what one side says; of each id it is known whether the assistant is to write it.
Structure is special tokens alone. A text is encoded with none of them allowed, so that what someone
says cannot end a turn or begin another, whatever names of tokens are in it.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from llmc import cli, disk, encodings
from llmc.chat_calls import Turn, once, one_by_one
from llmc.chat_templates import ARGUMENT, TEMPLATES, Call, Message, Piece, Role, Template
from llmc.tokenizer import Tokenizer

__all__ = ["BASE", "Call", "Manner", "Message", "Rendered", "check", "from_dict", "introduced",
           "is_base", "load_tokenizer", "manner_by", "manner_of", "manner_text",
           "output_ids", "parse", "parse_manner", "render", "save_manner", "stops", "to_dict"]
OLDER = {"developer": "system", "function": "tool"}     # what OpenAI calls roles, too
SETTINGS = "chat.json"                                  # of a checkpoint, beside its tokenizer


@dataclass
class Chat:
    """Talk with a model: with an assistant, or --base with the document simulator that a base model
    is. Not in a terminal, standard input is one message, and only the answer is printed."""
    model: str = cli.positional()   # a run's folder (its newest checkpoint) or a checkpoint's
    prompt: str = ""            # answer this, and end
    base: bool = False          # what is typed is a document's beginning, and the model goes on
    system: str | None = None   # the system's message; "": none (default: that of the checkpoint's
                                # chat.json)
    template: Literal["auto", "llmc", "chatml", "llama3"] = "auto"  # how a conversation is written;
                                # auto: as chat.json says, or as the tokenizer's special tokens tell
    tools: list[str] | None = None  # what it may call: python, calculator, search, or none; those
                                # that it was not taught are described to it (default: what it was
                                # taught, as its chat.json says)
    search: Path | None = None  # what the tool search looks in: a file that llmc index made, or a
                                # web API's .json
    tools_file: Path | None = None  # a Python file, whose functions are tools too; type hints and
                                # docstrings tell the model about them
    unsafe_tools: bool = False  # run Python without holding it, where it cannot be held
    max_tokens: cli.Count = 512     # of an answer, at most
    context: cli.CountOrZero = 0    # tokens of the conversation that the model sees; 0: as many as
                                    # it was made for, if their memory is no more than 1 GiB
    temperature: float = 0.7    # 0: the likeliest token every time; 1: as the model has learned
    top_k: cli.CountOrZero = 0  # draw from the k likeliest tokens; 0: all
    top_p: float = 1.0          # draw from the likeliest tokens that make up this probability
    min_p: float = 0.0          # drop tokens less likely than this share of the likeliest
    seed: cli.Seed = 1337       # another seed, other answers
    device: str = "cpu"         # as `llmc doctor` lists them
    dtype: Literal["auto", "f32", "bf16", "int8"] = "auto"  # of the weights and what is computed,
                                # int8 of the weights alone; auto: as they are stored
    threads: cli.Threads = 0    # 0: one for each processor


def run(config: Chat) -> None:
    """Answer once, or until the user leaves."""
    from llmc import chat_terminal

    chat_terminal.start(config)


class Manner(NamedTuple):
    """How a model is spoken to: its template, the system's message where a chat brings none, and
    the tools that it was taught to call."""
    template: str
    system: str = ""
    tools: tuple[str, ...] = ()


BASE = Manner("")               # a base model's


class Rendered(NamedTuple):
    """A conversation's ids, and of each whether the assistant is to write it. It writes what it
    thinks and says, its calls with the token that ends them, and the end of its turn; it does not
    write headers, what others say, and what tools answer."""
    ids: list[int]
    learned: list[bool]


def template_of(name: str) -> Template:
    """By its name; a ValueError lists those there are."""
    if name not in TEMPLATES:
        raise ValueError(f"no template is called {name!r}; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def manner_of(folder: Path, tokenizer: Tokenizer) -> Manner | None:
    """Of a checkpoint: what its chat.json says; without one, the template whose special tokens the
    tokenizer has, unless our own pre-training left it. None: it is a base model."""
    path = folder / SETTINGS
    if path.is_file():
        return parse_manner(path.read_bytes(), str(path))
    return None if is_base(folder) else manner_by(tokenizer)


def is_base(folder: Path) -> bool:
    """Whether it is known that a checkpoint has read documents alone, so that it has never seen the
    tokens of conversations, whatever its tokenizer has."""
    path = folder / SETTINGS
    if path.is_file():
        return parse_manner(path.read_bytes(), str(path)) is None
    return (folder / "state.json").is_file()        # our own pre-training


def parse_manner(raw: bytes, where: str) -> Manner | None:
    """Of a chat.json, which is called so in a ValueError's sentence. Its template is "" where it
    marks a base model: None."""
    try:
        found = disk.parse_json(raw, where, {"template": str, "system": str})
    except ValueError as error:
        raise ValueError(f"{error}; remove it, and the tokenizer tells the template") from error
    if not found["template"]:
        return None
    try:
        template_of(found["template"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}; write one of them there") from None
    tools = found.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(name, str) for name in tools):
        raise ValueError(f"{where}: 'tools' is {json.dumps(tools)[:40]}, wanted a list of names")
    return Manner(found["template"], found["system"], tuple(tools))


def manner_by(tokenizer: Tokenizer) -> Manner | None:
    """That of the template whose special tokens a tokenizer has."""
    return next((Manner(name) for name, template in TEMPLATES.items()
                 if tokenizer.special.keys() >= template.marks), None)


def save_manner(manner: Manner, folder: Path) -> None:
    """Write a checkpoint's chat.json."""
    disk.write_whole(folder / SETTINGS, manner_text(manner))


def manner_text(manner: Manner) -> bytes:
    """What a chat.json holds."""
    return (json.dumps(manner._asdict(), ensure_ascii=False, indent=1) + "\n").encode()


def introduced(messages: Sequence[Message], manner: Manner) -> list[Message]:
    """With the model's own system message, where the conversation brings none."""
    own = messages[:1] and messages[0].role == "system"
    return [*messages] if own or not manner.system else [Message("system", manner.system),
                                                         *messages]


def stops(template: str, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end what the assistant writes."""
    return frozenset(tokenizer.special[name] for name in template_of(template).stops
                     if name in tokenizer.special)


def load_tokenizer(name: str) -> Tokenizer:
    """As Tokenizer.load; cl100k_base and o200k_base with the tokens that GPT-4 and GPT-4o have for
    conversations."""
    return _with_turns(name) if name in encodings.CHAT_FIRST else Tokenizer.load(name)


@cache
def _with_turns(name: str) -> Tokenizer:
    encoding, first = encodings.load(name), encodings.CHAT_FIRST[name]
    turns = {token: first + number for number, token in enumerate(encodings.TURN_TOKENS)}
    return Tokenizer(name, encoding._replace(special=encoding.special | turns))


def render(messages: Sequence[Message], tokenizer: Tokenizer, template: str = "llmc",
           answer: bool = False) -> Rendered:
    """The ids of a conversation. answer: it ends where the assistant's next words are to be
    generated; the ids are then the beginning of those of the conversation with that answer. A
    ValueError where `check` finds a fault, or the tokenizer lacks a special token that the template
    wants."""
    check(messages)
    if answer and messages[-1].role == "assistant":
        raise ValueError("the last message is the assistant's already; wanted a question")
    form = template_of(template)
    return _rendered([*form.pieces(messages), *(form.answer(messages[-1]) if answer else ())],
                     tokenizer, template)


def output_ids(call: Message, output: str, tokenizer: Tokenizer,
               template: str = "llmc") -> list[int]:
    """What follows the token that closed an assistant's call, up to where its next words are to be
    generated: the ids that `render` gives a tool's output there."""
    form, told = template_of(template), Message("tool", output)
    said = [*form.turn(call, None)]
    closed = max(at for at, piece in enumerate(said) if piece.special and piece.text in form.stops)
    return _rendered([*said[closed + 1:], *form.turn(told, call), *form.answer(told)], tokenizer,
                     template).ids


def _rendered(pieces: Iterable[Piece], tokenizer: Tokenizer, template: str) -> Rendered:
    """Pieces side by side."""
    ids: list[int] = []
    learned: list[bool] = []
    # A header and the text behind it are encoded apart, as they come where the text is generated.
    # Only SentencePiece, which puts a space before each text, gets them together.
    for special, run in groupby((piece for piece in pieces if piece.text), lambda p: p.special):
        run = list(run)
        for part in [run] if special or tokenizer.space_first else [[piece] for piece in run]:
            made = _specials(part, tokenizer, template) if special else _text(part, tokenizer)
            ids += made.ids
            learned += made.learned
    return Rendered(ids, learned)


def parse(ids: Iterable[int], tokenizer: Tokenizer, template: str = "llmc") -> list[Message]:
    """The messages that ids hold, as a model may have written them. What it left open ends with the
    ids, and an assistant's turn with nothing in it is left out."""
    names = tokenizer.special_names
    pieces = [piece for special, run in groupby(ids, names.__contains__)
              for piece in ((Piece(names[id], True) for id in run) if special
                            else [Piece(tokenizer.decode(run))])]
    found = template_of(template).messages(pieces)
    return [message for message in found if message != Message("assistant")]


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
    if message.call and not _is_call(message.call):
        return f" calls {message.call.tool} with what is no object in JSON"
    if role != "tool" and not (message.text.strip() or message.thinking or message.call):
        return f", the {role}'s, is empty"
    return ""


def _is_call(call: Call) -> bool:
    """Whether templates can write it."""
    if not call.tool or call.tool in ARGUMENT:
        return True
    try:
        return isinstance(json.loads(call.text), dict)
    except (ValueError, RecursionError):
        return False


def from_dict(data: Any) -> list[Message]:
    """OpenAI's form: {"messages": [{"role", "content"}, …]}, or the list. Of an assistant also
    tool_calls or function_call, thinking or reasoning_content, and weight 0 where it is not to be
    learned from. Calls made at a time come one after the other, each with its output. Tools beside
    the messages become a part of the system's. A ValueError says what is wrong; the conversation is
    one that `check` lets pass."""
    tools = ""
    if isinstance(data, dict):
        tools, data = tools_text(data.get("tools")), data.get("messages")
    messages = with_system(one_by_one(turns_of(data)), tools)
    check(messages)
    return messages


def turns_of(data: Any) -> list[Turn]:
    """Of a list of messages in OpenAI's form."""
    if not isinstance(data, list):
        raise ValueError(f"the messages are {type(data).__name__}, wanted a list")
    turns = []
    for number, each in enumerate(data, 1):
        try:
            turns.append(turn_of(each))
        except ValueError as error:
            raise ValueError(f"message {number}{error}") from None
    return turns


def with_system(messages: list[Message], *more: str) -> list[Message]:
    """With more in the system's message, which is one, the first, or none if it would be empty."""
    own = [message.text for message in messages[:1] if message.role == "system"]
    text = "\n\n".join(filter(str.strip, [*own, *more]))
    return [Message("system", text)] * bool(text) + messages[len(own):]


def tools_text(tools: Any) -> str:
    """What a system message says of the tools there are."""
    if not tools or tools == "[]":
        return ""
    return "Tools:\n" + (tools if isinstance(tools, str)
                         else json.dumps(tools, ensure_ascii=False, default=str))


def to_dict(messages: Iterable[Message]) -> dict[str, Any]:
    """What from_dict reads."""
    rows = []
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.text}
        if not message.learned:
            row["weight"] = 0
        if message.thinking:
            row["thinking"] = message.thinking
        if call := message.call:
            text = (json.dumps({ARGUMENT[call.tool]: call.text}, ensure_ascii=False)
                    if call.tool in ARGUMENT else call.text)
            row["tool_calls"] = [{"type": "function", "function": {
                "name": call.tool, "arguments": text}}]
        rows.append(row)
    return {"messages": rows}


def turn_of(row: Any) -> Turn:
    """Of a row of OpenAI's form. A ValueError says what is wrong, to stand behind "message 5"."""
    if not isinstance(row, dict):
        raise ValueError(f" is {type(row).__name__}, wanted an object")
    text, thinking = row.get("content"), row.get("thinking") or row.get("reasoning_content") or ""
    older = row.get("function_call")
    calls = row.get("tool_calls") or ([{"function": older}] if older else [])
    if isinstance(text, list):              # parts, of which text is one kind
        if odd := [part for part in text if not isinstance(part, dict) or part.get("type") != "text"
                   or not isinstance(part.get("text"), str)]:
            raise ValueError(f" has a part that is no text: {repr(odd[0])[:80]}")
        text = "".join(part["text"] for part in text)
    if text is None and calls:
        text = ""
    if not isinstance(row.get("role"), str):
        raise ValueError(" has no role")
    role = OLDER.get(row["role"], row["role"])
    if not isinstance(text, str) or not isinstance(thinking, str):
        raise ValueError(f", the {role}'s, has no content that is text")
    if not isinstance(calls, list):
        raise ValueError(f" has tool_calls of {type(calls).__name__}, wanted a list")
    learned = role != "assistant" or row.get("weight") != 0
    ids = [each.get("id") for each in calls if isinstance(each, dict)] or [row.get("tool_call_id")]
    return Turn(Message(role, text, thinking, learned=learned), tuple(map(call_of, calls)),
                tuple(id if isinstance(id, str) else "" for id in ids))


def call_of(call: Any) -> Call:
    """Of OpenAI's form, {"function": {"name", "arguments"}}. Search and python take a query and
    code, in an object or as they are."""
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not name or not isinstance(name, str):
        raise ValueError(" has a call that names no function")
    arguments = function.get("arguments", "")
    try:
        found = (json.loads(arguments, object_pairs_hook=once) if isinstance(arguments, str)
                 else arguments)
        text = json.dumps(found, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError, TypeError) as error:    # the last of what tables hold
        if name in ARGUMENT and isinstance(arguments, str):
            return Call(name, arguments)
        raise ValueError(f" calls {name} with arguments that are no JSON: "
                         f"{disk.json_fault(error)}") from None
    if name in ARGUMENT:
        own = found.get(ARGUMENT[name]) if isinstance(found, dict) and len(found) == 1 else None
        return Call(name, own if isinstance(own, str) else
                    arguments if isinstance(arguments, str) else json.dumps(arguments))
    if not isinstance(found, dict):
        raise ValueError(f" calls {name} with {type(found).__name__}, wanted an object")
    return Call(name, text)


def _specials(pieces: list[Piece], tokenizer: Tokenizer, template: str) -> Rendered:
    for piece in pieces:
        if piece.text not in tokenizer.special:
            raise ValueError(
                f"{tokenizer.name} has no special token {piece.text}, which the template "
                f"{template} writes; choose another template or tokenizer: for llmc o200k_base or "
                "one that llmc train_tokenizer --special chat makes, for the others those of their "
                "models")
    return Rendered([tokenizer.special[piece.text] for piece in pieces],
                    [piece.learned for piece in pieces])


def _text(run: list[Piece], tokenizer: Tokenizer) -> Rendered:
    """Of pieces that are one text to the tokenizer. A token is learned if all of it is; those that
    are learned stand behind those that are not."""
    text = "".join(piece.text for piece in run)
    given = "".join(piece.text for piece in run if not piece.learned)
    ids = tokenizer.encode_plain(text)
    if found := [id for id in ids if id in tokenizer.special_names]:
        raise ValueError(f"{tokenizer.name} makes its special token {found[0]} of plain text, such "
                         f"as {text[:40]!r}; a conversation is not safe with it")
    if not given or given == text:
        return Rendered(ids, [not given] * len(ids))
    at, begins = -int(tokenizer.space_first), []
    for id in ids:
        begins.append(at)
        at += len(tokenizer.token_bytes(id))
    before = len(given.encode("utf-8", "replace"))
    return Rendered(ids, [begin >= before for begin in begins])


if __name__ == "__main__":
    cli.main(run)
