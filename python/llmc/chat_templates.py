"""How published formats write a conversation: each template makes pieces of messages, and messages
of pieces.

A piece is text, whatever stands in it, or a special token by its name; only the second kind gives
structure. See chat.py for what a message is.

    llmc    <|im_start|>user<|im_sep|>Hello<|im_end|>: GPT-4o's; thinking, calls and their outputs
            stand in the assistant's turn, between tokens of their own
    chatml  <|im_start|>user\\nHello<|im_end|>\\n: Qwen's, with its tools and thinking
            (https://huggingface.co/Qwen/Qwen3-0.6B, chat_template). Every turn keeps its thinking,
            and one without has none; Qwen 3 leaves out that of earlier turns, and puts empty
            thinking before the last answer
    llama3  <|start_header_id|>user<|end_header_id|>\\n\\nHello<|eot_id|>: Meta's, texts without the
            blanks around them (https://github.com/meta-llama/llama3, llama/tokenizer.py; calls as
            in 3.1, https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1, whose
            system text with dates is not written)
"""
from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from llmc import encodings

Role = Literal["system", "user", "assistant", "tool"]
ARGUMENT = {"search": "query", "python": "code"}    # the tools of our own, and what they are given


@dataclass(frozen=True)
class Call:
    """What an assistant asks of a tool.

    tool: search, python, or the name of another; "" where a model wrote what is no call
    text: the query, the code; for another its arguments, an object in JSON; for "" what was written
    """
    tool: str
    text: str


@dataclass(frozen=True)
class Message:
    """What one side says. An assistant thinks, then says something, then may call a tool, whose
    output is the next message. learned: an assistant's message is to be learned from."""
    role: Role
    text: str = ""
    thinking: str = ""
    call: Call | None = None
    learned: bool = True


class Piece(NamedTuple):
    """A part of a conversation; texts side by side are encoded apart, as an answer is from what it
    follows when it is generated. learned: the assistant is to write it."""
    text: str
    special: bool = False       # the name of a special token; otherwise nothing but text
    learned: bool = False


class Template:
    """A format. marks: the special tokens that a tokenizer must have for it; tokens: all that it
    may write; stops: those that end what the assistant writes; others: those that it never writes;
    open: what stands before the first message."""
    marks: frozenset[str]
    tokens: tuple[str, ...]
    stops: tuple[str, ...]
    others: tuple[str, ...]
    open: tuple[Piece, ...] = ()

    def pieces(self, messages: Sequence[Message]) -> Iterator[Piece]:
        """Those of a conversation that chat.check has no fault to find with."""
        yield from self.open
        for number, message in enumerate(messages):
            before = messages[number - 1] if number else None
            yield from self.turn(message, before)

    def turn(self, message: Message, before: Message | None) -> Iterator[Piece]:
        """One message; before: the one that it follows, if any."""
        raise NotImplementedError

    def answer(self, before: Message) -> Iterator[Piece]:
        """What the assistant's next words follow."""
        raise NotImplementedError

    def closed(self, names: Sequence[str]) -> bool:
        """Whether a call is closed as it has to be, where an assistant has written these special
        tokens since its last call, the last of them one of `stops`."""
        raise NotImplementedError

    def messages(self, pieces: Iterable[Piece]) -> list[Message]:
        """The conversation that these pieces are; what a model left open ends with them. Of several
        calls in a turn it has the first: the others can be made behind its output. A role that
        there is not is kept, for chat.check to name."""
        raise NotImplementedError


def _special(name: str, learned: bool = False) -> Piece:
    return Piece(name, True, learned)


