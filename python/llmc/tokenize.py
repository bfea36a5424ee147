"""A text as a model sees it: tokens in colour, their ids, and how other encodings cut it. Or a
conversation, with what the assistant is to learn of it."""
from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from llmc import chat, cli, conversations
from llmc.chat import Message, Rendered
from llmc.tokenizer import Tokenizer

# backgrounds on which black is readable, neighbours apart
COLOURS = ("#b7d9f7", "#f9d6a5", "#c4e8c2", "#f6c1cc", "#d9cdf3", "#e9e59b")
LEARNED, GIVEN = "black on #c4e8c2", "dim"
VISIBLE = {" ": "·", "\n": "↵", "\t": "→"}


@dataclass
class Tokenize:
    """Show what a text becomes."""
    text: str | None = cli.positional(None)     # the text; without it, standard input is read
    file: Path | None = None    # read the text from a file
    encoding: str = "gpt2"      # gpt2, cl100k_base, …, or a tokenizer.json or folder with one
    against: list[str] = field(default_factory=lambda: ["gpt2", "cl100k_base", "o200k_base"])
                                # encodings to compare with
    special: bool = False       # names such as <|endoftext|> are special tokens, not text
    ids: bool = False           # print the ids and nothing else
    chat: bool = False          # a conversation: messages in JSON, [{"role": "user", "content":
                                # "Hi"}], a row of any file that llmc sft reads, or what the user
                                # says. If the assistant is to speak next, it ends with what stands
                                # before its answer
    template: str = "llmc"      # how a conversation is written: llmc, chatml or llama3
    show_mask: bool = False     # of a conversation, in colour what the assistant learns to write
    limit: cli.CountOrZero = 400    # tokens shown; 0: all of them


def run(config: Tokenize) -> None:
    """Print the tokens, their ids and the comparison; or the ids alone."""
    text = _text(config)
    if config.chat or config.show_mask:
        tokenizer = chat.load_tokenizer(config.encoding)
        rendered = _rendered(text, tokenizer, config)
        if config.ids:
            print(*rendered.ids)
            return
        _show(tokenizer, rendered.ids, config.limit or len(rendered.ids),
              rendered.learned if config.show_mask else None)
        return
    tokenizer = Tokenizer.load(config.encoding)
    ids = tokenizer.encode(text, "all" if config.special else ())
    if config.ids:
        print(*ids)
        return
    _show(tokenizer, ids, config.limit or len(ids))
    _compare(text, tokenizer, ids, config)


def visible(token: bytes) -> str:
    """A token for the eye: spaces, line ends, control characters, and bytes that are no whole
    character (as \\xNN) can be seen."""
    characters = token.decode("utf-8", errors="backslashreplace")
    return "".join(VISIBLE.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode())
                   for c in characters)


def _text(config: Tokenize) -> str:
    if config.file and config.text is not None:
        raise ValueError("give either a text or --file, not both")
    if config.file:
        raw = config.file.read_bytes()
    elif config.text is not None:
        return config.text
    elif sys.stdin.isatty():
        raise ValueError("give a text, or --file FILE; see llmc tokenize --help")
    else:
        raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{config.file or 'standard input'} is not UTF-8: {error.reason} at "
                         f"byte {error.start}") from error


def _rendered(text: str, tokenizer: Tokenizer, config: Tokenize) -> Rendered:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        messages = conversations.messages_of(found)
        chat.check(messages)
    else:
        messages = chat.from_dict(found) if isinstance(found, list) else [Message("user", text)]
    return chat.render(messages, tokenizer, config.template, messages[-1].role != "assistant")


def _show(tokenizer: Tokenizer, ids: list[int], limit: int,
          learned: list[bool] | None = None) -> None:
    """The tokens, in colour on a terminal and between bars elsewhere, and the ids below them. Those
    that are learned have a colour of their own, elsewhere they stand in brackets."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    tokens = [tokenizer.token_bytes(id) for id in ids[:limit]]
    line = Text()
    for i, token in enumerate(tokens):
        if console.is_terminal:
            style = (f"black on {COLOURS[i % len(COLOURS)]}" if learned is None
                     else LEARNED if learned[i] else GIVEN)
            line.append(visible(token), style=style)
        else:
            shown = f"[{visible(token)}]" if learned and learned[i] else visible(token)
            line.append(("|" if i else "") + shown)
        if b"\n" in token:
            line.append("\n")
    more = f" … {len(ids) - limit:,} more" if len(ids) > limit else ""
    console.print(line, f"\n\n{' '.join(map(str, ids[:limit]))}{more}\n", sep="")


def _compare(text: str, tokenizer: Tokenizer, ids: list[int], config: Tokenize) -> None:
    """A row for the encoding and for each it is compared with."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("encoding", "vocabulary", "tokens", "bytes a token"):
        table.add_column(title, justify="left" if title == "encoding" else "right")
    others = [name for name in dict.fromkeys(config.against) if name != tokenizer.name]
    for name in (tokenizer.name, *others):
        other = tokenizer if name == tokenizer.name else Tokenizer.load(name)
        count = len(ids if other is tokenizer else
                    other.encode(text, "all" if config.special else ()))
        size = len(text.encode("utf-8", "replace"))
        table.add_row(name, f"{other.vocab_size:,}", f"{count:,}", f"{size / max(count, 1):.2f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    cli.main(run)
