"""The report as one page of HTML, complete in itself: no script, nothing loaded, no links.

Text, addresses and names come from web pages, and may be meant to do harm: all of it goes through
`safe`, and a policy in the page forbids the browser to run or load anything.
"""
from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from llmc.web.report_style import STYLE
from llmc.web.tally import ENCODED

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f]")     # what no page may hold
ROWS = 20                       # of a table


def page(figures: dict[str, Any]) -> str:
    """report.json as a page."""
    title = f"{figures['name']}: what the data is"
    body = [_head(figures), _funnel(figures), _languages(figures), _lengths(figures),
            _domains(figures), _n_grams(figures), _samples(figures)]
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="referrer" content="no-referrer">\n'
            f"<title>{safe(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            + "\n".join(body) + "\n</body>\n</html>\n")


def safe(text: object) -> str:
    """Text as it may stand between tags and in attributes, whatever it is."""
    return html.escape(CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text)))


def _head(figures: dict[str, Any]) -> str:
    kept, funnel = figures["kept"], figures["funnel"]
    read = funnel[0]["documents"] if funnel else 0
    tiles = [(short(read), "documents read"),
             (short(kept["documents"]), f"kept, {share(kept['documents'], read)}"),
             (size(kept["bytes"]), "of text kept"),
             *((short(figures[f"{split}_tokens"]), f"tokens to {purpose}")
               for split, purpose in (("train", "train on"), ("val", "validate on"))
               if figures.get(f"{split}_tokens"))]
    shown = "".join(f'<div class="tile"><b>{number}</b><span>{what}</span></div>'
                    for number, what in tiles)
    return (f'<header><h1>{safe(figures["name"])}</h1><p class="soft">recipe '
            f'{safe(figures["recipe"])} · tokenizer {safe(figures["tokenizer"])}</p></header>'
            f'<div class="tiles">{shown}</div>')


def _funnel(figures: dict[str, Any]) -> str:
    funnel = figures["funnel"]
    rows = []
    for number, row in enumerate(funnel, 1):
        lost = row["documents"] - row["kept"]
        why = "".join(f"<span><b>{count:,}</b> {safe(reason)}</span>" for reason, count in
                      sorted(row["reasons"].items(), key=lambda item: (-item[1], item[0])))
        if why:
            why = f'<tr class="below"><td></td><td colspan="6" class="why">{why}</td></tr>'
        text = "HTML" if row["bytes_left"] is None else size(row["bytes_left"])
        rows.append(
            f'<tr><td class="n soft">{number}</td><td class="name">{safe(row["step"])}</td>'
            f'<td class="bar">{_bar(row["kept"], lost, funnel[0]["kept"])}</td>'
            f'<td class="n">{row["kept"]:,}</td>'
            f'<td class="n wide">{share(row["kept"], row["documents"])}</td>'
            f'<td class="n wide">{text}</td>'
            f'<td class="n">{_tokens(row["tokens_left"])}</td></tr>{why}')
    head = ('<tr><th></th><th>step</th><th></th><th class="n">documents</th><th class="n wide">of '
            'those that came</th><th class="n wide">text</th><th class="n">tokens</th></tr>')
    return (f'<section><h2>Where documents went</h2><p>{_key("kept", "dropped")}</p>'
            f'{_river(funnel)}<div class="scroll"><table>{head}{"".join(rows)}</table></div>'
            '<p class="note">Text and tokens are what is left behind each step: of documents that '
            "are kept as they are in the end, of others as they were when they were dropped. "
            "Documents and bytes are counted, and so are tokens of what is kept. Of what a step "
            f"dropped up to {ENCODED} documents, chosen by their hashes, were cut into tokens, and "
            "the rest put at their tokens a byte; ± is twice the standard error.</p></section>")