class Llmc(Template):
    """The project's own."""
    marks = frozenset(("<|im_start|>", "<|im_sep|>", "<|im_end|>"))
    tokens = encodings.WRITTEN_TOKENS
    stops = ("<|im_end|>", "<|call_end|>", "<|search_end|>", "<|python_end|>")
    others = ("<|im_start|>", "<|im_sep|>", "<|output_start|>", "<|output_end|>")
    CALLS = {"<|call_start|>": "", "<|search_start|>": "search", "<|python_start|>": "python"}

    def turn(self, message: Message, before: Message | None) -> Iterator[Piece]:
        if message.role == "tool":
            yield from (_special("<|output_start|>"), Piece(message.text),
                        _special("<|output_end|>"))
            return
        goes_on = before is not None and before.role == "tool"      # the turn that called it
        if goes_on and message.role != "assistant":
            yield _special("<|im_end|>")
        if not goes_on or message.role != "assistant":
            yield from self._header(message.role)
        learned = message.role == "assistant" and message.learned
        if message.thinking:
            yield from (_special("<|think_start|>", learned),
                        Piece(message.thinking, False, learned),
                        _special("<|think_end|>", learned))
        yield Piece(message.text, False, learned)
        if call := message.call:
            name = call.tool if call.tool in ARGUMENT else "call"   # these have their own tokens
            text = call.text if name != "call" else as_json(call, "arguments")
            yield from (_special(f"<|{name}_start|>", learned), Piece(text, False, learned),
                        _special(f"<|{name}_end|>", learned))
        else:
            yield _special("<|im_end|>", learned)

    def answer(self, before: Message) -> Iterator[Piece]:
        if before.role != "tool":
            yield from self._header("assistant")

    def closed(self, names: Sequence[str]) -> bool:
        begin = next((name for name in names if name in self.CALLS), "")
        return names[-1] == begin.replace("_start|>", "_end|>")

    def messages(self, pieces: Iterable[Piece]) -> list[Message]:
        found: list[Message] = []
        place = ""                      # the name of the special token that a text follows
        for piece in _first_calls(pieces, self.CALLS, ("<|im_start|>", "<|output_end|>")):
            if piece.special:
                place = piece.text
                if place in ("<|im_start|>", "<|output_end|>"):
                    found.append(Message("assistant"))
                elif place == "<|output_start|>":
                    found.append(Message("tool"))
                elif found and place in self.CALLS:
                    found[-1] = replace(found[-1], call=Call(self.CALLS[place], ""))
            elif not found:
                continue
            elif place == "<|im_start|>":
                found[-1] = replace(found[-1], role=piece.text)
            elif place == "<|think_start|>":
                found[-1] = replace(found[-1], thinking=piece.text)
            elif place == "<|call_start|>":
                call = from_json(piece.text, "arguments") or Call("", piece.text)
                found[-1] = replace(found[-1], call=call)
            elif place in self.CALLS:
                found[-1] = replace(found[-1], call=Call(self.CALLS[place], piece.text))
            elif place != "<|im_end|>":
                found[-1] = replace(found[-1], text=found[-1].text + piece.text)
        return found

    @staticmethod
    def _header(role: str) -> Iterator[Piece]:
        yield from (_special("<|im_start|>"), Piece(role), _special("<|im_sep|>"))


class ChatMl(Template):
    """Qwen's."""
    marks = frozenset(("<|im_start|>", "<|im_end|>"))
    tokens = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>",
              "</tool_response>", "<think>", "</think>")
    stops = ("<|im_end|>",)
    others = ("<|im_start|>", "<tool_response>", "</tool_response>")

    def turn(self, message: Message, before: Message | None) -> Iterator[Piece]:
        role, learned = message.role, message.role == "assistant" and message.learned
        yield _special("<|im_start|>")
        if role == "tool":
            yield from (Piece("user\n"), _special("<tool_response>"),
                        Piece(f"\n{message.text}\n"), _special("</tool_response>"))
        elif role != "assistant":
            yield Piece(f"{role}\n{message.text}")
        else:
            yield Piece("assistant\n")
            if message.thinking:
                yield from (_special("<think>", learned),
                            Piece(f"\n{message.thinking}\n", False, learned),
                            _special("</think>", learned))
            before_text = "\n\n" * bool(message.thinking)
            behind_text = "\n" * bool(message.text and message.call)
            yield Piece(f"{before_text}{message.text}{behind_text}", False, learned)
        if call := message.call:
            yield from (_special("<tool_call>", learned),
                        Piece(f"\n{as_json(call, 'arguments')}\n", False, learned),
                        _special("</tool_call>", learned))
        yield from (_special("<|im_end|>", learned), Piece("\n"))

    def answer(self, before: Message) -> Iterator[Piece]:
        yield from (_special("<|im_start|>"), Piece("assistant\n"))

    def closed(self, names: Sequence[str]) -> bool:
        return "</tool_call>" in names

    def messages(self, pieces: Iterable[Piece]) -> list[Message]:
        found: list[Message] = []
        place = ""
        for piece in _first_calls(pieces, ("<tool_call>",), ("<|im_start|>",)):
            last = found[-1] if found else None
            if piece.special:
                place = piece.text
                if place == "<|im_start|>":
                    found.append(Message("assistant"))
                elif last and place == "<tool_response>":
                    found[-1] = replace(last, role="tool")
                elif last and place == "<tool_call>":
                    found[-1] = replace(last, text=last.text.removesuffix("\n"))
            elif not last:
                continue
            elif place == "<|im_start|>":
                role, _, text = piece.text.partition("\n")
                found[-1] = replace(last, role=role, text=text)
            elif place == "<tool_response>":
                found[-1] = replace(last, text=_inside(piece.text))
            elif place == "<think>":
                found[-1] = replace(last, thinking=_inside(piece.text))
            elif place == "</think>":
                found[-1] = replace(last, text=piece.text.removeprefix("\n\n"))
            elif place == "<tool_call>":
                text = _inside(piece.text)
                call = from_json(text, "arguments") or Call("", text)
                found[-1] = replace(last, call=call)
            elif place == "</tool_call>" and piece.text.strip():
                found[-1] = replace(last, text=last.text + piece.text)
        return found


