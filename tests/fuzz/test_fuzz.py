"""Readers of files, fed with mutated ones under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from building import sanitized
from llmc.shards import ShardWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

Files = dict[str, bytes]


@pytest.fixture(scope="session")
def fuzzer() -> Path:
    """The program that fuzzes, with the readers in it, brought up to date."""
    return sanitized("fuzz") / "fuzz"


# ---- files each reader accepts ------------------------------------------------------------------


def json_seeds() -> Files:
    """No null and no number out of range: the target asks for every value as what it is."""
    vocab = {f"Ġtoken{i}": i for i in range(3000)}
    documents = {
        "small": {"a": [1, -2.5e3, True, "x\n\u0000é😀"], "b": {"c": {}, "d": []}, "": 0},
        "vocab": {"model": {"vocab": vocab, "merges": ["a b"] * 50}},
        "dense": [[0, 1, 2], [[]], [{}]] * 300,
        "deep": json.loads("[" * 60 + "1" + "]" * 60),
        "text": "\ud800\udc00\u0000".encode("utf-16", "surrogatepass").decode("utf-16") * 50,
    }
    ascii = {f"{name}-ascii": json.dumps(d).encode() for name, d in documents.items()}
    utf8 = {
        name: json.dumps(d, ensure_ascii=False, indent=1).encode() for name, d in documents.items()
    }
    return ascii | utf8


def safetensors_seeds() -> Files:
    rng = np.random.default_rng(0)
    arrays = {f"h.{i}.w": rng.standard_normal((2, i), dtype=np.float32) for i in range(5)}
    arrays |= {
        "u8": np.arange(5, dtype=np.uint8),
        "i32": np.arange(6, dtype=np.int32).reshape(1, 2, 1, 3),
    }
    many = {f"{i}": np.zeros(1, np.uint8) for i in range(3000)}
    return {
        "some": safetensors.numpy.save(arrays, {"format": "pt", "x": "y"}),
        "many": safetensors.numpy.save(many),
        "empty": safetensors.numpy.save({}),
        "large": safetensors.numpy.save({"a": np.zeros(30000, np.float32)}),
    }


def file_seeds() -> Files:
    """Also a file whose data is misaligned, which is copied and not mapped."""
    header = {"a": {"dtype": "F32", "shape": [40000], "data_offsets": [0, 160000]}}
    text = json.dumps(header).encode()
    text += b" " * ((3 - len(text)) % 8)
    return safetensors_seeds() | {"odd": struct.pack("<Q", len(text)) + text + bytes(160000)}


def header_seeds() -> Files:
    """What follows the length in a file without padding, which ends with the last brace."""
    seeds = {}
    for name, data in safetensors_seeds().items():
        length = struct.unpack("<Q", data[:8])[0]
        seeds[name] = data[8 : 8 + length].rstrip(b" ") + data[8 + length :].replace(b"}", b" ")
    return {name: data for name, data in seeds.items() if name != "large"}


def optimizer_seeds() -> Files:
    """The second rank's file of a set whose first holds m/w[0:4]."""
    values = np.arange(8, dtype=np.float32)
    pieces = [
        {"m/w[4:8]": values[4:]},
        {"m/w[4:6]": values[4:6], "m/w[6:8]": values[6:], "v/b[0:0]": values[:0]},
    ]
    return {str(i): safetensors.numpy.save(piece) for i, piece in enumerate(pieces)}


def config_seeds() -> Files:
    gpt2 = {
        "vocab_size": 50257, "padded_vocab_size": 50304, "max_seq_len": 1024, "n_layer": 12,
        "n_head": 12, "n_kv_head": 12, "head_dim": 64, "n_embd": 768, "n_ff": 3072, "norm": "layernorm",
        "position": "learned", "mlp": "gelu", "head": "lm", "bias": True, "tied": True,
        "norm_eps": 1e-5, "rope_theta": 10000.0,
    }  # fmt: skip
    llama = {
        "vocab_size": 300, "padded_vocab_size": 384, "max_seq_len": 64, "n_layer": 2, "n_head": 4,
        "n_kv_head": 2, "head_dim": 8, "n_embd": 32, "n_ff": 88, "norm": "rmsnorm",
        "position": "rope", "mlp": "swiglu", "head": "lm", "bias": False, "tied": False,
        "norm_eps": 1e-5, "rope_theta": 10000.0, "qkv_bias": True,
    }  # fmt: skip
    return {"gpt2": json.dumps(gpt2, indent=2).encode(), "llama": json.dumps(llama).encode()}


def tokenizer_seeds() -> Files:
    seeds = {}
    for name, size, special in [("a", 0, []), ("b", 300, ["<|end|>"]), ("c", 60, ["<|é|>", "x y"])]:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
        tokenizer.train_from_iterator(["the cat, the dog: größer, déjà vu 12 345"] * 9, trainer)
        data = json.loads(tokenizer.to_str())
        seeds[name] = json.dumps(data, ensure_ascii=name == "b").encode()
    return seeds


def shard_seeds(folder: Path) -> Files:
    for vocab_size, marks in [(50, False), (100_000, False), (50, True)]:
        name = f"v{vocab_size}{'m' if marks else ''}"
        with ShardWriter(folder, name, "val", vocab_size, 7, 3, marks=marks) as writer:
            writer.append(np.arange(40), np.arange(40) % 3 > 0 if marks else None)
    seeds = {path.name: path.read_bytes() for path in folder.iterdir()}
    for magic, version, width in [(20240520, 1, 2), (20240801, 7, 4)]:
        head = struct.pack("<3i", magic, version, 40).ljust(1024, b"\0")
        seeds[str(magic)] = head + np.arange(40, dtype=f"<u{width}").tobytes()
    return seeds


SEEDS = {
    "json": json_seeds,
    "safetensors": safetensors_seeds,
    "safetensors_file": file_seeds,
    "safetensors_header": header_seeds,
    "optimizer": optimizer_seeds,
    "config": config_seeds,
    "detokenizer": tokenizer_seeds,
    "shard": shard_seeds,
}


def fuzz(fuzzer: Path, target: str, folder: Path, count: int) -> None:
    make = SEEDS[target]
    seeds = folder / "seeds"
    seeds.mkdir()
    files = make(folder / "made") if make is shard_seeds else make()
    for name, data in files.items():
        (seeds / name).write_bytes(data)
    done = subprocess.run(
        [fuzzer, target, seeds, str(count)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    told = json.loads(done.stdout)
    print(told)
    assert 0 < told["accepted"] < count and told["refusals"] >= 3, f"it tests too little: {told}"


def test_every_target_has_seeds(fuzzer):
    told = subprocess.run([fuzzer], capture_output=True, text=True).stderr
    assert sorted(told.split("targets:")[1].split()) == sorted(SEEDS)


@pytest.mark.parametrize("target", SEEDS)
def test_mutated_files_are_read_or_refused(fuzzer, tmp_path, target):
    fuzz(fuzzer, target, tmp_path, 300)


@pytest.mark.slow
@pytest.mark.parametrize("target", SEEDS)
def test_ten_thousand_mutated_files_are_read_or_refused(fuzzer, tmp_path, target):
    fuzz(fuzzer, target, tmp_path, 10_000)
