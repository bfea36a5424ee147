"""Why a document was dropped: the parts of it that the rule counts, and by how much it fails.

datatrove notes the reason alone. The rest is found again by the same functions, so that what is
marked is what was counted. Rules about a text as a whole mark nothing, and say so.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from datatrove.data import Document

from llmc import disk
from llmc.web.recipes import STEPS, typed
from llmc.web.steps import Step

Span = tuple[int, int]
NO_PART = "; no one part of it is to blame"


class Finding(NamedTuple):
    """why: one sentence with the rule's numbers; parts: of the text, in order, none overlapping;
    url: parts of its url."""
    why: str
    parts: list[Span] = []
    url: list[Span] = []


def steps_of(work: Path) -> dict[str, Step]:
    """The steps that prepare_fineweb took, by the folders of what they dropped: 5_c4, …"""
    wanted = "wanted the --out of llmc prepare_fineweb"
    if not (work / "settings.json").exists():
        raise ValueError(f"there is no {work / 'settings.json'}; {wanted}")
    settings = disk.read_json(work / "settings.json", {"steps": list}, wanted)
    made = {}
    try:
        for number, row in enumerate(settings["steps"], 2):
            if kind := STEPS.get(row["step"]):
                hints = get_type_hints(kind)
                made[f"{number}_{kind.name}"] = kind(**{
                    key: typed(_numbered(value), hints[key]) for key, value in row.items()
                    if key in hints and key != "step"})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{work / 'settings.json'}: {row!r} is no step of a run ({error}); "
                         f"{wanted}") from error
    return made


def reason_of(step: str, metadata: dict[str, Any]) -> str:
    """Why the step dropped the document with this metadata; steps that note nothing drop
    duplicates."""
    reason = "duplicate" if step in ("exact", "minhash") else metadata.get("filter_reason", step)
    return str(reason)


def explain(step: Step, doc: Document) -> Finding:
    """Why the step dropped this document."""
    reason = reason_of(step.name, doc.metadata)
    if step.name in RULES:
        return RULES[step.name](step, doc, reason)
    return Finding(reason)


def masked(steps: Iterable[Step], text: str) -> Finding:
    """Of a document that was kept: what stands in the place of personal data."""
    for step in steps:
        if step.name == "personal" and step.action == "mask":
            values = [value for each in _block(step).replacements.values() for value in each]
            pattern = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
            if parts := [match.span() for match in re.finditer(pattern, text)] if values else []:
                return Finding(f"kept; masked personal data: {len(parts)}", parts)
    return Finding("kept")


def pieces(text: str, parts: Iterable[Span], start: int = 0,
           end: int | None = None) -> Iterator[tuple[str, bool]]:
    """text[start:end] in pieces, and of each whether it is one of the parts."""
    end, done = len(text) if end is None else end, start
    for a, b in parts:
        a, b = max(a, done), min(b, end)
        if a >= b:
            continue
        if done < a:
            yield text[done:a], False
        yield text[a:b], True
        done = b
    if done < end:
        yield text[done:end], False


def excerpt(text: str, parts: list[Span], most: int) -> list[tuple[str, bool]]:
    """Pieces of at most so many characters of the text, the first part among them."""
    start = max(0, parts[0][0] - most // 3) if parts and parts[0][1] > most else 0
    cut = list(pieces(text, parts, start, min(start + most, len(text))))
    return ([("… ", False)] if start else []) + cut + (
        [(" …", False)] if start + most < len(text) else [])


def word_spans(text: str, language: str) -> list[tuple[str, Span]]:
    """datatrove's words of a text, and the characters each lies between; a word that its
    tokenizer spells otherwise lies between no two."""
    from datatrove.utils.text import split_into_words

    found, at = [], 0
    for word in split_into_words(text, language):
        start = text.find(word, at, at + len(word) + 50)    # blanks lie between, and no words
        span = (start, start + len(word)) if start >= 0 else (at, at)
        found.append((word, span))
        at = span[1]
    return found


def _repetition(step: Any, doc: Document, reason: str) -> Finding:
    text, block = doc.text, _block(step)
    kind, _, measure = reason.removeprefix("dup_").partition("_")
    if kind in ("line", "para"):
        if kind == "para":              # the rule looks at the text without the blanks around it
            lead, tail = len(text) - len(text.lstrip()), len(text.rstrip())
            spans = _between(block.paragraph_exp, text, lead, tail)
        else:
            spans = _between(block._line_splitter, text, 0, len(text))
        parts = _repeated(text, spans)
        share = (len(parts) / len(spans) if measure == "frac" else _length(parts) / len(text))
        what = {"line": "lines", "para": "paragraphs"}[kind]
        whose = what if measure == "frac" else f"characters, in {what}"
        parts = [(start, end) for start, end in parts if start < end]
        return Finding(_over(f"{whose} that occurred before", share, getattr(step, reason)), parts)
    n = int(re.search("[0-9]+", reason)[0])
    words = word_spans(text, step.language)
    if reason.startswith("top_"):
        return _most_frequent(step, text, words, n)
    counted, parts, seen, at = 0, [], set(), 0
    while at < len(words) - n + 1:      # as find_all_duplicate goes: it jumps over what is repeated
        gram = "".join(word for word, _ in words[at:at + n])
        if gram in seen:
            counted += len(gram)
            parts.append((words[at][1][0], words[at + n - 1][1][1]))
            at += n
        else:
            seen.add(gram)
            at += 1
    return Finding(_over(f"characters in {n}-grams that occurred before", counted / len(text),
                         step.dup_n_grams[n]), _joined(parts))


def _most_frequent(step: Any, text: str, words: list[tuple[str, Span]], n: int) -> Finding:
    from datatrove.pipeline.filters.gopher_repetition_filter import get_n_grams

    grams = get_n_grams([word for word, _ in words], n)
    gram, count = Counter(grams).most_common(1)[0]
    parts = [(words[at][1][0], words[at + n - 1][1][1])
             for at, each in enumerate(grams) if each == gram]
    what = f"characters in the most frequent {n}-gram, {gram!r} × {count}"
    return Finding(_over(what, len(gram) * count / len(text), step.top_n_grams[n]), _joined(parts))


def _quality(step: Any, doc: Document, reason: str) -> Finding:
    from datatrove.utils.text import PUNCTUATION_SET

    text, block = doc.text, _block(step)
    words = word_spans(text, step.language)
    lines = _lines(text)
    plain = [(word, span) for word, span in words if any(c not in PUNCTUATION_SET for c in word)]
    mean = sum(len(word) for word, _ in plain) / max(1, len(plain))
    if reason == "gopher_short_doc":
        return Finding(f"{len(plain)} words, at least {step.min_doc_words} are kept{NO_PART}")
    if reason == "gopher_long_doc":
        return Finding(f"{len(plain):,} words, at most {step.max_doc_words:,} are kept{NO_PART}")
    if reason == "gopher_below_avg_threshold":
        least = step.min_avg_word_length
        return Finding(f"words of {mean:.2f} letters, at least {least:g} are kept",
                       [span for word, span in plain if len(word) < least])
    if reason == "gopher_above_avg_threshold":
        most = step.max_avg_word_length
        return Finding(f"words of {mean:.2f} letters, at most {most:g} are kept",
                       [span for word, span in plain if len(word) > most])
    if reason in ("gopher_too_many_hashes", "gopher_too_many_ellipsis"):
        what, pattern = (("#", "#") if reason.endswith("hashes") else ("…", r"\.\.\.|…"))
        parts = [match.span() for match in re.finditer(pattern, text)]
        return Finding(f"{len(parts)} {what} among {len(words)} words, at most "
                       f"{step.max_symbol_word_ratio:.0%} are kept", parts)
    if reason == "gopher_too_many_bullets":
        parts = [span for span in lines if text[slice(*span)].lstrip().startswith(("•", "-"))]
        return Finding(_over("lines that begin with a bullet", len(parts) / len(lines),
                             step.max_bullet_lines_ratio), parts)
    if reason == "gopher_too_many_end_ellipsis":
        parts = [span for span in lines if text[slice(*span)].rstrip().endswith(("...", "…"))]
        return Finding(_over("lines that end with …", len(parts) / len(lines),
                             step.max_ellipsis_lines_ratio), parts)
    if reason == "gopher_below_alpha_threshold":
        parts = [span for word, span in words if not any(map(str.isalpha, word))]
        return Finding(f"words with a letter: {1 - len(parts) / len(words):.1%}, at least "
                       f"{step.max_non_alpha_words_ratio:.0%} are kept; marked are the others",
                       parts)
    found = [(word, span) for word, span in words if word in block.stop_words]
    return Finding(f"stop words: {len({word for word, _ in found})} of {len(block.stop_words)}, at "
                   f"least {step.min_stop_words} are kept", [span for _, span in found])


def _c4(step: Any, doc: Document, reason: str) -> Finding:
    from datatrove.pipeline.filters import C4QualityFilter
    from datatrove.utils.text import split_into_sentences

    sign = {"lorem_ipsum": "lorem ipsum", "curly_bracket": "{"}.get(reason)
    if sign:
        parts = [match.span() for match in re.finditer(re.escape(sign), doc.text, re.I)]
        return Finding(f"{sign!r} in the text", parts)
    options = asdict(step) | {"min_num_sentences": -1}
    alone, parts, sentences = C4QualityFilter(**options), [], 0
    for start, end in _lines(doc.text):         # each asked for alone: is anything left of it?
        line = Document(doc.text[start:end], "")
        alone.filter(line)
        if line.text:
            sentences += len(split_into_sentences(line.text, step.language))
        else:
            parts.append((start, end))
    why = ", ".join(f"{int(stat.total)} {name.removeprefix('line-filter-')}"
                    for name, stat in sorted(alone.stats.stats.items())
                    if name.startswith("line-filter-"))
    return Finding(f"{sentences} sentences are left, at least {step.min_num_sentences} are kept"
                   + (f"; marked are the lines that are left out: {why}" if parts else NO_PART),
                   [part for part in parts if doc.text[slice(*part)].strip()])


def _fineweb(step: Any, doc: Document, reason: str) -> Finding:
    text, block = doc.text, _block(step)
    lines = [span for span in _between(re.compile("\n"), text, 0, len(text))
             if text[slice(*span)].strip()]
    if reason == "line_punct_ratio":
        bare = [span for span in lines if not text[slice(*span)].endswith(block.stop_chars)]
        ends = [(text.rfind(" ", start, end) + 1 or start, end) for start, end in bare]
        return Finding(f"lines that end with an end mark: {1 - len(bare) / len(lines):.1%}, at "
                       f"least {step.line_punct_thr:.0%} are kept; marked are the others' ends",
                       [(max(a, start), b) for (a, b), (start, _) in zip(ends, bare)])
    if reason == "short_line_ratio":
        parts = [(a, b) for a, b in lines if b - a <= step.short_line_length]
        return Finding(_over(f"lines of at most {step.short_line_length} characters",
                             len(parts) / len(lines), step.short_line_thr), parts)
    if reason == "char_dup_ratio":
        parts = _repeated(text, lines)
        share = _length(parts) / len(text.replace("\n", ""))
        return Finding(_over("characters in lines that occurred before", share,
                             step.char_duplicates_ratio), parts)
    if reason == "list_ratio":
        words = len(word_spans(text, step.language))
        return Finding(f"{text.count(chr(10))} line breaks for {words} words, at most "
                       f"{step.new_line_ratio:g} a word are kept{NO_PART}")
    return Finding("no text at all")


def _language(step: Any, doc: Document, reason: str) -> Finding:
    score = doc.metadata.get("language_score")
    found = f"{doc.metadata.get('language')} at {score:.3f}" if isinstance(score, float) else reason
    wanted = " or ".join(step.languages or ["one language"])
    return Finding(f"the likeliest is {found}; kept is {wanted} over {step.threshold:g}{NO_PART}")


def _url(step: Any, doc: Document, reason: str) -> Finding:
    from datatrove.pipeline.filters.url_filter import normalize, normalizer

    url, block = str(doc.metadata.get("url", "")), _block(step)
    if reason in ("domain", "subdomain"):
        found = block.tldextractor(url)
        host = f"{found.domain}.{found.suffix}" if reason == "domain" else found.fqdn
        wanted = [re.escape(host)]
    elif reason == "blacklisted_subword":
        words = _words("banned_subwords.txt", step.lists)
        inside = [word for word in words if word in normalize(url)]
        wanted = ["[^a-zA-Z0-9]*".join(map(re.escape, word)) for word in inside]
    elif reason in ("hard_blacklisted", "soft_blacklisted"):
        hard = reason.startswith("hard")
        words = (_words("banned_words.txt", step.lists) | block.banned_words if hard
                 else _words("soft_banned_words.txt", step.lists))
        inside = words & set(normalizer.split(url))
        wanted = [rf"(?<![a-zA-Z0-9]){re.escape(word)}(?![a-zA-Z0-9])" for word in inside]
    else:
        wanted = [re.escape(url)]
    flags = re.I if reason in ("domain", "subdomain", "blacklisted_subword") else 0
    parts = [match.span() for each in wanted for match in re.finditer(each, url, flags)]
    return Finding(f"its url is blocked: {reason}", url=_joined(parts))


def _decontaminate(step: Any, doc: Document, reason: str) -> Finding:
    at = doc.metadata.get("contaminated_at")
    return Finding(f"{step.n_gram} words in a row of {doc.metadata.get('contaminated_task')}",
                   [(int(at[0]), int(at[1]))] if at else [])


def _personal(step: Any, doc: Document, reason: str) -> Finding:
    spans = _block(step).spans(doc.text)
    return Finding("personal data: " + ", ".join(sorted({span.kind for span in spans})),
                   [(span.start, span.end) for span in spans])


def _duplicate(step: Any, doc: Document, reason: str) -> Finding:
    near = "nearly " if step.name == "minhash" else ""
    return Finding(f"{near}the same text as a document that was kept{NO_PART}")


RULES: dict[str, Callable[[Any, Document, str], Finding]] = {
    "url": _url, "language": _language, "gopher_repetition": _repetition,
    "gopher_quality": _quality, "c4": _c4, "fineweb_quality": _fineweb, "exact": _duplicate,
    "minhash": _duplicate, "decontaminate": _decontaminate, "personal": _personal}
BLOCKS: dict[int, tuple[Step, Any]] = {}


def _block(step: Step) -> Any:
    """datatrove's block of a step, built once."""
    if id(step) not in BLOCKS:
        BLOCKS[id(step)] = step, step.block(None)
    return BLOCKS[id(step)][1]


