"""The documents that prepare_fineweb kept and dropped, to page through, and why.

Marked in each is the part that the rule counts. Or 200 of them become one picture.

    llmc inspect data/clean --show gopher_repetition
"""
from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.console import Console
from rich.text import Text

from llmc import cli, disk
from llmc.terminal import printable

if TYPE_CHECKING:
    from llmc.web.marks import Finding
    from llmc.web.steps import Step

PIPED = 5                       # documents where there is no terminal
SHUFFLED = 1000                 # documents in a random order, at most
WOVEN = 200                     # documents in a tapestry
MARK, FOUND, SOFT = "black on yellow", "bold cyan", "dim"
KEYS = {b"n": "next", b"\x1b[C": "next", b"\n": "next", b"\r": "next",
        b"p": "back", b"\x1b[D": "back",
        b" ": "down", b"\x1b[B": "down", b"\x1b[6~": "down",
        b"b": "up", b"\x1b[A": "up", b"\x1b[5~": "up",
        b"m": "mark", b"q": "quit", b"\x04": "quit"}


@dataclass
class Inspect:
    """Page through the documents that prepare_fineweb kept and dropped. Keys: n next, p previous,
    space and b down and up, m to the next mark, q quit."""
    folder: Path = cli.positional()     # the --out of llmc prepare_fineweb
    show: str = ""              # only kept, dropped, those of a step, or those of a reason
    find: str = ""              # only documents with this in the text or the url, in any case
    random: bool = False        # in a random order, not as they lie
    seed: cli.Seed = 1337       # decides the random order
    count: cli.CountOrZero = 0  # how many; 0: all in a terminal (of --random 1,000), else 5,
                                # and 200 in a tapestry
    tapestry: Path | None = None    # a .png to draw: documents as one picture
    colour: Literal["step", "language"] = "step"    # what colours mean in it


class Shown(NamedTuple):
    """A document, and where it lay: kept, or the folder of a step's dropped ones."""
    place: str
    doc: Any


def run(config: Inspect) -> None:
    """Show the documents, or draw them."""
    from llmc.web import extra

    if config.tapestry and config.tapestry.suffix.lower() != ".png":
        raise ValueError(f"--tapestry is {config.tapestry}, but a PNG is drawn; wanted a name that "
                         "ends in .png")
    with extra.needed("llmc inspect"):
        from loguru import logger

        from llmc.web import marks, tapestry

    logger.disable("datatrove")     # which says what files it reads
    work = config.folder / "work"
    steps = marks.steps_of(work)
    if config.tapestry:
        found = list(_shuffled(documents(config, work), config.count or WOVEN, config.seed))
        image = BytesIO()
        tapestry.woven([(place, doc, _finding(place, doc, steps).parts) for place, doc in found],
                       config.colour).save(image, "PNG")
        config.tapestry.parent.mkdir(parents=True, exist_ok=True)
        disk.write_whole(config.tapestry, image.getvalue())
        print(f"saved {config.tapestry}: {len(found)} documents")
        return
    found = documents(config, work)
    if config.random:
        found = _shuffled(found, config.count or SHUFFLED, config.seed)
    console = Console(highlight=False)
    if console.is_terminal and sys.stdin.isatty():
        _page(_some(found, config.count), steps, config.find, console)
    else:
        for place, doc in _some(found, config.count or PIPED):
            console.print(described(place, doc, steps, config.find, bool(console.color_system)),
                          "\n", soft_wrap=True)


def documents(config: Inspect, work: Path) -> Iterator[Shown]:
    """Those asked for, kept ones first, then step by step; a ValueError if there are none."""
    from llmc.web import marks, tally

    known, found = {step.name for step in marks.steps_of(work).values()}, False
    for place, folder in tally.folders(work).items():
        step = place.partition("_")[2]
        known |= {place} if place == tally.KEPT else {"dropped", step}
        whole = config.show in ("", place, step) or place != tally.KEPT and config.show == "dropped"
        for doc in _read(folder):
            reason = place if place == tally.KEPT else marks.reason_of(step, doc.metadata)
            known.add(reason)
            if (whole or config.show == reason) and _has(doc, config.find):
                found = True
                yield Shown(place, doc)
    if not found and config.show and config.show not in known:
        raise ValueError(f"--show {config.show}: nothing is called so"
                         f"{cli.nearest(config.show, known)}; there are {', '.join(sorted(known))}")
    if not found:
        raise ValueError(f"{work} holds no such document"
                         + (f" with {config.find!r}" if config.find else ""))


def _read(folder: Path) -> Iterator[Any]:
    """The documents that were written there."""
    from llmc.web import phases

    if not any(folder.glob("*.jsonl.zst")):
        return
    try:
        yield from phases.reader(folder).run()
    except Exception as error:      # of several libraries
        raise ValueError(f"{folder} cannot be read ({cli.sentence(error)}); llmc prepare_fineweb "
                         "--fresh makes it anew") from error


