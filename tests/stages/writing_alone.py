"""What tests of the engine share: a small model, and the text of a request written by itself."""
from __future__ import annotations

import codecs
from dataclasses import dataclass, field

import numpy as np
from llmc import Config, Device, Model, Sampler
from llmc.encodings import EOT, GPT2_PATTERN, Encoding
from llmc.engine import Engine, page_bytes
from llmc.logits import adjust
from llmc.request import Request
from llmc.tokenizer import Tokenizer

CONTEXT = 70                    # two pages and a part
WORDS = [*"abcdefgh \n", b"\xc3", b"\xa9", b"\xe8", b"\xaa", b"\x9e", "ab", "bc", "é", "a b"]
TOKENS = [word.encode() if isinstance(word, str) else word for word in WORDS]
KNOWN = len(TOKENS) + 1         # the last one ends the document


class Small:
    """A random model of few symbols, so that stop texts come often, and its tokenizer."""

    def __init__(self, dtype: str = "f32"):
        ranks = {token: id for id, token in enumerate(TOKENS)}
        self.tokenizer = Tokenizer("small", Encoding(GPT2_PATTERN, ranks, {EOT: KNOWN - 1}))
        self.model = Model(Device("cpu", 1), Config.preset(
            "llama-tiny", vocab_size=KNOWN + 3, n_layer=2, n_embd=16, n_head=2, n_kv_head=1,
            n_ff=24, max_seq_len=CONTEXT), dtype)
        self.model.init(3)
        for name in self.model.names:
            old = self.model.get(name)
            if dtype == "f32" and old.ndim == 2:
                self.model.set(name, 8 * old)
        self.known_logits: dict[tuple[int, ...], np.ndarray] = {}

    def engine(self, rows: int = 4, pages: int | None = None, tokens: int = 40) -> Engine:
        size = None if pages is None else pages * page_bytes(self.model)
        return Engine(self.model, self.tokenizer, rows, size, tokens)

    def whole_pass(self, context: list[int]) -> np.ndarray:
        """Logits after the last token, from the tokens all at once."""
        if tuple(context) not in self.known_logits:
            self.model.plan(1, CONTEXT, train=False)
            self.model.read(np.array([context], np.int32))
            self.known_logits[tuple(context)] = self.model.logits(len(context) - 1, 1)[0]
        return self.known_logits[tuple(context)].copy()


@dataclass
class Alone:
    """A text written by itself: every token from a whole pass over the context."""
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: str = ""


def alone(small: Small, request: Request, stream: int = 0,
          forced: dict[int, int] | None = None) -> Alone:
    """The plain way; `forced` are the tokens at places of the text that were given."""
    forced, sampler = forced or {}, Sampler(KNOWN + 3)
    made, context, spoken, searched = Alone(), list(request.prompt), b"", 0
    while not made.finish:
        place = len(made.tokens)
        if place in forced:
            token = forced[place]
        else:
            logits = small.whole_pass(context)
            logits[KNOWN:] = -np.inf
            adjust(logits, request, made.tokens)
            token = sampler.draw(logits, request.sampling(), request.stream + stream, place)
        made.tokens.append(token)
        context.append(token)
        if len(context) > CONTEXT and request.forget:
            context = context[-(CONTEXT // 2):]
        if place not in forced and token == KNOWN - 1:
            made.finish = "eot"
        elif place not in forced and token in request.stop_tokens:
            made.finish = "stop"
        else:
            spoken += small.tokenizer.token_bytes(token)
            whole = certain(spoken)
            at = first_stop(whole, request.stop, searched) if place not in forced else -1
            if place in forced:
                searched = len(whole)
            if at >= 0:
                made.finish, made.text = "stop", whole[:at]
                return made
            if len(made.tokens) == request.max_tokens:
                made.finish = "length"
            elif len(context) > CONTEXT:
                made.finish = "context"
    made.text = spoken.decode("utf-8", "replace")
    at = first_stop(made.text, request.stop, searched)
    made.text = made.text[:at] if at >= 0 else made.text
    return made


def certain(spoken: bytes) -> str:
    """Without a character that has only begun."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(spoken)


def first_stop(text: str, stop, begin: int) -> int:
    ends = [(text.find(s, begin) + len(s), text.find(s, begin)) for s in stop
            if text.find(s, begin) >= 0]
    return min(ends)[1] if ends else -1
