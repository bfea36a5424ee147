"""Recipes: which steps, with which options, and what is said of those that are not understood."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from llmc.web import recipes, steps


def test_options_are_what_datatrove_has_where_the_script_gives_none():
    from datatrove.pipeline.dedup import MinhashConfig
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

    blocks = {steps.Repetition: GopherRepetitionFilter, steps.Quality: GopherQualityFilter,
              steps.C4: C4QualityFilter, steps.FineWeb: FineWebQualityFilter}
    for step, block in blocks.items():
        theirs = inspect.signature(block).parameters
        for field in fields(step):
            ours = getattr(step(), field.name)
            if isinstance(ours, dict):
                ours = tuple(ours.items())
            if (step, field.name) == (steps.C4, "filter_no_terminal_punct"):
                assert (ours, theirs[field.name].default) == (False, True)
            elif field.name == "language":
                assert ours == theirs["language"].default
            else:
                assert ours == theirs[field.name].default, field.name
    config = steps.MinHash().blocks([], Path("x"), None)[0].config
    assert (config.num_buckets, config.hashes_per_bucket, config.n_grams) == (14, 8, 5)
    theirs = MinhashConfig()
    assert (config.num_buckets, config.hashes_per_bucket) == (theirs.num_buckets, theirs.hashes_per_bucket)


def test_each_option_is_explained():
    text = recipes.described()
    for name, step in recipes.STEPS.items():
        assert re.search(rf"^  {name} ", text, re.M)
        for field in fields(step):
            assert re.search(rf"^    {field.name} = ", text, re.M)


def test_a_file_of_steps_and_options(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("steps:\n  - url: {soft_words: 3}\n  - c4\n  - gopher_quality:\n      min_doc_words: null\n"
                    "      max_symbol_word_ratio: 1\n  - gopher_repetition: {top_n_grams: {2: 0.5}}\n")
    url, c4, quality, repetition = recipes.load(str(path), ["gopher_quality.max_doc_words=77"])
    assert url == steps.Url(soft_words=3) and c4 == steps.C4()
    assert quality == steps.Quality(min_doc_words=None, max_symbol_word_ratio=1.0, max_doc_words=77)
    assert repetition.top_n_grams == {2: 0.5}


@pytest.mark.parametrize("text, sentence", [
    ("stages: []", "has no list of steps"),
    ("steps: [url]\nname: x", "there is no key 'name'; wanted 'steps' alone"),
    ("steps: [gopher_qality]", "there is no step 'gopher_qality'; did you mean gopher_quality?"),
    ("steps: [{url: {soft_wrds: 1}}]", "url has no option 'soft_wrds'; did you mean soft_words?"),
    ("steps: [{url: {soft_words: two}}]", "url.soft_words is 'two', wanted a whole number"),
    ("steps: [{url: {soft_words: true}}]", "url.soft_words is True, wanted a whole number"),
    ("steps: [{personal: {action: hide}}]", "personal.action is 'hide', wanted one of mask, drop"),
    ("steps: [{language: {languages: en}}]", "language.languages is 'en', wanted a list, [A, B] or null"),
    ("steps: [{url: {domains: 5}}]", "url.domains is 5, wanted a path or null"),
    ("steps: [{gopher_repetition: {dup_n_grams: [5]}}]", "dup_n_grams is [5], wanted pairs, {A: B}"),
    ("steps: [{url: {domains: /}}]", "url.domains is '/', wanted a file that is there or null"),
    ("steps: [{decontaminate: {sets: [/none]}}]", "wanted a file or folder that is there"),
    ("steps: [{minhash: {buckets: 0}}]", "minhash.buckets is 0, wanted a whole number from 1 to 1,000"),
    ("steps: [{language: {threshold: .nan}}]", "language.threshold is nan, wanted a number from 0 to 1"),
    ("steps: [{language: {languages: [no]}}]", "language.languages is [False], wanted text, in quotes or null"),
    ("steps: [{language: {languages: []}}]", "language.languages is [], wanted at least one, [A, B] or null"),
    ("steps: [{c4: {language: klingon}}]", "wanted a language whose words datatrove knows, as eng is one"),
    ("steps: [{url: {5: 1}}]", "url has no option 5; wanted some of "),
    ("steps: [[url]]", "['url'] is no step; wanted NAME, or NAME: {OPTION: VALUE}"),
    ("steps: [url", "is no YAML"),
])
def test_what_is_not_understood_is_named_with_its_place(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        recipes.load(str(path))
    assert sentence in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("option, sentence", [
    ("gopher_quality", "wanted STEP.OPTION=VALUE"),
    ("exact.same_numbers=false", "the recipe has no step 'exact'"),
    ("c4.min_num_sentence=1", "did you mean min_num_sentences?"),
    ("c4.min_num_sentences=many", "c4.min_num_sentences is 'many', wanted a whole number"),
])
def test_options_of_the_command_are_checked(option, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        recipes.load("fineweb", [option])


def test_an_unknown_recipe_is_named():
    with pytest.raises(ValueError, match="there is no recipe 'finweb'; did you mean fineweb?"):
        recipes.load("finweb")
