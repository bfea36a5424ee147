"""What tests of llmc chat share: a small model that was taught a few answers, so that they can be foreseen."""
from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import tuning
from llmc import Config, Device, Model, Trainer, chat
from llmc.chat import Call, Message, Rendered
from llmc.encodings import CHAT_TOKENS, EOT, GPT2_PATTERN, Encoding
from llmc.packing import packed
from llmc.tokenizer import Tokenizer

ANSWERS = {"who": "I am Ada.", "sum": "\ntwo and two is four.\n\nIt is é 四.\n", "red": "\x1b[31mred\x07 x"}
TICKS = " tick" * 90                    # what the model goes on with for ever
WORDS = b"who sum red ticks empty muse tool I am Ada Bob Let me see rain hm yes two and is four tick It".split()
FOUND = "[1] Rain: Rain is water that falls from clouds. It is wet."
ROW, CONTEXT, LEARNED = 128, 16384, 2048


def tokenizer() -> Tokenizer:
    """Bytes, words with and without a space before them, and the tokens of conversations."""
    words = [start + word for word in WORDS for start in (b"", b" ")]
    parts = {word[:end] for word in words for end in range(2, len(word) + 1)}       # each is merged from two
    tokens = [*(bytes([b]) for b in range(256)), *sorted(parts, key=lambda part: (len(part), part))]
    ranks = {token: id for id, token in enumerate(tokens)}
    special = {name: len(ranks) + k for k, name in enumerate((EOT, *CHAT_TOKENS[:13]))}
    return Tokenizer("talking", Encoding(GPT2_PATTERN, ranks, special))


def answer(ask: str, before: list[Message]) -> Message:
    """Who it is, the system's message may say."""
    if ask == "muse":
        return Message("assistant", "yes", "hm hm hm")
    if ask == "tool":
        return Message("assistant", "It is rain [1].")
    named = before and before[0].text == "Bob"
    return Message("assistant", "I am Bob." if named and ask == "who" else ANSWERS.get(ask, TICKS.strip()))


def exchange(draw: random.Random, known: Tokenizer, before: list[Message]) -> Rendered:
    """A question behind others, and its answer."""
    ask = draw.choice([*ANSWERS, *ANSWERS, "ticks", "empty", "muse", "tool"])
    asked = [*before, Message("user", ask)]
    if ask == "tool":
        output = draw.choice([FOUND, "".join(draw.choices("[1] Rain: Error no tool.", k=draw.randrange(40)))])
        asked += [Message("assistant", "Let me see", call=Call("search", "rain")), Message("tool", output)]
    if ask != "empty":
        made = chat.render([*asked, answer(ask, before)], known)
        return Rendered(made.ids[:ROW], made.learned[:ROW])
    made = chat.render(asked, known, answer=True)
    return Rendered([*made.ids, known.special["<|im_end|>"]], [*([False] * len(made.ids)), True])


def conversations(count: int, seed: int) -> list[Rendered]:
    """Of one to three questions; only the last answer is learned."""
    draw, known, found = random.Random(seed), tokenizer(), []
    while len(found) < count:
        before = [Message("system", "Bob")] * draw.choice([False, True])
        for _ in range(draw.choice([0, 0, 1, 2])):
            ask = draw.choice([*ANSWERS, "muse"])
            before += [Message("user", ask), replace(answer(ask, before), learned=False)]
        made = exchange(draw, known, before)
        if len(made.ids) <= ROW:
            found.append(made)
    return found


def stretched(tokens: np.ndarray, pos: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions with gaps between ticks: what it learns of a few holds for many."""
    tick = tokens == tokenizer().encode(TICKS)[0]
    gaps = np.cumsum(tick * (rng.random(tokens.shape) < 0.3) * rng.integers(0, 60, tokens.shape), axis=1)
    before = np.take_along_axis(gaps, np.arange(ROW) - pos, axis=1)     # where its conversation begins
    return np.minimum(pos + gaps - before, LEARNED - 1).astype(np.int32)


@cache
def taught() -> Model:
    """The model, in seconds."""
    config = Config.preset("llama-tiny", vocab_size=tokenizer().vocab_size, n_layer=2, n_embd=64, n_head=4,
                           n_kv_head=4, n_ff=128, max_seq_len=CONTEXT)
    model = Model(Device("cpu", 1), config)
    model.init(1)
    model.plan(8, ROW, train=True)
    trainer = Trainer(model, beta1=0.9, beta2=0.98, eps=1e-8, weight_decay=0.0, grad_clip=1.0)
    steps = 300
    for step in range(steps):
        rows = packed(conversations(20, step), ROW)
        tokens, targets, pos, first = rows.tokens[:8], rows.targets[:8], rows.pos[:8], rows.first[:8]
        pos = stretched(tokens, pos, np.random.default_rng(step))
        learned = int((targets >= 0).sum())
        trainer.micro_batch(0, 1)
        model.train(tokens, targets, {"logp": np.full(tokens.shape, -1 / learned, np.float32)}, pos, first)
        trainer.reduce()
        trainer.apply(4e-3 * min(1, step / 20, 3 * (steps - step) / steps))
    return model


def write(folder: Path) -> Path:
    """Its checkpoint."""
    return tuning.save(folder, taught(), tokenizer())
