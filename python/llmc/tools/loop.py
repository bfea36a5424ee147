"""Assistants' turns with tools: a call is answered while other texts go on.

    loop = Loop(engine, "llmc")
    turn = loop.begin(request, toolbox)
    while loop.step():
        pass
    loop.messages(turn)

Where the model closes a call, its text waits, a thread runs the tool, and what that answered is
forced into the text as a tool's output, which the model reads and goes on. Every text has a toolbox
of its own. What an answer becomes depends on its request and its tools' outputs alone, not on the
texts beside it or on how long a tool took.
"""
from __future__ import annotations

import time
from dataclasses import replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NamedTuple

from llmc import chat
from llmc.chat import Call, Message
from llmc.engine import Engine, Text
from llmc.request import Request
from llmc.tools.toolbox import Toolbox

CUT = " … (cut)"


class Done(NamedTuple):
    """What a tool answered, and the how-manieth call of the turn that is."""
    turn: Turn
    number: int
    output: str


class Turn:
    """What an assistant writes until its turn ends. `text` grows; `calls` are those it made so far,
    each with what was answered, "" while it is not."""

    def __init__(self, text: Text, toolbox: Toolbox):
        self.text, self.toolbox = text, toolbox
        self.calls: list[tuple[Call, str]] = []
        self.looked = 0                     # tokens whose calls are answered
        self.deadline: float | None = None  # of the call that is being answered, time.monotonic's

    @property
    def waits(self) -> bool:
        """Whether a tool is at work."""
        return self.deadline is not None and not self.text.finish

    @property
    def answered(self) -> list[tuple[Call, str]]:
        """Those of the calls that a tool has answered."""
        return self.calls[:len(self.calls) - (self.deadline is not None)]


class Loop:
    """Turns of one engine's texts, in a template. One thread may use it."""

    def __init__(self, engine: Engine, template: str):
        self.engine, self.template = engine, template
        self.form, self.tokenizer = chat.template_of(template), engine.tokenizer
        special = engine.tokenizer.special
        self.ends = chat.stops(template, engine.tokenizer)
        self.others = frozenset(special[name] for name in self.form.others if name in special)
        self.turns: list[Turn] = []         # that have not ended
        self._done: SimpleQueue[Done] = SimpleQueue()

    def begin(self, request: Request, toolbox: Toolbox) -> Turn:
        """A turn for the request, whose n is 1."""
        if request.n != 1:
            raise ValueError(f"n is {request.n}, but every turn has tools of its own; begin "
                             "several")
        text, = self.engine.submit(replace(request, stop_tokens=self.others,
                                           pause_tokens=self.ends))
        toolbox.begin_turn()
        self.turns.append(Turn(text, toolbox))
        return self.turns[-1]

    def step(self, seconds: float | None = None) -> bool:
        """A token more for the texts that can have one, and calls and outputs as they come; where
        all wait for tools, until one has answered, or for so many seconds. Whether a turn is left.
        """
        self._take(block=not self.engine.busy(), seconds=seconds)
        self.engine.step()
        for turn in self.turns:
            if turn.text.paused and not turn.waits:
                self._paused(turn)
        self.turns = [turn for turn in self.turns if not turn.text.finish]
        return bool(self.turns)

    def stop(self, turn: Turn) -> None:
        """End a turn now. A tool that is at work is left behind."""
        self.engine.cancel(turn.text)
        self.turns = [other for other in self.turns if other is not turn]

    # ---- calls -----------------------------------------------------------------------------------

    def _paused(self, turn: Turn) -> None:
        """The text has come to a token that may close a call: answer it, or the turn ends."""
        names = [name for token in turn.text.tokens[turn.looked:]
                 if (name := self.tokenizer.special_names.get(token))]
        turn.looked = len(turn.text.tokens)
        message = self.messages(turn)[-1:]
        call, closed = message[0].call if message else None, self.form.closed(names)
        if call is None or (not closed and names[-1] == "<|im_end|>"):
            self.engine.cancel(turn.text, "stop")
            return
        turn.calls.append((call, ""))
        turn.deadline = time.monotonic() + turn.toolbox.seconds
        if closed:
            Thread(target=self._run, args=(turn, len(turn.calls), call), daemon=True).start()
        else:
            self._answer(turn, "Error: the call ends with another token than it has to.")

    def messages(self, turn: Turn) -> list[Message]:
        """What the turn is, as far as it is written. A last call that is not answered, as it was
        cut, or never closed, is none."""
        text = turn.text
        tokens = text.tokens[:-1] if self.forges(text) else text.tokens
        before = len(chat.parse(text.request.prompt, self.tokenizer, self.template))
        found = chat.parse([*text.request.prompt, *tokens], self.tokenizer, self.template)[before:]
        if found and text.finish and found[-1].call:
            found[-1] = replace(found[-1], call=None)
        return [message for message in found if message != Message("assistant")]

    def forges(self, text: Text) -> bool:
        """Whether it ended where the model began to write what is not the assistant's."""
        return text.finish == "stop" and text.tokens[-1] in self.others

    def _run(self, turn: Turn, number: int, call: Call) -> None:
        """In a thread of its own."""
        self._done.put(Done(turn, number, turn.toolbox.answer(call)))

    def _take(self, block: bool, seconds: float | None) -> None:
        """What tools have answered, and what they have not in their time."""
        deadlines = [turn.deadline for turn in self.turns if turn.waits]
        if not deadlines:
            return
        wait = max(0.0, min(deadlines) - time.monotonic()) if block else 0.0
        try:
            self._told(self._done.get(block, wait if seconds is None else min(seconds, wait)))
            while True:
                self._told(self._done.get_nowait())
        except Empty:
            pass
        now = time.monotonic()
        for turn in self.turns:
            if turn.waits and now >= turn.deadline:
                self._answer(turn, f"Error: no answer within {turn.toolbox.seconds:g} seconds.")

    def _told(self, done: Done) -> None:
        """A tool has answered; too late, if the turn has gone on."""
        turn = done.turn
        if turn.waits and done.number == len(turn.calls):
            self._answer(turn, done.output)

    def _answer(self, turn: Turn, output: str) -> None:
        """Force an output into the text, as much of it as there is room for."""
        call, turn.deadline = turn.calls[-1][0], None
        message, room = Message("assistant", call=call), self.engine.room(turn.text)
        while len(ids := self._ids(message, output)) > room and output != CUT:
            kept = len(output) - max(len(ids) - room, len(CUT) + 1)     # a token is a byte or more
            output = output[:max(kept, 0)] + CUT
        turn.calls[-1] = (call, output)
        if len(ids) > room:
            self.engine.cancel(turn.text, "context")
        else:
            self.engine.force(turn.text, ids)
            turn.looked = len(turn.text.tokens)

    def _ids(self, call: Message, output: str) -> list[int]:
        return chat.output_ids(call, output, self.tokenizer, self.template)
