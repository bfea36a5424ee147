"""A server that speaks OpenAI's API is asked for answers, several at a time.

    http://127.0.0.1:8080 is asked at /v1/chat/completions, and https://example.com/api/v1 at
    /api/v1/chat/completions. A key stands in the environment variable LLMC_API_KEY.
"""
from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

from llmc import chat
from llmc.chat import Message
from llmc.patience import TRIES, Unreachable, patiently
from llmc.tools.web_search import StaysThere

TIMEOUT = 600.0                 # seconds without a word
LARGEST = 1 << 24               # bytes of an answer
REFUSED = (400, 413, 422)       # statuses that tell of this question alone
KEY = "LLMC_API_KEY"

T, R = TypeVar("T"), TypeVar("R")


class Refused(ValueError):
    """The server does not answer this question."""


@dataclass(frozen=True)
class Server:
    """Where it is, and how it is to answer."""
    url: str
    settings: dict[str, Any]            # as the API calls them: model, temperature, max_tokens, …

    def ask(self, messages: Sequence[Message], tries: int = TRIES, **more: Any
            ) -> tuple[Message, str]:
        """The answer, and what ended it: stop, length, or tool_calls. An Unreachable where there is
        none, in the end; a Refused where there is none to this question."""
        body = {"messages": plain(messages)} | self.settings | more
        where = f"the answer of {urlsplit(self.url).hostname}"
        try:
            raw = patiently(lambda: self._post(json.dumps(body).encode()), where, tries)
        except Unreachable as error:
            cause = error.__cause__
            if isinstance(cause, urllib.error.HTTPError) and cause.code in REFUSED:
                raise Refused(str(error)) from error
            raise
        try:
            return _answer(raw)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is no chat completion ({error})") from None

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "llmc"}
        if key := os.environ.get(KEY, ""):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(_place(self.url), body, headers)
        try:
            with urllib.request.build_opener(StaysThere).open(request, timeout=TIMEOUT) as answer:
                return answer.read(LARGEST + 1)
        except urllib.error.HTTPError as error:
            error.msg = _complaint(error.read(LARGEST)) or error.msg
            raise


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """As the API takes them: each call has a number, and what was thought is not sent."""
    found, id = [], ""
    for number, row in enumerate(chat.to_dict(messages)["messages"]):
        row = {key: value for key, value in row.items() if key not in ("thinking", "weight")}
        if row["role"] == "tool":
            row["tool_call_id"] = id
        for call in row.get("tool_calls", ()):
            call["id"] = id = f"call_{number}"
        found.append(row)
    return found


def in_threads(do: Callable[[T], R], items: Sequence[T], count: int
               ) -> Iterator[tuple[T, R | Exception]]:
    """What do(item) gives or raises, as it comes, of `count` items at a time. When no more are
    taken, none is begun any more."""
    todo: SimpleQueue[T] = SimpleQueue()
    done: SimpleQueue[tuple[T, R | Exception]] = SimpleQueue()
    stopped = Event()
    for item in items:
        todo.put(item)

    def work() -> None:
        while not stopped.is_set():
            try:
                item = todo.get_nowait()
            except Empty:
                return
            try:
                done.put((item, do(item)))
            except Exception as error:              # the one who takes it says it
                done.put((item, error))

    for _ in range(min(count, len(items))):
        Thread(target=work, daemon=True).start()    # a server's minutes do not keep the program
    try:
        for _ in items:
            yield done.get()
    finally:
        stopped.set()


def _place(url: str) -> str:
    """Of the API's chat completions."""
    url = url.rstrip("/")
    if url.endswith("/chat/completions"):
        return url
    return f"{url}{'' if urlsplit(url).path else '/v1'}/chat/completions"


def _complaint(raw: bytes) -> str:
    """What a server says is wrong, in one line."""
    try:
        said = json.loads(raw)["error"]
        said = said["message"] if isinstance(said, dict) else said
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
    return " ".join(str(said).split())[:300]


def _answer(raw: bytes) -> tuple[Message, str]:
    """Of the first choice. Some servers leave what is thought in the text, between <think>s."""
    if len(raw) > LARGEST:
        raise ValueError(f"it is longer than {LARGEST:,} bytes")
    found = json.loads(raw)
    try:
        choice = found["choices"][0]
        message, end = choice["message"], choice.get("finish_reason") or "stop"
        text = message.get("content") or ""
        thinking = message.get("reasoning_content") or message.get("reasoning") or ""
        calls = message.get("tool_calls")
    except (LookupError, TypeError, AttributeError):
        raise ValueError("it has no choices with a message") from None
    if not all(isinstance(each, str) for each in (text, thinking, end)):
        raise ValueError("its content is no text")
    inside, ends, behind = text.lstrip().removeprefix("<think>").partition("</think>")
    if ends and not thinking:
        text, thinking = behind, inside
    text, thinking = (each.strip().encode("utf-8", "replace").decode() for each in (text, thinking))
    return Message("assistant", text, thinking), "tool_calls" if calls else end