def _river(funnel: list[dict[str, Any]]) -> str:
    """Documents from left to right, a step a column, as high as there are any; what a step drops
    runs off below."""
    most = max(1, funnel[0]["kept"]) if funnel else 1
    wide, tall, deep = 1000 / max(1, len(funnel)), 100.0, 140.0
    shapes = []
    for number, row in enumerate(funnel):
        left, right = number * wide, (number + 1) * wide
        came, kept = (tall * min(row[key], most) / most for key in ("documents", "kept"))
        bend = left + 0.45 * wide
        if came - kept > 0:
            title = f"{row['step']}: {row['documents'] - row['kept']:,} dropped"
            reach = left + 0.8 * wide
            thick = min(came - kept, 0.55 * wide)
            shapes.append(
                f'<path class="dropped" fill-opacity=".85" d="M{left:.1f} {kept:.2f}'
                f'C{bend:.1f} {kept:.2f} {reach:.1f} {kept:.2f} {reach:.1f} {deep}'
                f'H{reach - thick:.1f}'
                f'C{reach - thick:.1f} {came:.2f} {bend - thick:.1f} {came:.2f} '
                f'{left:.1f} {came:.2f}Z"><title>{safe(title)}</title></path>')
        title = f"{row['step']}: {row['kept']:,} of {row['documents']:,} kept"
        shapes.append(f'<path class="kept" d="M{left:.1f} 0H{min(right + 2, 1000):.1f}V{kept:.2f}'
                      f'H{left:.1f}Z"><title>{safe(title)}</title></path>')
    ruler = "".join(f"<span>{number}</span>" for number in range(1, len(funnel) + 1))
    return (f'<svg class="river" viewBox="0 0 1000 {deep:.0f}" preserveAspectRatio="none" '
            f'role="img" aria-label="documents left after each step">{"".join(shapes)}</svg>'
            f'<div class="ruler" aria-hidden="true">{ruler}</div>')


def _languages(figures: dict[str, Any]) -> str:
    kept, dropped = figures["kept"], list(figures["dropped"].values())
    seen = {}
    for group in [kept, *dropped]:
        for language, scores in group["languages"].items():
            seen[language] = _sum([seen.get(language, []), scores])
    if not seen:
        return ""
    order = sorted(seen, key=lambda language: (-sum(seen[language]), language))
    most = sum(seen[order[0]])
    rows = []
    for language in order[:ROWS]:
        here = kept["languages"].get(language, [])
        out = [a - b for a, b in zip(seen[language], here or [0] * len(seen[language]))]
        rows.append(f'<tr><td class="name">{safe(language)}</td>'
                    f'<td class="bar">{_bar(sum(here), sum(out), most)}</td>'
                    f'<td class="n">{sum(seen[language]):,}</td><td class="n">{sum(here):,}</td>'
                    f'<td class="spark">{_columns([here, out])}</td></tr>')
    scores = [_sum(kept["languages"].values()),
              _sum(scores for group in dropped for scores in group["languages"].values())]
    ticks = [(0.0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1.0, "1")]
    head = ('<tr><th>language</th><th></th><th class="n">documents</th><th class="n">kept</th>'
            "<th>scores, 0 to 1</th></tr>")
    rest = sum(sum(seen[language]) for language in order[ROWS:])
    error = max(group["languages_error"] for group in [kept, *dropped])
    return ('<section><h2>Languages</h2><p>Documents by the score of their likeliest language, of '
            "those that came so far as to be asked.<br>"
            f'{_key("kept", "dropped, here or later")}</p>'
            f'<div class="plot">{_columns(scores)}{_ticks(ticks)}</div>'
            f'<div class="scroll"><table>{head}{"".join(rows)}</table></div><p class="note">'
            + (f"{len(order) - ROWS} more languages: {rest:,} documents. " if rest else "")
            + _within(error) + "</p></section>")


