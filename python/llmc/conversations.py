"""Conversations out of the files that people publish them in.

    messages    {"messages": [{"role", "content"}, …]}: OpenAI, UltraChat 200k, SmolTalk
    sharegpt    {"conversations": [{"from", "value"}, …]}, "system" and "tools" beside it: ShareGPT,
                Vicuna, Glaive
    alpaca      {"instruction", "input", "output"}, "system" and "history": Alpaca, LIMA, GPTeacher
    dolly       {"instruction", "context", "response"}: databricks-dolly-15k
    pair        {"prompt", "response"}, also "answer" or "completion"
    tree        {"prompt": {"text", "replies": …}}: OpenAssistant, of each message the best reply
    turns       {"data": [question, answer, …]}: UltraChat

A file is JSON lines, one JSON array, or parquet, each also compressed. What a row is, its keys say.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llmc import chat
from llmc.chat import Message
from llmc.documents import COMPRESSED, Source, opened

KINDS = (".json", ".jsonl", ".ndjson", ".parquet")
ROLES = {"human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "chatgpt":
         "assistant", "assistant": "assistant", "bing": "assistant", "system": "system",
         "tool": "tool", "observation": "tool", "function_response": "tool"}
# Alpaca's wrapping of an instruction (github.com/tatsu-lab/stanford_alpaca), which templates replace
WRAPPED = re.compile(r"Below is an instruction .*?\n\n### Instruction:\n(?P<task>.*?)"
                     r"(?:\n\n### Input:\n(?P<input>.*?))?\n\n### Response:\s*", re.S)


class Conversation(NamedTuple):
    """messages, and the place they stand in: FILE, line 7"""
    messages: list[Message]
    place: str


def find(place: Path) -> list[Path]:
    """The file, or those in the folder, in order; a ValueError if there are none."""
    if not place.exists():
        raise ValueError(f"{place}: there is no such file or folder")
    inside = sorted(place.rglob("*")) if place.is_dir() else [place]
    found = [path for path in inside if path.is_file() and _suffixes(path)[0] in KINDS]
    if not found:
        raise ValueError(f"{place}: no file of conversations; wanted {', '.join(KINDS)}, also "
                         f"compressed as {', '.join(COMPRESSED)}")
    return found


def read(path: Path) -> Iterator[Conversation]:
    """Those of a file, in order. A ValueError names the place of the first that is none, and what is
    wrong with it."""
    for row, place in _rows(path):
        try:
            messages = messages_of(row)
            chat.check(messages)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        yield Conversation(messages, place)


def messages_of(row: Any) -> list[Message]:
    """A row's messages, whatever the format; a ValueError where it is none that is known."""
    if not isinstance(row, dict):
        raise ValueError(f"it is {type(row).__name__}, wanted an object")
    for keys, reader in READERS.items():
        if all(any(key in row for key in key.split("|")) for key in keys.split()):
            return reader(row)
    raise ValueError(f"no format of conversations has the keys {', '.join(row) or '(none)'}; "
                     "wanted messages, conversations, instruction and output, or prompt and "
                     "response")


def _sharegpt(row: dict[str, Any]) -> list[Message]:
    """Calls are turns of their own there; here they belong to what was said before."""
    told = [row.get("system") or "", _tools(row.get("tools"))]
    found = [Message("system", "\n\n".join(filter(None, told)))] if any(told) else []
    turns = row["conversations"]
    for number, turn in enumerate(turns if isinstance(turns, list) else [turns], 1):
        who, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(who, str) or not isinstance(text, str):
            raise ValueError(f"turn {number} is no {{\"from\", \"value\"}} of texts")
        if who == "function_call":
            said = found.pop() if found and _may_call(found[-1]) else Message("assistant")
            found.append(Message("assistant", said.text, said.thinking, _function(text, number)))
        elif who in ROLES:
            found.append(Message(ROLES[who], text))
        else:
            raise ValueError(f"turn {number} is from {who!r}; wanted one of "
                             f"{', '.join([*ROLES, 'function_call'])}")
    return found


def _may_call(message: Message) -> bool:
    return message.role == "assistant" and message.call is None


