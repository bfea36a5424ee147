"""A Hugging Face GPT-2, Llama or Qwen -> our config and parameters: renamed, packed, padded."""

from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

# Where each of a block's parts comes from; what has several sources is stacked row upon row.
GPT2_BLOCK = {
    "ln_1": ["ln_1"],
    "attn.qkv": ["attn.c_attn"],
    "attn.proj": ["attn.c_proj"],
    "ln_2": ["ln_2"],
    "mlp.up": ["mlp.c_fc"],
    "mlp.down": ["mlp.c_proj"],
}
LLAMA_BLOCK = {
    "ln_1": ["input_layernorm"],
    "attn.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.q_norm": ["self_attn.q_norm"],
    "attn.k_norm": ["self_attn.k_norm"],
    "attn.proj": ["self_attn.o_proj"],
    "ln_2": ["post_attention_layernorm"],
    "mlp.up": ["mlp.gate_proj", "mlp.up_proj"],
    "mlp.down": ["mlp.down_proj"],
}


def config_from_gpt2(theirs: dict[str, Any]) -> dict[str, Any]:
    _want(theirs, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    _want(theirs, "scale_attn_weights", True)
    _want(theirs, "scale_attn_by_inverse_layer_idx", False)
    return dict(
        vocab_size=theirs["vocab_size"],
        max_seq_len=theirs["n_positions"],
        n_layer=theirs["n_layer"],
        n_embd=theirs["n_embd"],
        n_head=theirs["n_head"],
        n_ff=theirs.get("n_inner") or 4 * theirs["n_embd"],
        norm="layernorm",
        position="learned",
        mlp="gelu",
        bias=True,
        tied=theirs.get("tie_word_embeddings", True),
        norm_eps=theirs["layer_norm_epsilon"],
    )


def config_from_llama(theirs: dict[str, Any]) -> dict[str, Any]:
    """theirs: the config of a Llama, or of a Qwen: 2 has biases on q, k and v, 3 QK-norm."""
    kind = theirs.get("model_type", "llama")
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    _want(theirs, "hidden_act", "silu")
    _want(theirs, "model_type", "llama", "qwen2", "qwen3")
    _want(theirs, "use_sliding_window", False)
    if kind == "llama":
        _want(theirs, "mlp_bias", theirs.get("attention_bias", False))
    else:
        _want(theirs, "attention_bias", False)      # a Qwen's would leave the MLP without
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    _want({"rope_type": rope_type}, "rope_type", "default", "linear", "llama3")
    heads = theirs["num_attention_heads"]
    return dict(
        vocab_size=theirs["vocab_size"],
        max_seq_len=theirs["max_position_embeddings"],
        n_layer=theirs["num_hidden_layers"],
        n_embd=theirs["hidden_size"],
        n_head=heads,
        n_kv_head=theirs.get("num_key_value_heads") or heads,
        head_dim=theirs.get("head_dim") or theirs["hidden_size"] // heads,
        n_ff=theirs["intermediate_size"],
        norm="rmsnorm",
        position="rope",
        mlp="swiglu",
        bias=theirs.get("attention_bias", False),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        tied=theirs.get("tie_word_embeddings", False),
        norm_eps=theirs["rms_norm_eps"],
        rope_theta=rope.get("rope_theta") or theirs.get("rope_theta", 10000.0),
        rope_scaling="none" if rope_type == "default" else rope_type,
        rope_factor=rope.get("factor", 0.0),
        rope_low_freq_factor=rope.get("low_freq_factor", 0.0),
        rope_high_freq_factor=rope.get("high_freq_factor", 0.0),
        rope_original_max_seq_len=rope.get("original_max_position_embeddings", 0),
    )


def params_from_gpt2(theirs: Arrays, config: dict[str, Any]) -> Arrays:
    """theirs: GPT2LMHeadModel's tensors by name, config: ours, completed."""
    ours = _blocks(theirs, config, "transformer.h", GPT2_BLOCK)
    for name, array in ours.items():        # their Conv1D keeps a weight as (in, out)
        if array.ndim == 2:
            ours[name] = np.ascontiguousarray(array.T)
    ours["wte.weight"] = _pad(theirs["transformer.wte.weight"], config)
    ours["wpe.weight"] = theirs["transformer.wpe.weight"]
    ours["ln_f.weight"] = theirs["transformer.ln_f.weight"]
    ours["ln_f.bias"] = theirs["transformer.ln_f.bias"]
    if not config["tied"]:
        ours["lm_head.weight"] = _pad(theirs["lm_head.weight"], config)
    return ours


def params_from_llama(theirs: Arrays, config: dict[str, Any]) -> Arrays:
    """theirs: a Llama's or Qwen's tensors by name, config: ours, completed."""
    ours = _blocks(theirs, config, "model.layers", LLAMA_BLOCK)
    ours["wte.weight"] = _pad(theirs["model.embed_tokens.weight"], config)
    ours["ln_f.weight"] = theirs["model.norm.weight"]
    if not config["tied"]:
        ours["lm_head.weight"] = _pad(theirs["lm_head.weight"], config)
    return ours


def _blocks(theirs: Arrays, config: dict[str, Any], prefix: str, parts: dict) -> Arrays:
    ours = {}
    for layer in range(config["n_layer"]):
        for part, sources in parts.items():
            for kind in ("weight", "bias"):
                names = [f"{prefix}.{layer}.{source}.{kind}" for source in sources]
                if names[0] in theirs:
                    ours[f"h.{layer}.{part}.{kind}"] = np.concatenate([theirs[n] for n in names])
    return ours


def _pad(rows: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Rows of zeros below the vocabulary, up to padded_vocab_size."""
    return np.pad(rows, ((0, config["padded_vocab_size"] - len(rows)), (0, 0)))


def _want(theirs: dict[str, Any], key: str, *wanted: Any) -> None:
    found = theirs.get(key, wanted[0])
    if found not in wanted:
        from llmc import LlmcError

        choices = " or ".join(map(str, wanted))
        raise LlmcError(f"config: {key} is {found}; this engine computes only {choices}")
