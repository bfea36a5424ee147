"""A tokenizer beside the published ones: bytes a token on many texts, and how it cuts and merges.

The texts are short ones of our own (tokenizer_samples.py) and files of the user's. Digits, runs of
spaces and capitals are cut before a tokenizer for inspection; a text's merges are shown in the
order in which they were found when the tokenizer was learned.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from llmc import cli, disk, documents
from llmc.documents import Source
from llmc.tokenize import visible
from llmc.tokenizer import Tokenizer
from llmc.tokenizer_json import merge_steps
from llmc.tokenizer_library import LibraryTokenizer
from llmc.tokenizer_samples import SAMPLES
from llmc.word_counts import splitter

MEASURED = 4_000_000            # characters of a file, about, that bytes a token are counted on
LONGEST_TEXT = 1000             # characters of --text: each merge is a line
PLAIN_WIDTH = 160               # columns where there is no terminal

PROBES = {
    "digits": ("7", "42", "365", "2024", "31415", "1000000", "3.14159", " 2024"),
    "spaces": tuple(" " * n + "x" for n in (1, 2, 3, 4, 8, 16)) + ("\tx", "\n\n    x", "x \n"),
    "capitals": ("hello", "Hello", "HELLO", " hello", " Hello", " HELLO", "helloWorld",
                 "HelloWorld", "don't", "DON'T"),
}


@dataclass
class TokenizerReport:
    """Compare a tokenizer with others: bytes a token, and how texts are cut."""
    tokenizer: str = cli.positional()   # a tokenizer.json or folder with one, or gpt2, …
    against: list[str] = field(default_factory=lambda: ["gpt2", "cl100k_base", "o200k_base"])
                                # encodings to compare with
    files: list[Path] | None = None     # texts of your own, files and folders, each file a row
    text: str = ""              # show the merges that cut this text, step by step
    text_key: str = "text"      # key of a JSON line, or column of parquet, that holds the text
    skip_bad: bool = False      # leave out rows and lines that cannot be read
    json: Path | None = None    # where to write all figures


class Step(NamedTuple):
    """One merge, at every place of the text where it takes place."""
    id: int                     # of the token that it makes
    left: bytes
    right: bytes
    places: int
    tokens: list[bytes]         # the text after it


def run(config: TokenizerReport) -> None:
    """Print the tables, and write the figures if asked to."""
    names = dict.fromkeys([config.tokenizer, *config.against])
    tokenizers = {name: Tokenizer.load(name) for name in names}
    sources = documents.find(config.files) if config.files else []
    first = tokenizers[config.tokenizer]
    steps = merges_of(first, config.text) if config.text else None
    rates = {name: rate(tokenizers, lambda text=text: [text]) for name, text in SAMPLES.items()}
    rates |= {str(source.path): rate(tokenizers, lambda source=source: _some(source, config))
              for source in sources}
    cuts = {group: {text: {name: cut(tokenizer, text) for name, tokenizer in tokenizers.items()}
                    for text in texts} for group, texts in PROBES.items()}
    if config.json:
        report = {"tokenizers": {name: {"vocab_size": tokenizer.vocab_size}
                                 for name, tokenizer in tokenizers.items()},
                  "bytes_per_token": rates, "cuts": cuts}
        if steps is not None:
            report["merges"] = [_as_json(step) for step in steps]
        disk.write_whole(config.json, (json.dumps(report, indent=1, ensure_ascii=False)
                                       + "\n").encode("utf-8", "backslashreplace"))
    _show_rates(rates, tokenizers)
    _show_cuts(cuts, list(tokenizers))
    if steps is not None:
        _show_merges(config.text, steps)
    if config.json:
        print(f"saved in {config.json}")


def rate(tokenizers: dict[str, Tokenizer],
         texts: Callable[[], Iterable[str]]) -> dict[str, float | int | None]:
    """A text's bytes, and bytes a token by each tokenizer; None by one that lacks some of its
    bytes, or where there is no text."""
    size = sum(len(text.encode()) for text in texts())
    found: dict[str, float | int | None] = {"bytes": size}
    for name, tokenizer in tokenizers.items():
        counts = [_ids(tokenizer, text) for text in texts()]
        tokens = sum(len(ids or ()) for ids in counts)
        found[name] = None if None in counts or not tokens else size / tokens
    return found


def cut(tokenizer: Tokenizer, text: str) -> list[str] | None:
    """A text's tokens as people see them; None where the tokenizer lacks some of its bytes."""
    ids = _ids(tokenizer, text)
    return None if ids is None else [visible(tokenizer.token_bytes(id)) for id in ids]