def _lengths(figures: dict[str, Any]) -> str:
    kept = dict(figures["kept"]["lengths"])
    out: dict[int, int] = {}
    for group in figures["dropped"].values():
        for at, count in group["lengths"]:
            out[at] = out.get(at, 0) + count
    bins = [*kept, *out]
    if not bins:
        return ""
    low, high = min(bins), max(bins) + 1
    values = [[counts.get(at, 0) for at in range(low, high)] for counts in (kept, out)]
    titles = [f"{2 ** (at / 2):,.0f} to {2 ** ((at + 1) / 2):,.0f} characters"
              for at in range(low, high)]
    ticks = [((2 * math.log2(10 ** power) - low) / (high - low), short(10 ** power))
             for power in range(10)]
    kept_, all_out = figures["kept"], figures["dropped"].values()
    mean = [size(bytes_ / max(1, documents)) for bytes_, documents in (
        (kept_["bytes"], kept_["documents"]),
        (sum(g["bytes"] for g in all_out),
         sum(g["documents"] - g["html_documents"] for g in all_out)))]
    return ('<section><h2>Lengths</h2><p>Documents by their characters. On the mean '
            f'{mean[0]} are kept, {mean[1]} dropped.<br>{_key("kept", "dropped, as text")}</p>'
            f'<div class="plot">{_columns(values, titles)}'
            f'{_ticks([tick for tick in ticks if 0 <= tick[0] <= 1])}</div></section>')


def _domains(figures: dict[str, Any]) -> str:
    kept, lost = figures["kept"], figures["dropped"]
    parts = []
    most_lost: dict[str, int] = {}
    for group in lost.values():
        for domain, count in group["domains"]:
            most_lost[domain] = most_lost.get(domain, 0) + count
    out = sorted(most_lost.items(), key=lambda item: (-item[1], item[0]))
    for title, found, total, error in (
            ("Kept", kept["domains"], kept["domains_total"], kept["domains_error"]),
            ("Dropped", out, sum(g["domains_total"] for g in lost.values()),
             sum(g["domains_error"] for g in lost.values()))):
        if not found:
            continue
        rows = "".join(
            f'<tr><td class="name">{safe(domain)}</td>'
            f'<td class="bar">{_bar(*each, found[0][1])}</td>'
            f'<td class="n">{count:,}</td></tr>' for domain, count in found[:ROWS]
            for each in [(count, 0) if title == "Kept" else (0, count)])
        parts.append(f"<div><h3>{title}</h3><table>{rows}</table>"
                     f'<p class="note">Of {total:,} documents with a web address. {_within(error)}'
                     "</p></div>")
    if not parts:
        return ""
    return f'<section><h2>Domains</h2><div class="two">{"".join(parts)}</div></section>'


def _n_grams(figures: dict[str, Any]) -> str:
    kept, n = figures["kept"], figures["n_gram"]
    shown: list[tuple[str, int]] = []
    ends: set[tuple[str, ...]] = set()
    for gram, count in kept["ngrams"]:
        words = tuple(gram.split(" "))
        if count > 1 and len(shown) < ROWS and not ends & {words[1:], words[:-1]}:
            ends |= {words[1:], words[:-1]}
            shown.append((gram, count))
    if not shown:
        return ""
    rows = "".join(f'<tr><td class="name">{safe(gram)}</td>'
                   f'<td class="bar">{_bar(count, 0, shown[0][1])}</td>'
                   f'<td class="n">{count:,}</td>'
                   f'<td class="n wide">{share(count, kept["documents"])}</td></tr>'
                   for gram, count in shown)
    return (f"<section><h2>What many documents say</h2><p>The {n} words in a row, without case and "
            "punctuation, that stand in the most of the documents kept.</p>"
            f'<div class="scroll"><table><tr><th>words</th><th></th><th class="n">documents</th>'
            f'<th class="n wide">of all</th></tr>{rows}</table></div><p class="note">Of those that '
            f"overlap in all words but one, the most frequent. {_within(kept['ngrams_error'])}"
            "</p></section>")


def _samples(figures: dict[str, Any]) -> str:
    parts = []
    for name, group in ({"kept": figures["kept"]} | figures["dropped"]).items():
        for reason, samples in group["samples"].items():
            if not samples:
                continue
            count = group["reasons"].get(reason, group["documents"])
            step = name.partition("_")[2]
            what = (f"<b>kept</b> {count:,}" if name == "kept" else
                    f"<b>{safe(reason)}</b> {count:,} dropped by {safe(step)}")
            cards = "".join(map(_card, samples))
            parts.append(f'<details{" open" if name == "kept" else ""}><summary>{what}</summary>'
                         f'<div class="cards">{cards}</div></details>')
    return ("<section><h2>Samples</h2><p>Chosen by the documents’ hashes. <mark>Marked</mark> is "
            f'what the rule counts.</p>{"".join(parts)}</section>')


