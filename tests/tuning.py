"""What tests of tuning share: tiny base models, and conversations to teach them."""
from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from llmc import Config, Device, Model, chat
from llmc.chat import Call, Message
from llmc.encodings import EOT, GPT4_PATTERN, Encoding
from llmc.tokenizer import Tokenizer

WORDS = "the a sun moon river stone bird tree cat dog sees finds eats likes big small red old and then".split()
SIZES = {"gpt2": dict(preset="gpt2-tiny", n_layer=2, n_embd=36, n_head=3),
         "llama": dict(preset="llama-tiny", n_layer=2, n_embd=32, n_head=4, n_kv_head=2, n_ff=40)}


def tokenizer() -> Tokenizer:
    """Bytes and some words; no token of conversations."""
    ranks = {bytes([b]): b for b in range(256)}
    for word in WORDS:                          # each prefix of " word" is a token
        text = f" {word}".encode()
        for size in range(2, len(text) + 1):
            ranks.setdefault(text[:size], len(ranks))
    return Tokenizer("tiny", Encoding(GPT4_PATTERN, ranks, {EOT: len(ranks)}))


def save(folder: Path, model: Model, tokenizer: Tokenizer) -> Path:
    """A folder that is a checkpoint: weights, what they are, and the words."""
    folder.mkdir(parents=True)
    model.save(str(folder / "model.safetensors"))
    (folder / "config.json").write_text(model.config.to_json())
    (folder / "tokenizer.json").write_bytes(tokenizer.to_json())
    return folder


def base_model(folder: Path, family: str = "llama", max_seq_len: int = 64, trained: bool = True, **changed) -> Path:
    """A checkpoint whose weights leave no term out. trained: by our own pre-training, as its state.json says."""
    words, fields = tokenizer(), SIZES[family] | changed
    config = Config.preset(fields.pop("preset"), **{"vocab_size": words.vocab_size, "max_seq_len": max_seq_len} | fields)
    model, rng = Model(Device("cpu", 1), config), np.random.default_rng(3)
    for name, shape in model.shapes.items():
        about = np.float32(("ln_" in name or "_norm" in name) and name.endswith("weight"))
        model.set(name, about + np.float32(0.1) * rng.standard_normal(shape, np.float32))
    save(folder, model, words)
    if trained:
        (folder / "state.json").write_text(json.dumps({"tokenizer": f"{words.fingerprint():016x}"}))
    return folder


def conversation(rng: random.Random, turns: int = 1, words: int = 6) -> list[Message]:
    """Questions of some words, answered by the last of them, now and then after a call."""
    said = [Message("system", "be brief")] if rng.random() < 0.3 else []
    for _ in range(turns):
        asked = rng.choices(WORDS, k=rng.randint(1, words))
        said.append(Message("user", " ".join(asked)))
        if rng.random() < 0.2:
            said += [Message("assistant", "", call=Call("search", asked[0])), Message("tool", asked[-1])]
        said.append(Message("assistant", asked[-1]))
    return said


def write(path: Path, conversations: list[list[Message]]) -> Path:
    path.write_text("".join(json.dumps(chat.to_dict(each)) + "\n" for each in conversations))
    return path


def data(path: Path, count: int = 60, seed: int = 1, turns: int = 2) -> Path:
    rng = random.Random(seed)
    return write(path, [conversation(rng, rng.randint(1, turns)) for _ in range(count)])
