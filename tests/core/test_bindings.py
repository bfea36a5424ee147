"""The module _core: what arrays it takes, how it fails, and that it lets other threads run."""

import gc
import json
import signal
import subprocess
import sys
import threading
import time

import ml_dtypes
import numpy as np
import pytest

import llmc
from llmc import _core
from llmc.shards import ShardWriter


@pytest.fixture
def device():
    return llmc.Device("cpu:plain", threads=1)


def linear(device, x, out=None, w=None):
    w = np.ones((4, 5), np.float32) if w is None else w
    out = np.zeros((3, 4), np.float32) if out is None else out
    _core.linear_forward(device, out, None, x, w, None, _core.Activation.NONE)
    return out


def read_only(x):
    x.flags.writeable = False
    return x


def test_an_op_writes_into_the_array_it_was_given(device):
    x, out = np.arange(15, dtype=np.float32).reshape(3, 5), np.full((3, 4), 7, np.float32)
    linear(device, x, out)
    assert np.array_equal(out, np.repeat(x.sum(1, keepdims=True), 4, axis=1))


@pytest.mark.parametrize("as_bits", [False, True])
def test_bfloat16_comes_as_ml_dtypes_or_as_its_bits(device, as_bits):
    x, w = np.arange(15).reshape(3, 5), np.ones((4, 5))
    x, w = x.astype(ml_dtypes.bfloat16), w.astype(ml_dtypes.bfloat16)
    out = np.zeros((3, 4), ml_dtypes.bfloat16)
    arrays = [a.view(np.uint16) if as_bits else a for a in (x, out, w)]
    linear(device, *arrays)
    assert np.array_equal(out.astype(int), x.astype(int).sum(1, keepdims=True).repeat(4, 1))


@pytest.mark.parametrize(
    "x, sentence",
    [
        (np.zeros((3, 5)), "an array of float64, wanted float32, int32, uint8, int8, or bfloat16"),
        (np.zeros((3, 5), ">f4"), "an array of >f4"),
        (np.zeros((3, 5), np.float16), "an array of float16"),
        (np.zeros((5, 3), np.float32).T, r"shape \(3, 5\) is not contiguous"),
        (read_only(np.zeros((3, 5), np.float32)), r"shape \(3, 5\) is read-only"),
        (np.zeros((), np.float32), "0 dimensions, wanted 1 to 4"),
        (np.zeros((1, 1, 1, 3, 5), np.float32), "5 dimensions, wanted 1 to 4"),
        ([1.0], "found list, wanted a numpy array"),
        (np.zeros((3, 6), np.float32), r"linear_forward: x is f32 \(3,6\), wanted f32 \(3,5\)"),
    ],
)
def test_an_array_that_does_not_fit_is_refused_with_a_sentence(device, x, sentence):
    with pytest.raises(llmc.LlmcError, match=sentence):
        linear(device, x)


def test_failures_stay_llmc_errors_beside_the_modules_of_the_tests(core, device):
    with pytest.raises(llmc.LlmcError, match="^found 3$"):
        core.fail("found 3")
    with pytest.raises(llmc.LlmcError, match="no such device"):
        llmc.Device("abacus")


def test_every_op_is_bound_with_the_names_of_its_arguments():
    assert len(_core.op_names()) >= 16
    for name in _core.op_names():
        assert getattr(_core, name).__doc__.startswith(f"{name}(device: llmc._core.Device, ")
    assert "act: llmc._core.Activation" in _core.linear_forward.__doc__
    assert callable(_core.linear_forward_scratch)


def test_every_listed_device_opens():
    for name in _core.device_list():
        assert llmc.Device(name, threads=2).name == name
    with pytest.raises(llmc.LlmcError, match="-1 threads, wanted 0"):
        llmc.Device("cpu", threads=-1)


def test_importing_llmc_loads_neither_numpy_nor_the_engine():
    check = "import llmc, sys; sys.exit('numpy' in sys.modules or 'llmc._core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_other_threads_run_while_an_op_computes(device):
    x, w = np.ones((300, 600), np.float32), np.ones((900, 600), np.float32)
    out = np.zeros((300, 900), np.float32)
    switch = sys.getswitchinterval()
    busy = threading.Thread(target=lambda: [linear(device, x, out, w) for _ in range(2)])
    turns = 0
    try:
        sys.setswitchinterval(10)       # nobody takes the lock away: it has to be given
        busy.start()
        while busy.is_alive():
            time.sleep(0.001)
            turns += 1
    finally:
        sys.setswitchinterval(switch)
        busy.join()
    assert turns > 10


