"""Text to a tokenizer.json of its own: a byte-level BPE, or the bytes that occur.

BPE: 256 bytes, then the most frequent pair becomes a new token, again and again. The file is what
Hugging Face's library reads, and what every stage of llmc takes as --tokenizer.
"""
from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from llmc import cli, disk, documents, encodings
from llmc.documents import Source
from llmc.encodings import EACH_CHARACTER, Encoding, byte_characters
from llmc.progress import progress
from llmc.tokenizer import Tokenizer, cut_runs

PATTERNS = {"gpt2": encodings.GPT2_PATTERN, "gpt4": encodings.GPT4_PATTERN,
            "gpt4o": encodings.GPT4O_PATTERN}
# A word of a million letters takes the learner minutes: each merge reads it again, all of it.
LONGEST_WORD = 1000
LONG_WORD = re.compile(r"(?<!\S)\S{%d,}|(?<!\s)\s{%d,}" % (LONGEST_WORD, LONGEST_WORD))
VocabSize = Annotated[int, cli.Range(256, 1_000_000)]   # of more, the learner's tables burst
MEASURED = 4_000_000            # characters that bytes a token are counted on


@dataclass
class TrainTokenizer:
    """Learn a vocabulary from text."""
    input: list[Path]           # files and folders: .txt, .md, .jsonl, .parquet, also compressed
    out: Path                   # folder for tokenizer.json
    vocab_size: VocabSize = 2048    # tokens in all, the 256 bytes and <|endoftext|> included (bpe)
    kind: Literal["bpe", "bytes"] = "bpe"       # bytes: a token for each byte seen, no merges
    split: Literal["gpt2", "gpt4", "gpt4o"] = "gpt4"    # how text is cut before merging; gpt4:
                                # words with the space before them, digits in groups of three
    eot: bool = True            # add <|endoftext|>, as the last id
    text_key: str = "text"      # key of a JSON line, or column of parquet, that holds the text
    skip_bad: bool = False      # leave out rows and lines that cannot be read
    overwrite: bool = False     # replace the tokenizer.json that is there


def run(config: TrainTokenizer) -> None:
    """Learn, save, and show what was learned."""
    path = config.out / "tokenizer.json"
    if config.kind == "bpe" and config.vocab_size < 256 + config.eot:
        raise ValueError(f"--vocab_size is {config.vocab_size}, wanted at least 257: the 256 bytes "
                         "and <|endoftext|>")
    if path.exists() and not config.overwrite:
        raise ValueError(f"{path} is there already; --overwrite replaces it")
    sources = documents.find(config.input)
    with progress("learning", sum(source.path.stat().st_size for source in sources)) as advance:
        if config.kind == "bpe":
            encoding = learn_bpe(_texts(sources, config, advance), config.vocab_size - config.eot,
                                 PATTERNS[config.split])
        else:
            encoding = learn_bytes(_texts(sources, config, advance))
    if config.eot:
        encoding.special[encodings.EOT] = len(encoding.ranks)
    tokenizer = Tokenizer(str(config.out), encoding)
    raw = tokenizer.to_json()
    config.out.mkdir(parents=True, exist_ok=True)
    disk.write_whole(path, raw)
    _report(tokenizer, _texts(sources, config), config, path)


def learn_bpe(texts: Iterator[str], size: int, pattern: str) -> Encoding:
    """The 256 bytes and the merges that make `size` tokens, or as many as the text has pairs that
    occur twice. The same text gives the same tokens, whatever the number of threads."""
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Learner

    learner = Learner(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, show_progress=False, special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    with _interruptible():
        learner.train_from_iterator(_some_text(texts), trainer)
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    vocab = json.loads(learner.to_str())["model"]["vocab"]
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in vocab.items()}
    return Encoding(pattern, ranks, {})


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
    for text in _some_text(texts):
        seen.update(text.encode())
    return Encoding(EACH_CHARACTER, {bytes([byte]): i for i, byte in enumerate(sorted(seen))}, {})


def _texts(sources: list[Source], config: TrainTokenizer,
           advance: Callable[[int], None] = lambda count: None) -> Iterator[str]:
    for source in sources:
        for block in documents.blocks(source, config.text_key, config.skip_bad, on_read=advance):
            for text in documents.texts(block, config.text_key, config.skip_bad):
                if text:
                    yield from cut_runs(text, LONG_WORD, LONGEST_WORD)


def _some_text(texts: Iterator[str]) -> Iterator[str]:
    """The same texts; a ValueError where there are none."""
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise ValueError("there is no text in the input to learn from")


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
