"""Hugging Face's config.json to our config, and ours to theirs.

Every key of theirs is either computed with, or of the value that we compute, or known to change no
number; any other is refused by name, rather than that a model computes something else than it was
trained to.
"""
from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

Settings = dict[str, Any]

# what changes nothing a model computes from its tokens
SILENT = set("""_name_or_path architectures model_type torch_dtype dtype transformers_version use_cache
    initializer_range pretraining_tp bos_token_id eos_token_id pad_token_id task_specific_params
    attn_pdrop embd_pdrop resid_pdrop attention_dropout summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj n_ctx return_dict output_attentions
    output_hidden_states reorder_and_upcast_attn max_window_layers sliding_window id2label label2id
    unsloth_version unsloth_fixed _attn_implementation_autoset transformers.js_config
    gradient_checkpointing problem_type chunk_size_feed_forward""".split())

# what must be as we compute it; where a key is missing, it is
FIXED = {
    "gpt2": {"activation_function": ("gelu_new", "gelu_pytorch_tanh"),
             "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,),
             "add_cross_attention": (False,), "is_encoder_decoder": (False,)},
    "llama": {"hidden_act": ("silu",), "use_sliding_window": (False,),
              "partial_rotary_factor": (1.0,)},
}
FIXED["qwen2"] = FIXED["qwen3"] = {**FIXED["llama"], "attention_bias": (False,)}

# our field -> their key; None as the default: the key must be there
GPT2_KEYS = {
    "vocab_size": ("vocab_size", None), "max_seq_len": ("n_positions", None),
    "n_layer": ("n_layer", None), "n_embd": ("n_embd", None), "n_head": ("n_head", None),
    "tied": ("tie_word_embeddings", True), "norm_eps": ("layer_norm_epsilon", 1e-5),
}
LLAMA_KEYS = {
    "vocab_size": ("vocab_size", None), "max_seq_len": ("max_position_embeddings", None),
    "n_layer": ("num_hidden_layers", None), "n_embd": ("hidden_size", None),
    "n_head": ("num_attention_heads", None), "n_ff": ("intermediate_size", None),
    "tied": ("tie_word_embeddings", False), "norm_eps": ("rms_norm_eps", 1e-6),
}
ROPE_KEYS = {"rope_factor": "factor", "rope_low_freq_factor": "low_freq_factor",
             "rope_high_freq_factor": "high_freq_factor",
             "rope_original_max_seq_len": "original_max_position_embeddings"}
ROPE_USED = {"none": [], "linear": list(ROPE_KEYS)[:1], "llama3": list(ROPE_KEYS)}
KEYS = {"gpt2": GPT2_KEYS, "llama": LLAMA_KEYS, "qwen2": LLAMA_KEYS, "qwen3": LLAMA_KEYS}
CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM",
           "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def config_from(theirs: Settings, where: str, ignored: Collection[str] = ()) -> Settings:
    """The fields of our Config, all that do not follow from others. `where` names theirs in a
    ValueError's sentence; `ignored` keys are passed over."""
    theirs = {key: value for key, value in theirs.items() if key not in ignored}
    kind = theirs.get("model_type")
    if kind not in KEYS:
        raise ValueError(f"{where}: model_type is {kind!r}; llmc knows {', '.join(KEYS)}")
    ours = {field: _number(theirs, key, default, where)
            for field, (key, default) in KEYS[kind].items()}
    for key, wanted in FIXED[kind].items():
        _want(theirs, key, wanted, where)
    used = {*FIXED[kind], *(key for key, _ in KEYS[kind].values())}
    if kind == "gpt2":
        ours |= _gpt2(theirs, ours)
        used |= {"n_inner"}
    else:
        ours |= _llama(theirs, ours, kind, where)
        used |= {"num_key_value_heads", "head_dim", "attention_bias", "mlp_bias", "rope_theta",
                 "rope_scaling", "rope_parameters", "layer_types"}
    for key in theirs.keys() - used - SILENT:
        if theirs[key] not in (None, False):
            raise ValueError(f"{where}: {key} is {theirs[key]!r}, which llmc does not know; if it "
                             f"changes no number, pass --ignore {key}")
    return ours


def config_to(ours: Settings) -> Settings:
    """The config.json of one of our configs (completed), or a ValueError where no architecture of
    theirs is this."""
    kind = architecture(ours)
    # f32 as it is written shortest: 1e-05, not 9.999999747378752e-06
    ours = {field: float(str(np.float32(value))) if type(value) is float else value
            for field, value in ours.items()}
    theirs = {"architectures": [CLASSES[kind]], "model_type": kind}
    theirs |= {key: ours[field] for field, (key, _) in KEYS[kind].items()}
    if kind == "gpt2":
        return theirs | {"activation_function": "gelu_new", "n_inner": ours["n_ff"]}
    theirs |= {"num_key_value_heads": ours["n_kv_head"], "head_dim": ours["head_dim"],
               "hidden_act": "silu", "rope_theta": ours["rope_theta"]}
    if kind == "llama":
        theirs |= {"attention_bias": ours["bias"], "mlp_bias": ours["bias"]}
    if (scaling := ours["rope_scaling"]) != "none":
        theirs["rope_scaling"] = {"rope_type": scaling} | {
            ROPE_KEYS[field]: ours[field] for field in ROPE_USED[scaling]}
    return theirs


