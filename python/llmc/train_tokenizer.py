"""Text to a tokenizer.json of its own: a byte-level BPE, or the bytes that occur.

BPE: 256 bytes, then the most frequent pair becomes a new token, again and again. The file is what
Hugging Face's library reads, and what every stage of llmc takes as --tokenizer. Words are counted
by several processes; from the counts the library learns, of equally frequent pairs first the one
whose tokens are older. Text may be of any size: what --memory has no room for are rare words, and
then the command says how many.
"""
from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, Literal

from llmc import cli, disk, documents, encodings
from llmc.documents import Block, Source
from llmc.encodings import EACH_CHARACTER, Encoding, byte_characters
from llmc.progress import progress
from llmc.tokenizer import Tokenizer
from llmc.word_counts import WordCounts, block_texts, count_words

PATTERNS = {"gpt2": encodings.GPT2_PATTERN, "gpt4": encodings.GPT4_PATTERN,
            "gpt4o": encodings.GPT4O_PATTERN, "llama3": encodings.LLAMA3_PATTERN}
SPECIAL = {"none": (), "chat": encodings.CHAT_TOKENS}
SMALL = 8 << 20                 # bytes of input; of less, a process of its own is not worth while
MOST_OF_A_PAIR = 2**31 - 1      # the learner counts pairs in 32 bits, and drops what overflows
BESIDE = 100_000_000            # bytes of --memory for Python, its libraries and blocks of text
FED = 1 << 16                   # characters handed to the learner at a time
VocabSize = Annotated[int, cli.Range(256, 1_000_000)]   # of more, the learner's tables burst
MEASURED = 4_000_000            # characters that bytes a token are counted on


@dataclass
class TrainTokenizer:
    """Learn a vocabulary from text."""
    input: list[Path]           # files and folders: .txt, .md, .jsonl, .ndjson, .parquet, also
                                # compressed
    out: Path                   # folder for tokenizer.json
    vocab_size: VocabSize = 2048    # tokens in all, the 256 bytes and <|endoftext|> included (bpe)
    kind: Literal["bpe", "bytes"] = "bpe"       # bytes: a token for each byte seen, no merges
    split: Literal["gpt2", "gpt4", "gpt4o", "llama3"] = "gpt4"  # how text is cut before merging;
                                # gpt4 (llama3 is the same): words with the space before them,
                                # digits in groups of three; gpt4o: also where a capital begins
    eot: bool = True            # add <|endoftext|>, after the merges
    special: Literal["none", "chat"] = "none"   # chat: after it 13 special tokens for turns,
                                # thinking and tools, and 64 in reserve; in --vocab_size too (bpe)
    memory: Annotated[int, cli.Range(200_000_000, 10**15)] = 4_000_000_000  # bytes that counting
                                # and learning may take; where that is too little, the rarest words
                                # are left out (bpe). Workers take some 0.1G each beside it
    workers: cli.Threads = 0    # processes that count words; 0: one for each core
    text_key: str = "text"      # key of a JSON line, or column of parquet, that holds the text
    skip_bad: bool = False      # leave out rows and lines that cannot be read
    overwrite: bool = False     # replace the tokenizer.json that is there


def run(config: TrainTokenizer) -> None:
    """Learn, save, and show what was learned."""
    path = config.out / "tokenizer.json"
    special = [encodings.EOT] * config.eot + list(SPECIAL[config.special])
    merged = config.vocab_size - len(special)
    if config.kind == "bpe" and merged < 256:
        raise ValueError(f"--vocab_size is {config.vocab_size}, wanted at least "
                         f"{256 + len(special)}: the 256 bytes and {_listed(special)}")
    if path.exists() and not config.overwrite:
        raise ValueError(f"{path} is there already; --overwrite replaces it")
    sources = documents.find(config.input)
    if config.kind == "bpe":
        pattern = PATTERNS[config.split]
        encoding = learn_bpe(_counted(sources, config, pattern), merged, pattern)
    else:
        with progress("reading", _size(sources)) as advance:
            encoding = learn_bytes(_texts(sources, config, advance))
    for token in special:
        encoding.special[token] = len(encoding.ranks) + len(encoding.special)
    tokenizer = Tokenizer(str(config.out), encoding)
    raw = tokenizer.to_json()
    config.out.mkdir(parents=True, exist_ok=True)
    disk.write_whole(path, raw)
    _report(tokenizer, _texts(sources, config), config, path)


def learn_bpe(counts: dict[str, int], size: int, pattern: str) -> Encoding:
    """The 256 bytes and the merges that make `size` tokens, or as many as the words have pairs that
    occur twice. `counts` says how often each word occurs, and is empty afterwards. The same counts
    give the same tokens, whatever the number of threads."""
    from tokenizers import Tokenizer as Learner
    from tokenizers import models, pre_tokenizers, trainers

    if not counts:
        raise ValueError("there is no text in the input to learn from")
    learner = Learner(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, show_progress=False, special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    with _interruptible():
        learner.train_from_iterator(_repeated(counts), trainer)
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    vocab = json.loads(learner.to_str())["model"]["vocab"]
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in vocab.items()}
    return Encoding(pattern, ranks, {})


