"""A base model made ready to learn conversations: its tokenizer has the tokens of a template, its
embedding a row for each, and those that it has never seen begin as something sensible.

A row that pre-training never saw says nothing, or worse: as a target that never came it was pushed
away from every context. It is drawn anew as one of the others might be: each of its numbers from a
normal distribution with the mean and deviation of the rows that were seen; in a head of its own,
with a tenth of that deviation, so that at first no new token is likelier than another (J. Hewitt,
"Initializing new word embeddings for pretrained language models", 2021).
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from llmc import chat, lazy, model_files
from llmc._core import Config, Device, Model
from llmc.chat import Manner
from llmc.checkpoint import stored, whole_checkpoint
from llmc.model_files import ModelFiles
from llmc.shards import fingerprint
from llmc.tokenizer import Tokenizer

HEAD_SPREAD = 0.1


@dataclass(frozen=True)
class Base:
    """A checkpoint to be tuned, its weights still on disk."""
    path: Path
    files: ModelFiles
    config: Config              # with a row for each token
    tokenizer: Tokenizer        # with the template's tokens
    manner: Manner
    fresh: list[int]            # tokens whose rows are drawn
    dtype: str                  # its weights are stored as
    text: bytes                 # tokenizer.json

    @property
    def fingerprint(self) -> int:
        """Of the tokenizer, as state.json has it."""
        return fingerprint(self.text)


def open_base(path: str | Path, template: str = "", system: str = "", tools: Iterable[str] = ()
              ) -> Base:
    """The newest checkpoint of a run, or one. template: "" for the one that it has, or else llmc's;
    system: what its system message says where a conversation has none; tools: those that it is
    taught, besides what it was taught before."""
    folder = whole_checkpoint(path)
    files = model_files.from_checkpoint(folder, str(path))
    known = Tokenizer.load(folder)
    if files.config.head != "lm":
        raise ValueError(f"{folder} has a {files.config.head} head, and conversations are learned "
                         "by a language model")
    before = chat.manner_of(folder, known)
    manner = Manner(template or (before.template if before else "llmc"),
                    system or (before.system if before else ""),
                    tuple(dict.fromkeys([*(before.tools if before else ()), *tools])))
    form = chat.template_of(manner.template)
    tokenizer = known.with_special(form.tokens)
    added = [tokenizer.special[name] for name in form.tokens if name not in known.special]
    # a model from elsewhere may know the tokens that its tokenizer has
    fresh = ([tokenizer.special[name] for name in form.tokens] if chat.is_base(folder) else added)
    text = (folder / "tokenizer.json").read_bytes() if tokenizer is known else tokenizer.to_json()
    return Base(folder, files, _with_rows(files.config, tokenizer), tokenizer, manner,
                sorted(fresh), stored(str(folder / "model.safetensors")), text)


def make_model(base: Base, device: Device, dtype: str, ranks: int, seed: int) -> Model:
    """Its weights and the rows that are new, in memory."""
    model = Model(device, base.config, dtype, ranks)
    types = model.types
    for name, tensor in base.files.tensors.items():
        kind = "f32" if types[name] == "i8" else types[name]
        rows = model.shapes[name][0]
        if name not in ("wte.weight", "lm_head.weight") or not (base.fresh
                                                                or rows != tensor.shape[0]):
            model.set(name, lazy.as_type(tensor, kind))
            continue
        whole = _grown(lazy.as_type(tensor, "f32"), base, rows, name == "lm_head.weight", seed)
        model.set(name, lazy.as_type(lazy.Lazy(whole.shape, "f32", lambda: whole), kind))
    return model


def save_merged(model: Model, scale: float, path: Path) -> None:
    """A .safetensors file of the weights with what the adapters add: w + scale b a, in the type of
    the activations."""
    dtype = "f32" if model.dtype == "f32" else "bf16"
    adapted = {name.removesuffix(".lora_a") for name in model.adapters if name.endswith(".lora_a")}

    def read(name: str) -> np.ndarray:
        weights = _wide(model.get(name))
        owner = name.removesuffix(".weight")
        if owner in adapted:
            low, high = (_wide(model.get(f"{owner}.lora_{which}")) for which in "ab")
            weights = weights + np.float32(scale) * (high @ low)
        return weights

    tensors = {name: lazy.Lazy(shape, "f32", partial(read, name))
               for name, shape in model.shapes.items()}
    model_files.write_safetensors(path, tensors, dtype, {"format": "llmc"})


def _wide(array: np.ndarray) -> np.ndarray:
    """f32 of f32, or of the bits of bf16."""
    return array if array.dtype == np.float32 else (array.astype(np.uint32) << 16).view(np.float32)


def texts(base: Base) -> Iterator[tuple[str, bytes]]:
    """What stands beside the weights, by name."""
    carried = {name: text for name, text in base.files.texts.items()
               if name != model_files.TEMPLATE}
    yield from (carried | {model_files.TOKENIZER: base.text}).items()


def _with_rows(config: Config, tokenizer: Tokenizer) -> Config:
    if tokenizer.vocab_size <= config.vocab_size:
        return config
    return Config(**config.to_dict() | {"vocab_size": tokenizer.vocab_size, "padded_vocab_size": 0})


def _grown(seen: np.ndarray, base: Base, rows: int, head: bool, seed: int) -> np.ndarray:
    """The rows of seen, f32 (padded, C), in a table of so many rows, where fresh tokens have
    theirs."""
    known = base.files.config.vocab_size
    whole = np.zeros((rows, seen.shape[1]), np.float32)
    whole[:known] = seen[:known]
    others = np.delete(whole[:known], [token for token in base.fresh if token < known], axis=0)
    mean, deviation = others.mean(0, np.float64), others.std(0, dtype=np.float64)
    random = np.random.Generator(np.random.Philox(key=[seed, int(head)]))
    for token in base.fresh:
        drawn = random.standard_normal(len(mean)) * (HEAD_SPREAD if head else 1)
        whole[token] = mean + deviation * drawn
    return whole
