"""csrc/detokenizer.c: the bytes of tokens, against Hugging Face's library; faults are named."""
from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<｜begin of▁text｜>"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Tokenizer, str]:
    """A byte-level BPE from the library, with a special token that its alphabet cannot spell."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = ["the cat and the dog, 12 345!", "größer, déjà vu", "日本語の文", "🙂 ok 🙂🙃"]
    tokenizer.train_from_iterator(text * 50, trainer)
    tokenizer.add_tokens([AddedToken("two words", normalized=False)])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return tokenizer, str(path)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=150, deadline=None)
def test_the_bytes_of_a_texts_tokens_are_the_text(core, trained, text):
    tokenizer, path = trained
    detokenizer = core.Detokenizer(path)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert b"".join(map(detokenizer.bytes, ids)) == text.encode()


def test_every_number_gives_what_the_library_decodes(core, trained):
    tokenizer, path = trained
    detokenizer = core.Detokenizer(path)
    assert len(detokenizer) == tokenizer.get_vocab_size()
    for id in range(len(detokenizer)):
        decoded = tokenizer.decode([id], skip_special_tokens=False)
        assert detokenizer.bytes(id).decode(errors="replace") == decoded
    singles = [detokenizer.bytes(id) for id in range(len(detokenizer))]
    assert {bytes([b]) for b in range(256)} <= set(singles)
    assert [tokenizer.token_to_id(special) for special in SPECIAL] == [0, 1]
    assert [single.decode() for single in singles[:2]] == SPECIAL
    assert singles[-1] == b"two words"


def small(**changes) -> dict:
    """A tokenizer of four tokens, one of them added."""
    data = {
        "added_tokens": [{"id": 3, "content": "<|end|>"}],
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġa": 2, "<|end|>": 3}, "merges": []},
    }
    for key, value in changes.items():
        (data["model"] if key in ("type", "vocab", "end_of_word_suffix") else data)[key] = value
    return data


def save(tmp_path, data) -> str:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data))
    return str(path)


def test_numbers_may_be_left_out_and_are_empty(core, tmp_path):
    detokenizer = core.Detokenizer(save(tmp_path, small(vocab={"a": 0, "b": 7})))
    assert len(detokenizer) == 8
    expected = {0: b"a", 3: b"<|end|>", 7: b"b"}
    assert [detokenizer.bytes(id) for id in range(8)] == [expected.get(id, b"") for id in range(8)]


def test_added_tokens_may_be_absent(core, tmp_path):
    data = small(vocab={"a": 0}, decoder={"type": "Sequence", "decoders": [{"type": "ByteLevel"}]})
    del data["added_tokens"]
    assert core.Detokenizer(save(tmp_path, data)).bytes(0) == b"a"


@pytest.mark.parametrize("id", [-1, 4, 2**40])
def test_a_number_beyond_the_vocabulary_is_a_sentence(core, tmp_path, id):
    detokenizer = core.Detokenizer(save(tmp_path, small()))
    with pytest.raises(RuntimeError, match=f"^token {id}, but the tokenizer has 4$"):
        detokenizer.bytes(id)


@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(type="WordPiece"), 'model.type is "WordPiece", wanted "BPE", byte-level'),
        (dict(decoder=None), 'decoder is null, wanted one of type "ByteLevel"'),
        (
            dict(decoder={"type": "Metaspace"}),
            'decoder is an object, wanted one of type "ByteLevel"',
        ),
        (
            dict(decoder={"type": "Sequence", "decoders": [{"type": "Fuse"}]}),
            'decoder is an object, wanted one of type "ByteLevel"',
        ),
        (dict(end_of_word_suffix="</w>"), 'model.end_of_word_suffix is "</w>", wanted null'),
        (dict(vocab=[]), "model.vocab is an array, wanted an object from tokens to numbers"),
        (dict(vocab={"a": -1}), "model.vocab.a is -1, wanted a token's number, 0 to 67"),
        (dict(vocab={"a": 0, "b": 70}), "model.vocab.b is 70, wanted a token's number, 0 to 69"),
        (dict(vocab={"a": 0.5}), "model.vocab.a is 0.5, wanted a whole number"),
        (dict(vocab={"a": 0, "b": 0}), "model.vocab.b is 0, wanted a number that no other token"),
        (dict(vocab={"a": 3}), "model.vocab.a is 3, wanted a number that no other token has"),
        (dict(vocab={"": 0}), "is 0, wanted a token of at least one byte"),
        (
            dict(vocab={"▁a": 0}),
            "model.vocab.▁a is 0, wanted a byte-level BPE token: the character U+2581 stands for",
        ),
        (dict(vocab={"a b": 0}), "the character U+0020 stands for no byte there"),
        (dict(vocab={"\u0144": 0}), "the character U+0144 stands for no byte there"),
        (dict(added_tokens={}), "added_tokens is an object, wanted an array"),
        (dict(added_tokens=[{"id": 3}]), "added_tokens[0].content is missing"),
        (dict(added_tokens=[{"content": "x"}]), "added_tokens[0].id is missing"),
        (dict(added_tokens=[{"id": 9, "content": ""}]), "is 9, wanted a token of at least one"),
    ],
)
def test_a_foreign_or_damaged_file_names_the_place(core, tmp_path, changes, expected):
    path = save(tmp_path, small(**changes))
    with pytest.raises(RuntimeError) as failure:
        core.Detokenizer(path)
    assert str(failure.value).startswith(f"{path}: ") and expected in str(failure.value)


@pytest.mark.parametrize("key", ["model", "decoder"])
def test_a_missing_part_is_named(core, tmp_path, key):
    data = small()
    del data[key]
    with pytest.raises(RuntimeError, match=f"tokenizer.json: {key} is missing"):
        core.Detokenizer(save(tmp_path, data))
