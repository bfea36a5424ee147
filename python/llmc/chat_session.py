"""What is said to a model, and its answers as they are written: a conversation with an assistant,
which may call tools, or a document that a base model goes on with. No terminal is known here.

    talk = Conversation(checkpoint, Manner("llmc"), Request([0]))
    for news in talk.ask("Hello"):
        print(news.text, end="", flush=True)
"""
from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from llmc import chat, disk
from llmc._core import CACHE_PAGE
from llmc.chat import Call, Manner, Message
from llmc.chat_templates import Piece
from llmc.checkpoint import Checkpoint, encode_prompt
from llmc.engine import Engine, Text, page_bytes, pages_of
from llmc.pieces import Pieces
from llmc.request import STREAMS, Request, check
from llmc.tokenizer import Tokenizer
from llmc.tools.loop import Loop, Turn
from llmc.tools.search import Result, cited
from llmc.tools.toolbox import Toolbox

CACHE_BYTES = 2**30             # for keys and values, unless a context is asked for
NO_TOOL = "This tool is not available."
PATIENCE = 0.1                  # seconds of waiting for a tool before an answer can be stopped


class News(NamedTuple):
    """What came since the last; all may be empty, while the model reads or waits. calls: those that
    were answered, each with its output, before the thinking and the text."""
    thinking: str
    text: str
    calls: tuple[tuple[Call, str], ...] = ()


class Reply:
    """An answer, written while it is iterated over. left_out: the beginning of what was said no
    longer fits the context, and the model does not see it."""

    def __init__(self, talk: Talk, written: Text, left_out: bool):
        self.left_out, self.stopped = left_out, False
        self._engine, self._written, self._most = talk.engine, written, talk.request.max_tokens

    def __iter__(self) -> Iterator[News]:
        taken = 0
        try:
            while not self._written.finish:
                self._step()
                new = self._written.tokens[taken:]
                taken += len(new)
                yield self._take(new)
                if self.stopped:
                    self._cancel()
        finally:
            self._cancel()
            self._end()

    def stop(self) -> None:
        """No more than this; what was written stays."""
        self.stopped = True

    @property
    def tokens(self) -> int:
        return len(self._written.tokens)

    @property
    def cut(self) -> str:
        """What ended it before the model did: stopped, length or context; or nothing."""
        finish = self._written.finish
        if finish == "length" and self.tokens < self._most:
            return "context"            # it got all the room there was
        return {"cancelled": "stopped", "length": "length", "context": "context"}.get(finish, "")

    def _step(self) -> None:
        """Write a token more."""
        self._engine.step()

    def _cancel(self) -> None:
        """No more of it."""
        self._engine.cancel(self._written)

    def _take(self, tokens: list[int]) -> News:
        """Tokens more were written."""
        raise NotImplementedError

    def _end(self) -> None:
        """There will be no more."""
        raise NotImplementedError


