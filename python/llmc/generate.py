"""A checkpoint and a prompt -> text, token by token.

Every token is computed from the whole context anew; `next_logits` is the one place that knows, so a
decoder with a cache can take it over. A text depends on the weights, the prompt and the sampling
alone: not on threads, nor on the texts drawn beside it.
"""
from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmc.disk import read_json
from llmc.model_files import carried, token_ids
from llmc.shards import fingerprint
from llmc.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llmc._core import Config, Model, Sampling


@dataclass(frozen=True)
class Checkpoint:
    """A model that was opened, and the tokenizer it was trained with."""
    path: Path                  # its folder
    model: Model
    tokenizer: Tokenizer
    ends: frozenset[int]        # the tokens that end a text

    @property
    def config(self) -> Config:
        return self.model.config


def find_checkpoint(path: str | Path) -> Path:
    """The folder that holds the weights: `path` itself, or the newest checkpoint of that run."""
    from llmc._core import checkpoint_latest

    path = Path(path)
    if (path / "model.safetensors").is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; give a run, such as runs/quickstart, or a "
                         "checkpoint in it")
    newest = checkpoint_latest(str(path / "checkpoints")) or checkpoint_latest(str(path))
    if newest:
        return Path(newest)
    if (path / "config.json").is_file():
        raise ValueError(f"{path} has no checkpoint yet; wait for its first, or stop the run: "
                         "it then saves one (--checkpoint_every N saves some on the way)")
    raise ValueError(f"{path} holds neither a checkpoint nor a run")


def open_checkpoint(path: str | Path, device: str = "cpu", threads: int = 0) -> Checkpoint:
    """Open the weights, config.json and tokenizer.json of a checkpoint, or of a run's newest."""
    from llmc import Config, Device, Model

    folder = find_checkpoint(path)
    if b'"model_type"' in (folder / "config.json").read_bytes():
        raise ValueError(f"{folder} is a Hugging Face folder; make a checkpoint of it: "
                         f"llmc convert {folder} runs/{folder.name}")
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer.json; copy the one the model was trained "
                         "with there (it lies beside the token shards)")
    check_tokenizer(folder)
    config = Config.read(str(folder / "config.json"))
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"{folder}: tokenizer.json has {tokenizer.vocab_size} symbols, but the "
                         f"model knows {config.vocab_size}; it is another model's")
    ends = {*token_ids(carried(folder), "eos_token_id"), tokenizer.eot} - {None}
    model = Model(Device(device, threads), config)
    model.load(str(folder / "model.safetensors"))
    return Checkpoint(folder, model, tokenizer, frozenset(ends))


def check_tokenizer(folder: Path) -> None:
    """A ValueError if a checkpoint's tokenizer.json is another than its state.json remembers."""
    path = folder / "state.json"
    if not path.is_file():                      # weights that no run of ours left
        return
    wanted = read_json(path, {"tokenizer": str}, "copy the checkpoint again")["tokenizer"]
    found = f"{fingerprint((folder / 'tokenizer.json').read_bytes()):016x}"
    if wanted not in (found, "0" * 16):         # zeros: the shards did not say
        raise ValueError(f"{folder}/tokenizer.json has the fingerprint {found}, but the model was "
                         f"trained with {wanted}; copy the one beside its token shards there")


def encode_prompt(checkpoint: Checkpoint, prompt: str) -> list[int]:
    """The tokens to continue. Without a prompt: the token that stands before a document, or else
    the end of a line."""
    tokenizer, most = checkpoint.tokenizer, checkpoint.config.max_seq_len
    begin = [] if tokenizer.bos is None else [tokenizer.bos]
    if prompt == "" and (begin or tokenizer.eot is not None):
        return begin or [tokenizer.eot]
    tokens = begin + tokenizer.encode(prompt or "\n")
    if len(tokens) > most:
        raise ValueError(f"the prompt has {len(tokens):,} tokens, but the model's context holds "
                         f"{most:,}; shorten it")
    return tokens


def generate(
    checkpoint: Checkpoint,
    prompt: Sequence[int],
    sampling: Sampling,
    max_tokens: int,
    stop: Sequence[str] = (),       # texts at which it ends; they are not given
    stream: int = 0,                # tells apart the texts of one seed
) -> Iterator[str]:
    """The text after the prompt, in pieces of whole characters as they become certain."""
    tokenizer = checkpoint.tokenizer
    tokens = generate_tokens(checkpoint, prompt, sampling, max_tokens, stream)
    pieces = map(tokenizer.token_bytes, tokens)
    if tokenizer.space_first and list(prompt) == [tokenizer.bos]:
        pieces = without_first_space(pieces)
    return until_stop(decode_pieces(pieces), stop)


def generate_tokens(checkpoint: Checkpoint, prompt: Sequence[int], sampling: Sampling,
                    max_tokens: int, stream: int = 0) -> Iterator[int]:
    """The tokens after the prompt, until `max_tokens` or the document's end. When the context is
    full, its oldest tokens are forgotten."""
    from llmc._core import Sampler

    model, tokenizer, config = checkpoint.model, checkpoint.tokenizer, checkpoint.config
    sampler, context = Sampler(config.vocab_size), list(prompt)
    model.plan(1, config.max_seq_len, train=False)
    for position in range(max_tokens):
        logits = next_logits(model, context[-config.max_seq_len:])
        logits[tokenizer.vocab_size:] = -np.inf         # rows of wte that stand for no symbol
        token = sampler.draw(logits, sampling, stream, position)
        if token in checkpoint.ends:
            return
        yield token
        context.append(token)


def next_logits(model: Model, context: Sequence[int]) -> np.ndarray:
    """Raw logits (vocab_size) of the token after the context."""
    model.read(np.array([context], np.int32))
    return model.logits(len(context) - 1, 1)[0]


def without_first_space(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of a whole text, without the space that its tokenizer put before it."""
    for number, piece in enumerate(pieces):
        yield piece.removeprefix(b" ") if number == 0 else piece


def decode_pieces(pieces: Iterable[bytes]) -> Iterator[str]:
    """Bytes to text, never cut inside a character; what is no UTF-8 becomes U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def until_stop(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """The text before the stop text that is complete first. What may be the beginning of one is
    held back until it is certain."""
    held = ""
    for piece in pieces:
        held += piece
        found = [(held.find(text) + len(text), held.find(text)) for text in stop if text in held]
        if found:
            held = held[:min(found)[1]]
            break
        keep = max((n for text in stop for n in range(1, len(text)) if held.endswith(text[:n])),
                   default=0)
        if len(held) > keep:
            yield held[:len(held) - keep]
            held = held[len(held) - keep:]
    if held:
        yield held
