"""Conversations that end with a question -> a model's answers, many at a time.

An assistant is asked in its own template; a base model in a document that goes on as a dialog.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llmc import chat
from llmc.chat import Manner, Message
from llmc.checkpoint import Checkpoint
from llmc.request import Request, Result

if TYPE_CHECKING:
    from llmc.engine import Engine
    from llmc.tools.toolbox import Toolbox

ROWS = 16                       # texts written at a time
CACHE_BYTES = 2**30             # for their keys and values, unless one request needs more
SPEAKER = {"system": "", "user": "User: ", "assistant": "Assistant: ", "tool": "Output: "}


def engine_for(checkpoint: Checkpoint, requests: Sequence[Request]) -> Engine:
    """An engine with memory for these, and no more."""
    from llmc.engine import Engine, page_bytes, pages_needed

    need = [pages_needed(wanted, wanted.n, checkpoint.config.max_seq_len) for wanted in requests]
    page, rows = page_bytes(checkpoint.model), min(ROWS, sum(wanted.n for wanted in requests))
    pages = max(max(need), min(sum(need), CACHE_BYTES // page))
    return Engine(checkpoint.model, checkpoint.tokenizer, rows, pages * page,
                  ends=checkpoint.ends)


def answers(checkpoint: Checkpoint, asked: Sequence[Sequence[Message]], like: Request) -> list[str]:
    """What a model says in each of these conversations, without what it thinks; nothing where one
    is longer than its context. `like` says how an answer is drawn, and how long it may be; its
    prompt is not read."""
    manner = chat.manner_of(checkpoint.path, checkpoint.tokenizer)
    requests = {number: request(checkpoint, manner, messages, like)
                for number, messages in enumerate(asked)}
    fit = {number: wanted for number, wanted in requests.items()
           if len(wanted.prompt) <= checkpoint.config.max_seq_len}
    found = [""] * len(asked)
    if fit:
        written = engine_for(checkpoint, [*fit.values()]).generate([*fit.values()])
        for (number, wanted), (result,) in zip(fit.items(), written):
            found[number] = said(checkpoint, manner, asked[number], wanted, result).strip()
    return found


def results(checkpoint: Checkpoint, requests: Mapping[int, Request]
            ) -> Iterator[tuple[int, Result]]:
    """Of each request its text, as it ends."""
    if not requests:
        return
    engine = engine_for(checkpoint, [*requests.values()])
    texts = {number: engine.submit(wanted)[0] for number, wanted in requests.items()}
    while texts:
        engine.step()
        for number in [number for number, text in texts.items() if text.finish]:
            yield number, texts.pop(number).result()


def turns(checkpoint: Checkpoint, asked: Sequence[Sequence[Message]], like: Request,
          toolboxes: Sequence[Toolbox]) -> list[list[Message]]:
    """What an assistant's turn adds to each of these conversations: its words and calls, each call
    with what the conversation's toolbox answered. Nothing where one is longer than the context; a
    base model has no calls, and adds its words."""
    manner = chat.manner_of(checkpoint.path, checkpoint.tokenizer)
    if manner is None:
        return [[Message("assistant", text)] * bool(text)
                for text in answers(checkpoint, asked, like)]
    from llmc.tools.loop import Loop

    requests = {number: request(checkpoint, manner, messages, like)
                for number, messages in enumerate(asked)}
    fit = {number: wanted for number, wanted in requests.items()
           if len(wanted.prompt) <= checkpoint.config.max_seq_len}
    if not fit:
        return [[] for _ in asked]
    loop = Loop(engine_for(checkpoint, [*fit.values()]), manner.template)
    begun = {number: loop.begin(wanted, toolboxes[number]) for number, wanted in fit.items()}
    while loop.step():
        pass
    return [loop.messages(begun[number]) if number in begun else []
            for number in range(len(asked))]


def too_long(checkpoint: Checkpoint, asked: Sequence[Sequence[Message]]) -> int:
    """How many of these conversations leave no room in the context, so that nothing is answered."""
    manner = chat.manner_of(checkpoint.path, checkpoint.tokenizer)
    return sum(len(request(checkpoint, manner, messages, Request([], 1)).prompt)
               > checkpoint.config.max_seq_len for messages in asked)


def request(checkpoint: Checkpoint, manner: Manner | None, messages: Sequence[Message],
            like: Request) -> Request:
    """For one answer."""
    tokenizer = checkpoint.tokenizer
    if manner is None:
        text = "".join(f"{SPEAKER[each.role]}{each.text}\n\n" for each in messages)
        begin = [] if tokenizer.bos is None else [tokenizer.bos]
        prompt = begin + tokenizer.encode(text + SPEAKER["assistant"].rstrip())
        return replace(like, prompt=prompt, stop=["\nUser:"])
    prompt = chat.render(chat.introduced(messages, manner), tokenizer, manner.template,
                         answer=True).ids
    return replace(like, prompt=prompt, stop_tokens=chat.stops(manner.template, tokenizer))


def said(checkpoint: Checkpoint, manner: Manner | None, messages: Sequence[Message],
         asked: Request, result: Result) -> str:
    """The text of an answer; nothing where the model wrote none."""
    found = turn(checkpoint, manner, messages, asked, result)
    return found[0].text if found else ""


def turn(checkpoint: Checkpoint, manner: Manner | None, messages: Sequence[Message],
         asked: Request, result: Result) -> list[Message]:
    """The messages of an answer; none where the model wrote nothing."""
    if manner is None:
        return [Message("assistant", result.text)] if result.text else []
    before = len(chat.introduced(messages, manner))
    found = chat.parse([*asked.prompt, *result.tokens], checkpoint.tokenizer, manner.template)
    return found[before:]