def merges_of(tokenizer: Tokenizer, text: str) -> list[Step]:
    """The merges that make a text's tokens from its bytes, in the order of ids, which is the order
    in which they were found. A ValueError for a tokenizer whose ids say nothing of that."""
    if isinstance(tokenizer, LibraryTokenizer):
        raise ValueError(f"{tokenizer.name}: its merges are not in the order of its ids, or it has "
                         "more than merges; --text shows those of byte-level BPE")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"--text has {len(text):,} characters, wanted at most {LONGEST_TEXT:,}: "
                         "each merge is a line")
    pieces = [piece.encode("utf-8", "replace") for piece in splitter(tokenizer.pattern)(text)]
    found: dict[int, list[tuple[int, int]]] = {}        # id -> piece, and where its bytes join
    for number, piece in enumerate(pieces):
        for id, place in merge_steps(piece, tokenizer.ranks, tokenizer.vocab_size):
            found.setdefault(id, []).append((number, place))
    ends = [list(range(len(piece) + 1)) for piece in pieces]
    steps = []
    for id, places in sorted(found.items()):
        for number, place in places:
            at = ends[number].index(place)
            start, _, end = ends[number][at - 1:at + 2]
            parts = pieces[number][start:place], pieces[number][place:end]
            del ends[number][at]
        tokens = [piece[a:b] for piece, cuts in zip(pieces, ends) for a, b in zip(cuts, cuts[1:])]
        steps.append(Step(id, *parts, len(places), tokens))
    return steps


def _ids(tokenizer: Tokenizer, text: str) -> list[int] | None:
    try:
        return tokenizer.encode(text)
    except ValueError:              # a vocabulary of the bytes of one text lacks those of others
        return None


def _some(source: Source, config: TokenizerReport) -> Iterator[str]:
    """The texts of a file, up to the block where they are enough."""
    characters = 0
    for block in documents.blocks(source, config.text_key, config.skip_bad):
        for text in documents.texts(block, config.text_key, config.skip_bad):
            if text:
                characters += len(text)
                yield text
        if characters >= MEASURED:
            return


def _as_json(step: Step) -> dict[str, Any]:
    return {"id": step.id, "left": visible(step.left), "right": visible(step.right),
            "places": step.places, "tokens": [visible(token) for token in step.tokens]}


def _show_rates(rates: dict[str, dict[str, Any]], tokenizers: dict[str, Tokenizer]) -> None:
    table = _table("bytes a token", ["bytes", *tokenizers], "right")
    table.add_row("vocabulary", "", *(f"{each.vocab_size:,}" for each in tokenizers.values()))
    for name, row in rates.items():
        table.add_row(_plain(name), f"{row['bytes']:,}",
                      *("–" if row[each] is None else f"{row[each]:.2f}" for each in tokenizers))
    _print(table)


def _show_cuts(cuts: dict[str, dict[str, Any]], names: list[str]) -> None:
    for group, rows in cuts.items():
        table = _table(group, names, "left")
        for text, row in rows.items():
            cells = ("–" if row[name] is None else "|".join(row[name]) for name in names)
            table.add_row(_plain(visible(text.encode())), *map(_plain, cells))
        _print(table)


def _show_merges(text: str, steps: list[Step]) -> None:
    table = _table("token", ["merge", "places", "tokens", "the text"], "left")
    raw = text.encode("utf-8", "replace")
    table.add_row("", "", "", f"{len(raw):,}", _plain("|".join(visible(bytes([b])) for b in raw)))
    for step in steps:
        table.add_row(f"{step.id:,}", _plain(f"{visible(step.left)} + {visible(step.right)}"),
                      f"{step.places}", f"{len(step.tokens):,}",
                      _plain("|".join(map(visible, step.tokens))))
    _print(table)


def _table(first: str, titles: list[str], justify: Any) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(_plain(first))
    for title in titles:
        table.add_column(_plain(title), justify=justify, overflow="fold")
    return table


def _plain(text: str) -> Any:
    """Text whose brackets are no markup."""
    from rich.text import Text

    return Text(text)


def _print(table: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(table)
    console.print()


if __name__ == "__main__":
    cli.main(run)