class Talk:
    """What a conversation and a document share: an engine for one text, whose memory of what it
    read is kept from answer to answer. `request` says how tokens are drawn; each answer has a
    random stream of its own. context: how many tokens the model is to see; 0: as many as it was
    made for, within CACHE_BYTES."""

    def __init__(self, checkpoint: Checkpoint, request: Request, context: int = 0):
        model, most = checkpoint.model, checkpoint.config.max_seq_len
        if context > most:
            raise ValueError(f"a context of {context:,} tokens was asked for, but the model's "
                             f"holds {most:,}")
        page = page_bytes(model)
        self.context = min(context or max(CACHE_BYTES // page, 1) * CACHE_PAGE, most)
        self.checkpoint, self.tokenizer = checkpoint, checkpoint.tokenizer
        self.request = replace(request, keep=True)
        self.set()
        self.engine = Engine(model, self.tokenizer, 1, pages_of(self.context) * page,
                             ends=checkpoint.ends)
        self.answers = 0                # that were begun

    def set(self, **changes: Any) -> None:
        """Change how tokens are drawn; a ValueError for what means nothing."""
        request = replace(self.request, **changes)
        check(request, self.tokenizer.vocab_size, self.context)
        self.request = request

    def check_retry(self) -> None:
        """A ValueError where another answer would be the same."""
        if self.request.temperature == 0:
            raise ValueError("with temperature 0 another answer would be the same; raise it first")

    def room(self, share: int) -> int:
        """For an answer at least: one `share`th of the context, or all it may have."""
        return max(1, min(self.request.max_tokens, self.context // share))

    def begin(self, ids: list[int]) -> Request:
        """For the next answer, after these."""
        most = min(self.request.max_tokens, self.context - len(ids))
        self.answers += 1
        return replace(self.request, prompt=ids, max_tokens=most,
                       stream=(self.answers - 1) % STREAMS)


# ---- a conversation ------------------------------------------------------------------------------


class Conversation(Talk):
    """With an assistant. `messages` are all that were said; of a long conversation the model sees
    the system's message and the newest turns that leave room for an answer. toolbox: what it may
    call, without which a call gets an error; described: what the system says of that, besides."""

    def __init__(self, checkpoint: Checkpoint, manner: Manner, request: Request, context: int = 0,
                 toolbox: Toolbox | None = None, described: str = ""):
        self.template, self.described = manner.template, described
        self.toolbox = Toolbox([]) if toolbox is None else toolbox
        super().__init__(checkpoint, request, context)
        self.loop = Loop(self.engine, self.template)
        self.restart(manner.system)

    def restart(self, system: str = "") -> None:
        """Nothing has been said yet but this, by the system; tools begin anew."""
        text = "\n\n".join(filter(None, (system.strip(), self.described)))
        messages = [Message("system", text)] * bool(text)
        if messages:
            chat.render(messages, self.tokenizer, self.template)
        self.messages = messages
        self.toolbox.close()

    @property
    def system(self) -> str:
        """The system's message, if there is one, without what it says of tools."""
        said = next((message.text for message in self.messages[:1] if message.role == "system"), "")
        return said.removesuffix(self.described).rstrip() if self.described else said

    def ask(self, text: str) -> Answer:
        """The user says something. A ValueError, and nothing has been said, where that is empty or
        does not fit."""
        if not text.strip():
            raise ValueError("the message is empty")
        called = bool(self.messages) and self.messages[-1].call is not None
        return self._answer([*self.messages, *[Message("tool", NO_TOOL)] * called,
                             Message("user", text)])

    def retry(self) -> Answer:
        """Another answer to the last question, or its first, where it has none."""
        at = self._last_question("there is no question yet")
        if len(self.messages) > at + 1:
            self.check_retry()
        return self._answer(self.messages[:at + 1])

    def undo(self) -> None:
        """The last question, and what was answered, were not said."""
        del self.messages[self._last_question("there is nothing to take back"):]

    def save(self, path: Path) -> None:
        """As JSON, in one line: a file of conversations."""
        if not self.messages:
            raise ValueError("nothing has been said yet, so there is nothing to save")
        text = json.dumps(chat.to_dict(self.messages), ensure_ascii=False)
        disk.write_whole(path, text.encode("utf-8", "replace") + b"\n")

    def load(self, path: Path) -> None:
        """What was saved takes the place of what was said."""
        found = disk.read_json(path, {"messages": list}, "wanted what /save writes")
        try:
            messages = chat.from_dict(found)
            chat.render(messages, self.tokenizer, self.template)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self.messages = messages
        self.toolbox.close()

    def _last_question(self, otherwise: str) -> int:
        found = [at for at, message in enumerate(self.messages) if message.role == "user"]
        if not found:
            raise ValueError(otherwise)
        return found[-1]

    def _answer(self, messages: list[Message]) -> Answer:
        ids, left_out = self._prompt(messages)
        turn = self.loop.begin(self.begin(ids), self.toolbox)
        self.messages = messages
        return Answer(self, turn, left_out)

    def _prompt(self, messages: Sequence[Message]) -> tuple[list[int], bool]:
        """The ids of as many turns as fit, and whether that is not all."""
        head = [message for message in messages[:1] if message.role == "system"]
        begins = [len(head), *(at for at, message in enumerate(messages)
                               if message.role == "user" and at > len(head))]

        def ids(begin: int) -> list[int]:
            return chat.render([*head, *messages[begin:]], self.tokenizer, self.template,
                               answer=True).ids

        room = self.context - self.room(4)
        at = bisect_left(begins, True, key=lambda begin: len(ids(begin)) <= room)
        if at == len(begins):
            raise ValueError(
                f"the message makes {len(ids(begins[-1])):,} tokens"
                f"{' with that of the system' * bool(head)}, and beside an answer the context of "
                f"{self.context:,} has room for {room:,}; shorten it")
        return ids(begins[at]), at > 0


class Answer(Reply):
    """The assistant's. message: what it says last, as far as it is written; thought: how many
    tokens of the answer are thinking. It ends where the model begins to speak for others."""

    def __init__(self, talk: Conversation, turn: Turn, left_out: bool):
        super().__init__(talk, turn.text, left_out)
        self.turn, self.thought = turn, 0
        self._talk, self._shown, self._told = talk, [("", "")], 0
        self._growing = Growing(talk.tokenizer, talk.template, talk.messages[-1])

    @property
    def message(self) -> Message:
        return self._growing.message

    @property
    def calling(self) -> Call | None:
        """What is being answered by a tool."""
        return self.turn.calls[-1][0] if self.turn.waits else None

    @property
    def cited(self) -> dict[int, Result | None]:
        """The numbers that it cites, each with what this turn's searches found by it."""
        found = self._talk.toolbox.found
        return cited(self.message.text, found) if found else {}

    def _step(self) -> None:
        self._talk.loop.step(PATIENCE)

    def _cancel(self) -> None:
        self._talk.loop.stop(self.turn)

    def _take(self, tokens: list[int]) -> News:
        for token in tokens[:-1] if self._talk.loop.forges(self._written) else tokens:
            before = self._growing.thinking
            self._growing.add(token)
            self.thought += self._growing.thinking != before
        if self._written.finish:
            self._growing.end()
        return self._news()

    def _news(self) -> News:
        """White space at the ends is not shown, nor is what may turn out to be an end."""
        whole = [(message.thinking.strip(), message.text.strip())
                 for message in self._growing.messages if message.role == "assistant"]
        shown = [*self._shown, *[("", "")] * (len(whole) - len(self._shown))]
        thinking, text = ("".join(new[kind][len(old[kind]):] for new, old in zip(whole, shown))
                          for kind in (0, 1))
        self._shown = whole
        answered = self.turn.answered[self._told:]
        self._told += len(answered)
        return News(thinking, text, tuple(answered))

    def _end(self) -> None:
        """What was said, if anything, becomes part of the conversation. An answer that was cut is
        not one to learn from."""
        self._growing.end()
        *before, last = self._talk.loop.messages(self.turn) or [Message("assistant")]
        if self.cut:
            last = replace(last, learned=False)
        if before or last.text.strip() or last.thinking:
            self._talk.messages += [*before, last]


class Growing:
    """The messages that tokens make, one by one, behind another message."""

    def __init__(self, tokenizer: Tokenizer, template: str, before: Message):
        self.form, self.tokenizer = chat.template_of(template), tokenizer
        self.pieces = [*self.form.turn(before, None), *self.form.answer(before)]
        self.before = len(self.form.messages(self.pieces)) - 1
        self.messages = [Message("assistant")]
        self._text: Pieces | None = None        # of the piece that grows

    @property
    def message(self) -> Message:
        """The assistant's last."""
        return next(each for each in reversed(self.messages) if each.role == "assistant")

    @property
    def thinking(self) -> int:
        """How many characters of all are thinking."""
        return sum(len(message.thinking) for message in self.messages)

    def add(self, token: int) -> None:
        name = self.tokenizer.special_names.get(token)
        if name is not None:
            self.end()
            self.pieces.append(Piece(name, True))
            self._look()
            return
        if self._text is None:
            first = self.pieces[-1].special
            self._text = Pieces(drop_space=self.tokenizer.space_first and first)
            self.pieces += [Piece("")] * first
        self._text.add(self.tokenizer.token_bytes(token))
        self._grow()

    def end(self) -> None:
        """The text that grows, if there is one, has ended."""
        if self._text is not None:
            self._text.end()
            self._grow()
            self._text = None

    def _grow(self) -> None:
        self.pieces[-1] = Piece(self.pieces[-1].text + self._text.news())
        self._look()

    def _look(self) -> None:
        self.messages = self.form.messages(self.pieces)[self.before:]


# ---- a document ----------------------------------------------------------------------------------


class Part(NamedTuple):
    """Of a document: what was typed, and what the model wrote behind it."""
    typed: list[int]
    written: list[int]


class Document(Talk):
    """What is typed, and what the model goes on with, in turns. Where the model ends the document,
    what comes next is another's beginning."""

    def __init__(self, checkpoint: Checkpoint, request: Request, context: int = 0):
        super().__init__(checkpoint, request, context)
        self.restart()

    def restart(self) -> None:
        """Nothing is written yet."""
        self.parts: list[Part] = []

    def ids(self) -> list[int]:
        """Of the document so far; it has none, if the last one has ended."""
        found: list[int] = []
        for typed, written in self.parts:
            found += [*typed, *written]
            if found[-1] in self.checkpoint.ends and written:
                found = []
        return found

    def ask(self, text: str) -> Continuation:
        """The document goes on with this, and then as the model thinks. Without a text: as the
        model thinks. A ValueError, and nothing has changed, where the text does not fit."""
        going_on, room = self.ids(), self.context - self.room(2)
        typed = self.tokenizer.encode(text) if going_on else encode_prompt(self.checkpoint, text)
        if len(typed) > room:
            raise ValueError(f"the text makes {len(typed):,} tokens, and beside what the model "
                             f"writes the context of {self.context:,} has room for {room:,}; "
                             "shorten it")
        return self._go_on(typed)

    def retry(self) -> Continuation:
        """Another text behind what was typed last."""
        if not self.parts:
            raise ValueError("there is no text yet")
        if self.parts[-1].written:
            self.check_retry()
        return self._go_on(self.parts.pop().typed)

    def undo(self) -> None:
        """What was typed last, and what came of it, are no longer there."""
        if not self.parts:
            raise ValueError("there is nothing to take back")
        self.parts.pop()

    def save(self, path: Path) -> None:
        """As text."""
        if not self.parts:
            raise ValueError("nothing is written yet, so there is nothing to save")
        disk.write_whole(path, self.text().encode("utf-8", "replace"))

    def text(self) -> str:
        """All that was typed and written."""
        return self.tokenizer.decode([id for part in self.parts for ids in part for id in ids
                                      if id not in self.tokenizer.special_names])

    def load(self, path: Path) -> None:
        """A text takes the document's place."""
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8; wanted a text") from None
        begin = [] if self.tokenizer.bos is None else [self.tokenizer.bos]
        self.parts = [Part(begin + self.tokenizer.encode(text), [])] if text else []

    def _go_on(self, typed: list[int]) -> Continuation:
        ids, room = self.ids() + typed, self.context - self.room(2)
        written, = self.engine.submit(self.begin(ids[-room:]))
        self.parts.append(Part(typed, []))
        return Continuation(self, written, len(ids) > room)


class Continuation(Reply):
    """What a model goes on with. ended: with it the document ended."""
    ended = False

    def __init__(self, talk: Document, written: Text, left_out: bool):
        super().__init__(talk, written, left_out)
        self._part = talk.parts[-1]

    def _take(self, tokens: list[int]) -> News:
        self._part.written.extend(tokens)
        return News("", self._written.news())

    def _end(self) -> None:
        self.ended = self._written.finish == "eot"
