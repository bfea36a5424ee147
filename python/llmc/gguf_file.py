"""A model of ours to one GGUF file, as llama.cpp, Ollama and LM Studio load it.

The file holds settings, the tokenizer (gguf_tokenizer.py), and the tensors under llama.cpp's names:
f32, bf16 or q8_0, vectors and learned positions always f32. RoPE of the architecture `llama` turns
neighbouring rows, so q and k change the order of theirs; `qwen2` and `qwen3` turn halves, as we do.
"""
from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmc import lazy
from llmc.gguf_tokenizer import Vocabulary
from llmc.hugging_face import places
from llmc.hugging_face_config import architecture
from llmc.lazy import Lazy, Piece, Pieces
from llmc.model_files import ModelFiles, chat_template

if TYPE_CHECKING:
    from llmc._core import Config

TOP = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}
BLOCK = {
    "ln_1": ["attn_norm"], "attn.proj": ["attn_output"], "ln_2": ["ffn_norm"],
    "attn.q_norm": ["attn_q_norm"], "attn.k_norm": ["attn_k_norm"], "mlp.down": ["ffn_down"],
}
PACKED = {      # where the architecture has them in one, and where it has not
    "gpt2": {"attn.qkv": ["attn_qkv"], "mlp.up": ["ffn_up"]},
    "llama": {"attn.qkv": ["attn_q", "attn_k", "attn_v"], "mlp.up": ["ffn_gate", "ffn_up"]},
}
FREQS = "rope_freqs.weight"             # what llama3's scaling divides each pair's frequency by
Q8_BLOCK = 32                           # numbers that share a scale; rows that are no multiple stay
CHUNK = 1 << 22                         # numbers that are quantized at a time


def is_gguf(path: Path) -> bool:
    """Whether a file begins as these do."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def to_file(model: ModelFiles, path: Path, dtype: str, vocabulary: Vocabulary) -> None:
    """Write the file; `vocabulary` is its tokenizer's, made beforehand."""
    import gguf

    config = model.config
    kind = architecture(config.to_dict())
    writer = gguf.GGUFWriter(path, kind)
    try:
        _settings(writer, model, dtype, kind)
        vocabulary.write(writer)
        if template := chat_template(model.texts):
            writer.add_chat_template(template)
        tensors = lazy.take_apart(pieces(config, kind), model.tensors)
        if config.position == "rope" and config.rope_scaling == "llama3":
            tensors[FREQS] = lazy.of(_divisors(config))
        stored = {name: _stored_as(name, tensor, dtype) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            _announce(writer, name, tensor, stored[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors.items():
            writer.write_tensor_data(_data(tensor, stored[name]))
    except OSError as error:
        if error.errno is None:                 # numpy's, of a file that took a part
            raise ValueError(f"{path.parent}: cannot write all of the GGUF file there ({error}); "
                             "is its disk full?") from error
        raise
    finally:
        writer.close()


def pieces(config: Config, kind: str) -> Pieces:
    """Where each row of our parameters is in the file's tensors."""
    block = BLOCK | PACKED["gpt2" if kind == "gpt2" else "llama"]

    def sources(part: str, layer: str) -> list[str]:
        return [f"blk.{layer}.{source}" for source in block[part]] if layer else [TOP[part]]

    def head(theirs: str) -> int:
        turned = kind == "llama" and theirs.split(".")[-2] in ("attn_q", "attn_k")
        return config.head_dim if turned else 0
    return [Piece(*place, head=head(place[1])) for place in places(config, sources)]


def _settings(writer: Any, model: ModelFiles, dtype: str, kind: str) -> None:
    import gguf

    config = model.config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(model.name)
    types = gguf.LlamaFileType
    writer.add_file_type({"f32": types.ALL_F32, "bf16": types.MOSTLY_BF16,
                          "q8_0": types.MOSTLY_Q8_0}[dtype])
    if dtype == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_ff)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_kv_head)
    if kind == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    if config.rope_scaling == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_factor)


def _divisors(config: Config) -> np.ndarray:
    """Of each pair, what scaling divides its frequency by."""
    pairs = np.arange(config.head_dim // 2)
    plain = config.rope_theta ** (-2 * pairs / config.head_dim)
    return (plain / [config.rope_freq(pair) for pair in pairs]).astype(np.float32)


def _stored_as(name: str, tensor: Lazy, dtype: str) -> str:
    if len(tensor.shape) == 1 or name == "position_embd.weight":
        return "f32"
    return "f32" if dtype == "q8_0" and tensor.shape[-1] % Q8_BLOCK else dtype


def _announce(writer: Any, name: str, tensor: Lazy, dtype: str) -> None:
    """Name, shape and type, before any data."""
    import gguf

    kind = gguf.GGMLQuantizationType[dtype.upper()]
    shape = gguf.quant_shape_to_byte_shape(tensor.shape, kind)
    writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), kind)


def _data(tensor: Lazy, dtype: str) -> np.ndarray:
    """The tensor's bytes as they lie in the file."""
    import gguf

    if dtype != "q8_0":
        return lazy.as_type(tensor, dtype)
    array = np.ascontiguousarray(tensor.read())
    kind, height = gguf.GGMLQuantizationType.Q8_0, max(1, CHUNK // array.shape[1])
    parts = [gguf.quantize(lazy.as_type(lazy.of(array[at:at + height]), "f32"), kind)
             for at in range(0, len(array), height)]
    return np.concatenate(parts)
