"""train_tokenizer: what is learned, that it is the same each time, and what is refused."""
from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from llmc import cli, documents
from llmc.encodings import CHAT_TOKENS, EOT, GPT2_PATTERN, GPT4_PATTERN
from llmc.tokenizer import Tokenizer
from llmc.train_tokenizer import PATTERNS, TrainTokenizer, learn_bpe, run
from llmc.word_counts import LONGEST_WORD, block_texts, words_of

LINE = "It's 2024: she sells 123456 sea shells, naïve 한국어 🤷🏽‍♀️ THE END\n\n  indented\r\n"


def llmc(*args: object) -> int:
    return cli.guarded(lambda: run(cli.parse(TrainTokenizer, [str(arg) for arg in args])))


def corpus(folder: Path, words: int = 4000) -> Path:
    """Made-up words, some of them frequent, and some lines of other characters."""
    draw = random.Random(5)
    lexicon = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(300)]
    text = " ".join(lexicon[int(draw.paretovariate(0.7)) % 300] for _ in range(words))
    path = folder / "corpus.txt"
    path.write_text(LINE * 3 + text + "\n" + LINE)
    return path


@pytest.fixture
def learned(tmp_path) -> Tokenizer:
    assert llmc("--input", corpus(tmp_path), "--out", tmp_path / "bpe", "--vocab_size", 600) == 0
    return Tokenizer.load(tmp_path / "bpe")


def test_the_vocabulary_has_the_size_asked_for_and_ends_in_end_of_text(learned):
    assert (learned.vocab_size, learned.eot) == (600, 599)
    assert sorted(learned.ranks.values()) == list(range(599))
    assert sum(len(token) == 1 for token in learned.ranks) == 256
    assert learned.pattern == GPT4_PATTERN


def test_what_is_learned_shortens_its_text_and_gives_it_back(learned, tmp_path):
    text = (tmp_path / "corpus.txt").read_text()
    ids = learned.encode(text)
    assert learned.decode(ids) == text
    assert len(text.encode()) / len(ids) > 3


def test_hugging_face_and_tiktoken_read_it_alike(learned, tmp_path):
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "bpe/tokenizer.json"))
    text = (tmp_path / "corpus.txt").read_text()
    for part in (text, LINE, "unseen Wörter 99999", ""):
        ids = learned.as_tiktoken().encode_ordinary(part)
        assert theirs.encode(part).ids == ids == learned.encode(part)
        assert theirs.decode(ids) == part
    assert theirs.token_to_id(EOT) == learned.eot


