"""Text as a search sees it: its words, its sentences, and passages that fit a small context.

Words are told apart by rule, with no dictionary: case, accents of Latin, Greek and Cyrillic, and
English plurals (D. Harman, "How effective is suffixing?", 1991) make no difference. Where a script
puts no spaces between words, each character and each two neighbours count as one.
"""
from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

LONGEST = 1200                  # bytes of a passage: some 200 English words
SLICE = LONGEST // 4            # characters that are never more bytes than that

ACCENTS = "\u0300-\u036f"       # the combining ones
# Thai, Lao, Myanmar, Khmer, Chinese characters, kana and Hangul
SPACELESS = ("\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
             "\U00020000-\U0003ffff")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
POSSESSIVE = re.compile(r"(?<=\w)['’]s\b")
SPACELESS_RUN = re.compile(f"[{SPACELESS}]+")

CLOSING = "\"'”’»)\\]"
# After a full stop and a space, unless an initial or a short form stands there, or no sentence
# begins behind it
SENTENCE_END = re.compile(
    rf"(?:(?<=[.!?…])|(?<=[.!?…][{CLOSING}]))"
    r"(?<!\b[A-Z]\.)(?<!\b(?:Mr|Dr|St|vs|Jr|Sr|No|ca)\.)(?<!\b(?:Mrs|Gen|Rev|Col|etc)\.)"
    r"(?<!\b(?:e\.g|i\.e)\.)\s+(?![a-z])|(?<=[。！？])|\n\s*\n")
# where a text that is too long is cut, the best places first
CUTS = (re.compile(r"\n[ \t\r]*\n\s*"), re.compile(r"\n\s*"), SENTENCE_END, re.compile(r"\s+"))


def words(text: str) -> list[str]:
    """A text's words in order, as they are looked for."""
    text = unicodedata.normalize("NFKD", text).casefold()
    text = unicodedata.normalize("NFC", re.sub(f"[{ACCENTS}]", "", text))
    text = THOUSANDS.sub("", POSSESSIVE.sub("", text))
    result = []
    for word in _word_pattern().findall(text):
        if word.isascii():
            result.append(_singular(word))
        elif SPACELESS_RUN.search(word):
            result += _without_spaces(word)
        else:
            result.append(word)
    return result


def sentences(text: str) -> list[str]:
    """A text's sentences, without the space around them."""
    return [part for part in (cut.strip() for cut in _cut(text, SENTENCE_END)) if part]


def passages(text: str, ends: bool = True) -> tuple[list[str], str]:
    """A text in passages of at most LONGEST bytes, cut at paragraphs where that can be. If the text
    goes on (`ends` is False), its last passage is not among them, but what to read on with."""
    parts = _parts(text, 0)
    rest = "" if ends or not parts else parts.pop()
    return [part for part in map(str.strip, parts) if part], rest


@lru_cache(1)
def _word_pattern() -> re.Pattern[str]:
    """Letters and digits, and the marks that some scripts write vowels with."""
    marks = "".join(chr(c) for c in range(0x370, 0x10000)
                    if unicodedata.category(chr(c)) in ("Mn", "Mc"))
    return re.compile(rf"(?:[^\W_]|[{marks}])+")


@lru_cache(1 << 16)
def _singular(word: str) -> str:
    if len(word) > 3 and word[-1] == "s" and word[-2] not in "us":
        if word.endswith("ies") and word[-4] not in "ae":
            return word[:-3] + "y"
        if word.endswith(("sses", "shes", "ches", "xes")):
            return word[:-2]
        if not word.endswith(("aes", "ees", "oes")):
            return word[:-1]
    return word


def _without_spaces(word: str) -> Iterator[str]:
    """Single characters and pairs of each run, and what stands between the runs."""
    at = 0
    for run in SPACELESS_RUN.finditer(word):
        yield from filter(None, [word[at:run.start()]])
        yield from run[0]
        yield from (run[0][i:i + 2] for i in range(len(run[0]) - 1))
        at = run.end()
    yield from filter(None, [word[at:]])


def _parts(text: str, level: int) -> list[str]:
    """The text in parts of at most LONGEST bytes, as few as come of filling each in turn."""
    if not text:
        return []
    if len(text) <= LONGEST and _size(text) <= LONGEST:
        return [text]
    if level == len(CUTS):
        return [text[at:at + SLICE] for at in range(0, len(text), SLICE)]
    result, room = [], 0
    for piece in _cut(text, CUTS[level]):
        for part in _parts(piece, level + 1):
            size = _size(part)
            if size <= room:
                result[-1] += part
            else:
                result.append(part)
                room = LONGEST
            room -= size
    return result


def _cut(text: str, where: re.Pattern[str]) -> Iterator[str]:
    """All of the text, cut behind each place where the pattern is."""
    at = 0
    for match in where.finditer(text):
        if match.end() > at:
            yield text[at:match.end()]
            at = match.end()
    if at < len(text):
        yield text[at:]


def _size(text: str) -> int:
    return len(text.encode())
