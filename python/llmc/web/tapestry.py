"""Many documents as one picture: their texts poured into narrow columns, in colours that say what
became of them; what a rule counts is dark on the colour."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from llmc.terminal import printable
from llmc.web.marks import Span

WIDE, TALL, EDGE = 3200, 2000, 60       # pixels
LETTER, LINE, GAP = 8, 10, 14           # a font's size, from line to line, between columns
LETTERS = 46                            # of a line
GROUND, KEPT = "#12110f", "#e9dfc7"
COLOURS = ("#e8743b", "#4fa3d1", "#c15fb4", "#7fb04f", "#d4a72c", "#5fb8a5", "#d9536f", "#8d7ee0",
           "#b08968", "#9aa5b1")


def woven(found: Sequence[tuple[str, Any, list[Span]]], colour: str) -> Image.Image:
    """found: of each document the place it lay in, itself, and the parts to mark. colour: step or
    language. All get as many lines as there is room for, the short ones what they need."""
    names = Counter(_name(place, doc, colour) for place, doc, _ in found)
    order = [name for name, _ in sorted(names.items(), key=lambda item: (-item[1], item[0]))]
    plain = "kept" if colour == "step" else order[0]
    others = [name for name in order if name != plain]
    hues = {plain: KEPT} | {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(others)}
    font = _font(LETTER)
    width = math.ceil(font.getlength("m" * LETTERS))
    columns = (WIDE - 2 * EDGE + GAP) // (width + GAP)
    cut = [(list(lines(doc.text)), parts, hues[_name(place, doc, colour)])
           for place, doc, parts in found]
    rows = (TALL - 3 * EDGE) // LINE
    most = _fair([len(each) for each, _, _ in cut], rows * columns)
    needed = sum(min(len(each), most) for each, _, _ in cut)
    rows = min(rows, math.ceil(needed / columns))
    image = Image.new("RGB", (WIDE, 3 * EDGE + rows * LINE), GROUND)
    draw = ImageDraw.Draw(image)
    left = (WIDE - columns * (width + GAP) + GAP) // 2
    at = 0
    for each, parts, hue in cut:
        for start, text in each[:most]:
            x, y = left + at // rows * (width + GAP), EDGE + at % rows * LINE
            _line(draw, font, (x, y), text, start, parts, hue)
            at += 1
    _legend(draw, {name: names[name] for name in order}, hues, left, image.height - EDGE - 14)
    return image


def lines(text: str) -> Iterator[tuple[int, str]]:
    """A text's lines of so many letters, each with its place in the text; broken between words
    where there are any."""
    start, end = 0, len(text)
    while start < end:
        if text[start].isspace():
            start += 1
            continue
        line = text[start:start + LETTERS].split("\n")[0]
        blank = line.rfind(" ")
        goes_on = len(line) == LETTERS and not text[start + LETTERS:start + LETTERS + 1].isspace()
        if goes_on and blank > LETTERS // 2:
            line = line[:blank]
        yield start, line
        start += len(line)


def _fair(wanted: Sequence[int], room: int) -> int:
    """The most lines that each may have so that all have room together."""
    left, many = room, len(wanted)
    for each in sorted(wanted):
        if each * many > left:
            return max(1, left // many)
        left -= each
        many -= 1
    return max(wanted)


def _line(draw: Any, font: Any, place: tuple[int, int], text: str, start: int,
          parts: Iterable[Span], hue: str) -> None:
    clean = printable(text.replace("\t", " "))
    draw.text(place, clean, hue, font)
    for a, b in parts:
        a, b = max(a - start, 0), min(b - start, len(text))
        if a < b:
            x = place[0] + font.getlength(clean[:a])
            wide = font.getlength(clean[a:b])
            draw.rectangle((x, place[1], x + wide, place[1] + LINE - 1), hue)
            draw.text((x, place[1]), clean[a:b], GROUND, font)


def _legend(draw: Any, names: dict[str, int], hues: dict[str, str], x: float, y: int) -> None:
    font = _font(26)
    for name, count in names.items():
        text = printable(f"{name}  {count}")
        if x + font.getlength(text) > WIDE - EDGE:
            return
        draw.text((x, y), text, hues[name], font)
        x += font.getlength(text) + 48


def _name(place: str, doc: Any, colour: str) -> str:
    if colour == "step":
        return place.partition("_")[2] or place
    return str(doc.metadata.get("language") or "none")[:20]


def _font(size: int) -> Any:
    """DejaVu, as matplotlib ships it."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf"), size)