class Llama3(Template):
    """Meta's; calls and their outputs as of 3.1."""
    marks = frozenset(("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    tokens = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
              "<|eot_id|>", "<|python_tag|>")
    stops = ("<|eot_id|>", "<|eom_id|>")
    others = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
    open = (_special("<|begin_of_text|>"),)
    ROLES = {"tool": "ipython"}

    def turn(self, message: Message, before: Message | None) -> Iterator[Piece]:
        if message.thinking:
            raise ValueError("the template llama3 has no place for thinking; leave it out")
        learned = message.role == "assistant" and message.learned
        text = message.text.strip()
        if message.role == "assistant":
            yield from (*self._header("assistant"), Piece(text, False, learned))
        else:
            yield from self._header(message.role, text)
        if call := message.call:
            text = call.text if call.tool == "python" else as_json(call, "parameters")
            yield from (_special("<|python_tag|>", learned), Piece(text, False, learned))
        yield _special("<|eom_id|>" if message.call else "<|eot_id|>", learned)

    def answer(self, before: Message) -> Iterator[Piece]:
        yield from self._header("assistant")

    def closed(self, names: Sequence[str]) -> bool:
        return True

    def messages(self, pieces: Iterable[Piece]) -> list[Message]:
        found: list[Message] = []
        place = ""
        for piece in _first_calls(pieces, ("<|python_tag|>",), ("<|start_header_id|>",)):
            if piece.special:
                place = piece.text
                if place == "<|start_header_id|>":
                    found.append(Message("assistant"))
                elif found and place == "<|python_tag|>":
                    found[-1] = replace(found[-1], call=Call("python", ""))
            elif not found:
                continue
            elif place == "<|start_header_id|>":
                role = "tool" if piece.text == "ipython" else piece.text
                found[-1] = replace(found[-1], role=role)
            elif place == "<|end_header_id|>":
                found[-1] = replace(found[-1], text=piece.text.removeprefix("\n\n"))
            elif place == "<|python_tag|>":
                call = from_json(piece.text, "parameters") or Call("python", piece.text)
                found[-1] = replace(found[-1], call=call)
        return found

    def _header(self, role: str, text: str = "") -> Iterator[Piece]:
        yield from (_special("<|start_header_id|>"), Piece(self.ROLES.get(role, role)),
                    _special("<|end_header_id|>"), Piece(f"\n\n{text}"))


TEMPLATES: dict[str, Template] = {"llmc": Llmc(), "chatml": ChatMl(), "llama3": Llama3()}


def as_json(call: Call, key: str) -> str:
    """A call as models of other houses write it: {"name": …, key: {…}}; one that names no tool as
    it was written."""
    if not call.tool:
        return call.text
    arguments = ({ARGUMENT[call.tool]: call.text} if call.tool in ARGUMENT
                 else json.loads(call.text))
    return json.dumps({"name": call.tool, key: arguments}, ensure_ascii=False)


def from_json(text: str, key: str) -> Call | None:
    """The call, or None where the text is none. Python code that reads like another tool's call is
    taken for it."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    tool, arguments = found["name"], found.get(key)
    if not tool or not isinstance(arguments, dict):
        return None
    if tool in ARGUMENT:
        value = arguments.get(ARGUMENT[tool])
        return Call(tool, value) if isinstance(value, str) and len(arguments) == 1 else None
    return Call(tool, json.dumps(arguments, ensure_ascii=False))


def _first_calls(pieces: Iterable[Piece], calls: Collection[str], turns: Collection[str]
                 ) -> Iterator[Piece]:
    """Without the calls behind the first one of a turn. calls, turns: the tokens that begin one."""
    called = left_out = False
    for piece in pieces:
        if piece.special:
            called &= piece.text not in turns
            left_out = called and piece.text in calls
            called |= piece.text in calls
        if not left_out:
            yield piece


def _inside(text: str) -> str:
    """Without the line ends that stand around it."""
    return text.removeprefix("\n").removesuffix("\n")