def test_the_merges_are_those_that_hugging_face_learned(tmp_path):
    from tokenizers import Regex, models, pre_tokenizers, trainers

    text = corpus(tmp_path).read_text()
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(GPT2_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    learner.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=500, min_frequency=2, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    ours = Tokenizer("ours", learn_bpe(words_of([text], GPT2_PATTERN), 500, GPT2_PATTERN))
    (tmp_path / "tokenizer.json").write_bytes(ours.to_json())
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.get_vocab() == learner.get_vocab()
    assert again.encode(text + LINE).ids == learner.encode(text + LINE).ids


def test_threads_and_repetition_change_nothing(tmp_path):
    path = corpus(tmp_path)
    made = []
    for i, threads in enumerate(("1", "2", "5")):
        out = tmp_path / str(i)
        subprocess.run([sys.executable, "-m", "llmc.train_tokenizer", "--input", path, "--out", out,
                        "--vocab_size", "700", "--workers", threads], check=True, capture_output=True,
                       env={**os.environ, "RAYON_NUM_THREADS": threads,
                            "PYTHONPATH": str(Path(cli.__file__).parent.parent)})
        made.append((out / "tokenizer.json").read_bytes())
    assert made[0] == made[1] == made[2]


def test_a_text_with_few_pairs_gives_fewer_tokens_and_says_so(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("abab abab")
    assert llmc("--input", tmp_path, "--out", tmp_path / "bpe", "--vocab_size", 1000) == 0
    tokenizer = Tokenizer.load(tmp_path / "bpe")
    assert tokenizer.eot == tokenizer.vocab_size - 1 < 264
    assert "fewer than the 1000 asked for" in capsys.readouterr().out


@pytest.mark.parametrize("split, pieces", [("gpt2", 1), ("gpt4", 3)])
def test_digits_are_kept_in_threes_by_gpt4s_split_only(split, pieces, tmp_path):
    (tmp_path / "a.txt").write_text("1234567 " * 50)
    assert llmc("--input", tmp_path, "--out", tmp_path / "bpe", "--split", split) == 0
    assert len(Tokenizer.load(tmp_path / "bpe").encode("1234567")) == pieces


@pytest.mark.parametrize("kind, args", [("bpe", ("--vocab_size", 500)), ("bytes", ())])
def test_tokens_for_conversations_come_last_and_are_text_unless_asked_for(kind, args, tmp_path):
    path = corpus(tmp_path)
    path.write_text(path.read_text() + "<|im_start|>user<|im_sep|>hi<|im_end|><|reserved_63|>\n" * 9)
    assert llmc("--input", path, "--out", tmp_path / "x", "--kind", kind, "--special", "chat", *args) == 0
    made = Tokenizer.load(tmp_path / "x")
    assert made.vocab_size == 500 or kind == "bytes"
    assert [made.special[name] for name in (EOT, *CHAT_TOKENS)] == list(range(made.vocab_size - 78, made.vocab_size))
    assert set(made.ranks.values()) == set(range(made.vocab_size - 78))
    assert len(CHAT_TOKENS) == 13 + 64 and CHAT_TOKENS[-1] == "<|reserved_63|>"
    data = json.loads((tmp_path / "x/tokenizer.json").read_bytes())
    assert [token["content"] for token in data["added_tokens"]] == [EOT, *CHAT_TOKENS]
    assert all(token["special"] for token in data["added_tokens"])
    text = "<|im_start|>user<|im_sep|>hi<|im_end|>"
    plain = made.encode(text)
    assert not set(plain) & set(made.special.values()) and made.decode(plain) == text
    asked = made.encode(text, "all")
    assert asked == [made.special["<|im_start|>"], *made.encode("user"), made.special["<|im_sep|>"],
                     *made.encode("hi"), made.special["<|im_end|>"]]
    assert made.decode(asked) == text
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "x/tokenizer.json")).encode(text).ids == asked


