"""The engine against Hugging Face's models: their weights, in ours, give the same logits and
the same gradients."""

import numpy as np
import pytest
import torch
from dev.reference.model import numbers
from parity import batch, engine, grads, slopes, worst
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel
from transformers.models.llama import LlamaConfig, LlamaForCausalLM
from transformers.models.qwen2 import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen3 import Qwen3Config, Qwen3ForCausalLM

import llmc
from llmc import hugging_face, lazy
from llmc.hugging_face_config import config_from

GPT2 = dict(
    vocab_size=97, n_positions=33, n_embd=36, n_layer=3, n_head=3, bos_token_id=0, eos_token_id=0
)
LLAMA = dict(
    vocab_size=89, max_position_embeddings=40, hidden_size=48, intermediate_size=61,
    num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, rms_norm_eps=1e-6,
)  # fmt: skip
CASES = {
    "gpt2": GPT2,
    "gpt2, narrow MLP, untied": dict(GPT2, n_inner=50, tie_word_embeddings=False),
    "llama, grouped": dict(LLAMA, head_dim=10),
    "llama, tied, every head its own keys": dict(
        LLAMA, num_key_value_heads=6, tie_word_embeddings=True
    ),
    "llama with biases and slow RoPE": dict(
        LLAMA,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    ),
    "llama, stretched": dict(       # 4 of 16 pairs are left alone, 4 go over, 8 are slowed
        LLAMA,
        head_dim=32,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 1e3, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 130,
        },
    ),
    "llama, positions divided": dict(
        LLAMA, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}
    ),
    "qwen2, tied": dict(LLAMA, tie_word_embeddings=True),
    "qwen3, heads wider than the stream": dict(LLAMA, head_dim=22, tie_word_embeddings=True),
}
FAMILIES = {
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def to_params(theirs, config):
    found = {name: lazy.of(array) for name, array in theirs.items()}
    ours = hugging_face.assemble(found, config, "theirs")
    return {name: lazy.as_type(tensor, "f32") for name, tensor in ours.items()}


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_hugging_faces(case):
    torch.manual_seed(0)
    family = case.split(",")[0].split()[0]
    their_config, their_model = FAMILIES[family]
    theirs = their_model(their_config(**CASES[case]))
    for name, p in theirs.named_parameters():       # theirs begin with biases of 0 and norms of 1
        torch.nn.init.normal_(p, 1.0 if "norm" in name or "ln_" in name else 0.0, 0.15)

    config = llmc.Config(**config_from(theirs.config.to_dict(), family))
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    model = engine(config, to_params(state, config), 3, 29)
    assert config.param_count() == sum(p.numel() for p in theirs.parameters())
    tokens, targets = batch(config, 3, 29)
    logits = theirs.eval()(torch.tensor(tokens).long()).logits
    model.forward(tokens, targets)
    got = model.logits(0, tokens.size).reshape(logits.shape)
    assert np.linalg.norm(got - logits.detach().numpy()) < 1e-5 * torch.linalg.norm(logits)

    given = slopes(config, 3, 29)
    found = numbers(logits, torch.tensor(targets).long())
    found = dict(zip(("logp", "lse", "entropy"), found, strict=True))
    sum((found[name] * torch.tensor(slope)).sum() for name, slope in given.items()).backward()
    model.backward(given)
    grads_of_theirs = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    distance, part = worst(config, grads(model), to_params(grads_of_theirs, config))
    assert distance < 1e-4, part


# What stands in the config.json of models that people know, and how many parameters they have.
PUBLISHED = {
    "Llama 3.2 1B": (1_235_814_400, dict(
        model_type="llama", vocab_size=128256, max_position_embeddings=131072, hidden_size=2048,
        intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, hidden_act="silu", attention_bias=False, mlp_bias=False, rms_norm_eps=1e-5,
        tie_word_embeddings=True, rope_theta=500000.0, rope_scaling={
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
    )),
    "Qwen 2.5 0.5B": (494_032_768, dict(
        model_type="qwen2", vocab_size=151936, max_position_embeddings=32768, hidden_size=896,
        intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        hidden_act="silu", rms_norm_eps=1e-6, tie_word_embeddings=True, rope_theta=1000000.0,
        sliding_window=32768, use_sliding_window=False,
    )),
    "Qwen 3 0.6B": (596_049_920, dict(
        model_type="qwen3", vocab_size=151936, max_position_embeddings=40960, hidden_size=1024,
        intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, hidden_act="silu", attention_bias=False, rms_norm_eps=1e-6,
        tie_word_embeddings=True, rope_theta=1000000, rope_scaling=None, use_sliding_window=False,
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_the_model_it_says(name):
    count, theirs = PUBLISHED[name]
    config = llmc.Config(**config_from(theirs, name))
    model = llmc.Model(llmc.Device("cpu", 1), config)
    assert config.param_count() == count
    assert ("h.0.attn.qkv.bias" in model.names) == name.startswith("Qwen 2")
    assert ("h.0.attn.q_norm.weight" in model.names) == name.startswith("Qwen 3")
    assert config.rope_scaling == ("llama3" if name.startswith("Llama") else "none")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"hidden_act": "gelu"}, "c.json: hidden_act is gelu; llmc computes only silu"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ({"attention_bias": True}, "mlp_bias is False; llmc computes only True"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias is True"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is True"),
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
    ],
)
def test_a_model_we_would_compute_wrongly_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        config_from({"model_type": "llama", **LLAMA, "mlp_bias": False, **change}, "c.json")