def described(place: str, doc: Any, steps: dict[str, Step], find: str = "",
              colours: bool = True) -> Text:
    """The document as text of rich's; without colours the marked part stands between ⟦ and ⟧."""
    from llmc.web import marks, tally

    finding, data, step = _finding(place, doc, steps), doc.metadata, place.partition("_")[2]
    reason = marks.reason_of(step, data) if step else tally.KEPT
    text = Text()
    text.append("dropped" if step else "kept", "bold red" if step else "bold green")
    if step:
        text.append(f" by {step}: {_clean(reason)}", "red")
    text.append("\n")
    if data.get("url"):
        text.append_text(_marked(str(data["url"]), finding.url, colours)).append("\n")
    score = tally.language_score(data)
    about = [_clean(str(doc.id)), *([f"{_clean(str(data['language']))} "
             f"{'' if score is None else f'{score:.3f}'}"] if data.get("language") else []),
             f"{len(doc.text):,} characters"]
    text.append(" · ".join(about) + "\n", SOFT)
    if finding.why != reason:
        text.append(f"{_clean(finding.why)}\n", "italic")
    body = _marked(doc.text, finding.parts, colours)
    if find:
        body.highlight_regex(re.compile(re.escape(find), re.I), FOUND)
    return text.append("\n").append_text(body)


def _finding(place: str, doc: Any, steps: dict[str, Step]) -> Finding:
    from llmc.web import marks

    if place in steps:
        return marks.explain(steps[place], doc)
    if step := place.partition("_")[2]:         # of another version's
        return marks.Finding(marks.reason_of(step, doc.metadata))
    return marks.masked(steps.values(), doc.text)


def _marked(text: str, parts: Iterable[tuple[int, int]], colours: bool) -> Text:
    from llmc.web import marks

    made = Text()
    for piece, marked in marks.pieces(_clean(text), parts):
        if marked and not colours:
            piece = f"⟦{piece}⟧"
        made.append(piece, MARK if marked else "")
    return made


def _clean(text: str) -> str:
    """As long as it was, with nothing in it that would change the terminal."""
    return printable(re.sub(r"[^\S\n\t ]", " ", text))


def _has(doc: Any, word: str) -> bool:
    return not word or any(word.lower() in text.lower()
                           for text in (doc.text, str(doc.metadata.get("url", ""))))


def _some(found: Iterable[Shown], count: int) -> Iterator[Shown]:
    for number, each in enumerate(found, 1):
        yield each
        if number == count:
            return


def _shuffled(found: Iterable[Shown], count: int, seed: int) -> Iterator[Shown]:
    """As many of all, in a random order: those of the smallest hashes."""
    from llmc.web import sketch, tally

    sample = sketch.Smallest(count)
    for each in found:
        sample.add(tally.order_of(each.doc, seed), each)
    for _, each in sample.items():
        yield each


def _page(found: Iterator[Shown], steps: dict[str, Step], find: str, console: Console) -> None:
    """Documents one at a time, until the reader quits."""
    seen, at, top, over = [next(found)], 0, 0, False
    with console.screen(hide_cursor=True), _single_keys():
        keys = _pressed()
        while True:
            width, height = console.size
            lines = described(*seen[at], steps, find, bool(console.color_system)).wrap(
                console, width, tab_size=4)
            room = max(1, height - 2)
            top = max(0, min(top, len(lines) - room))
            status = (f" document {at + 1}{' (the last)' if over and at == len(seen) - 1 else ''}"
                      f" · lines {top + 1}-{min(top + room, len(lines))} of {len(lines)}"
                      " · n p: document  space b: page  m: mark  q: quit")
            page = Text("\n").join([*lines[top:top + room], *[Text()] * (room - len(lines))])
            console.clear()
            console.print(page, no_wrap=True, overflow="crop")
            console.print(Text(status[:width - 1], "reverse"), end="")
            key = next(keys)
            if key == "quit":
                return
            if key in ("down", "up"):
                top += (room - 1) * (1 if key == "down" else -1)
            elif key == "mark":
                marked = [place for place, line in enumerate(lines)
                          if any(span.style == MARK for span in line.spans)]
                top = next((place for place in marked if place >= top + room), top)
            elif key == "back":
                at, top = max(0, at - 1), 0
            elif key == "next":
                if at + 1 == len(seen) and (more := next(found, None)):
                    seen.append(more)
                over = at + 1 == len(seen)
                at, top = min(at + 1, len(seen) - 1), 0


def _pressed() -> Iterator[str | None]:
    """What the keys mean that were pressed; several may come at once."""
    while raw := os.read(sys.stdin.fileno(), 64):
        for key in re.findall(rb"\x1b[\[O][0-9;]*[A-Za-z~]|.", raw, re.S):
            yield KEYS.get(key)
    yield "quit"


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys arrive as they are pressed, and are not shown."""
    import termios
    import tty

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    try:
        tty.setcbreak(handle)
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


if __name__ == "__main__":
    cli.main(run)
