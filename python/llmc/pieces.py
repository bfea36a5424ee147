"""Bytes of tokens -> pieces of text, each given as soon as it is certain."""
from __future__ import annotations

import codecs
from collections.abc import Sequence


class Pieces:
    """A text that grows token by token. No piece ends inside a character; what is no UTF-8 becomes
    U+FFFD. The text ends before the stop text that is complete first; what may be the beginning of
    one is held back. drop_space: a space the text begins with is not given."""

    def __init__(self, stop: Sequence[str] = (), drop_space: bool = False):
        self.stop, self._drop_space = list(stop), drop_space
        self.stopped = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._certain: list[str] = []
        self._taken = 0

    def add(self, token: bytes) -> None:
        """A token that was drawn."""
        self._look(self._decoder.decode(self._whole(token)))

    def force(self, token: bytes) -> None:
        """A token that somebody gave: no stop text is looked for in it, nor across it."""
        self._give(self._held + self._decoder.decode(self._whole(token)))
        self._held = ""

    def end(self) -> None:
        """No token will follow."""
        if not self.stopped:
            self._look(self._decoder.decode(b"", final=True))
        self._give(self._held)
        self._held = ""

    def news(self) -> str:
        """What became certain since the last call."""
        news = "".join(self._certain[self._taken:])
        self._taken = len(self._certain)
        return news

    def text(self) -> str:
        """All that is certain."""
        return "".join(self._certain)

    def _whole(self, token: bytes) -> bytes:
        drop, self._drop_space = self._drop_space, False
        return token.removeprefix(b" ") if drop else token

    def _give(self, text: str) -> None:
        if text:
            self._certain.append(text)

    def _look(self, text: str) -> None:
        held = self._held + text
        found = [(held.find(stop) + len(stop), held.find(stop)) for stop in self.stop
                 if stop in held]
        if found:
            self.stopped = True
            self._held = held[:min(found)[1]]       # given by end()
            return
        keep = max((n for stop in self.stop for n in range(1, len(stop))
                    if held.endswith(stop[:n])), default=0)
        self._give(held[:len(held) - keep])
        self._held = held[len(held) - keep:]