def divisor(counts: Mapping[str, int]) -> int:
    """What counts must be divided by, so that the learner can count each pair: mostly 1. Pairs of
    longer tokens are as frequent as the two bytes where they meet, or less so."""
    if sum(count * len(word.encode()) for word, count in counts.items()) <= MOST_OF_A_PAIR:
        return 1
    pairs: Counter[tuple[int, int]] = Counter()
    for word, count in counts.items():
        raw = word.encode()
        for pair in zip(raw, raw[1:]):
            pairs[pair] += count
    return max(1, ceil(max(pairs.values(), default=0) / MOST_OF_A_PAIR))


def _repeated(counts: dict[str, int]) -> Iterator[str]:
    """Each word as often as it occurs, spelled in the characters of its bytes, a space after each:
    the learner takes text and counts it again. Words go from `counts` as they are handed out."""
    spelling = byte_characters()
    part, size = [], 0
    while counts:
        word, count = counts.popitem()
        spelled = "".join([spelling[byte] for byte in word.encode()]) + " "
        while count:
            times = min(count, 1 + (FED - size) // len(spelled))
            part.append(spelled * times)
            count, size = count - times, size + times * len(spelled)
            if size >= FED:
                yield "".join(part)
                part, size = [], 0
    yield "".join(part)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and the like end the program here. Python would answer them only when the learner is
    done, which may take minutes; nothing has been written yet."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in ends}
    answered = [number for number in ends if callable(before[number])]
    for number in answered:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in answered:
            signal.signal(number, before[number])


def learn_bytes(texts: Iterator[str]) -> Encoding:
    """A token for each byte that occurs, in order; for ASCII text that is one a character."""
    seen: set[int] = set()
    for text in texts:
        seen.update(text.encode())
    if not seen:
        raise ValueError("there is no text in the input to learn from")
    return Encoding(EACH_CHARACTER, {bytes([byte]): i for i, byte in enumerate(sorted(seen))}, {})


def _counted(sources: list[Source], config: TrainTokenizer, pattern: str) -> dict[str, int]:
    """The words of all sources. What had to be changed for the learner is printed."""
    workers = min(config.workers or os.cpu_count() or 1, 1 + _size(sources) // SMALL)
    with progress("counting words", _size(sources)) as advance:
        words = count_words(_blocks(sources, config, advance), pattern, config.text_key,
                            config.skip_bad, workers, config.memory - BESIDE)
    _say_what_was_left_out(words, config)
    counts, by = words.counts, divisor(words.counts)
    if by > 1:
        print(f"a pair occurs more than {MOST_OF_A_PAIR:,} times, which is as far as the learner "
              f"counts: all counts are divided by {by}")
        counts = {word: count // by for word, count in counts.items() if count >= by}
    return counts


def _say_what_was_left_out(words: WordCounts, config: TrainTokenizer) -> None:
    kept = words.kept
    if kept < words.seen and not kept:
        raise ValueError(f"no word occurs often enough to be kept within --memory {config.memory}; "
                         "give more memory, or less text")
    if kept < words.seen:
        print(f"rare words are left out, for --memory {config.memory:,}: the {len(words.counts):,} "
              f"kept are {100 * kept / words.seen:.2f} % of the text's {words.seen:,}")


def _listed(special: list[str]) -> str:
    return special[0] if len(special) == 1 else f"{len(special)} special tokens"


def _size(sources: list[Source]) -> int:
    return sum(source.path.stat().st_size for source in sources)


def _blocks(sources: list[Source], config: TrainTokenizer,
            advance: Callable[[int], None] = lambda count: None) -> Iterator[Block]:
    for source in sources:
        yield from documents.blocks(source, config.text_key, config.skip_bad, on_read=advance)


def _texts(sources: list[Source], config: TrainTokenizer,
           advance: Callable[[int], None] = lambda count: None) -> Iterator[str]:
    for block in _blocks(sources, config, advance):
        yield from block_texts(block, config.text_key, config.skip_bad)


def _report(tokenizer: Tokenizer, texts: Iterator[str], config: TrainTokenizer, path: Path) -> None:
    """What was learned, for people."""
    size = tokens = characters = 0
    for text in texts:
        text = text[:MEASURED - characters]
        characters += len(text)
        size += len(text.encode())
        tokens += len(tokenizer.encode(text))
        if characters >= MEASURED:
            break
    if config.kind == "bpe" and tokenizer.vocab_size < config.vocab_size:
        print(f"the text has pairs for no more than {tokenizer.vocab_size} tokens, "
              f"fewer than the {config.vocab_size} asked for")
    longest = sorted(tokenizer.ranks, key=lambda token: (-len(token), tokenizer.ranks[token]))[:8]
    shown = ", ".join(repr(token.decode("utf-8", "replace")) for token in longest)
    print(f"{tokenizer.vocab_size:,} tokens, {size / tokens:.2f} bytes a token on the text")
    if config.kind == "bpe":
        print(f"longest: {shown}")
    print(f"saved in {path}")


if __name__ == "__main__":
    cli.main(run)
