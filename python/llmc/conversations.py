"""Conversations out of the files that people publish them in.

    messages    {"messages": [{"role", "content"}, …]}: OpenAI, UltraChat 200k, SmolTalk
    sharegpt    {"conversations": [{"from", "value"}, …]}, "system" and "tools" beside it: ShareGPT,
                Vicuna, Glaive; also messages as above, or [question, answer, …]: LIMA
    alpaca      {"instruction", "input", "output"}, "system" and "history": Alpaca, GPTeacher
    dolly       {"instruction", "context", "response"}: databricks-dolly-15k
    pair        {"prompt", "response"}, also "answer" or "completion"
    tree        {"prompt": {"text", "replies": …}}: OpenAssistant, of each message the best reply
    turns       {"data": [question, answer, …]}: UltraChat
    glaive, xlam, toolformer, notes: sets that call tools; see conversations_tools.py

A file is JSON lines, one JSON array, or parquet, each also compressed. What a row is, its keys
say.
"""
from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from llmc import chat, conversations_tools, disk
from llmc.chat import Message
from llmc.chat_calls import Turn, once, one_by_one
from llmc.conversations_tools import tagged, whole_call
from llmc.documents import COMPRESSED, Source, endings, opened

KINDS = (".json", ".jsonl", ".ndjson", ".parquet")
ROLES = {"human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "chatgpt":
         "assistant", "assistant": "assistant", "bing": "assistant", "system": "system",
         "tool": "tool", "observation": "tool", "function_response": "tool",
         "tool_response": "tool"}
CALLS = ("function_call", "tool_call")
# Alpaca's wrapping of an instruction (github.com/tatsu-lab/stanford_alpaca); templates replace it
WRAPPED = re.compile(r"Below is an instruction .*?\n\n### Instruction:\n(?P<task>.*?)"
                     r"(?:\n\n### Input:\n(?P<input>.*?))?\n\n### Response:\s*", re.S)


class Conversation(NamedTuple):
    """messages, and the place they stand in: FILE, line 7"""
    messages: list[Message]
    place: str


def sources(name: str) -> list[Path]:
    """The files of a path, or of a data set of the Hugging Face hub, hub:OWNER/NAME; see
    hub.fetched for its parts."""
    from llmc import hub

    return (hub.fetched(name.removeprefix("hub:")) if name.startswith("hub:")
            else find(Path(name)))


def find(place: Path) -> list[Path]:
    """The file, or those in the folder, in order; a ValueError if there are none."""
    if not place.exists():
        raise ValueError(f"{place}: there is no such file or folder")
    inside = sorted(place.rglob("*")) if place.is_dir() else [place]
    found = [path for path in inside if path.is_file() and endings(path)[0] in KINDS]
    if not found:
        raise ValueError(f"{place}: no file of conversations; wanted {', '.join(KINDS)}, also "
                         f"compressed as {', '.join(COMPRESSED)}")
    return found


def read(path: Path, on_bad: Callable[[ValueError], None] | None = None) -> Iterator[Conversation]:
    """Those of a file, in order. A row that is none, and a line that is no JSON, is a ValueError
    that names its place and what is wrong: raised, or given to on_bad and left out."""
    for row, place in rows(path):
        try:
            if isinstance(row, ValueError):
                raise row
            messages = messages_of(row)
            chat.check(messages)
        except ValueError as error:
            fault = ValueError(f"{place}: {error}")
            if not on_bad:
                raise fault from None
            on_bad(fault)
        else:
            yield Conversation(messages, place)


def messages_of(row: Any) -> list[Message]:
    """A row's messages, whatever the format; a ValueError where it is none that is known."""
    if not isinstance(row, dict):
        raise ValueError(f"it is {type(row).__name__}, wanted an object")
    there = {key for key, value in row.items() if value is not None}
    for keys, reader in READERS.items():
        if all(there.intersection(key.split("|")) for key in keys.split()):
            return reader(row)
    raise ValueError(f"no format of conversations has the keys {', '.join(row) or '(none)'}; "
                     "wanted messages, conversations, instruction and output, prompt and "
                     "response, or question and answer")


def _messages(row: dict[str, Any]) -> list[Message]:
    return _with_tools(one_by_one(tagged(chat.turns_of(row["messages"]))), row)


def _sharegpt(row: dict[str, Any]) -> list[Message]:
    """Calls are turns of their own there, or stand between tags in a text."""
    turns = row["conversations"]
    if isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns):
        return _turns({"data": turns})
    if isinstance(turns, list) and turns and isinstance(turns[0], dict) and "role" in turns[0]:
        return _messages({"messages": turns, "tools": row.get("tools")})
    found: list[Turn] = []
    for number, turn in enumerate(turns if isinstance(turns, list) else [turns], 1):
        row_of = turn if isinstance(turn, dict) else {}
        who, text = row_of.get("from"), row_of.get("value")
        if not isinstance(who, str) or not isinstance(text, str):
            raise ValueError(f"turn {number} is no {{\"from\", \"value\"}} of texts")
        if who in CALLS:
            found.append(Turn(Message("assistant"), _functions(text, number)))
        elif who in ROLES:
            found.append(Turn(Message(ROLES[who], text)))
        else:
            raise ValueError(f"turn {number} is from {who!r}; wanted one of "
                             f"{', '.join([*ROLES, *CALLS])}")
    return _with_tools(one_by_one(tagged(found)), row)


