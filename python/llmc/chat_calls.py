"""Calls of tools as files hold them, several at a time -> messages with one call each, and its
output behind it.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from llmc.chat_templates import Call, Message


class Turn(NamedTuple):
    """What one side says at a time, its calls apart from its message. ids: of each call what it is
    known by, and of an output which call it answers; "" where a file does not say."""
    message: Message
    calls: tuple[Call, ...] = ()
    ids: tuple[str, ...] = ()


def one_by_one(turns: Iterable[Turn]) -> list[Message]:
    """The messages of a conversation. Calls made at the same time are put one after the other, each
    with its output; a ValueError where they have not one output each."""
    joined = _joined(turns)
    found: list[Message] = []
    at = 0
    while at < len(joined):
        turn = joined[at]
        at += 1
        if len(turn.calls) < 2 or turn.message.role != "assistant":
            found.append(replace(turn.message, call=turn.calls[0] if turn.calls else None))
            continue
        outputs = _outputs(turn, joined[at:at + len(turn.calls)], at)
        at += len(outputs)
        for number, (call, output) in enumerate(zip(turn.calls, outputs)):
            said = Message("assistant", learned=turn.message.learned) if number else turn.message
            found += [replace(said, call=call), output]
    return found


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """json.loads' object_pairs_hook: a ValueError where an object has a key twice, of which one
    would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _joined(turns: Iterable[Turn]) -> list[Turn]:
    """Calls that some files hold in turns of their own belong to what was said right before."""
    found: list[Turn] = []
    for turn in turns:
        before = found[-1] if found else None
        alone = turn.calls and not (turn.message.text.strip() or turn.message.thinking)
        if (alone and before and before.message.role == turn.message.role == "assistant"
                and before.message.learned == turn.message.learned):
            ids = before.ids if before.calls else ()
            found[-1] = Turn(before.message, before.calls + turn.calls, ids + turn.ids)
        else:
            found.append(turn)
    return found


def _outputs(turn: Turn, behind: Sequence[Turn], number: int) -> list[Message]:
    """Those of a turn's calls, in their order."""
    count = len(turn.calls)
    outputs = [each for each in behind if each.message.role == "tool"]
    if len(outputs) < count or behind[:count] != outputs:
        raise ValueError(f"message {number}, the assistant's, has {count} calls of tools and not "
                         f"{count} outputs right behind it; wanted one call and its output at a "
                         "time, or one output for each")
    answered = [each.ids[0] if each.ids else "" for each in outputs]
    if not all(turn.ids) or not all(answered) or len(turn.ids) < count:
        return [each.message for each in outputs]
    by_id = {id: each.message for id, each in zip(answered, outputs)}
    if len(set(turn.ids)) < count or by_id.keys() != set(turn.ids):
        made, there = ", ".join(turn.ids)[:80], ", ".join(answered)[:80]
        raise ValueError(f"message {number}, the assistant's, has the calls {made!r}, and behind "
                         f"it are the outputs of {there!r}")
    return [by_id[id] for id in turn.ids]
