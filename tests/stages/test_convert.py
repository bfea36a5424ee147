"""convert: published models there and back, judged by transformers and llama.cpp."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import tuning
from converting import (CASES, TEMPLATE, TEXT, convert, logits_of_folder, logits_of_llama_cpp, logits_of_llmc,
                        logits_of_torch, open_llama_cpp, publish, some_tokens, tokenizer)
from llmc import Config, Device, LlmcError, Model, hugging_face
from llmc.checkpoint import open_checkpoint
from llmc.tokenizer import Tokenizer
from safetensors.numpy import load_file
from safetensors.torch import load_file as torch_load_file
from safetensors.torch import save_file as torch_save_file
from transformers import AutoTokenizer

TOKENS = some_tokens()


def far(got: np.ndarray, wanted: np.ndarray) -> float:
    assert got.shape == wanted.shape
    return float(np.abs(got - wanted).max())


@pytest.mark.parametrize("case", CASES)
def test_a_model_goes_in_and_out_and_all_compute_the_same(case, tmp_path):
    wanted = logits_of_torch(publish(tmp_path / "theirs", case), TOKENS)
    convert(tmp_path / "theirs", tmp_path / "ours")
    assert far(logits_of_llmc(tmp_path / "ours", TOKENS), wanted) < 1e-4
    convert(tmp_path / "ours", tmp_path / "again")
    assert far(logits_of_folder(tmp_path / "again", TOKENS), wanted) < 1e-5
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "again"))
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    convert(tmp_path / "ours", tmp_path / "model.gguf")
    near = 1e-3 * np.abs(wanted).max()                  # llama.cpp's GELU is a table of f16
    assert far(logits_of_llama_cpp(tmp_path / "model.gguf", TOKENS), wanted) < near


@pytest.mark.parametrize("case", ["gpt2", "llama, grouped", "qwen3"])
def test_bf16_stays_bf16(case, tmp_path):
    publish(tmp_path / "theirs", case, torch.bfloat16)
    wanted = logits_of_folder(tmp_path / "theirs", TOKENS)
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "again")
    convert(tmp_path / "ours", tmp_path / "model.gguf")
    assert far(logits_of_llmc(tmp_path / "ours", TOKENS), wanted) < 1e-4      # weights of bf16, computed in f32
    assert far(logits_of_folder(tmp_path / "again", TOKENS), wanted) < 1e-5
    scale = np.abs(wanted).max()                        # llama.cpp multiplies bf16 by bf16
    assert far(logits_of_llama_cpp(tmp_path / "model.gguf", TOKENS), wanted) < 2e-2 * scale
    assert json.loads((tmp_path / "again" / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_types_change_as_pytorch_changes_them(dtype, tmp_path):
    published = publish(tmp_path / "theirs", "llama, tied", dtype)
    convert(tmp_path / "theirs", tmp_path / "f32", "--to", "hf", "--dtype", "f32")
    convert(tmp_path / "theirs", tmp_path / "bf16", "--to", "hf", "--dtype", "bf16")
    from safetensors.torch import load_file as load

    for name, wanted in published.named_parameters():
        assert torch.equal(load(tmp_path / "f32" / "model.safetensors")[name], wanted.to(torch.float32))
        assert torch.equal(load(tmp_path / "bf16" / "model.safetensors")[name], wanted.to(torch.bfloat16))


def test_q8_0_is_within_half_a_step_of_each_weight(tmp_path):
    wanted = logits_of_torch(publish(tmp_path / "theirs", "llama, for q8_0"), TOKENS)
    for dtype in ("f32", "q8_0"):
        convert(tmp_path / "theirs", tmp_path / f"{dtype}.gguf", "--dtype", dtype)
    exact, rounded = ({t.name: (t.tensor_type.name, gguf.dequantize(t.data, t.tensor_type))
                       for t in gguf.GGUFReader(tmp_path / f"{dtype}.gguf").tensors} for dtype in ("f32", "q8_0"))
    assert exact.keys() == rounded.keys()
    for name, (kind, found) in rounded.items():
        assert kind == ("Q8_0" if found.ndim == 2 else "F32"), name
        largest = np.abs(exact[name][1]).reshape(-1, 32).max(1, keepdims=True)
        budget = 0 if kind == "F32" else largest * (0.5 / 127 + 2**-11)     # half a step; the scale is f16
        assert (np.abs(found - exact[name][1]).reshape(-1, 32) <= budget).all(), name
    assert far(logits_of_llama_cpp(tmp_path / "q8_0.gguf", TOKENS), wanted) < 0.1 * np.abs(wanted).max()


def test_sharded_and_whole_are_the_same_model(tmp_path, monkeypatch):
    publish(tmp_path / "whole", "qwen2")
    publish(tmp_path / "parts", "qwen2", max_shard_size="60KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 2
    for name in ("whole", "parts"):
        convert(tmp_path / name, tmp_path / f"{name}.ours")
    whole, parts = (load_file(tmp_path / f"{name}.ours" / "model.safetensors") for name in ("whole", "parts"))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    monkeypatch.setattr(hugging_face, "SHARD_BYTES", 50_000)
    convert(tmp_path / "whole.ours", tmp_path / "again")
    assert len(list((tmp_path / "again").glob("model-*.safetensors"))) > 2
    assert far(logits_of_folder(tmp_path / "again", TOKENS), logits_of_folder(tmp_path / "whole", TOKENS)) == 0
    convert(tmp_path / "again", tmp_path / "again.ours")
    assert far(logits_of_llmc(tmp_path / "again.ours", TOKENS), logits_of_llmc(tmp_path / "whole.ours", TOKENS)) == 0


@pytest.mark.parametrize("case", ["gpt2", "llama 3.1"])
def test_straight_to_gguf_is_the_same_file(case, tmp_path):
    publish(tmp_path / "m", case)
    convert(tmp_path / "m", tmp_path / "straight.gguf")
    convert(tmp_path / "m", tmp_path / "ours" / "m")
    convert(tmp_path / "ours" / "m", tmp_path / "round.gguf")
    assert (tmp_path / "straight.gguf").read_bytes() == (tmp_path / "round.gguf").read_bytes()


def test_the_tokenizer_and_the_chat_template_go_along(tmp_path):
    publish(tmp_path / "theirs", "llama, tied")
    ours = tokenizer()
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "again")
    convert(tmp_path / "ours", tmp_path / "model.gguf")
    assert Tokenizer.load(tmp_path / "ours").encode(TEXT, "all") == ours.encode(TEXT, "all")
    theirs, again = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("theirs", "again"))
    talk = [{"role": "user", "content": "the time"}]
    assert again(TEXT).input_ids == theirs(TEXT).input_ids == ours.encode(TEXT, "all")
    assert again.apply_chat_template(talk, tokenize=False) == theirs.apply_chat_template(talk, tokenize=False)
    model = open_llama_cpp(tmp_path / "model.gguf")
    assert model.get_vocab().tokenize(TEXT, False, True) == ours.encode(TEXT, "all")
    assert model.get_vocab().tokenize(TEXT, False, False) == ours.encode(TEXT)
    assert model.get_default_chat_template() == TEMPLATE
    assert model.get_vocab().token_eos() == ours.eot


def test_a_template_inside_tokenizer_config_reaches_gguf(tmp_path):
    publish(tmp_path / "theirs", "qwen2")
    (tmp_path / "theirs" / "chat_template.jinja").unlink()
    about = json.loads((tmp_path / "theirs" / "tokenizer_config.json").read_text())
    about["chat_template"] = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": TEMPLATE}]
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(about))
    convert(tmp_path / "theirs", tmp_path / "model.gguf")
    assert open_llama_cpp(tmp_path / "model.gguf").get_default_chat_template() == TEMPLATE


def test_every_end_that_the_model_knows_ends_its_texts(tmp_path):
    publish(tmp_path / "theirs", "llama, tied")
    path = tmp_path / "theirs" / "generation_config.json"
    path.write_text(json.dumps({"bos_token_id": 262, "eos_token_id": [263, 262]}))
    convert(tmp_path / "theirs", tmp_path / "ours")
    assert open_checkpoint(tmp_path / "ours").ends == {262, 263}
    path.unlink()                           # then config.json says it
    convert(tmp_path / "theirs", tmp_path / "other")
    assert open_checkpoint(tmp_path / "other").ends == {262}


def never_published(config: Config, folder: Path) -> Model:
    """A checkpoint of a model with chance weights."""
    model = Model(Device(), config)
    model.init(1)
    tuning.save(folder, model, tokenizer())
    return model


def test_a_model_of_ours_that_was_never_published_can_be(tmp_path):
    config = Config.preset("llama-tiny", vocab_size=264, n_layer=2, n_embd=36, n_head=3, n_kv_head=3, n_ff=40)
    never_published(config, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "theirs")
    tokens = some_tokens(264)
    assert far(logits_of_folder(tmp_path / "theirs", tokens), logits_of_llmc(tmp_path / "ours", tokens)) < 1e-4
    theirs = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert theirs(TEXT).input_ids == tokenizer().encode(TEXT, "all") and theirs.eos_token_id == 262


INT8 = Config.preset("llama-tiny", vocab_size=264, n_layer=2, n_embd=128, n_head=4, n_kv_head=2, n_ff=200)


def test_int8_holds_what_it_stands_for(tmp_path):
    model, tokens = never_published(INT8, tmp_path / "ours"), some_tokens(264)
    convert(tmp_path / "ours", tmp_path / "bf16", "--to", "llmc", "--dtype", "bf16")
    convert(tmp_path / "ours", tmp_path / "int8", "--dtype", "int8")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("bf16", "int8")]
    assert sizes[1] < 0.56 * sizes[0]
    small = open_checkpoint(tmp_path / "int8").model
    assert small.dtype == "int8" and small.types["ln_f.weight"] == "bf16"
    for name in model.names:
        found, step = small.get(name), np.abs(model.get(name)).max() / 127
        if small.types[name] == "i8":
            assert np.abs(found - model.get(name)).max() <= step / 2 * 1.01
    wanted = logits_of_llmc(tmp_path / "ours", tokens)
    assert far(logits_of_llmc(tmp_path / "int8", tokens), wanted) < 0.03 * np.abs(wanted).max()
    convert(tmp_path / "int8", tmp_path / "wide", "--to", "llmc")
    wide = open_checkpoint(tmp_path / "wide").model
    assert wide.dtype == "f32" and open_checkpoint(tmp_path / "int8", dtype="f32").model.dtype == "f32"
    for name in model.names:
        read, found = open_checkpoint(tmp_path / "int8", dtype="f32").model.get(name), small.get(name)
        assert np.array_equal(wide.get(name), read)
        assert small.types[name] != "i8" or np.array_equal(read, found)
    small.save(str(tmp_path / "again.safetensors"))
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "int8" / "model.safetensors").read_bytes()


def test_int8_is_not_trained(tmp_path):
    never_published(INT8, tmp_path / "ours")
    model = open_checkpoint(tmp_path / "ours", dtype="int8").model
    with pytest.raises(LlmcError, match="int8 weights are not trained; open the model as f32 or bf16"):
        model.plan(1, 8, train=True)


@pytest.mark.parametrize("change, sentence", [
    (lambda tensors: tensors.pop("wte.weight.scale"), "wte.weight.scale"),
    (lambda tensors: tensors.update({"wte.weight.scale": tensors["wte.weight.scale"][:, :1].clone()}), "wte.weight.scale"),
    (lambda tensors: tensors.update({"ln_f.weight.scale": tensors["wte.weight.scale"].clone()}), "ln_f.weight.scale"),
    (lambda tensors: tensors.update({"ln_f.weight": tensors["ln_f.weight"].char()}), "ln_f.weight is "),
])
def test_int8_without_its_scales_is_refused(tmp_path, change, sentence):
    never_published(INT8, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "int8", "--dtype", "int8")
    path = tmp_path / "int8" / "model.safetensors"
    tensors = torch_load_file(path)
    change(tensors)
    torch_save_file(tensors, path)
    with pytest.raises(LlmcError, match=sentence):
        open_checkpoint(tmp_path / "int8")
    with pytest.raises(ValueError, match=sentence):
        convert(tmp_path / "int8", tmp_path / "wide", "--dtype", "f32")


def test_gpt2s_older_files_are_read(tmp_path):
    publish(tmp_path / "theirs", "gpt2")
    folder, gpt2 = tmp_path / "theirs", Tokenizer.load("gpt2")
    data = json.loads(gpt2.to_json())["model"]
    some = [token for token in data["vocab"] if token != "<|endoftext|>"][:290]
    vocab = {token: id for id, token in enumerate(some)} | {"<|endoftext|>": 290}
    merges = [merge for merge in data["merges"] if merge.replace(" ", "") in vocab]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (folder / "tokenizer.json").unlink()
    tensors = load_file(folder / "model.safetensors")       # without the prefix, and with masks
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare |= {f"h.{layer}.attn.bias": np.ones((1, 1, 41, 41), np.float32) for layer in range(3)}
    from safetensors.numpy import save_file

    save_file(bare, folder / "model.safetensors", {"format": "pt"})
    wanted = logits_of_folder(folder, TOKENS)
    convert(folder, tmp_path / "ours")
    assert far(logits_of_llmc(tmp_path / "ours", TOKENS), wanted) < 1e-4
    small = Tokenizer.load(tmp_path / "ours")
    assert small.decode(small.encode(TEXT)) == TEXT and small.eot == 290 and len(small.ranks) == 290


def test_memory_stays_near_the_largest_tensor(tmp_path):
    config = Config.preset("llama-tiny", vocab_size=264, n_layer=24, n_embd=256, n_head=4, n_kv_head=4, n_ff=512)
    never_published(config, tmp_path / "ours")
    largest, whole = 4 * 2 * 512 * 256, 4 * config.param_count()
    convert(tmp_path / "ours", tmp_path / "warm")           # modules are loaded
    for source, target in (("ours", "theirs"), ("theirs", "back"), ("ours", "bf16.gguf"), ("theirs", "q8_0.gguf")):
        flags = ["--dtype", target[:-5]] if target.endswith(".gguf") else []
        tracemalloc.start()
        convert(tmp_path / source, tmp_path / target, *flags)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * largest < whole / 2, (target, peak / largest)