def _function(text: str, number: int) -> chat.Call:
    try:
        function = json.loads(text)
        row = {"role": "assistant", "tool_calls": [{"function": function}]}
        return chat.from_dict([{"role": "user", "content": "x"}, row])[1].call
    except ValueError as error:
        raise ValueError(f"turn {number} is no call of a function: {error}") from None


def _tools(tools: Any) -> str:
    """What a system message says of them."""
    if not tools or tools == "[]":
        return ""
    return "Tools:\n" + (tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False))


def _alpaca(row: dict[str, Any]) -> list[Message]:
    asked = [_string(row, "instruction"), _string(row, "input", "context")]
    found = [Message("system", row["system"])] if row.get("system") else []
    for pair in row.get("history") or []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)):
            raise ValueError("history is no list of [question, answer]")
        found += [Message("user", pair[0]), Message("assistant", pair[1])]
    return [*found, Message("user", "\n\n".join(filter(None, asked))),
            Message("assistant", _string(row, "output", "response"))]


def _pair(row: dict[str, Any]) -> list[Message]:
    prompt = _string(row, "prompt")
    if match := WRAPPED.fullmatch(prompt):
        prompt = "\n\n".join(filter(None, (match["task"], match["input"])))
    return [Message("user", prompt),
            Message("assistant", _string(row, "response", "answer", "completion"))]


def _tree(row: dict[str, Any]) -> list[Message]:
    found, node = [], row["prompt"]
    while node:
        if not isinstance(node, dict) or node.get("role") not in ROLES:
            raise ValueError("a message of the tree has no role that is known")
        found.append(Message(ROLES[node["role"]], _string(node, "text")))
        replies = [each for each in node.get("replies") or [] if not each.get("deleted")]
        node = min(replies, key=_rank, default=None)
    if found[-1].role == "user":            # a question that nobody has answered
        found.pop()
    return found


def _rank(reply: dict[str, Any]) -> float:
    """0 is the best; those that nobody has ranked come last."""
    rank = reply.get("rank")
    return rank if isinstance(rank, int | float) else float("inf")


def _turns(row: dict[str, Any]) -> list[Message]:
    turns = row["data"]
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise ValueError("data is no list of texts")
    return [Message("assistant" if number % 2 else "user", turn)
            for number, turn in enumerate(turns)]


def _string(row: dict[str, Any], *keys: str) -> str:
    """The first of the keys that is there; "" where none is."""
    for key in keys:
        if row.get(key) is not None:
            if not isinstance(row[key], str):
                raise ValueError(f"{key} is {type(row[key]).__name__}, wanted text")
            return row[key]
    return ""


# The keys that a row has, of A|B one of them; the first that fits.
READERS: dict[str, Callable[[dict[str, Any]], list[Message]]] = {
    "messages": chat.from_dict, "conversations": _sharegpt,
    "instruction output|response": _alpaca, "prompt message_tree_id": _tree,
    "prompt response|answer|completion": _pair, "data": _turns}


def _rows(path: Path) -> Iterator[tuple[Any, str]]:
    """Each row, and where it stands."""
    suffix, compression = _suffixes(path)
    with opened(Source(path, suffix, compression)) as file:
        if suffix == ".parquet":
            yield from _table(file, path)
            return
        if suffix == ".json":
            yield from _array(file.read(), path)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                place = f"{path}, line {number}"
                yield _json(line, place), place


def _array(raw: bytes, path: Path) -> Iterator[tuple[Any, str]]:
    """One JSON array; some call JSON lines .json, too."""
    if not raw.lstrip().startswith(b"["):
        lines = raw.splitlines()
        yield from ((_json(line, place), place) for number, line in enumerate(lines, 1)
                    if line.strip() and (place := f"{path}, line {number}"))
        return
    yield from ((row, f"{path}, item {number}")
                for number, row in enumerate(_json(raw, str(path)), 1))


def _table(file: Any, path: Path) -> Iterator[tuple[Any, str]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(file).iter_batches(1000):
            for row in batch.to_pylist():
                number += 1
                yield row, f"{path}, row {number}"
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} cannot be read from row {number + 1} on: {error}") from error


def _json(raw: bytes, place: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON: {error}") from None


def _suffixes(path: Path) -> tuple[str, str]:
    """What kind of file it is, and how it is compressed."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else ""
    return suffixes[-1] if suffixes else "", packed