def architecture(ours: Settings) -> str:
    """Which of theirs a config of ours is."""
    made = ours["norm"], ours["position"], ours["mlp"]
    square = ours["n_head"] == ours["n_kv_head"] and (
        ours["n_head"] * ours["head_dim"] == ours["n_embd"])
    if ours["head"] != "lm":
        raise ValueError(f"a model with a {ours['head']} head is no language model; "
                         "only those with an lm head can be exported")
    if made == ("layernorm", "learned", "gelu") and square and ours["bias"]:
        return "gpt2"
    added = ours["qkv_bias"] and not ours["bias"], ours["qk_norm"]
    llamas = {(False, False): "llama", (True, False): "qwen2", (False, True): "qwen3"}
    if made == ("rmsnorm", "rope", "swiglu") and added in llamas and not (
            ours["qk_norm"] and ours["bias"]):
        return llamas[added]
    shown = ", ".join(f"{field} {ours[field]}" for field in (
        "norm", "position", "mlp", "bias", "qkv_bias", "qk_norm", "n_embd", "n_head", "n_kv_head",
        "head_dim"))
    raise ValueError(f"GPT-2, Llama, Qwen 2 and 3 can be exported, and this is none: {shown}")


def _gpt2(theirs: Settings, ours: Settings) -> Settings:
    return dict(n_ff=theirs.get("n_inner") or 4 * ours["n_embd"], bias=True,
                norm="layernorm", position="learned", mlp="gelu")


def _llama(theirs: Settings, ours: Settings, kind: str, where: str) -> Settings:
    bias, kinds = bool(theirs.get("attention_bias", False)), theirs.get("layer_types") or []
    if kind == "llama":
        _want(theirs, "mlp_bias", (bias,), where, missing=False)
    if type(kinds) is not list:
        raise ValueError(f"{where}: layer_types is {kinds!r}, wanted a list")
    for layer, attention in enumerate(kinds):
        if attention != "full_attention":
            raise ValueError(f"{where}: layer_types[{layer}] is {attention}; llmc computes only "
                             "full_attention")
    heads = ours["n_head"]
    if heads < 1:
        raise ValueError(f"{where}: num_attention_heads is {heads}, wanted 1 or more")
    head_dim = theirs.get("head_dim") or (128 if kind == "qwen3" else ours["n_embd"] // heads)
    return dict(n_kv_head=theirs.get("num_key_value_heads") or heads, head_dim=head_dim,
                norm="rmsnorm", position="rope", mlp="swiglu", bias=bias,
                qkv_bias=kind == "qwen2", qk_norm=kind == "qwen3", **_rope(theirs, where))


def _rope(theirs: Settings, where: str) -> Settings:
    """Our fields of RoPE. Newer files have all of it in rope_parameters."""
    key = "rope_parameters" if theirs.get("rope_parameters") else "rope_scaling"
    given, where = theirs.get(key) or {}, f"{where}: {key}"
    if type(given) is not dict:
        raise ValueError(f"{where} is {given!r}, wanted an object")
    kind = given.get("rope_type") or given.get("type") or "default"
    scaling = "none" if kind == "default" else kind
    if scaling not in list(ROPE_USED):
        raise ValueError(f"{where}: rope_type is {kind!r}; llmc computes default, linear and llama3")
    _want(given, "partial_rotary_factor", (1.0,), where)
    ours = {field: _number(given, ROPE_KEYS[field], 0.0, where) for field in ROPE_USED[scaling]}
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *ROPE_KEYS.values()}
    for name in given.keys() - known:
        raise ValueError(f"{where}: {name} is {given[name]!r}, which llmc does not know")
    theta = given.get("rope_theta") or theirs.get("rope_theta") or 10000.0
    return dict(rope_theta=theta, rope_scaling=scaling, **ours)


def _number(theirs: Settings, key: str, default: Any, where: str) -> Any:
    found = theirs.get(key, default)
    wanted = bool if isinstance(default, bool) else int if default is None else (int, float)
    if not isinstance(found, wanted) or (wanted is not bool and isinstance(found, bool)):
        state = "missing" if key not in theirs else repr(found)
        raise ValueError(f"{where}: {key} is {state}, wanted "
                         f"{'true or false' if wanted is bool else 'a number'}")
    return found


def _want(theirs: Settings, key: str, wanted: tuple, where: str, **missing: Any) -> None:
    found = theirs.get(key, missing.get("missing", wanted[0]))
    if found is not None and found not in wanted:
        choices = " or ".join(map(str, wanted))
        raise ValueError(f"{where}: {key} is {found}; llmc computes only {choices}")
