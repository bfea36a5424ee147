"""What tests of the loop share: a small model, a tokenizer of bytes with every template's tokens, and texts that are
written as a script says, through the real engine."""
from __future__ import annotations

from collections import defaultdict

import numpy as np
from llmc import Config, Device, Model, chat
from llmc.chat import Message
from llmc.chat_templates import TEMPLATES
from llmc.encodings import EOT, GPT2_PATTERN, Encoding
from llmc.engine import Engine
from llmc.request import Request
from llmc.tokenizer import Tokenizer

CONTEXT = 512
SPECIAL = [EOT, *dict.fromkeys(name for form in TEMPLATES.values() for name in form.tokens)]
KNOWN = Tokenizer("scripted", Encoding(GPT2_PATTERN, {bytes([b]): b for b in range(256)},
                                       {name: 256 + k for k, name in enumerate(SPECIAL)}))


def model() -> Model:
    """Of random weights."""
    config = Config.preset("llama-tiny", n_layer=1, n_embd=32, n_head=2, n_kv_head=2, vocab_size=KNOWN.vocab_size,
                           max_seq_len=CONTEXT)
    made = Model(Device("cpu", 1), config)
    made.init(7)
    return made


MODEL = model()


def ids(text: str) -> list[int]:
    """Of a text in which special tokens are spelled: what a model might draw."""
    return KNOWN.encode(text, allowed_special="all")


class Script:
    """In a sampler's place: each stream has tokens of its own to draw, one after the other."""

    def __init__(self, texts: list[list[int]]):
        self.texts, self.drawn = texts, defaultdict(int)

    def draw(self, logits: np.ndarray, sampling: object, stream: int, position: int) -> int:
        at = self.drawn[stream]
        self.drawn[stream] += 1
        return self.texts[stream][at]


def engine(rows: int = 4, script: list[list[int]] | None = None) -> Engine:
    """Whose texts are drawn, or written by a script."""
    made = Engine(MODEL, KNOWN, rows)
    if script is not None:
        made.sampler = Script(script)
    return made


def asked(text: str = "Hi", template: str = "llmc", **more: object) -> Request:
    """For an answer to one question."""
    prompt = chat.render([Message("user", text)], KNOWN, template, answer=True).ids
    return Request(prompt, **{"max_tokens": CONTEXT, **more})
