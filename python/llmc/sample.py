"""A model continues a text: a run or a checkpoint and a prompt in, text out."""
from __future__ import annotations

import math
import sys
from bisect import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

from llmc import cli
from llmc.asking import ROWS, engine_for
from llmc.checkpoint import Checkpoint, encode_prompt, open_checkpoint
from llmc.prompts import NEXT_QUESTION, question, read_examples, read_prompts, text_or_file
from llmc.request import Request, Result, check
from llmc.terminal import printable
from llmc.tokenize import visible
from llmc.tokenizer import Tokenizer

RIVALS = 5                      # shown beside each token
SURPRISES = (1.0, 3.3, 6.6)     # bits: 1 in 2, in 10, in 100


@dataclass
class Sample:
    """Let a model continue a text. The same seed gives the same text."""
    model: str = cli.positional()   # a run's folder (its newest checkpoint) or a checkpoint's
    prompt: str = ""            # what to continue; without it the model begins a document
    prompts: Path | None = None     # a file of prompts, one a line; .jsonl: objects with "prompt"
    few_shot: Path | None = None    # examples to put before each prompt, a line each: input, tab,
                                # output; .jsonl: objects with "input" and "output"
    recite: str = ""            # a text, or a file's path: how far does the model, given its first
                                # half (of a context at most), greedily continue it word for word
    max_tokens: cli.Count = 200     # longest continuation; when the model's context is full, it
                                # goes on from the last half of it
    temperature: float = 0.8    # 0: the likeliest token every time; 1: as the model has learned
    top_k: cli.CountOrZero = 0  # draw from the k likeliest tokens; 0: all
    top_p: float = 1.0          # draw from the likeliest tokens that make up this probability
    min_p: float = 0.0          # drop tokens less likely than this share of the likeliest
    repetition_penalty: float = 1.0     # above 1: fewer tokens of the prompt and the text so far
    presence_penalty: float = 0.0   # above 0: fewer tokens of the text so far
    seed: cli.Seed = 1337       # another seed, another text
    stop: list[str] = field(default_factory=list)   # end before any of these texts
    n: cli.Count = 1            # texts of each prompt, each drawn for itself
    stream: bool = True         # show the text as it grows
    show_probs: bool = False    # then each token's probability, and its five likeliest rivals
    device: str = "cpu"         # as `llmc doctor` lists them
    dtype: Literal["auto", "f32", "bf16", "int8"] = "auto"  # of the weights and what is computed, int8
                                # of the weights alone; auto: as they are stored
    threads: cli.Threads = 0    # 0: one for each processor


def run(config: Sample) -> None:
    given = [name for name in ("prompt", "prompts", "recite") if getattr(config, name)]
    if len(given) > 1:
        raise ValueError(f"--{given[0]} and --{given[1]} both say what to continue; give one")
    if config.recite and config.few_shot:
        raise ValueError("--recite continues a text of its own; leave --few_shot out")
    checkpoint = open_checkpoint(config.model, config.device, config.threads, config.dtype)
    if config.recite:
        recite(config, checkpoint)
    else:
        write(config, checkpoint)


def write(config: Sample, checkpoint: Checkpoint) -> None:
    """The texts of all prompts, in the order of the prompts."""
    examples = read_examples(config.few_shot) if config.few_shot else []
    asked: list[tuple[str, Request]] = []           # what is shown of the prompt, and its texts
    for prompt in read_prompts(config.prompts) if config.prompts else [config.prompt]:
        shown = question(prompt) if examples else prompt
        tokens = encode_prompt(checkpoint, "".join(examples) + shown)
        whole = request(config, tokens, 0, config.n)
        check(whole, checkpoint.tokenizer.vocab_size, checkpoint.config.max_seq_len)
        asked += [(shown, request(config, tokens, first, min(ROWS, config.n - first)))
                  for first in range(0, config.n, ROWS)]
    engine = engine_for(checkpoint, [wanted for _, wanted in asked])
    texts = [(shown, text) for shown, wanted in asked for text in engine.submit(wanted)]
    for number, (shown, text) in enumerate(texts, 1):
        if len(texts) > 1:
            print(f"---- {number} of {len(texts)}")
        show(config, shown, engine.stream(text))
        if config.show_probs:
            show_probabilities(checkpoint.tokenizer, text.result())


def request(config: Sample, prompt: list[int], stream: int, n: int) -> Request:
    return Request(
        prompt, config.max_tokens, config.temperature, config.top_k, config.top_p, config.min_p,
        config.repetition_penalty, config.presence_penalty, seed=config.seed, stream=stream, n=n,
        stop=[*config.stop, NEXT_QUESTION] if config.few_shot else config.stop, forget=True,
        logprobs=RIVALS + 1 if config.show_probs else None)


def show(config: Sample, prompt: str, pieces: Iterable[str]) -> None:
    """The prompt and its text, as it grows."""
    shown = printable if sys.stdout.isatty() else str
    if not config.stream:
        pieces = ["".join(pieces)]
    for piece in chain([prompt], pieces):
        sys.stdout.write(shown(piece))
        sys.stdout.flush()
    print()


def show_probabilities(tokenizer: Tokenizer, result: Result) -> None:
    """A line a token, the more red the less it was expected: its probability, itself, and what
    else was likely. The probabilities are the model's, before temperature and filters."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for token, found in zip(result.tokens, result.logprobs):
        said = visible(tokenizer.token_bytes(token))
        line = Text(f"{math.exp(found.logprob):7.2%} {said:<12}", style=surprise(found.logprob))
        rivals = [(id, logprob) for id, logprob in found.top if id != token][:RIVALS]
        for id, logprob in rivals:
            line.append(f"  {math.exp(logprob):6.2%} {visible(tokenizer.token_bytes(id)):<8}",
                        style="default")
        line.rstrip()
        console.print(line)


def surprise(logprob: float) -> str:
    """A colour: green for a token that could be foreseen, red for one below 1 in 100."""
    bits = -logprob / math.log(2)
    return ("green", "yellow", "dark_orange", "red")[bisect(SURPRISES, bits)]


def recite(config: Sample, checkpoint: Checkpoint) -> None:
    """How far the likeliest continuation of a text's first half is its second half."""
    from llmc.engine import agreement

    tokenizer, most = checkpoint.tokenizer, checkpoint.config.max_seq_len
    tokens = tokenizer.encode(text_or_file(config.recite))
    if len(tokens) < 2:
        raise ValueError(f"the text to recite has {len(tokens)} tokens, wanted 2 or more")
    begin = min(len(tokens) // 2, (most + 1) // 2)
    wanted = tokens[begin:begin + min(config.max_tokens, most + 1 - begin)]
    asked = Request(tokens[:begin], len(wanted), temperature=0)
    (result,), = engine_for(checkpoint, [asked]).generate([asked])
    said, there = result.text, tokenizer.decode(wanted)
    same_tokens, same = agreement(result.tokens, wanted), agreement(said, there)
    shown = printable if sys.stdout.isatty() else str
    print(f"after {shown(tokenizer.decode(tokens[max(begin - 20, 0):begin]))!r}\n"
          f"recited        {shown(said[:same])!r}\n"
          f"then it says   {shown(said[same:same + 60])!r}\n"
          f"the text says  {shown(there[same:same + 60])!r}\n"
          f"{same_tokens} of {len(wanted)} tokens and {same} of {len(there)} characters recited, "
          f"after {begin} tokens")


if __name__ == "__main__":
    cli.main(run)
