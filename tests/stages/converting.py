"""What tests of conversions share: tiny published models, and what others compute from them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import torch
from llmc import cli
from llmc.convert import Convert, run
from llmc.encodings import EOT, GPT4_PATTERN, Encoding
from llmc.checkpoint import open_checkpoint
from llmc.tokenizer import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel
from transformers.models.llama import LlamaConfig, LlamaForCausalLM
from transformers.models.qwen2 import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen3 import Qwen3Config, Qwen3ForCausalLM

TEXT = "The théâtre, 12345 times:\n\n  it's <|im_start|> 한국어!"
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% endfor %}"
MERGED = [b"th", b"the", b" t", b" the", b"it", b"im"]

# Sizes are odd where they can be: llama.cpp wants RoPE's heads even, and rows of 32 for q8_0.
GPT2 = dict(vocab_size=293, n_positions=41, n_embd=36, n_layer=3, n_head=3)
LLAMA = dict(vocab_size=293, max_position_embeddings=40, hidden_size=48, intermediate_size=61, num_hidden_layers=3,
             num_attention_heads=6, num_key_value_heads=2, rms_norm_eps=1e-6)
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 1e3, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 130}
CASES = {
    "gpt2": (GPT2Config, GPT2LMHeadModel, GPT2),
    "gpt2, narrow MLP": (GPT2Config, GPT2LMHeadModel, dict(GPT2, n_inner=50)),
    "llama, grouped": (LlamaConfig, LlamaForCausalLM, dict(LLAMA, head_dim=10)),
    "llama, tied": (LlamaConfig, LlamaForCausalLM, dict(LLAMA, num_key_value_heads=6, tie_word_embeddings=True)),
    "llama 3.1": (LlamaConfig, LlamaForCausalLM, dict(LLAMA, head_dim=32, rope_parameters=LLAMA_3)),
    "llama with biases": (LlamaConfig, LlamaForCausalLM, dict(LLAMA, attention_bias=True, mlp_bias=True)),
    "llama, positions divided": (LlamaConfig, LlamaForCausalLM, dict(LLAMA, rope_parameters={
        "rope_type": "linear", "rope_theta": 1e4, "factor": 2.5})),
    "llama, for q8_0": (LlamaConfig, LlamaForCausalLM, dict(LLAMA, hidden_size=96, intermediate_size=128)),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, dict(LLAMA, tie_word_embeddings=True)),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, dict(LLAMA, head_dim=22)),
}


def tokenizer() -> Tokenizer:
    """Bytes, some merges, and tokens of a chat."""
    ranks = {token: i for i, token in enumerate([*(bytes([b]) for b in range(256)), *MERGED])}
    special = {EOT: len(ranks), "<|im_start|>": len(ranks) + 1}
    return Tokenizer("tiny", Encoding(GPT4_PATTERN, ranks, special))


def random_model(case: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Weights that leave no term out: theirs begin with biases of 0 and norms of 1."""
    config, model, fields = CASES[case]
    torch.manual_seed(0)
    made = model(config(bos_token_id=262, eos_token_id=262, **fields)).eval()
    for name, p in made.named_parameters():
        torch.nn.init.normal_(p, 1.0 if "norm" in name or "ln_" in name else 0.0, 0.15)
    return made.to(dtype)


def publish(folder: Path, case: str, dtype: torch.dtype = torch.float32, **save) -> torch.nn.Module:
    """A Hugging Face folder of a random model; `save` is for transformers."""
    made = random_model(case, dtype)
    made.save_pretrained(folder, **save)
    (folder / "tokenizer.json").write_bytes(tokenizer().to_json())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOT, "bos_token": EOT}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return made


def convert(source: Path, target: Path, *flags: object) -> None:
    run(cli.parse(Convert, [str(source), str(target), *map(str, flags)]))


def some_tokens(size: int = 293, count: int = 29) -> np.ndarray:
    return np.random.default_rng(1).integers(0, size, count).astype(np.int32)


def logits_of_torch(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens[None]).long()).logits[0].float().numpy()


def logits_of_folder(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """What transformers computes of a folder; every tensor must find its place."""
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), found
    return logits_of_torch(model.eval(), tokens)


def logits_of_llmc(folder: Path, tokens: np.ndarray) -> np.ndarray:
    model = open_checkpoint(folder, dtype="f32").model
    model.plan(1, len(tokens), train=False)
    model.read(tokens[None])
    return model.logits(0, len(tokens))


def logits_of_llama_cpp(path: Path, tokens: np.ndarray) -> np.ndarray:
    """One token at a time, keys and values in f32."""
    from cyllama.llama import llama_cpp

    model = open_llama_cpp(path)
    params = llama_cpp.LlamaContextParams()
    params.n_ctx = params.n_batch = params.n_ubatch = 64
    params.type_k = params.type_v = params.flash_attn_type = 0
    context = llama_cpp.LlamaContext(model, params, verbose=False)
    rows = []
    for place, token in enumerate(tokens):
        batch = llama_cpp.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1)
        batch.add(int(token), place, [0], True)
        assert context.decode(batch) == 0
        rows.append(np.array(context.get_logits(), np.float32))
    return np.array(rows)


def open_llama_cpp(path: Path):
    from cyllama.llama import llama_cpp

    class Sized(llama_cpp.LlamaModel):      # what the context asks its model for, and does not find
        n_vocab = property(lambda self: self.get_vocab().n_vocab)

    llama_cpp.disable_logging()
    params = llama_cpp.LlamaModelParams()
    params.n_gpu_layers = 0
    return Sized(str(path), params, verbose=False)


def write_tokenizer_bin(path: Path, words: list[bytes]) -> None:
    """llama2.c's: special tokens, bytes, then words, the first the best."""
    tokens = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % b for b in range(256))]
    scored = [(0.0, token) for token in tokens] + [(-float(i), word) for i, word in enumerate(words)]
    path.write_bytes(struct.pack("<i", max(map(len, words))) + b"".join(
        struct.pack("<fi", score, len(token)) + token for score, token in scored))
