"""A model continues a text: a run or a checkpoint and a prompt in, text out."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from llmc import cli
from llmc.generate import Checkpoint, encode_prompt, generate, open_checkpoint
from llmc.terminal import printable


@dataclass
class Sample:
    """Let a model continue a text. The same seed gives the same text."""
    model: str = cli.positional()   # a run's folder (its newest checkpoint) or a checkpoint's
    prompt: str = ""            # what to continue; without it the model begins a document
    max_tokens: cli.Count = 200     # longest continuation
    temperature: float = 0.8    # 0: the likeliest token every time; 1: as the model has learned
    top_k: cli.CountOrZero = 0  # draw from the k likeliest tokens; 0: all
    top_p: float = 1.0          # draw from the likeliest tokens that make up this probability
    min_p: float = 0.0          # drop tokens less likely than this share of the likeliest
    seed: cli.Seed = 1337       # another seed, another text
    stop: list[str] = field(default_factory=list)   # end before any of these texts
    n: cli.Count = 1            # texts, each drawn for itself
    stream: bool = True         # show the text as it grows
    device: str = "cpu"         # as `llmc doctor` lists them
    threads: cli.Threads = 0    # 0: one for each processor


def check(config: Sample) -> None:
    """A ValueError for settings that contradict each other or mean nothing."""
    if "" in config.stop:
        raise ValueError("--stop is an empty text, which is everywhere; leave it out")
    if config.temperature == 0:
        if config.n > 1:
            raise ValueError(f"--n {config.n} with --temperature 0 would be {config.n} times the "
                             "same text; raise the temperature, or leave --n out")
        for name, unset in (("top_k", 0), ("top_p", 1), ("min_p", 0)):
            if getattr(config, name) != unset:
                raise ValueError(f"--{name} means nothing with --temperature 0, which always takes "
                                 "the likeliest token; leave one of them out")


def texts(config: Sample, checkpoint: Checkpoint) -> Iterator[Iterator[str]]:
    """The n continuations, each in pieces."""
    from llmc._core import Sampling

    sampling = Sampling(config.temperature, config.top_k, config.top_p, config.min_p, config.seed)
    prompt = encode_prompt(checkpoint, config.prompt)
    for stream in range(config.n):
        yield generate(checkpoint, prompt, sampling, config.max_tokens, config.stop, stream)


def run(config: Sample) -> None:
    check(config)
    checkpoint = open_checkpoint(config.model, config.device, config.threads)
    shown = printable if sys.stdout.isatty() else str
    for number, pieces in enumerate(texts(config, checkpoint), 1):
        if config.n > 1:
            print(f"---- {number} of {config.n}")
        if not config.stream:
            pieces = ["".join(pieces)]
        sys.stdout.write(shown(config.prompt))
        for piece in pieces:
            sys.stdout.write(shown(piece))
            sys.stdout.flush()
        print()


if __name__ == "__main__":
    cli.main(run)
