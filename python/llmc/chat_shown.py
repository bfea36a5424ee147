"""What is shown of answers: text as it comes, what is folded, and what is to be known of them."""
from __future__ import annotations

import re

from rich.cells import cell_len
from rich.console import Console
from rich.status import Status
from rich.text import Text

from llmc.chat import Call
from llmc.chat_session import Answer, News, Reply
from llmc.terminal import printable

SOFT = "dim"
FOLDED = 50                     # characters of a call, and of what a tool says to it


def notes(reply: Reply) -> list[str]:
    """What is to be known about how an answer ended, and what it cites."""
    found = []
    if isinstance(reply, Answer):
        for number, result in reply.cited.items():
            where = [result.title, result.source] if result else ["there is no such result"]
            found.append(" ".join([f"[{number}]", " · ".join(filter(None, where))]))
        if not reply.message.text.strip() and not reply.cut:
            found.append("an empty answer")
    elif reply.ended:
        found.append("the document ends here; what comes next is another's beginning")
    if reply.cut == "stopped":
        found.append("stopped")
    elif reply.cut == "length":
        found.append(f"cut after {reply.tokens:,} tokens (--max_tokens)")
    elif reply.cut:
        found.append(f"cut after {reply.tokens:,} tokens: the context is full")
    return found


def called(call: Call, output: str, unfolded: bool) -> str:
    """What a model asked of a tool and what that said; folded into one line, or whole."""
    name, parts = call.tool or "a tool", [call.text.strip(), output.strip()]
    if unfolded and any("\n" in part for part in parts):
        return f"{name}:\n{parts[0]}\n→\n{parts[1]}"
    parts = [" ".join(part.split()) for part in parts]
    if not unfolded:
        parts = [part if len(part) <= FOLDED else f"{part[:FOLDED]}…" for part in parts]
    return f"{name}: {parts[0]} → {parts[1]}"


class Page:
    """Text that is written as it comes, broken between words: a word is shown when it is whole."""

    def __init__(self, console: Console):
        self.console, self.column = console, 0
        self._word, self._style = "", ""

    def write(self, text: str, style: str = "") -> None:
        if style != self._style:
            self.flush()
        self._style = style
        *whole, self._word = re.split(r"(\s+)", self._word + printable(text).expandtabs(4))
        for part in whole:
            self._put(part)
        if cell_len(self._word) >= 24:      # a long one, or a script that has no spaces
            self.flush()

    def flush(self) -> None:
        """What was held back."""
        word, self._word = self._word, ""
        self._put(word)

    def end(self) -> None:
        """Whatever follows begins a line."""
        self.flush()
        if self.column:
            self._put("\n")

    def _put(self, part: str) -> None:
        width = cell_len(part)
        if part.isspace():
            if "\n" in part:
                self.column, width = 0, cell_len(part[part.rindex("\n") + 1:])
            elif self.column + width >= self.console.width:
                part, self.column, width = "\n", 0, 0
        elif self.column and self.column + width > self.console.width:
            part, self.column = "\n" + part, 0
        if part:
            self.console.print(Text(part, self._style), end="", soft_wrap=True)
        self.column += width


class Shown:
    """An answer in the terminal, as it grows: until there is a text, that it thinks, and how much,
    or which tool it waits for; what it thinks, where `thinking` is unfolded; and its calls, folded
    unless `calls`."""

    def __init__(self, page: Page, thinking: bool, calls: bool, waits: bool):
        self.page, self.thinking, self.calls, self.waits = page, thinking, calls, waits
        self.told = 0                   # tokens of thinking that were told of
        self.thinks = False             # what was written last
        self.status = self._waiting() if waits else None

    def _waiting(self) -> Status:
        return self.page.console.status(Text("reading", SOFT))

    def __enter__(self) -> Shown:
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop_waiting()
        self.page.end()

    def draw(self, reply: Reply, news: News) -> None:
        """What came since the last."""
        for call, output in news.calls:
            self.fold(reply)
            self._stop_waiting()
            self.page.end()
            self.page.write(f"{called(call, output, self.calls)}\n", SOFT)
        if news.thinking and self.thinking:
            self._stop_waiting()
            self.page.write(news.thinking, SOFT)
            self.thinks = True
        elif news.thinking:
            self._say(f"thinking: {reply.thought} tokens")
        if news.text:
            self._stop_waiting()
            self.fold(reply)
            self.page.write(news.text)
        elif isinstance(reply, Answer) and reply.calling:
            self._say(f"waiting for {reply.calling.tool or 'a tool'}")
        elif reply.tokens and not news.thinking and self.status:
            self._say("writing")

    def fold(self, reply: Reply) -> None:
        """Say once how much was thought."""
        if self.thinks:
            self.page.end()
            self.thinks = False
        elif not self.thinking and isinstance(reply, Answer) and reply.thought > self.told:
            self._stop_waiting()
            self.page.end()
            self.page.write(f"thought for {reply.thought - self.told} tokens\n", SOFT)
        self.told = reply.thought if isinstance(reply, Answer) else 0

    def _say(self, text: str) -> None:
        """While nothing else is shown."""
        if self.waits and self.status is None:
            self.page.end()
            self.status = self._waiting()
            self.status.start()
        if self.status:
            self.status.update(Text(text, SOFT))

    def _stop_waiting(self) -> None:
        if self.status:
            self.status.stop()
            self.status = None
