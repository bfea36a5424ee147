"""A Hugging Face folder to a model of ours, and a model of ours to such a folder.

A folder holds config.json, model.safetensors (or several and their model.safetensors.index.json),
tokenizer.json (older GPT-2s: vocab.json and merges.txt), and what goes along: tokenizer_config.json, the chat's
template, generation_config.json.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmc import lazy
from llmc.disk import read_json
from llmc.hugging_face_config import architecture, config_from, config_to
from llmc.lazy import Lazy, Piece, Pieces
from llmc.model_files import (GENERATION, TOKENIZER, TOKENIZER_CONFIG, ModelFiles, as_json, carried,
                              open_safetensors, settings, shapes, token_ids, write_safetensors)
from llmc.tokenizer import from_json
from llmc.tokenizer_json import from_vocab_and_merges

if TYPE_CHECKING:
    from llmc._core import Config

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
AGAIN = "download the folder again"
SHARD_BYTES = 5 * 10**9                 # the largest file that is written, but for larger tensors

# Ours -> theirs. What has several sources is stacked row upon row.
TOP = {
    "gpt2": {"wte": "wte", "wpe": "wpe", "ln_f": "ln_f"},
    "llama": {"wte": "embed_tokens", "ln_f": "norm"},
}
BLOCK = {
    "gpt2": {
        "ln_1": ["ln_1"],
        "attn.qkv": ["attn.c_attn"],
        "attn.proj": ["attn.c_proj"],
        "ln_2": ["ln_2"],
        "mlp.up": ["mlp.c_fc"],
        "mlp.down": ["mlp.c_proj"],
    },
    "llama": {
        "ln_1": ["input_layernorm"],
        "attn.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "attn.q_norm": ["self_attn.q_norm"],
        "attn.k_norm": ["self_attn.k_norm"],
        "attn.proj": ["self_attn.o_proj"],
        "ln_2": ["post_attention_layernorm"],
        "mlp.up": ["mlp.gate_proj", "mlp.up_proj"],
        "mlp.down": ["mlp.down_proj"],
    },
}
PREFIX = {"gpt2": ("transformer.", "h"), "llama": ("model.", "layers")}
# buffers of older files: masks, and RoPE's frequencies, which follow from the config
BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)$|"
                     r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq$")


def from_folder(folder: Path, name: str, ignored: Collection[str] = ()) -> ModelFiles:
    """Open such a folder, which is called so. A ValueError names what is missing, damaged, or not
    understood."""
    from llmc import Config

    path = folder / "config.json"
    theirs = read_json(path, {"model_type": str}, "wanted a Hugging Face config.json")
    config = Config(**config_from(theirs, str(path), ignored))
    ours = assemble(_tensors(folder), config, str(folder))
    return ModelFiles(name, "Hugging Face", config, ours, _texts(folder, theirs))


def assemble(theirs: dict[str, Lazy], config: Config, where: str) -> dict[str, Lazy]:
    """Our parameters out of all tensors of a model of theirs."""
    family = _family(config)
    tensors = {_bare(name, family): tensor for name, tensor in theirs.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not BUFFERS.match(name)}
    if config.tied:                         # a copy of the embeddings, where it is there
        tensors.pop("lm_head.weight", None)
    bare = [piece._replace(theirs=_bare(piece.theirs, family)) for piece in pieces(config)]
    return lazy.assemble(bare, tensors, shapes(config), where)


def to_folder(model: ModelFiles, folder: Path, dtype: str) -> None:
    """Write such a folder, which is there and empty."""
    theirs = config_to(model.config.to_dict())
    texts = missing_texts(model) | model.texts
    for key in ("bos_token_id", "eos_token_id"):
        ids = token_ids(texts, key)
        theirs[key] = ids[0] if len(ids) == 1 else ids or None
    theirs["torch_dtype"] = {"f32": "float32", "bf16": "bfloat16"}[dtype]
    _write_tensors(folder, lazy.take_apart(pieces(model.config), model.tensors), dtype)
    (folder / "config.json").write_bytes(as_json(theirs))
    for name, text in texts.items():
        (folder / name).write_bytes(text)


def pieces(config: Config) -> Pieces:
    """Where each row of our parameters is in their tensors."""
    family = _family(config)
    prefix, blocks = PREFIX[family]

    def sources(part: str, layer: str) -> list[str]:
        if layer:
            return [f"{prefix}{blocks}.{layer}.{source}" for source in BLOCK[family][part]]
        return ["lm_head"] if part == "lm_head" else [prefix + TOP[family][part]]
    conv1d = family == "gpt2"                           # of GPT-2's blocks: (in, out)
    return [Piece(*place, transposed=conv1d and place[0].startswith("h."))
            for place in places(config, sources)]


def places(config: Config, sources: Callable[[str, str], list[str]]
           ) -> Iterator[tuple[str, str, int, int]]:
    """Of each of their tensors: our parameter, its name, and the rows [begin, end) of ours that it
    holds. `sources` names those of a part ("attn.qkv") of a layer ("0"; "" outside the blocks)."""
    for name, shape in shapes(config).items():
        part, _, kind = name.rpartition(".")
        layer = ""
        if part.startswith("h."):
            _, layer, part = part.split(".", 2)
        found, at = sources(part, layer), 0
        for source, rows in zip(found, _row_counts(config, part, shape, len(found))):
            yield name, f"{source}.{kind}", at, at + rows
            at += rows


def _row_counts(config: Config, part: str, shape: lazy.Shape, sources: int) -> list[int]:
    """How many rows of a parameter each of its sources gives."""
    if part in ("wte", "lm_head"):
        return [config.vocab_size]
    if part == "attn.qkv" and sources == 3:
        keys = config.n_kv_head * config.head_dim
        return [shape[0] - 2 * keys, keys, keys]
    return [shape[0] // sources] * sources


# ---- reading --------------------------------------------------------------------------------------

def _family(config: Config) -> str:
    return "gpt2" if architecture(config.to_dict()) == "gpt2" else "llama"


def _bare(name: str, family: str) -> str:
    """Without the prefix, which files of a model without its head have not."""
    return name.removeprefix(PREFIX[family][0])


def _tensors(folder: Path) -> dict[str, Lazy]:
    """All tensors of a folder's weights."""
    if not (folder / INDEX).is_file():
        if (folder / WEIGHTS).is_file():
            return open_safetensors(folder / WEIGHTS)
        other = next(iter(sorted([*folder.glob("*.bin"), *folder.glob("*.pth")])), None)
        raise ValueError(f"{folder} holds neither {WEIGHTS} nor {INDEX}"
                         + (f"; {other.name} is not read, only safetensors" if other else ""))
    places = read_json(folder / INDEX, {"weight_map": dict}, AGAIN)["weight_map"]
    tensors: dict[str, Lazy] = {}
    for file in sorted(set(map(str, places.values()))):
        if Path(file).name != file or not (folder / file).is_file():
            raise ValueError(f"{folder}: {INDEX} names {file}, which is missing; {AGAIN}")
        found = open_safetensors(folder / file)
        listed = {name for name, place in places.items() if place == file}
        for name in found.keys() ^ listed:
            there, missing = ("it", INDEX) if name in found else (INDEX, "it")
            raise ValueError(f"{folder / file}: {name} is in {there}, but not in {missing}; {AGAIN}")
        tensors |= found
    return tensors


