"""A model as it lies on disk, opened but not read: what conversions start from and end in."""
from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmc import lazy
from llmc.chat import BASE, SETTINGS, is_base, manner_text
from llmc.disk import parse_json
from llmc.lazy import Lazy, Piece, Shape

if TYPE_CHECKING:
    from llmc._core import Config

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
GENERATION, TEMPLATE = "generation_config.json", "chat_template.jinja"
CARRIED = (TOKENIZER, TOKENIZER_CONFIG, GENERATION, TEMPLATE, SETTINGS)    # from folder to folder
INT8_GROUP = 64                         # numbers of a row that share a scale
TYPES = {"F32": "f32", "BF16": "bf16", "F16": "f16"}            # of safetensors -> of lazy


@dataclass(frozen=True)
class ModelFiles:
    """A model whose weights are still on disk."""
    name: str                   # what to call it: its file's or folder's name
    format: str                 # what it lies there as: llmc, or whose it is
    config: Config
    tensors: dict[str, Lazy]    # all parameters, by our names
    texts: dict[str, bytes]     # some of CARRIED, by name

    @property
    def dtype(self) -> str:
        """The type that holds all its weights exactly, of those that the engine has."""
        found = lazy.widest(tensor.dtype for tensor in self.tensors.values())
        return "f32" if found == "f16" else found

    def with_tokenizer(self, tokenizer: bytes | None) -> ModelFiles:
        """The same with another tokenizer.json, or with none."""
        without = {name: text for name, text in self.texts.items()
                   if name not in (TOKENIZER, TOKENIZER_CONFIG)}
        texts = without if tokenizer is None else self.texts | {TOKENIZER: tokenizer}
        return replace(self, texts=texts)


def shapes(config: Config) -> dict[str, Shape]:
    """The engine's parameters of a config, by name."""
    from llmc import Device, Model

    return Model(Device("cpu", 1), config).shapes


def from_checkpoint(folder: Path, name: str) -> ModelFiles:
    """A checkpoint of ours, which is called so."""
    from llmc import Config

    config = Config.read(str(folder / "config.json"))
    wanted = shapes(config)
    same = [Piece(each, each, 0, shape[0]) for each, shape in wanted.items()]
    path = folder / "model.safetensors"
    found = open_safetensors(path)
    for each in [each for each, tensor in found.items() if tensor.dtype == "I8"]:
        if len(found[each].shape) != 2 or each not in wanted:
            continue                        # assemble refuses it
        rows, width = found[each].shape
        scale, groups = found.pop(each + ".scale", None), -(-width // INT8_GROUP)
        if scale is None or (scale.dtype, scale.shape) != ("f32", (rows, groups)):
            raise ValueError(f"{path}: {each} is of int8, but {each}.scale of f32 and "
                             f"{rows} x {groups} is not there")
        found[each] = _dequantized(found[each], scale)
    tensors = lazy.assemble(same, found, wanted, str(path))
    mark = {SETTINGS: manner_text(BASE)} if is_base(folder) else {}     # state.json stays behind
    return ModelFiles(name, "llmc", config, tensors, carried(folder) | mark)


def to_checkpoint(model: ModelFiles, folder: Path, dtype: str) -> None:
    """A checkpoint of ours, into an empty folder."""
    path = folder / "model.safetensors"
    if dtype == "int8":
        _write_int8(model, path)
    else:
        write_safetensors(path, model.tensors, dtype, {"format": "llmc"})
    (folder / "config.json").write_text(model.config.to_json(), encoding="utf-8")
    for name, text in model.texts.items():
        (folder / name).write_bytes(text)


def _write_int8(model: ModelFiles, path: Path) -> None:
    from llmc import Device, Model

    quantized = Model(Device("cpu"), model.config, "int8")
    for name, dtype in quantized.types.items():
        quantized.set(name, lazy.as_type(model.tensors[name], "f32" if dtype == "i8" else dtype))
    quantized.save(str(path))


def _dequantized(numbers: Lazy, scale: Lazy) -> Lazy:
    """What int8 numbers stand for: each group of a row has a scale (quantize.h)."""
    def read() -> np.ndarray:
        scales = np.repeat(scale.read(), INT8_GROUP, axis=1)[:, :numbers.shape[1]]
        return numbers.read() * scales
    return Lazy(numbers.shape, "f32", read)


def carried(folder: Path) -> dict[str, bytes]:
    """The texts of a folder that go with its weights wherever they go."""
    texts = {name: (folder / name).read_bytes() for name in CARRIED if (folder / name).is_file()}
    for name in texts.keys() & {TOKENIZER_CONFIG, GENERATION, SETTINGS}:
        parse_json(texts[name], str(folder / name), {})
    try:
        texts.get(TEMPLATE, b"").decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder / TEMPLATE} is not UTF-8 at byte {error.start}; copy it again, "
                         "or remove it") from error
    return texts


# ---- what the texts say -------------------------------------------------------------------------

def settings(texts: dict[str, bytes], name: str) -> dict[str, Any]:
    """The object of one of the texts; empty where there is none."""
    return parse_json(texts[name], name, {}) if name in texts else {}


def as_json(data: dict[str, Any]) -> bytes:
    """The text of a settings file."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def chat_template(texts: dict[str, bytes]) -> str | None:
    """The Jinja template of a conversation, where the model has one."""
    if TEMPLATE in texts:
        return texts[TEMPLATE].decode()
    found = settings(texts, TOKENIZER_CONFIG).get("chat_template")
    if isinstance(found, list):                 # some models name several
        named = {each.get("name"): each.get("template") for each in found
                 if isinstance(each, dict) and isinstance(each.get("name"), str)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def token_ids(texts: dict[str, bytes], key: str, where: str = "") -> list[int]:
    """bos_token_id or eos_token_id of generation_config.json: none, one or several. where: what
    stands before its name in a sentence."""
    found = settings(texts, GENERATION).get(key)
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if any(type(id) is not int or id < 0 for id in ids):
        raise ValueError(f"{where}{GENERATION}: {key} is {found!r}, wanted token ids")
    return ids


# ---- .safetensors -------------------------------------------------------------------------------

def open_safetensors(path: Path) -> dict[str, Lazy]:
    """The tensors of a file, mapped. A type that llmc has not fails where it is read."""
    from llmc._core import Safetensors

    file = Safetensors(str(path))
    return {name: _mapped(file, name, dtype, shape) for name, dtype, shape in file.tensors}


def _mapped(file: Any, name: str, dtype: str, shape: Shape) -> Lazy:
    kind = TYPES.get(dtype, dtype)

    def read() -> np.ndarray:
        stored = np.int8 if kind == "I8" else lazy.STORED[kind]
        return file.bytes(name).view(stored).reshape(shape)
    return Lazy(tuple(shape), kind, read)


def write_safetensors(path: Path, tensors: dict[str, Lazy], dtype: str,
                      metadata: dict[str, str]) -> None:
    """A file of these tensors in one type, one tensor after the other."""
    from llmc._core import SafetensorsWriter

    about = [(name, dtype, tensor.shape) for name, tensor in tensors.items()]
    writer = SafetensorsWriter(str(path), about, metadata)
    for place, tensor in enumerate(tensors.values()):
        writer.put(place, lazy.as_type(tensor, dtype))
    writer.finish()
