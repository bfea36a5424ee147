"""convert: llm.c's and llama2.c's files, written here by their layout from a model of transformers."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from converting import (convert, logits_of_folder, logits_of_llama_cpp, logits_of_llmc, logits_of_torch, open_llama_cpp,
                        random_model, some_tokens, write_tokenizer_bin)
from llmc import llama2_c
from llmc.checkpoint import Checkpoint, encode_prompt, open_checkpoint
from llmc.engine import Engine
from llmc.request import Request
from llmc.tokenizer import Tokenizer

TOKENS = some_tokens()
WORDS = [b" t", b"he", b" the", b"in", b" ", b"t", b"h", b"e", b"i", b"n", "é".encode(), b"  ", b"    "]


def raw(tensor: torch.Tensor, bf16: bool = False) -> bytes:
    tensor = tensor.detach().contiguous()
    return tensor.to(torch.bfloat16).view(torch.int16).numpy().tobytes() if bf16 else tensor.numpy().tobytes()


def write_llm_c(path: Path, model, version: int, padded: int) -> None:
    """Header, then each kind of parameter with all layers; Conv1D keeps (in, out), llm.c (out, in)."""
    config, blocks, bf16 = model.config, model.transformer.h, version == 5
    header = np.zeros(256, np.int32)
    header[:8] = (20240326, version, config.n_positions, config.vocab_size, config.n_layer, config.n_head,
                  config.n_embd, padded)
    wte = torch.nn.functional.pad(model.transformer.wte.weight, (0, 0, 0, padded - config.vocab_size))
    parts = [wte, model.transformer.wpe.weight]
    for get in (lambda b: b.ln_1, lambda b: b.attn.c_attn, lambda b: b.attn.c_proj, lambda b: b.ln_2,
                lambda b: b.mlp.c_fc, lambda b: b.mlp.c_proj):
        parts += [get(b).weight.T if get(b).weight.ndim == 2 else get(b).weight for b in blocks]
        parts += [get(b).bias for b in blocks]
    parts += [model.transformer.ln_f.weight, model.transformer.ln_f.bias]
    path.write_bytes(header.tobytes() + b"".join(raw(part, bf16) for part in parts))


def neighbours(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (i, i + D/2) of each head, which transformers turns, to (2i, 2i + 1), which llama2.c turns."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_llama2_c(path: Path, model) -> None:
    c, layers = model.config, model.model.layers
    tied = c.tie_word_embeddings
    header = struct.pack("<7i", c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads,
                         c.num_key_value_heads, c.vocab_size if tied else -c.vocab_size, c.max_position_embeddings)
    parts = [model.model.embed_tokens.weight]
    for get in (lambda b: b.input_layernorm.weight,
                lambda b: neighbours(b.self_attn.q_proj.weight, c.num_attention_heads),
                lambda b: neighbours(b.self_attn.k_proj.weight, c.num_key_value_heads),
                lambda b: b.self_attn.v_proj.weight, lambda b: b.self_attn.o_proj.weight,
                lambda b: b.post_attention_layernorm.weight, lambda b: b.mlp.gate_proj.weight,
                lambda b: b.mlp.down_proj.weight, lambda b: b.mlp.up_proj.weight):
        parts += map(get, layers)
    half = c.hidden_size // c.num_attention_heads // 2
    parts += [model.model.norm.weight, *[torch.zeros(c.max_position_embeddings, half)] * 2]
    parts += [] if tied else [model.lm_head.weight]
    path.write_bytes(header + b"".join(map(raw, parts)))


@pytest.mark.parametrize("version, padded", [(3, 384), (5, 293)])
def test_llm_cs_gpt2_is_read(version, padded, tmp_path):
    model = random_model("gpt2", torch.float32 if version == 3 else torch.bfloat16)
    write_llm_c(tmp_path / "model.bin", model, version, padded)
    convert(tmp_path / "model.bin", tmp_path / "ours", "--tokenizer", "none")
    convert(tmp_path / "model.bin", tmp_path / "theirs", "--to", "hf", "--tokenizer", "none")
    wanted = logits_of_torch(model.to(torch.float32), TOKENS)
    assert np.abs(logits_of_folder(tmp_path / "theirs", TOKENS) - wanted).max() < 1e-5
    assert not (tmp_path / "ours" / "tokenizer.json").exists()
    (tmp_path / "ours" / "tokenizer.json").write_bytes(bytes_tokenizer())
    assert np.abs(logits_of_llmc(tmp_path / "ours", TOKENS) - wanted).max() < 1e-4


def bytes_tokenizer() -> bytes:
    from converting import tokenizer

    return tokenizer().to_json()


@pytest.mark.parametrize("case", ["llama, tied", "llama, for q8_0"])     # the second is neither tied nor square
def test_llama2_cs_models_are_read(case, tmp_path):
    model = random_model(case)
    model.config.rms_norm_eps = 1e-5                    # what llama2.c has, and does not write
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-5
    write_llama2_c(tmp_path / "model.bin", model)
    filling = [b"z" * n for n in range(1, 293 - 259 - len(WORDS) + 1)]
    write_tokenizer_bin(tmp_path / "tokenizer.bin", WORDS + filling)
    convert(tmp_path / "model.bin", tmp_path / "ours")
    wanted = logits_of_torch(model, TOKENS)
    assert np.abs(logits_of_llmc(tmp_path / "ours", TOKENS) - wanted).max() < 1e-4
    assert open_checkpoint(tmp_path / "ours").ends == {1, 2}
    convert(tmp_path / "ours", tmp_path / "theirs")
    assert np.abs(logits_of_folder(tmp_path / "theirs", TOKENS) - wanted).max() < 1e-5
    convert(tmp_path / "ours", tmp_path / "model.gguf")
    assert np.abs(logits_of_llama_cpp(tmp_path / "model.gguf", TOKENS) - wanted).max() < 1e-3


def encode_as_run_c(text: str, words: list[bytes]) -> list[int]:
    """SentencePiece's BPE the slow way: the best pair of all neighbours, the leftmost of equals."""
    score = {word: -i for i, word in enumerate(words)}
    ids = {word: 259 + i for i, word in enumerate(words)}
    parts = [c.encode() for c in " " + text] if text else []
    while True:
        pairs = [(score[a + b], -i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in score
                 and a in score and b in score]
        if not pairs:
            return [id for part in parts for id in ([ids[part]] if part in ids else [byte + 3 for byte in part])]
        i = -max(pairs)[1]
        parts[i:i + 2] = [parts[i] + parts[i + 1]]


@pytest.mark.parametrize("text", ["the théinn", "  in  the     hen ", "", "\n\tx", "한 the", "<s>", "in <unk> n"])
def test_llama2_cs_tokenizer_encodes_as_before(text, tmp_path):
    write_tokenizer_bin(tmp_path / "tokenizer.bin", WORDS)
    (tmp_path / "tokenizer.json").write_bytes(llama2_c.tokenizer_json(tmp_path / "tokenizer.bin", 259 + len(WORDS)))
    tokenizer = Tokenizer.load(tmp_path)
    ids = tokenizer.encode(text)
    assert ids == encode_as_run_c(text, WORDS)
    assert tokenizer.decode(ids) == text
    assert (tokenizer.bos, tokenizer.eot, tokenizer.vocab_size) == (1, 2, 259 + len(WORDS))


def published_text(path: Path) -> str:
    """The first text after a command of run.c in stories260K.md."""
    return path.read_text(encoding="utf-8").split("tok512.bin -t 0.0\n")[1].split("\n```")[0]


def told(checkpoint: Checkpoint, prompts: list[str], max_tokens: int) -> list[str]:
    """The likeliest texts after the prompts, written side by side."""
    engine = Engine(checkpoint.model, checkpoint.tokenizer, rows=len(prompts), ends=checkpoint.ends)
    return [text.text for text, in engine.generate(
        [Request(encode_prompt(checkpoint, prompt), max_tokens, temperature=0) for prompt in prompts])]


@pytest.mark.shared
def test_stories260k_tells_its_published_story(shared, tmp_path):
    """Word for word: alone, and with six others beside it."""
    folder = shared / "data" / "models" / "stories260K"
    convert(folder / "stories260K.bin", tmp_path / "ours", "--tokenizer", folder / "tok512.bin")
    checkpoint = open_checkpoint(tmp_path / "ours")
    published = published_text(folder / "stories260K.md")
    assert told(checkpoint, [""], 256) == [published]
    others = ["Lily", "One day, a cat", "The sun", "Tom and his dog", "It was", "A big red ball"]
    assert told(checkpoint, [*others[:3], "", *others[3:]], 256)[3] == published
    assert published.startswith("Once upon a time" + told(checkpoint, ["Once upon a time"], 40)[0])


@pytest.mark.shared
def test_stories260k_is_the_same_to_llama_cpp(shared, tmp_path):
    folder = shared / "data" / "models" / "stories260K"
    for target in ("ours", "model.gguf"):
        convert(folder / "stories260K.bin", tmp_path / target, "--tokenizer", folder / "tok512.bin")
    text = "Once upon a time  there was a naïve 한 \n\n girl"
    tokens = np.array([1, *Tokenizer.load(tmp_path / "ours").encode(text)], np.int32)
    assert open_llama_cpp(tmp_path / "model.gguf").get_vocab().tokenize(text, True, False) == tokens.tolist()
    wanted = logits_of_llmc(tmp_path / "ours", tokens)
    assert np.abs(logits_of_llama_cpp(tmp_path / "model.gguf", tokens) - wanted).max() < 1e-3


@pytest.mark.shared
def test_llama_2s_tokenizer_is_sentencepieces(shared, tmp_path):
    import sentencepiece

    folder = shared / "data" / "models" / "llama2_tokenizer"
    theirs = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    (tmp_path / "tokenizer.json").write_bytes(llama2_c.tokenizer_json(folder / "tokenizer.bin", 32000))
    ours = Tokenizer.load(tmp_path)
    text = (shared / "data" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    rng = np.random.default_rng(1)
    odd = ["".join(rng.choice(list("  \n\tab,.é한🤷"), 40)) for _ in range(300)]
    for part in [text[at:at + 2003] for at in range(0, len(text), 20_030)] + odd + [" " * 37, "naïve \x01\r\n"]:
        assert ours.encode(part) == theirs.encode(part)
        assert ours.decode(ours.encode(part)) == part
