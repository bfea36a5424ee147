"""Tokenizers that tiktoken cannot be: what the library makes of them, and what is refused."""

from __future__ import annotations

import json

import pytest
import tokenizers

from llmc.encodings import GPT4_PATTERN, Encoding
from llmc.tokenizer import Tokenizer
from llmc.tokenizer_library import LibraryTokenizer

BYTES = {bytes([b]): b for b in range(256)}
SPLIT_DIGITS = {"type": "Sequence", "pretokenizers": [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}
TEXTS = ["abc é e\u0301 12345", "  ab\n\n<|x|> 한국어 🤷", "", "\x00\x01", "a\ud83d b"]


def byte_level(change=lambda d: None) -> bytes:
    ranks = {**BYTES, b"ab": 256, b"abc": 257, " é".encode()[:2]: 258}
    data = json.loads(Tokenizer("small", Encoding(GPT4_PATTERN, ranks, {"<|x|>": 259})).to_json())
    change(data)
    return json.dumps(data).encode()


def sentencepiece(change=lambda d: None) -> bytes:
    words = ["▁", "a", "b", "▁a", "ab"]
    vocab = {token: id for id, token in enumerate(
        ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *words])}
    special = [{"id": id, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for id, name in enumerate(("<unk>", "<s>", "</s>"))]
    data = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
            "post_processor": None, "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                      "vocab": vocab, "merges": [["▁", "a"], ["a", "b"]]}}
    change(data)
    return json.dumps(data).encode()


def load(raw: bytes, folder) -> Tokenizer:
    (folder / "tokenizer.json").write_bytes(raw)
    return Tokenizer.load(folder)


@pytest.mark.parametrize("change", [
    lambda d: d.update(normalizer={"type": "NFC"}),
    lambda d: d.update(pre_tokenizer=SPLIT_DIGITS),
    lambda d: d["model"]["merges"].reverse()])
def test_byte_level_tokenizers_encode_as_the_library_does(change, tmp_path):
    raw = byte_level(change)
    ours, theirs = load(raw, tmp_path), tokenizers.Tokenizer.from_str(raw.decode())
    assert isinstance(ours, LibraryTokenizer) and ours.to_json() == raw and ours.vocab_size == 260
    for text in TEXTS:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert ours.encode(text, "all") == theirs.encode(whole).ids
        assert 259 not in ours.encode(text)
        assert ours.decode(ours.encode(text, "all")) == theirs.decode(theirs.encode(whole).ids,
                                                                     skip_special_tokens=False)


def test_what_tiktoken_can_be_is_left_to_it(tmp_path):
    assert type(load(byte_level(), tmp_path)) is Tokenizer


def test_nfc_composes_what_stands_apart(tmp_path):
    tokenizer = load(byte_level(lambda d: d.update(normalizer={"type": "NFC"})), tmp_path)
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é") and tokenizer.decode(tokenizer.encode("e\u0301")) == "é"


def test_sentencepieces_bpe_comes_back_byte_for_byte(tmp_path):
    tokenizer = load(sentencepiece(), tmp_path)
    assert tokenizer.space_first and tokenizer.eot == 2
    assert tokenizer.encode("ab a") == [262, 261, 262]
    assert tokenizer.token_bytes(262) == b" a" and tokenizer.token_bytes(3 + 0xC3) == b"\xc3"
    for text in ("ab a", "é 한", "a ", "", "<s>b"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<s>b", "all") == [1, 261]


def test_the_token_before_a_text_is_known_and_written(tmp_path):
    def with_first(data):
        token = {"SpecialToken": {"id": "<|x|>", "type_id": 0}}
        data["post_processor"] = {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            {"type": "TemplateProcessing", "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
             "pair": [token, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
             "special_tokens": {"<|x|>": {"id": "<|x|>", "ids": [259], "tokens": ["<|x|>"]}}}]}
    tokenizer = load(byte_level(with_first), tmp_path)
    assert type(tokenizer) is Tokenizer and tokenizer.bos == 259
    assert tokenizer.encode("ab") == [256]              # putting it there is for those who need it
    again = load(tokenizer.to_json(), tmp_path)
    assert again.bos == 259
    assert tokenizers.Tokenizer.from_str(tokenizer.to_json().decode()).encode("ab").ids == [259, 256]


@pytest.mark.parametrize("raw, sentence", [
    (sentencepiece(lambda d: d.update(decoder={"type": "ByteLevel"})), "its model is BPE with byte fallback, and"),
    (sentencepiece(lambda d: d["model"].update(byte_fallback=False)), "spells no bytes"),
    (sentencepiece(lambda d: d.update(pre_tokenizer={"type": "Whitespace"})), "its pre_tokenizer is"),
    (sentencepiece(lambda d: d["model"]["vocab"].update(a=5)), "its ids are not distinct"),
    (sentencepiece(lambda d: d["model"].update(merges=[["a", "z"]])), "the library tokenizers cannot use it"),
    (byte_level(lambda d: d.update(normalizer={"type": "Lowercase"})), "it has a normalizer, Lowercase"),
    (byte_level(lambda d: d.update(normalizer={"type": "NFC"}, decoder=None)), "without byte fallback, and its dec"),
    (byte_level(lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed")), "Removed")])
def test_what_would_be_encoded_otherwise_is_a_sentence(raw, sentence, tmp_path):
    with pytest.raises(ValueError) as failure:
        load(raw, tmp_path)
    assert sentence in str(failure.value) and str(tmp_path / "tokenizer.json") in str(failure.value)


def test_special_tokens_are_allowed_all_or_none(tmp_path):
    with pytest.raises(ValueError, match="reads all of its special tokens in a text, or none"):
        load(sentencepiece(), tmp_path).encode("a", {"<s>"})


def with_gaps(data) -> None:
    """Ids that nothing has, and an added token that is in no vocabulary, as Qwen's are."""
    data["model"]["vocab"] = {token: id + 20 * (id >= 200) for token, id in data["model"]["vocab"].items()}
    data["added_tokens"][-1]["id"] += 20
    data["normalizer"] = {"type": "NFC"}


@pytest.mark.parametrize("raw", [byte_level(), byte_level(lambda d: d.update(normalizer={"type": "NFC"})),
                                 byte_level(lambda d: d["model"]["vocab"].pop("<|x|>") and d.update(normalizer=None)),
                                 byte_level(with_gaps), sentencepiece(),
                                 sentencepiece(lambda d: d["model"]["vocab"].pop("</s>") and None or d.update(
                                     added_tokens=d["added_tokens"][:2]))])
def test_special_tokens_that_are_missing_come_behind_the_last_id(raw, tmp_path):
    before, names = load(raw, tmp_path), ["<s>", "<|x|>", "<|im_start|>", "<|im_start|>", "<think>", "</think>"]
    after = before.with_special(names)
    new = [name for name in dict.fromkeys(names) if name not in before.special]
    assert {name: after.special[name] for name in new} == {
        name: before.vocab_size + number for number, name in enumerate(new)}
    assert after.special == before.special | {name: after.special[name] for name in new}
    assert after.vocab_size == before.vocab_size + len(new) and type(after) is type(before)
    again = load(after.to_json(), tmp_path)
    theirs = tokenizers.Tokenizer.from_str(after.to_json().decode())
    assert again.special == after.special and again.to_json() == after.to_json()
    for text in [*TEXTS, "<|im_start|>ab</think>", "ab <think>"]:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids = after.encode(text, "all")
        assert ids == again.encode(text, "all") == theirs.encode(whole, add_special_tokens=False).ids
        assert any(name in text for name in new) == any(id >= before.vocab_size for id in ids)
        assert after.encode_plain(text) == again.encode_plain(text) == before.encode_plain(text)
        assert after.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    assert after.with_special(names) is after


@pytest.mark.parametrize("change", [lambda d: None, lambda d: d.update(normalizer={"type": "NFC"})])
def test_a_token_of_text_becomes_no_special_one(change, tmp_path):
    with pytest.raises(ValueError, match="has the token abc already, as text; it cannot be a special token too"):
        load(byte_level(change), tmp_path).with_special(["<|y|>", "abc"])