def _card(sample: dict[str, Any]) -> str:
    text = "".join(f"<mark>{safe(part)}</mark>" if marked else safe(part)
                   for part, marked in sample["text"])
    score = "" if sample["score"] is None else f" {sample['score']:.2f}"
    about = " · ".join(filter(None, (f"{sample['language']}{score}".strip(),
                                     f"{sample['characters']:,} characters")))
    return (f'<article class="card"><div class="url">{safe(sample["url"] or sample["id"])}</div>'
            f'<div class="url">{safe(about)}</div>'
            f'<div class="reason">{safe(sample["why"]) if sample["why"] != "kept" else ""}</div>'
            f'<pre dir="auto">{text}</pre></article>')


def _bar(kept: int, dropped: int, most: int) -> str:
    """Parts of `most`, one behind the other."""
    shapes, at = [], 0.0
    for kind, count in (("kept", kept), ("dropped", dropped)):
        width = 100 * count / max(1, most)
        if count:
            shapes.append(f'<rect class="{kind}" x="{at:.2f}%" width="{width:.2f}%" '
                          'height="100%"/>')
        at += width
    label = f"kept {kept:,}, dropped {dropped:,}"
    return f'<svg role="img" aria-label="{label}"><title>{label}</title>{"".join(shapes)}</svg>'


def _columns(series: Sequence[Sequence[int]], titles: Sequence[str] = ()) -> str:
    """What is kept in columns, and what is dropped on top of it."""
    count = max(map(len, series))
    rows = [[*values, *[0] * (count - len(values))] for values in series]
    sums = [sum(column) for column in zip(*rows)]
    most = max([1, *sums])
    shapes = []
    for at, column in enumerate(zip(*rows)):
        top = 100.0
        for kind, value in zip(("kept", "dropped"), column):
            height = max(100 * value / most, 1.0) if value else 0
            top -= height
            if value:
                shapes.append(f'<rect class="{kind}" x="{at + 0.05:.2f}" y="{max(top, 0):.2f}" '
                              f'width="0.9" height="{height:.2f}"/>')
        title = titles[at] if titles else f"{at / count:g} to {(at + 1) / count:g}"
        shapes.append(f'<rect x="{at}" width="1" height="100" fill-opacity="0"><title>{title}: '
                      f'{column[0]:,} kept, {column[1]:,} dropped</title></rect>')
    return (f'<svg viewBox="0 0 {count} 100" preserveAspectRatio="none" role="img" '
            f'aria-label="{sum(sums):,} documents in {count} columns">{"".join(shapes)}</svg>')


def _ticks(ticks: Iterable[tuple[float, str]]) -> str:
    return "".join(f'<span style="left:{100 * at:.1f}%">{label}</span>' for at, label in ticks)


def _key(kept: str, dropped: str) -> str:
    return f'<span class="key">{kept}</span><span class="key out">{dropped}</span>'


def _tokens(found: dict[str, int] | None) -> str:
    if found is None:
        return "–"
    error = f'<br><span class="soft">± {short(found["error"])}</span>' if found["error"] else ""
    return short(found["tokens"]) + error


def _within(error: int) -> str:
    """How far counts in bounded memory are from the true ones."""
    return f"Counts are at most {error:,} too small." if error else "Counts are exact."


def _sum(rows: Iterable[Sequence[int]]) -> list[int]:
    whole: list[int] = []
    for row in rows:
        whole = [a + b for a, b in zip(whole or [0] * len(row), row or [0] * len(whole))]
    return whole


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def short(number: int) -> str:
    """12,345 as it is, 1,234,567 as 1.23M."""
    for scale, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if number >= scale:
            return f"{number / scale:.4g}{letter}"
    return f"{number:,}"


def size(number: float) -> str:
    """Bytes."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.0f} B"
