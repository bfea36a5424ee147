"""What a text is asked for with, and what comes of it."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llmc._core import Sampling

STREAMS = 2**20                 # of one seed: RNG_INIT in csrc/rng.h

# What the numbers of a request may be. Penalties and biases this large leave every sum a number.
LIMITS = {"max_tokens": (1, 2**31 - 1), "n": (1, STREAMS), "stream": (0, STREAMS - 1),
          "seed": (0, 2**64 - 1), "top_k": (0, 2**31 - 1), "logprobs": (0, 2**31 - 1),
          "repetition_penalty": (0.01, 100), "presence_penalty": (-1000, 1000),
          "frequency_penalty": (-1000, 1000)}


@dataclass(frozen=True)
class Request:
    """n texts after one prompt. Text i is drawn from random stream `stream + i` of the seed."""
    prompt: Sequence[int]               # at least one token
    max_tokens: int = 200               # forced ones count too
    temperature: float = 1.0            # 0: always the likeliest
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0     # above 1: against tokens of the prompt and the text
    presence_penalty: float = 0.0       # subtracted from the logits of tokens of the text
    frequency_penalty: float = 0.0      # the same, times how often each is there
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_tokens: Collection[int] | None = None       # all others cannot come
    seed: int = 0
    stream: int = 0
    n: int = 1
    stop: Sequence[str] = ()            # the text ends before the first of these
    stop_tokens: Collection[int] = ()   # these end it too, as the end of the document does
    pause_tokens: Collection[int] = ()  # behind these it waits for what is forced into it
    logprobs: int | None = None         # log-probabilities, and of so many likeliest rivals
    forget: bool = False                # from a full context go on with its last half
    keep: bool = False                  # of one text: what the model read of it stays in memory for
                                        # the next prompt, which may begin with it

    def sampling(self) -> Sampling:
        """How a token is drawn. Fails with a sentence for a temperature or p that means nothing."""
        from llmc._core import Sampling

        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.seed)


class Logprob(NamedTuple):
    """By the model's own distribution: before temperature, penalties, biases and filters."""
    logprob: float                      # of the token that was drawn
    top: list[tuple[int, float]]        # the likeliest tokens, the likeliest first


@dataclass(frozen=True)
class Result:
    """A text. The token that ended it is the last of the tokens and not in the text."""
    text: str
    tokens: list[int]
    sampled: list[bool]                 # of each token; False: it was forced
    logprobs: list[Logprob | None] | None       # None: not asked for; of a token: it was forced
    finish: str                         # stop, eot, length, context or cancelled


def check(request: Request, vocab_size: int, max_seq_len: int) -> None:
    """A ValueError for settings that mean nothing or contradict each other."""
    for name, (least, most) in LIMITS.items():
        value = getattr(request, name)
        if name == "logprobs" and value is None:
            continue
        kind = Real if name.endswith("_penalty") else Integral
        if not isinstance(value, kind):
            raise ValueError(f"{name} is {value!r}, wanted "
                             f"{'a number' if kind is Real else 'a whole number'}")
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}, wanted {least} to {most}")
    request.sampling()
    if request.stream + request.n > STREAMS:
        raise ValueError(f"stream {request.stream} and the {request.n - 1} after it go beyond the "
                         f"last, {STREAMS - 1}")
    if isinstance(request.stop, str):
        raise ValueError(f"stop is the text {request.stop!r}, wanted a list of texts")
    if strange := [text for text in request.stop if not isinstance(text, str)]:
        raise ValueError(f"stop has {strange[0]!r}, wanted texts")
    if "" in request.stop:
        raise ValueError("stop has an empty text, which is everywhere; leave it out")
    if request.keep and request.n > 1:
        raise ValueError(f"keep is for one text, but n is {request.n}; leave one of them out")
    if request.temperature == 0:
        check_greedy(request)
    if len(request.prompt) == 0:
        raise ValueError("the prompt is empty; give at least one token")
    if len(request.prompt) > max_seq_len:
        raise ValueError(f"the prompt has {len(request.prompt):,} tokens, but the model's context "
                         f"holds {max_seq_len:,}; shorten it")
    if request.allowed_tokens is not None and len(request.allowed_tokens) == 0:
        raise ValueError("allowed_tokens allows none; leave it out, or name some")
    for name in ("prompt", "stop_tokens", "pause_tokens", "logit_bias", "allowed_tokens"):
        tokens = getattr(request, name)
        check_tokens(() if tokens is None else tokens, name, vocab_size)
    for token, bias in request.logit_bias.items():
        if not abs(bias) <= 1000:
            raise ValueError(f"logit_bias of token {token} is {bias}, wanted -1000 to 1000; "
                             "allowed_tokens is what leaves others out")


def check_greedy(request: Request) -> None:
    """A ValueError for what has no effect on the likeliest token."""
    if request.n > 1:
        raise ValueError(f"n {request.n} with temperature 0 would be {request.n} times the same "
                         "text; raise the temperature, or leave n out")
    for name, unset in (("top_k", 0), ("top_p", 1), ("min_p", 0)):
        if getattr(request, name) != unset:
            raise ValueError(f"{name} means nothing with temperature 0, which always takes the "
                             "likeliest token; leave one of them out")


def check_tokens(tokens: Iterable[int], where: str, vocab_size: int) -> None:
    """A ValueError for the first that the tokenizer does not have."""
    for token in tokens:
        if not isinstance(token, Integral) or not 0 <= token < vocab_size:
            raise ValueError(f"{where}: {token} is no token; they are 0 to {vocab_size - 1}")
