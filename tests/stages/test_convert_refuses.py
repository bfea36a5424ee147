"""convert: what is not understood is said in one sentence, and nothing is written."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from converting import LLAMA_3, convert, publish, tokenizer, write_tokenizer_bin
from llmc import LlmcError, cli, convert as stage
from llmc.convert import Convert, run
from llmc.encodings import Encoding
from llmc.tokenizer import Tokenizer
from safetensors.numpy import load_file, save_file


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """Folders of models, by family; tests change copies of them."""
    folder = tmp_path_factory.mktemp("published")
    for case in ("gpt2", "llama, grouped", "qwen2", "qwen3"):
        publish(folder / case.split(",")[0], case)
    publish(folder / "sharded", "llama, tied", max_shard_size="60KB")
    return folder


@pytest.fixture
def copy(published, tmp_path):
    def make(name: str) -> Path:
        return Path(shutil.copytree(published / name, tmp_path / "source"))
    return make


def refusal(source: Path, target: Path, *flags: object) -> str:
    """The one sentence; nothing may be left beside what was there."""
    before = sorted(target.parent.rglob("*"))
    with pytest.raises((ValueError, OSError, LlmcError)) as failure:
        convert(source, target, *flags)
    assert sorted(target.parent.rglob("*")) == before
    sentence = cli.sentence(failure.value)
    assert "\n" not in sentence
    return sentence


def edit(path: Path, **changes: object) -> None:
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


@pytest.mark.parametrize("name, changes, sentence", [
    ("llama", {"model_type": "mamba"}, "model_type is 'mamba'; llmc knows gpt2, llama, qwen2, qwen3"),
    ("llama", {"model_type": ...}, "config.json"),
    ("llama", {"attention_bias": True}, "mlp_bias is False; llmc computes only True"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is gelu; llmc computes only silu"),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters: rope_type is 'yarn'"),
    ("llama", {"rope_parameters": None, "rope_scaling": {"type": "dynamic"}}, "rope_scaling: rope_type is 'dynamic'"),
    ("llama", {"rope_parameters": {**LLAMA_3, "beta": 2}}, "beta is 2, which llmc does not know"),
    ("llama", {"rope_parameters": {**LLAMA_3, "factor": 0}}, "rope_factor is 0"),
    ("llama", {"rope_parameters": {"rope_type": ["linear"]}}, "rope_parameters: rope_type is ['linear']"),
    ("llama", {"rope_parameters": "linear"}, "rope_parameters is 'linear', wanted an object"),
    ("llama", {"num_attention_heads": 0, "head_dim": None}, "num_attention_heads is 0, wanted 1 or more"),
    ("qwen2", {"layer_types": True}, "layer_types is True, wanted a list"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; llmc computes only 1.0"),
    ("llama", {"logit_scale": 8}, "logit_scale is 8, which llmc does not know; if it changes no number, pass --ignore"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
    ("llama", {"hidden_size": "48"}, "hidden_size is '48', wanted a number"),
    ("llama", {"num_hidden_layers": ...}, "num_hidden_layers is missing, wanted a number"),
    ("llama", {"num_hidden_layers": 2}, "it holds layers.2."),
    ("llama", {"num_hidden_layers": 4}, "the tensor layers.3.input_layernorm.weight is missing"),
    ("llama", {"intermediate_size": 60}, "layers.0.mlp.gate_proj.weight is 61 x 48, wanted 60 x 48"),
    ("llama", {"vocab_size": 300}, "embed_tokens.weight is 293 x 48, wanted 300 x 48"),
    ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True; llmc computes only False"),
    ("qwen2", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types[1] is sliding"),
    ("qwen3", {"attention_bias": True}, "attention_bias is True; llmc computes only False"),
    ("gpt2", {"activation_function": "relu"}, "activation_function is relu; llmc computes only gelu_new or"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
])
def test_a_config_that_would_be_computed_otherwise(copy, tmp_path, name, changes, sentence):
    source = copy(name)
    edit(source / "config.json", **changes)
    found = refusal(source, tmp_path / "target")
    assert sentence in found and str(source) in found or "rope_factor" in sentence


def test_a_key_that_changes_nothing_can_be_passed_over(copy, tmp_path):
    source = copy("llama")
    edit(source / "config.json", a_note="hello")
    assert "a_note is 'hello'" in refusal(source, tmp_path / "target")
    convert(source, tmp_path / "target", "--ignore", "a_note")


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("change, sentence", [
    (lambda t: t.pop("model.norm.weight"), "the tensor norm.weight is missing"),
    (lambda t: t.update(extra=np.zeros(3, np.float32)), "it holds extra, which this model has not"),
    (lambda t: t.update({"model.norm.weight": np.zeros(47, np.float32)}), "norm.weight is 47, wanted 48"),
    (lambda t: t.update({"model.norm.weight": np.zeros(48, np.int64)}), "norm.weight is of type I64; F32, BF16 and")])
def test_tensors_that_do_not_fit(copy, tmp_path, change, sentence):
    source = copy("llama")
    change_tensors(source, change)
    found = refusal(source, tmp_path / "target")
    assert sentence in found and str(source) in found


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("damage, sentence", [
    (lambda f: cut(f / "model.safetensors", 5000), "model.safetensors"),
    (lambda f: cut(f / "model.safetensors", 100), "wanted a safetensors file"),
    (lambda f: (f / "model.safetensors").unlink(), "holds neither model.safetensors nor model.safetensors.index"),
    (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pytorch_model.bin is not read, only safe"),
    (lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"), "run git lfs pull"),
    (lambda f: cut(f / "config.json", 50), "config.json is no JSON"),
    (lambda f: (f / "config.json").unlink(), "source"),
    (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer.json; give its tokenizer by --tokenizer, or"),
    (lambda f: cut(f / "tokenizer.json", 500), "tokenizer.json is no JSON"),
    (lambda f: (f / "tokenizer_config.json").write_text("[]"), "tokenizer_config.json"),
    (lambda f: (f / "chat_template.jinja").write_bytes(b"{{\xff"), "source/chat_template.jinja is not UTF-8 at byte 2"),
    (lambda f: edit(f / "generation_config.json", eos_token_id="x"), "generation_config.json: eos_token_id is 'x'"),
    (lambda f: edit(f / "generation_config.json", eos_token_id=2**63), f"eos_token_id is {2**63}, but"),
    (lambda f: edit(f / "config.json", vocab_size=0), "vocab_size"),
])
def test_a_damaged_folder(copy, tmp_path, damage, sentence):
    source = copy("llama")
    damage(source)
    assert sentence in refusal(source, tmp_path / "target.gguf")


def test_templates_that_are_none_are_passed_over(copy, tmp_path):
    source = copy("llama")
    (source / "chat_template.jinja").unlink(missing_ok=True)
    edit(source / "tokenizer_config.json", chat_template=[5, {"name": "default", "template": "{{ messages }}"}])
    convert(source, tmp_path / "target.gguf")
    assert b"{{ messages }}" in (tmp_path / "target.gguf").read_bytes()


@pytest.mark.parametrize("damage, sentence", [
    (lambda f: next(f.glob("model-00002*")).unlink(), "model-00002-of-"),
    (lambda f: cut(next(f.glob("model-00002*")), 300), "model-00002-of-"),
    (lambda f: edit(f / "model.safetensors.index.json", weight_map={}), "is missing"),
    (lambda f: edit(f / "model.safetensors.index.json", weight_map={"x": "../x.safetensors"}), "names ../x.safe"),
    (lambda f: edit(f / "model.safetensors.index.json", weight_map=3), "'weight_map' is int, wanted dict"),
    (lambda f: shutil.copy(next(f.glob("model-00001*")), next(f.glob("model-00002*"))), "but not in"),
])
def test_a_folder_that_was_downloaded_in_part(copy, tmp_path, damage, sentence):
    source = copy("sharded")
    damage(source)
    assert sentence in refusal(source, tmp_path / "target")


def test_a_tokenizer_of_more_symbols_than_the_model_has(copy, tmp_path):
    ranks = {bytes([b]): b for b in range(256)} | {b"a" * n: 254 + n for n in range(2, 60)}
    large = Tokenizer("large", Encoding(r"[\s\S]+", ranks, {"<|endoftext|>": 314})).to_json()
    source = copy("llama")
    (source / "tokenizer.json").write_bytes(large)
    for target in ("target", "target.gguf"):
        assert "has 315 symbols, but the model knows 293" in refusal(source, tmp_path / target)


def test_text_that_llama_cpp_would_cut_otherwise(copy, tmp_path):
    data = json.loads(tokenizer().to_json())
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W+"
    source = copy("llama")
    (source / "tokenizer.json").write_text(json.dumps(data))
    assert "is none that llama.cpp has a name for" in refusal(source, tmp_path / "target.gguf")
    convert(source, tmp_path / "target")


@pytest.mark.parametrize("flags, target, sentence", [
    (["--to", "gguf"], "target", "is no name for --to gguf; GGUF files end in .gguf"),
    (["--to", "hf"], "target.gguf", "is no name for --to hf"),
    (["--dtype", "q8_0"], "target", "--dtype q8_0 is for GGUF"),
    (["--tokenizer", "none"], "target.gguf", "tokenizer.json is missing, and a GGUF file holds its tokenizer"),
    (["--tokenizer", "gpt2"], "target", "has 50,257 symbols, but the model knows 293"),
    (["--tokenizer", "nowhere.bin"], "target", "nowhere.bin is not there"),
])
def test_flags_that_contradict(published, tmp_path, flags, target, sentence):
    assert sentence in refusal(published / "llama", tmp_path / target, *flags)


def test_what_is_there_is_replaced_only_if_asked_and_if_a_conversion_made_it(published, tmp_path):
    target = tmp_path / "target"
    convert(published / "llama", target)
    old = (target / "model.safetensors").read_bytes()
    assert f"{target} is there already" in refusal(published / "gpt2", target)
    convert(published / "gpt2", target, "--overwrite")
    assert (target / "model.safetensors").read_bytes() != old
    (target / "notes").mkdir()
    assert "holds a folder, notes" in refusal(published / "llama", target, "--overwrite")
    (tmp_path / "home").mkdir()
    assert "was not made by a conversion" in refusal(published / "llama", tmp_path / "home", "--overwrite")
    (target / "notes").rmdir()
    (target / "state.json").write_text("{}")        # of a run: what else lies there cannot be made again
    assert "holds state.json, which no conversion makes" in refusal(published / "llama", target, "--overwrite")
    convert(published / "llama", tmp_path / "own")
    assert "holds the source" in refusal(tmp_path / "own", tmp_path / "own", "--overwrite")


def test_a_target_may_lead_through_itself(published, tmp_path):
    convert(published / "llama", tmp_path / "target")
    convert(published / "gpt2", tmp_path / "target" / ".." / "target", "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("target", ["target", "target.gguf"])
def test_a_failure_while_writing_leaves_what_was_there(published, tmp_path, monkeypatch, target):
    convert(published / "llama", tmp_path / target)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(*args):
        raise OSError(28, "No space left on device", "model.safetensors")
    monkeypatch.setattr(stage.model_files.lazy, "as_type", fail)
    assert "No space left" in refusal(published / "gpt2", tmp_path / target, "--overwrite")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "No space left" in refusal(published / "gpt2", tmp_path / "new" / "folders" / target)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("target", ["target", "target.gguf"])
def test_a_disk_that_is_full_is_said_of_the_target(published, tmp_path, monkeypatch, target):
    """Where the system's error names no file."""
    def fail(*args):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(stage.model_files.lazy, "as_type", fail)
    says = refusal(published / "gpt2", tmp_path / target)
    assert says == f"{tmp_path / target}: No space left on device"