def _functions(text: str, number: int) -> tuple[chat.Call, ...]:
    """The call of a turn, or several in a list."""
    try:
        found = json.loads(text, object_pairs_hook=once)
        return tuple(map(whole_call, found if isinstance(found, list) else [found]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"turn {number} is no call of a function: "
                         f"{disk.json_fault(error).strip()}") from None


def _with_tools(messages: list[Message], row: dict[str, Any]) -> list[Message]:
    """With what a row says beside its messages. Hermes has the tools in the system's message, too.
    """
    there = any("<tools>" in message.text for message in messages[:1] if message.role == "system")
    return chat.with_system(messages, _string(row, "system"),
                            "" if there else chat.tools_text(row.get("tools")))


def _alpaca(row: dict[str, Any]) -> list[Message]:
    if conversations_tools.is_toolformer(row):
        return conversations_tools.toolformer(row)
    asked = [_string(row, "instruction"), _string(row, "input", "context")]
    found, history = [], row.get("history") or []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or list(map(type, pair)) != [str, str]:
            raise ValueError("history is no list of [question, answer]")
        found += [Message("user", pair[0]), Message("assistant", pair[1])]
    found += [Message("user", "\n\n".join(filter(None, asked))),
              Message("assistant", _string(row, "output", "response"))]
    return chat.with_system(found, _string(row, "system"))


def _pair(row: dict[str, Any]) -> list[Message]:
    if isinstance(row["prompt"], list):         # of messages, as TRL has them
        return chat.from_dict(row["prompt"] + (row.get("completion") or []))
    prompt = _string(row, "prompt")
    if match := WRAPPED.fullmatch(prompt):
        prompt = "\n\n".join(filter(None, (match["task"], match["input"])))
    return [Message("user", prompt),
            Message("assistant", _string(row, "response", "answer", "completion"))]


def _tree(row: dict[str, Any]) -> list[Message]:
    found, node = [], row["prompt"]
    while node is not None:
        if not isinstance(node, dict) or str(node.get("role")) not in ROLES:
            raise ValueError("a message of the tree has no role that is known")
        found.append(Message(ROLES[node["role"]], _string(node, "text")))
        replies = node.get("replies") or []
        if not isinstance(replies, list) or not all(isinstance(each, dict) for each in replies):
            raise ValueError("the replies of a message are no list of messages")
        node = min((each for each in replies if not each.get("deleted")), key=_rank, default=None)
    if found[-1].role == "user":            # a question that nobody has answered
        found.pop()
    return found


def _rank(reply: dict[str, Any]) -> float:
    """0 is the best; those that nobody has ranked come last."""
    rank = reply.get("rank")
    return rank if isinstance(rank, int) else float("inf")


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
    "messages": _messages, "conversations": _sharegpt,
    "instruction output|response": _alpaca, "prompt message_tree_id": _tree,
    "prompt response|answer|completion": _pair, "data": _turns,
    "query tools answers": conversations_tools.xlam, "chat": conversations_tools.glaive,
    "question answer": conversations_tools.notes}


def rows(path: Path) -> Iterator[tuple[Any, str]]:
    """Each row, or the ValueError that it is, and where it stands."""
    suffix, compression = endings(path)
    with opened(Source(path, suffix, compression)) as file:
        if suffix == ".parquet":
            yield from _table(BytesIO(file.read()) if compression else file, path)
            return
        if suffix == ".json":
            yield from _array(file.read(), path)
            return
        yield from _lines(file, path)


def _lines(lines: Iterable[bytes], path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _json(line), f"{path}, line {number}"


def _array(raw: bytes, path: Path) -> Iterator[tuple[Any, str]]:
    """One JSON array, or one object; some call JSON lines .json, too."""
    whole = _json(raw)
    if isinstance(whole, list):
        yield from ((row, f"{path}, item {number}") for number, row in enumerate(whole, 1))
    elif not isinstance(whole, ValueError):
        yield whole, str(path)
    elif raw.removeprefix(BOM_UTF8).lstrip().startswith(b"["):
        raise ValueError(f"{path} is {whole}")
    else:
        yield from _lines(raw.splitlines(), path)


def _table(file: Any, path: Path) -> Iterator[tuple[Any, str]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(file).iter_batches(1000):
            for row in batch.to_pylist():
                number += 1
                yield row, f"{path}, row {number}"
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read from row {number + 1} on: {error}") from error


def _json(raw: bytes) -> Any:
    """What it is, or the ValueError that says why it is nothing."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        return ValueError(f"no JSON: {disk.json_fault(error)}")
