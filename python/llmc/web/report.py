"""A report of what became of the documents: report.json with all figures, report.html to look at.

Documents are counted exactly at each step. So is text, in characters and bytes, of each document as
it was when a step dropped it, or as it was kept. Tokens are known of what is kept; of what a step
dropped some documents are cut, chosen by their hashes, and the rest is put at their tokens a byte.
"""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from llmc import disk
from llmc.web import report_html, tally
from llmc.web.phases import Phase
from llmc.web.tally import KEPT, Tally

MOST = {"domains": 40, "ngrams": 60}


def phase(work: Path, tokenizer: str, seed: int) -> Phase:
    """Gathers the figures from what lies under work/."""
    return Phase("report", [tally.Gather(work, tokenizer, seed)], max(1, len(tally.files(work))))


def write(folder: Path, work: Path, made: dict[str, Any], funnel: list[dict[str, Any]]) -> None:
    """Writes report.json and report.html once the phase has ended. made: what else is known of the
    run: name, recipe, tokenizer, and where anything was kept train_tokens, val_tokens, …"""
    figures = collected(work, made, funnel)
    raw = json.dumps(figures, indent=1) + "\n"
    disk.write_whole(folder / "report.json", raw.encode())
    disk.write_whole(folder / "report.html", report_html.page(figures).encode("utf-8", "replace"))


def collected(work: Path, made: dict[str, Any], funnel: list[dict[str, Any]]) -> dict[str, Any]:
    """What report.json holds."""
    tallies = tally.merged(work)
    if KEPT not in tallies:
        raise ValueError(f"{work / 'report'} is not whole; --fresh starts anew")
    kept = tallies.pop(KEPT)
    tokens = made.get("train_tokens", 0) + made.get("val_tokens", 0)
    dropped = {name: group(each) | {"tokens": estimate(each)} for name, each in tallies.items()}
    return made | {"funnel": _stages(funnel, kept, tokens, dropped),
                   "n_gram": tally.N_GRAM, "kept": group(kept) | {"tokens": exact(tokens)},
                   "dropped": dropped}


def exact(tokens: int) -> dict[str, int]:
    """As `estimate` says it."""
    return {"tokens": tokens, "error": 0}


def estimate(found: Tally) -> dict[str, int]:
    """tokens: bytes times the tokens a byte of the documents that were cut; error: twice its
    standard error (W. Cochran, "Sampling Techniques", 1977, section 6.4: a ratio, from a sample
    without replacement); 0 where all were cut."""
    documents = found.counts["documents"] - found.counts["html_documents"]
    pairs = [pair for _, pair in found.encoded.items()]
    whole, tokens = (sum(column) for column in zip(*pairs)) if pairs else (0, 0)
    if len(pairs) == documents or not whole:
        return exact(tokens) | {"cut": len(pairs)}
    ratio, count = tokens / whole, len(pairs)
    squares = math.fsum((ids - ratio * size) ** 2 for size, ids in pairs) / (count - 1)
    error = 2 * documents * math.sqrt((1 - count / documents) * squares / count)
    return {"tokens": round(found.counts["bytes"] * ratio), "error": math.ceil(error), "cut": count}


def group(found: Tally) -> dict[str, Any]:
    """The figures of one folder of documents."""
    languages: dict[str, list[int]] = {}
    sketches = found.frequent
    for label, count in sketches["languages"].counts.items():
        place, _, language = label.partition(" ")
        languages.setdefault(language, [0] * tally.SCORES)[int(place)] += count
    order = sorted(languages, key=lambda language: (-sum(languages[language]), language))
    return found.counts | {
        "reasons": dict(sorted(found.reasons.items(), key=lambda item: (-item[1], item[0]))),
        "lengths": [[int(at), found.lengths[at]] for at in sorted(found.lengths, key=int)],
        "languages": {language: languages[language] for language in order},
        "languages_error": sketches["languages"].error,
        **{key: sketches[key].top(most) for key, most in MOST.items()},
        **{f"{key}_total": sketches[key].total for key in MOST},
        **{f"{key}_error": sketches[key].error for key in MOST},
        "samples": {reason: [thing for _, thing in found.samples[reason].items()]
                    for reason in sorted(found.samples)}}


def _stages(funnel: list[dict[str, Any]], kept: Tally, tokens: int,
            dropped: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The funnel, and with each step the text and the tokens that are left behind it: what is kept,
    and what later steps drop. None where some of that is HTML still."""
    names = [row["step"] for row in funnel]
    left, count, error = kept.counts["bytes"], tokens, 0
    rows = []
    for place in range(len(funnel) - 1, -1, -1):
        html = "extract" in names[place + 1:]
        mine = dropped.get(f"{place + 1}_{names[place]}")
        rows.append(funnel[place] | {
            "bytes_left": None if html else left,
            "tokens_left": None if html else exact(count) | {"error": math.ceil(error ** 0.5)},
            "html_bytes_dropped": mine["html_bytes"] if mine else 0,
            "bytes_dropped": mine["bytes"] if mine else 0,
            "tokens_dropped": mine["tokens"] if mine else exact(0)})
        if mine:
            left += mine["bytes"]
            count += mine["tokens"]["tokens"]
            error += mine["tokens"]["error"] ** 2
    return rows[::-1]