def test_a_disk_that_a_gguf_file_fills_is_named(published, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("2880 requested and 0 written")       # as numpy says it
    monkeypatch.setattr("gguf.GGUFWriter.write_tensor_data", fail)
    assert f"{tmp_path}: cannot write all of the GGUF file" in refusal(published / "llama", tmp_path / "target.gguf")


def test_sources_that_are_nothing_known(published, tmp_path, monkeypatch):
    convert(published / "llama", tmp_path / "m.gguf")
    (tmp_path / "x.bin").write_bytes(struct.pack("<7i", 5, 3, 1, 2, 1, 9, 8))
    (tmp_path / "short.bin").write_bytes(b"1234")
    (tmp_path / "newer.bin").write_bytes(struct.pack("<7i", 0x616B3432, 1, 1, 2, 1, 9, 8))
    shutil.copy(tmp_path / "m.gguf", tmp_path / "m.bin")
    for source, sentence in [(tmp_path / "m.gguf", "is GGUF, which llmc writes and does not read"),
                             (tmp_path / "m.bin", "is GGUF, which llmc writes and does not read"),
                             (published / "llama" / "model.safetensors", "is part of a model; give its folder"),
                             (tmp_path / "x.bin", "is neither llm.c's nor llama2.c's"),
                             (tmp_path / "short.bin", "has 4 bytes, wanted llama2.c's header of 28"),
                             (tmp_path / "newer.bin", "is llama2.c's version 1"),
                             (tmp_path, "holds neither a checkpoint nor a run"),
                             (tmp_path / "no where", "is no file or folder")]:
        assert sentence in refusal(source, tmp_path / "target")


def test_a_name_on_the_hub_is_taken_from_there(published, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(name)
        if name == "openai-community/gpt2":
            return str(published / "gpt2")
        raise RuntimeError("401 Client Error\nRepository Not Found")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    convert("openai-community/gpt2", tmp_path / "gpt2")
    assert (tmp_path / "gpt2" / "model.safetensors").is_file()
    found = refusal("runs/typo", tmp_path / "target")
    assert "runs/typo is no file or folder here, and the Hugging Face hub does not give it: 401" in found
    assert asked == ["openai-community/gpt2", "runs/typo"]


def c_model(tmp_path: Path, **header: int) -> Path:
    """A GPT-2 of llm.c without weights."""
    fields = dict(magic=20240326, version=3, T=8, V=50, L=1, H=2, C=4, Vp=64) | header
    path = tmp_path / "model.bin"
    path.write_bytes(np.array([*fields.values(), *[0] * 248], np.int32).tobytes())
    return path


@pytest.mark.parametrize("header, sentence", [
    ({}, "model.bin has 1,024 bytes, and by its header 3,"), ({"version": 1}, "is of version 1; 3 (f32) and 5 (bf16)"),
    ({"H": 3}, "n_embd 4 is not divisible by n_head 3"), ({"Vp": 40}, "padded_vocab_size is 40, wanted 50"),
    ({"L": 10**9}, "n_layer is 1000000000, wanted 1 to 4096")])
def test_a_damaged_file_of_llm_c(tmp_path, header, sentence):
    assert sentence in refusal(c_model(tmp_path, **header), tmp_path / "target", "--tokenizer", "none")


def test_a_header_of_llm_c_that_was_cut(tmp_path):
    cut(c_model(tmp_path), 100)
    assert "has 100 bytes, wanted a header of 1024; it was cut" in refusal(tmp_path / "model.bin", tmp_path / "target")


@pytest.mark.parametrize("damage, sentence", [
    (lambda p: cut(p, p.stat().st_size - 1), "it was cut"), (lambda p: cut(p, 6), "ends within token 0; it was cut"),
    (lambda p: p.write_bytes(p.read_bytes() + struct.pack("<fi", 0, 1) + b"q"), "holds 263 tokens, but the model kno"),
    (lambda p: p.write_bytes(p.read_bytes().replace(b"<0x41>", b"<0x4z>")), "not all of the tokens <0x00> to <0xFF>"),
    (lambda p: p.write_bytes(p.read_bytes().replace(b"he", b"h\xff")), "is no UTF-8")])
def test_a_damaged_tokenizer_of_llama2_c(tmp_path, damage, sentence):
    write_tokenizer_bin(tmp_path / "tokenizer.bin", [b"he", b"h", b"e"])
    damage(tmp_path / "tokenizer.bin")
    header = struct.pack("<7i", 4, 8, 1, 2, 2, 262, 8)
    numbers = 262 * 4 + 4 + 4 * 16 + 4 + 3 * 32 + 4 + 2 * 8
    (tmp_path / "model.bin").write_bytes(header + bytes(4 * numbers))
    assert sentence in refusal(tmp_path / "model.bin", tmp_path / "target")


def test_it_is_a_command(published, tmp_path, capsys):
    assert cli.guarded(lambda: run(cli.parse(Convert, [str(published / "llama"), str(tmp_path / "m.gguf"),
                                                       "--dtype", "q8_0"]))) == 0
    out = capsys.readouterr().out
    assert "llama: Hugging Face, 77,856 parameters in f32" in out and "m.gguf: gguf, q8_0," in out
    assert cli.guarded(lambda: run(cli.parse(Convert, [str(tmp_path), str(tmp_path / "x"), "--to", "onnx"]))) == 1
    assert capsys.readouterr().err.count("\n") == 1