TRAIN_UNTIL_INTERRUPTED = """
import gc
import json
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)    # a background job is started with it ignored
import llmc, numpy as np
model = llmc.Model(llmc.Device(), llmc.Config.preset("gpt2-tiny", vocab_size=64))
model.plan(2, 32)
tokens, slopes = np.zeros((2, 32), np.int32), {"logp": np.ones((2, 32), np.float32)}
try:
    print("training", flush=True)
    while True:
        model.train(tokens, tokens, slopes)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_ctrl_c_stops_between_micro_batches():
    child = subprocess.Popen(
        [sys.executable, "-c", TRAIN_UNTIL_INTERRUPTED], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "training\n"
    try:
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=60)[0] == "stopped\n"
    finally:
        child.kill()
    assert child.returncode == 0


def test_a_config_is_its_dict_and_back():
    config = llmc.Config.preset("llama-tiny", vocab_size=300, bias=True, norm_eps=1e-6)
    fields = config.to_dict()
    assert fields["bias"] is True and fields["mlp"] == "swiglu"
    assert fields["padded_vocab_size"] == 384
    assert llmc.Config(**fields) == config and llmc.Config(**{**fields, "n_layer": 3}) != config
    assert config.n_kv_head == 2 and config.norm_eps == np.float32(1e-6)
    with pytest.raises(AttributeError, match="there is no field n_heads"):
        config.n_heads


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"n_layers": 3}, "config: there is no field n_layers"),
        ({"n_layer": 3.0}, "config: n_layer is 3.0, wanted a whole number"),
        ({"n_layer": 2**40}, "config: n_layer is 1099511627776, which is too large"),
        ({"bias": 1}, "config: bias is 1, wanted True or False"),
        ({"norm": "batchnorm"}, "norm is batchnorm, wanted one of: layernorm rmsnorm"),
        ({"norm_eps": "small"}, "config: norm_eps is 'small', wanted a number"),
        ({"norm_eps": 10**400}, "config: norm_eps is 10+, wanted a number of float32"),
        ({"rope_theta": float("inf")}, "config: rope_theta is inf, wanted a number of float32"),
        ({"n_embd": 130}, "n_embd 130 is not divisible by n_head 4"),
        ({"qk_norm": True}, "qk_norm without RoPE; set position to rope"),
        ({"rope_scaling": "linear"}, "rope_factor is 0; rope_scaling wants 1 to 1e6"),
        ({"rope_scaling": "llama3", "rope_factor": 8, "rope_low_freq_factor": 4},
         "rope_low_freq_factor is 4 and rope_high_freq_factor 4, wanted more than 0 and more"),
    ],
)
def test_an_impossible_config_is_refused_with_a_sentence(fields, sentence):
    with pytest.raises(llmc.LlmcError, match=sentence):
        llmc.Config.preset("gpt2-tiny", **fields)


def test_a_fingerprint_is_fnv_1a():
    assert _core.fingerprint(b"") == 0xCBF29CE484222325
    assert _core.fingerprint(b"foobar") == 0x85944171F73967E8


def test_a_config_goes_through_its_file(tmp_path):
    config = llmc.Config.preset("llama-tiny", vocab_size=300, norm_eps=3e-6)
    (tmp_path / "config.json").write_text(config.to_json())
    assert llmc.Config.read(str(tmp_path / "config.json")) == config
    assert _core.checkpoint_latest(str(tmp_path)) is None


def test_a_config_file_may_leave_out_what_its_model_does_not_have(tmp_path):
    config = llmc.Config.preset("llama-tiny", vocab_size=300)
    fields = json.loads(config.to_json())
    assert fields.pop("qkv_bias") is False
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert llmc.Config.read(str(tmp_path / "config.json")) == config
    del fields["bias"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(llmc.LlmcError, match="config.json: bias is missing"):
        llmc.Config.read(str(tmp_path / "config.json"))


@pytest.fixture
def model():
    config = llmc.Config.preset("gpt2-tiny", vocab_size=50, n_layer=1, n_embd=24, max_seq_len=8)
    model = llmc.Model(llmc.Device("cpu", 1), config)
    model.init(0)
    return model


def test_weights_go_through_a_file(model, tmp_path):
    model.save(str(tmp_path / "model.safetensors"))
    other = llmc.Model(llmc.Device("cpu", 1), model.config)
    other.load(str(tmp_path / "model.safetensors"))
    for name in model.names:
        assert np.array_equal(model.get(name), other.get(name))


def test_a_parameter_is_a_copy(model):
    before = model.get("wpe.weight")
    model.get("wpe.weight")[:] = 0
    assert before.any() and np.array_equal(model.get("wpe.weight"), before)
    model.set("wpe.weight", before + 1)
    assert np.array_equal(model.get("wpe.weight"), before + 1)


TOKENS = np.zeros((2, 5), np.int32)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda m: m.get("wpe"), "the model has no parameter wpe"),
        (lambda m: m.grad("wpe.weight"), "wpe.weight has no gradient; plan for training first"),
        (lambda m: m.set("wpe.weight", None), "wpe.weight is None"),
        (lambda m: m.set("wpe.weight", np.zeros((8, 24), np.uint16)), "is bf16, wanted f32"),
        (lambda m: m.set("wpe.weight", np.zeros(8, np.float32)), r"shape \(8,\), wanted \(8, 24\)"),
        (lambda m: m.forward(TOKENS), "a batch before model_plan"),
        (lambda m: llmc.Model(llmc.Device("cpu", 1), m.config).save("none"), "none: the model has no weights yet"),
        (lambda m: m.plan(2, 5) or m.forward(TOKENS.astype(np.int64)), "an array of int64"),
        (lambda m: m.plan(2, 5) or m.forward(TOKENS[0]), "tokens is i32 of 1 dimensions"),
        (lambda m: m.plan(2, 5) or m.forward(TOKENS + 50), "token 50 at row 0, column 0"),
        (lambda m: m.plan(2, 5) or m.forward(TOKENS, TOKENS[:1]), r"targets has shape \(1, 5\)"),
        (lambda m: m.plan(2, 4) or m.forward(TOKENS), "a batch of 2 x 5 tokens"),
        (lambda m: m.plan(2, 5) or m.backward({}), "model_backward without a model_forward"),
        (lambda m: m.plan(2, 5, train=False) or m.forward(TOKENS), "a plan without gradients"),
        (
            lambda m: m.plan(2, 5) or m.train(TOKENS, TOKENS, {"loss": TOKENS}),
            r"slopes of \['loss'\], wanted some of logp, lse, entropy, value",
        ),
        (lambda m: llmc.Model(llmc.Device("cpu", 1), m.config, "f16"), "type f16, wanted f32, bf16 or int8"),
    ],
)
def test_a_call_a_model_cannot_answer_is_refused_with_a_sentence(model, call, sentence):
    with pytest.raises(llmc.LlmcError, match=sentence):
        call(model)


def test_a_sampler_draws_what_its_probabilities_allow():
    logits = np.array([0.0, 2.0, -1.0, 1.0], np.float32)
    sampler, how = llmc.Sampler(4), llmc.Sampling(top_k=2, seed=5)
    p = sampler.probabilities(logits, how)
    assert p.sum() == pytest.approx(1) and p[1] == pytest.approx(1 / (1 + np.exp(-1)))
    drawn = [sampler.draw(logits, how, stream=0, position=i) for i in range(200)]
    assert set(drawn) == {1, 3} and drawn == [sampler.draw(logits, how, 0, i) for i in range(200)]
    assert sampler.draw(logits, llmc.Sampling(temperature=0), 0, 0) == 1
    with pytest.raises(llmc.LlmcError, match="top_p"):
        llmc.Sampling(top_p=2)
    with pytest.raises(llmc.LlmcError, match=r"logits has shape \(3,\), wanted \(4,\)"):
        sampler.draw(logits[:3], how, 0, 0)


def test_a_batch_is_views_of_the_loaders_memory_which_they_keep(tmp_path):
    with ShardWriter(tmp_path, "count", "train", 100) as writer:
        writer.append(np.arange(50))
    loader = _core.Loader(str(tmp_path), B=2, T=5, shuffle=False)
    batch = loader.next()
    del loader
    gc.collect()
    assert batch["tokens"].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert np.array_equal(batch["targets"], batch["tokens"] + 1)
    assert batch["pos"].tolist() == [[0, 1, 2, 3, 4]] * 2 and not batch["first"].any()
    assert not any(array.flags.writeable for array in batch.values())
    with pytest.raises(llmc.LlmcError, match="nothing_here"):
        _core.Loader(str(tmp_path / "nothing_here"))