def test_the_split_of_llama_3_is_the_published_one():
    assert PATTERNS["llama3"] == (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")


@pytest.mark.slow
def test_rare_words_are_left_out_where_memory_is_scarce_and_the_command_says_so(tmp_path, capsys):
    draw = random.Random(2)
    rare = " ".join("".join(draw.choices("abcdefghijklmnopqrst", k=10)) for _ in range(90_000))
    (tmp_path / "a.txt").write_text("frequent words are kept\n" * 1000 + rare)
    args = ("--input", tmp_path / "a.txt", "--vocab_size", 280)
    assert llmc(*args, "--out", tmp_path / "all") == 0
    assert "left out" not in capsys.readouterr().out
    assert llmc(*args, "--out", tmp_path / "some", "--memory", "200M") == 0
    assert ("rare words are left out, for --memory 200,000,000: the 5 kept are 5.26 % of the text's 95,000"
            in capsys.readouterr().out)
    assert {b"frequent", b" words", b" kept"} <= set(Tokenizer.load(tmp_path / "some").ranks)


def test_where_no_word_fits_in_memory_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llmc.train_tokenizer.BESIDE", 200_000_000 - 1000)
    (tmp_path / "a.txt").write_text(" ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(600)))
    assert llmc("--input", tmp_path / "a.txt", "--out", tmp_path / "x", "--memory", "200M") == 1
    assert "no word occurs often enough to be kept within --memory 200000000" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_vocabulary_of_the_bytes_that_occur(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("banana\nä")
    assert llmc("--input", tmp_path, "--out", tmp_path / "x", "--kind", "bytes") == 0
    tokenizer = Tokenizer.load(tmp_path / "x")
    assert tokenizer.encode("ban\nä") == [2, 1, 3, 0, 5, 4]
    assert (tokenizer.vocab_size, tokenizer.eot) == (7, 6)
    assert "7 tokens, 1.00 bytes a token" in capsys.readouterr().out
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "x/tokenizer.json"))
    assert theirs.encode("ban\nä").ids == [2, 1, 3, 0, 5, 4]
    assert llmc("--input", tmp_path / "a.txt", "--out", tmp_path / "y", "--kind", "bytes",
                "--no-eot") == 0
    without = Tokenizer.load(tmp_path / "y")
    assert (without.vocab_size, without.eot) == (6, None)


@pytest.mark.shared
def test_shakespeare_has_65_characters(shared, tmp_path):
    path = shared / "data/tinyshakespeare/input.txt"
    assert llmc("--input", path, "--out", tmp_path, "--kind", "bytes", "--no-eot") == 0
    tokenizer = Tokenizer.load(tmp_path)
    letters = sorted(set(path.read_text()))
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode("First Citizen:") == [letters.index(c) for c in "First Citizen:"]


@pytest.mark.parametrize("args, message", [
    (["--vocab_size", "256"], "--vocab_size is 256, wanted at least 257: the 256 bytes and"),
    (["--vocab_size", "255", "--no-eot"], "--vocab_size is 255, wanted 256 to 1000000"),
    (["--vocab_size", "333", "--special", "chat"], "wanted at least 334: the 256 bytes and 78 special tokens"),
    (["--special", "tools"], "invalid choice: 'tools'"),
    (["--memory", "1M"], "--memory is 1000000, wanted 200000000 to"),
    (["--workers", "-1"], "--workers is -1, wanted 0 to"),
    (["--vocab_size", "1e20"], "--vocab_size is 100000000000000000000, wanted 256 to 1000000"),
    (["--vocab_size", "big"], "'big' is no whole number"),
    (["--kind", "words"], "invalid choice: 'words'"),
    (["--vocabsize", "300"], "unknown flag --vocabsize; did you mean --vocab_size?")])
def test_wrong_use_is_one_line_and_writes_nothing(args, message, tmp_path, capsys):
    path = corpus(tmp_path)
    assert llmc("--input", path, "--out", tmp_path / "x", *args) == 1
    err = capsys.readouterr().err
    assert message in err and err.startswith("llmc: ") and err.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_an_input_without_text_is_a_sentence(kind, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("")
    assert llmc("--input", tmp_path, "--out", tmp_path / "x", "--kind", kind) == 1
    assert "there is no text in the input to learn from" in capsys.readouterr().err


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(b"fine\n\xff\n")
    assert llmc("--input", tmp_path, "--out", tmp_path / "x") == 1
    assert "a.txt:2: not UTF-8" in capsys.readouterr().err


def test_a_word_of_many_letters_is_learned_from_in_parts(tmp_path):
    letters = "".join(random.Random(3).choices("abcdefgh", k=100_000))
    for text in (letters, " " * 100_000 + letters):
        (tmp_path / "a.txt").write_text(text)
        source = documents.find([tmp_path / "a.txt"])[0]
        parts = [part for block in documents.blocks(source) for part in block_texts(block, "text", False)]
        assert "".join(parts) == text and max(map(len, parts)) <= 2 * LONGEST_WORD
    assert llmc("--input", tmp_path / "a.txt", "--out", tmp_path / "x") == 0


def test_a_bad_row_is_named_or_left_out(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "fine fine"}\n{"text": "\\ud800"}\n')
    assert llmc("--input", tmp_path, "--out", tmp_path / "x") == 1
    assert "a.jsonl:2: 'text' is not UTF-8 (surrogates not allowed); --skip_bad" in capsys.readouterr().err
    assert llmc("--input", tmp_path, "--out", tmp_path / "x", "--skip_bad") == 0


def test_a_tokenizer_that_is_there_stays_unless_it_may_be_overwritten(learned, tmp_path, capsys):
    before = (tmp_path / "bpe/tokenizer.json").read_bytes()
    args = ("--input", tmp_path / "corpus.txt", "--out", tmp_path / "bpe", "--vocab_size", 300)
    assert llmc(*args) == 1
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    assert (tmp_path / "bpe/tokenizer.json").read_bytes() == before
    assert llmc(*args, "--overwrite") == 0
    assert Tokenizer.load(tmp_path / "bpe").vocab_size == 300