@lru_cache
def _words(name: str, lists: bool) -> set[str]:
    """A list of words that datatrove ships."""
    from datatrove.pipeline.filters.url_filter import get_list
    from datatrove.utils._import_utils import ASSETS_PATH

    return get_list(ASSETS_PATH, name, set()) if lists else set()


def _numbered(value: Any) -> Any:
    """As it was before JSON made text of the keys."""
    return {int(key): each for key, each in value.items()} if isinstance(value, dict) else value


def _over(what: str, share: float, most: float) -> str:
    return f"{what}: {share:.1%}, at most {most:.0%} are kept"


def _between(separator: re.Pattern[str], text: str, start: int, end: int) -> list[Span]:
    """The spans of what separator.split gives of text[start:end]."""
    found, done = [], start
    for match in separator.finditer(text, start, end):
        found.append((done, match.start()))
        done = match.end()
    return [*found, (done, end)]


def _lines(text: str) -> list[Span]:
    """The spans of what text.splitlines gives."""
    found, at = [], 0
    for line in text.splitlines(keepends=True):
        found.append((at, at + len(line.splitlines()[0])))
        at += len(line)
    return found


def _repeated(text: str, spans: Iterable[Span]) -> list[Span]:
    """The spans whose text occurred before, as find_duplicates counts them."""
    seen: set[str] = set()
    found = []
    for start, end in spans:
        if text[start:end] in seen:
            found.append((start, end))
        seen.add(text[start:end])
    return found


def _joined(parts: Iterable[Span]) -> list[Span]:
    """In order, those that overlap made one."""
    found: list[Span] = []
    for start, end in sorted(parts):
        if found and start <= found[-1][1]:
            start, end = found[-1][0], max(end, found[-1][1])
            found.pop()
        found.append((start, end))
    return found


def _length(parts: Iterable[Span]) -> int:
    return sum(end - start for start, end in parts)
