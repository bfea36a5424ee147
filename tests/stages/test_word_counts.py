"""word_counts: what is counted, by how many processes, and what is left out where memory is scarce."""
from __future__ import annotations

import random
from collections import Counter

import plain_bpe
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmc import documents, tokenizer_json
from llmc.documents import BadRow, Block, Source
from llmc.tokenizer import Tokenizer
from llmc.train_tokenizer import MOST_OF_A_PAIR, PATTERNS, divisor, learn_bpe
from llmc.word_counts import AS_COUNTED, AS_LEARNED, WordCounts, count_words, words_of

LETTERS = "abcdefghijklmnoprstuvwäöß한국어日本語кириλльшиपाठ🙂'’-.,;:!?\"()[]{}0123456789½ \t\n\r"


def made_up(size: int, seed: int = 7) -> str:
    """Words of a few alphabets, some of them frequent, numbers, signs, and runs of spaces; `size` characters."""
    draw = random.Random(seed)
    alphabets = ("etaoinshrdlucmfw", "ETAOINSHRDLU", "0123456789", "оеаинтсрвл", "가나다라마바사아", "的一是不了人我在", "éèüßñç")
    lexicon = [draw.choice(" '-") + "".join(draw.choices(draw.choice(alphabets), k=draw.randint(1, 11)))
               for _ in range(20_000)]
    gaps = ["", "", "", "", ", ", ". ", "\n", "\n\n    ", "\t", "'s", "  "]
    parts, have = [], 0
    while have < size:
        parts += [lexicon[int(draw.paretovariate(0.6)) % len(lexicon)], draw.choice(gaps)]
        have += len(parts[-1]) + len(parts[-2])
    return "".join(parts)[:size]


def merges_of(text: str, split: str, merges: int) -> list[tuple[bytes, bytes]]:
    encoding = learn_bpe(words_of([text], PATTERNS[split]), 256 + merges, PATTERNS[split])
    return list(tokenizer_json.merges(encoding.ranks, "learned"))


def text_blocks(text: str, size: int) -> list[Block]:
    """A text in blocks as documents.blocks makes them, of about `size` characters."""
    blocks = []
    while text:
        cut = documents.last_cut(text[:size]) or len(text)
        blocks.append(Block(None, text=text[:cut]))
        text = text[cut:]
    return blocks


@pytest.mark.parametrize("split", PATTERNS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(LETTERS, max_size=80))
@example(text="a ½ b 1 c\n\nd 'tis it's  e")
def test_words_are_the_matches_of_the_pattern(split, text):
    assert words_of([text], PATTERNS[split]) == Counter(regex.findall(PATTERNS[split], text))


@pytest.mark.parametrize("split", ["gpt2", "gpt4", "gpt4o"])
def test_merges_are_a_plain_trainers_in_order(split):
    text = made_up(1_000_000 if split == "gpt4" else 60_000)
    assert merges_of(text, split, 400) == plain_bpe.learn(text, PATTERNS[split], 400)


def test_equally_frequent_pairs_are_merged_in_the_order_of_their_ids():
    text = "zy\nzy\nxw\nxw\nzx\nzx\nba\nba"
    assert merges_of(text, "gpt4", 4) == plain_bpe.learn(text, PATTERNS["gpt4"], 4)
    assert merges_of(text, "gpt4", 4) == [(b"b", b"a"), (b"x", b"w"), (b"z", b"x"), (b"z", b"y")]


@pytest.mark.shared
def test_merges_of_a_megabyte_of_novels_are_a_plain_trainers(shared):
    source = documents.find([shared / "data/corpora/english_novels_train.jsonl.xz"])[0]
    text = "".join(next(documents.texts(block, "text", False)) for block in documents.blocks(source))[:1_000_000]
    assert merges_of(text, "gpt4", 1000) == plain_bpe.learn(text, PATTERNS["gpt4"], 1000)


def test_any_number_of_processes_counts_and_leaves_out_the_same():
    blocks = text_blocks(made_up(300_000), 20_000)
    made = [count_words(blocks, PATTERNS["gpt4"], "text", False, workers, memory)
            for workers in (1, 2, 3) for memory in (10**9, 200_000)]
    assert made[0].counts == made[2].counts == made[4].counts
    assert made[1].counts == made[3].counts == made[5].counts
    assert made[0].kept == made[0].seen == sum(words_of([made_up(300_000)], PATTERNS["gpt4"]).values())
    assert made[1].kept < made[1].seen == made[0].seen


def test_a_bad_row_found_by_another_process_is_named(tmp_path):
    block = Block(Source(tmp_path / "a.jsonl", "rows", ""), rows=[b'{"text": "fine"}', b'{"text": 3}'])
    with pytest.raises(BadRow, match="a.jsonl:2: 'text' is int, wanted a string; --skip_bad leaves"):
        count_words([block] * 3, PATTERNS["gpt4"], "text", False, 2, 10**9)
    assert count_words([block] * 3, PATTERNS["gpt4"], "text", True, 2, 10**9).counts == {"fine": 3}


def test_where_memory_is_scarce_the_rarest_words_are_left_out():
    exact = words_of([made_up(300_000)], PATTERNS["gpt4"])
    words = WordCounts(2_000_000)
    words.add(exact)
    words.fit()
    rarest = min(words.counts.values())
    assert 0 < len(words.counts) < len(exact)
    assert words.counts == {word: count for word, count in exact.items() if count >= rarest}
    a_word, a_byte = AS_LEARNED
    room = {n: sum(a_word + a_byte * len(word.encode()) for word, count in exact.items() if count >= n)
            for n in (rarest, rarest - 1)}
    assert room[rarest] <= 2_000_000 < room[rarest - 1]


def test_counts_are_too_low_by_no_more_than_what_was_forgotten():
    text = made_up(400_000)
    exact = words_of([text], PATTERNS["gpt4"])
    words = WordCounts(700_000)
    for block in text_blocks(text, 10_000):
        words.add(words_of([block.text], PATTERNS["gpt4"]))
        assert AS_COUNTED[0] * len(words.counts) <= 350_000
    assert words.seen == sum(exact.values()) > words.kept
    assert all(count <= exact[word] for word, count in words.counts.items())
    frequent = [word for word, count in exact.items() if count > 300]
    assert len(frequent) > 20 and all(words.counts[word] > 0.98 * exact[word] for word in frequent)


@pytest.mark.parametrize("counts, by", [
    ({"ab": MOST_OF_A_PAIR}, 1), ({"ab": MOST_OF_A_PAIR + 1}, 2), ({"ab": MOST_OF_A_PAIR, " abc": 1}, 2),
    ({"ab": MOST_OF_A_PAIR, "ba": MOST_OF_A_PAIR}, 1), ({"aaa": 3 * 2**30}, 4), ({"a": 2**40}, 1), ({}, 1)])
def test_counts_are_divided_where_a_pair_would_overflow(counts, by):
    assert divisor(counts) == by


def test_the_learner_hears_of_a_word_exactly_as_often_as_it_occurs():
    """More often than goes into one part of what it is given."""
    encoding = learn_bpe({" the": 200_000, "qu": 199_999, "xz": 200_001, "zz": 1}, 300, PATTERNS["gpt4"])
    assert [a + b for a, b in tokenizer_json.merges(encoding.ranks, "learned")] == [
        b"xz", b"he", b"the", b" the", b"qu"]
    assert Tokenizer("few", encoding).encode(" the qu") == [259, 220, 260]