def _texts(folder: Path, config: dict[str, Any]) -> dict[str, bytes]:
    """What is carried along; a tokenizer.json made of older files, and a generation_config.json
    that says where texts end, if there is none."""
    texts = carried(folder)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if TOKENIZER not in texts and vocab.is_file() and merges.is_file():
        texts[TOKENIZER] = from_vocab_and_merges(vocab.read_bytes(), merges.read_bytes(),
                                                 str(vocab))
    generation = settings(texts, GENERATION)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id")
           if config.get(key) is not None and generation.get(key) is None}
    if ids:
        texts[GENERATION] = as_json(generation | ids)
    return texts


# ---- writing --------------------------------------------------------------------------------------

def missing_texts(model: ModelFiles) -> dict[str, bytes]:
    """What such a folder says of its tokenizer, for a model whose own texts do not say it."""
    if TOKENIZER not in model.texts:
        return {GENERATION: as_json({})}
    tokenizer = from_json(model.texts[TOKENIZER], TOKENIZER, TOKENIZER)
    names = {id: token for token, id in tokenizer.special.items()}
    ids = {"bos": tokenizer.eot if tokenizer.bos is None else tokenizer.bos, "eos": tokenizer.eot}
    ids = {which: id for which, id in ids.items() if id is not None}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
             "model_max_length": model.config.max_seq_len}
    return {
        GENERATION: as_json({f"{which}_token_id": id for which, id in ids.items()}),
        TOKENIZER_CONFIG: as_json(about | {f"{which}_token": names[id]
                                           for which, id in ids.items()}),
    }


def _write_tensors(folder: Path, tensors: dict[str, Lazy], dtype: str) -> None:
    shards = _shards(tensors, lazy.STORED[dtype].itemsize)
    if len(shards) == 1:
        write_safetensors(folder / WEIGHTS, tensors, dtype, {"format": "pt"})
        return
    places, total = {}, 0
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        part = {name: tensors[name] for name in names}
        write_safetensors(folder / file, part, dtype, {"format": "pt"})
        places |= dict.fromkeys(names, file)
        total += sum(_bytes(tensor, lazy.STORED[dtype].itemsize) for tensor in part.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_bytes(as_json(index))


def _shards(tensors: dict[str, Lazy], width: int) -> list[list[str]]:
    """The names of each file's tensors."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + _bytes(tensor, width) > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _bytes(tensor, width)
    return shards


def _bytes(tensor: Lazy, width: int) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * width
