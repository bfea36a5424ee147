"""How well a model foresees a text: nats a token, bits a byte, perplexity.

Every token of the text is scored once. A window is one context long; the next begins `stride`
tokens later and scores only what the one before it has not, so all but the first tokens are seen
with at least context - stride tokens before them.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from llmc import cli
from llmc.checkpoint import open_checkpoint
from llmc.prompts import read_text

if TYPE_CHECKING:
    from llmc._core import Model

BATCH_TOKENS = 4096             # scored in one pass


@dataclass
class Perplexity:
    """How well a model foresees a text file: nats a token, bits a byte, perplexity."""
    model: str = cli.positional()   # a run's folder (its newest checkpoint) or a checkpoint's
    text: Path = cli.positional()   # any file of text in UTF-8
    context: cli.CountOrZero = 0    # tokens of a window; 0: the model's context
    stride: cli.CountOrZero = 0     # tokens from window to window, fewer are slower and see more;
                                # 0: half a window
    device: str = "cpu"         # as `llmc doctor` lists them
    dtype: Literal["auto", "f32", "bf16", "int8"] = "auto"  # of the weights and what is computed, int8
                                # of the weights alone; auto: as they are stored
    threads: cli.Threads = 0    # 0: one for each processor


def run(config: Perplexity) -> None:
    text = read_text(config.text)
    checkpoint = open_checkpoint(config.model, config.device, config.threads, config.dtype)
    most = checkpoint.config.max_seq_len
    context = config.context or most
    stride = config.stride or max(context // 2, 1)
    if context > most:
        raise ValueError(f"--context is {context}, but the model's holds {most}")
    if stride > context:
        raise ValueError(f"--stride is {stride}, wanted at most the window's {context}: tokens "
                         "between the windows would be left out")
    tokens, eot = checkpoint.tokenizer.encode(text), checkpoint.tokenizer.eot
    if eot is not None:
        tokens = [eot, *tokens]     # what stands before a document: its first token is scored too
    if len(tokens) < 2:
        raise ValueError(f"{config.text} holds {len(tokens)} tokens; there is none to foresee")
    logp = score(checkpoint.model, np.array(tokens, np.int32), context, stride)
    bytes_scored = len(checkpoint.tokenizer.decode_bytes(tokens[1:]))
    nats = -logp.mean()
    print(f"tokens        {len(logp):,} ({bytes_scored:,} bytes)\n"
          f"nats a token  {nats:.4f}\n"
          f"bits a byte   {-logp.sum() / math.log(2) / bytes_scored:.4f}\n"
          f"perplexity    {math.exp(min(nats, 700)):.4f}")


def score(model: Model, tokens: np.ndarray, context: int, stride: int) -> np.ndarray:
    """log p of every token but the first, float64."""
    cuts = list(windows(len(tokens) - 1, context, stride))
    width = min(context, len(tokens) - 1)
    rows = max(1, min(len(cuts), BATCH_TOKENS // width))
    model.plan(rows, width, train=False)
    logp = np.empty(len(tokens) - 1)
    for at in range(0, len(cuts), rows):
        batch = cuts[at:at + rows]
        given = np.zeros((len(batch), width), np.int32)     # padding comes last: nothing sees it
        wanted = np.full((len(batch), width), -1, np.int32)
        for row, (begin, first, end) in enumerate(batch):
            given[row, :end - begin] = tokens[begin:end]
            wanted[row, first - begin:end - begin] = tokens[first + 1:end + 1]
        found = model.score(given, wanted)["logp"]
        for row, (begin, first, end) in enumerate(batch):
            logp[first:end] = found[row, first - begin:end - begin]
    return logp


def windows(count: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first, end) of each: it reads positions begin to end and scores first to end."""
    begin = first = 0
    while first < count:
        end = min(begin + context, count)
        yield begin, first, end
        begin, first = begin + stride, end


if __name__ == "__main__":
    cli.main(run)
