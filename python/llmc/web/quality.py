"""The quality score of a document: one that it carries, or one by a classifier of llmc
train_quality; and the filter that keeps what scores enough.

FineWeb-Edu scores how educational a page is from 0 to 5, and keeps pages whose rounded score is at
least 3 (G. Penedo et al., "The FineWeb Datasets", 2024, section 4,
https://arxiv.org/abs/2406.17557). Its documents carry `score` and, rounded, `int_score`.
"""
from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from llmc import disk

MODEL, ABOUT = "model.bin", "quality.json"
LABEL = "__label__"             # fastText's mark of labels, the grades
WORDS = re.compile(r"[^\W_]+|[^\w\s]|_")
TEXT = "lower case, words and punctuation apart"    # what line() does
EDU = 3.0


def line(text: str) -> str:
    """A text as the classifier reads it: one line, and no word in it is a label or ends it."""
    return " ".join(WORDS.findall(text.lower().encode("utf-8", "replace").decode()))


def score_of(metadata: Mapping[str, Any], field: str | None = None) -> float | None:
    """The score in a document's metadata: of the field, or None where that has no number. Without
    a field it is int_score, or else score, rounded."""
    if field is None:
        score = _number(metadata.get("int_score"))
        if score is None and (score := _number(metadata.get("score"))) is not None:
            score = float(round(score))
        return score
    return _number(metadata.get(field))


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def about(folder: Path) -> dict[str, Any]:
    """quality.json of a folder that llmc train_quality wrote; a ValueError if the model beside it
    is not the one described."""
    path = folder / ABOUT
    if not path.is_file():
        raise ValueError(f"{folder} has no {ABOUT}; wanted a folder that llmc train_quality wrote")
    advice = "llmc train_quality --overwrite writes it anew"
    found = disk.read_json(path, {"threshold": float, "text": str, "model": dict}, advice)
    if found["text"] != TEXT:
        raise ValueError(f"{path} is of a classifier that reads {found['text']}, wanted {TEXT}; "
                         f"{advice}")
    if disk.sha256(folder / MODEL) != found["model"].get("sha256"):
        raise ValueError(f"{folder / MODEL} is not the one that {path} describes; {advice}")
    return found


def expected(model: Any, text: str) -> float:
    """The mean grade of a line() by a classifier: each grade by its probability."""
    labels, shares = model.predict(text, k=-1)
    grades = [int(label.removeprefix(LABEL)) for label in labels]
    total = float(sum(shares))                  # fastText's are off by 1e-5 each
    return sum(grade * float(share) for grade, share in zip(grades, shares)) / total


class QualityFilter(BaseFilter):
    """Keeps documents with a score of at least `threshold`. Reasons: low_score, no_score.

    model: a folder of train_quality, whose classifier scores each document and notes it as
    quality_score; None: the score is one that documents carry.
    field: see score_of
    """
    type = "🔻 - FILTER"
    name = "🎓 quality"

    def __init__(self, threshold: float, model: Path | None = None, field: str | None = None,
                 exclusion_writer: Any = None) -> None:
        super().__init__(exclusion_writer)
        self.threshold, self.model, self.field = threshold, model, field

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if self.model:
            score = expected(_classifier(self.model / MODEL), line(doc.text))
            doc.metadata["quality_score"] = round(score, 4)
        else:
            score = score_of(doc.metadata, self.field)
        if score is None:
            return False, "no_score"
        return True if score >= self.threshold else (False, "low_score")


@lru_cache(maxsize=1)
def _classifier(path: Path) -> Any:
    """The model, once a process: it goes to no other."""
    from fasttext.FastText import _FastText

    return _FastText(str(path))
