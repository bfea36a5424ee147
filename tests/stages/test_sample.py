"""llmc.sample: one text for one seed, streamed or whole, ended where it was told to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llmc import Config, Device, Model, Sampling, cli, generate
from llmc.encodings import EOT, GPT2_PATTERN, Encoding
from llmc.generate import (decode_pieces, encode_prompt, find_checkpoint, generate_tokens,
                           open_checkpoint, until_stop)
from llmc.shards import fingerprint
from llmc.sample import Sample, run
from llmc.tokenizer import Tokenizer

CONTEXT = 16
MERGED = [b"th", b"the", b"re"]


def write_checkpoint(folder: Path, seed: int = 1, eot: bool = True, symbols: int = 0) -> Path:
    """A random model of bytes, three merges, and <|endoftext|>; wide draws, so texts differ."""
    ranks = {token: i for i, token in enumerate([*(bytes([b]) for b in range(256)), *MERGED])}
    tokenizer = Tokenizer("tiny", Encoding(GPT2_PATTERN, ranks, {EOT: 259} if eot else {}))
    config = Config.preset("llama-tiny", vocab_size=symbols or tokenizer.vocab_size, n_layer=2,
                           n_embd=32, n_head=2, n_kv_head=2, n_ff=64, max_seq_len=CONTEXT)
    model = Model(Device(), config)
    model.init(seed)
    for name in model.names:
        model.set(name, 8 * model.get(name) if model.get(name).ndim == 2 else model.get(name))
    folder.mkdir(parents=True)
    model.save(str(folder / "model.safetensors"))
    (folder / "config.json").write_text(config.to_json())
    (folder / "tokenizer.json").write_bytes(tokenizer.to_json())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "step_00000007")


@pytest.fixture
def scripted(folder, monkeypatch):
    """Makes the model want these tokens, one after the other."""
    checkpoint = open_checkpoint(folder)

    def script(tokens):
        wanted = iter(tokens)

        def next_logits(model, context):
            logits = np.zeros(checkpoint.config.vocab_size, np.float32)
            logits[next(wanted)] = 100
            return logits
        monkeypatch.setattr(generate, "next_logits", next_logits)
        return checkpoint
    return script


def text(model: Path, capsys, **settings) -> str:
    settings.setdefault("max_tokens", 40)
    run(Sample(str(model), **settings))
    return capsys.readouterr().out


@pytest.mark.parametrize("threads", [2, 3])
def test_a_seed_gives_the_same_text_on_any_number_of_threads(folder, capsys, threads):
    one = text(folder, capsys, prompt="the", threads=1)
    assert text(folder, capsys, prompt="the", threads=threads) == one
    assert text(folder, capsys, prompt="the", seed=2) != one


@pytest.mark.parametrize("stop", [[], ["e"]])
def test_streamed_and_whole_are_the_same_text(folder, capsys, stop):
    assert (text(folder, capsys, prompt="the", stop=stop, stream=True)
            == text(folder, capsys, prompt="the", stop=stop, stream=False))


def test_a_stop_text_ends_what_is_printed(folder, capsys):
    free = text(folder, capsys, prompt="re")
    stop = free[20:23]
    assert text(folder, capsys, prompt="re", stop=["no such", stop]) == free.split(stop)[0] + "\n"


def test_a_text_among_others_is_the_text_alone(folder, capsys):
    both = text(folder, capsys, prompt="re", n=2)
    first = text(folder, capsys, prompt="re")
    assert both.startswith("---- 1 of 2\n" + first + "---- 2 of 2\n")
    assert both.count(first) == 1, "the second text is a copy of the first"


def test_every_token_follows_from_the_last_that_fit_the_context(folder):
    checkpoint = open_checkpoint(folder)
    prompt = encode_prompt(checkpoint, "then there")
    drawn = list(generate_tokens(checkpoint, prompt, Sampling(0), 3 * CONTEXT))
    whole = prompt + drawn
    assert len(whole) > 2 * CONTEXT
    model = Model(Device("cpu:plain"), checkpoint.config)
    model.load(str(folder / "model.safetensors"))
    model.plan(1, CONTEXT, train=False)
    for end in range(len(prompt), len(whole)):
        seen = whole[max(0, end - CONTEXT):end]
        model.score(np.array([seen], np.int32))
        assert whole[end] == model.logits(len(seen) - 1, 1)[0, :260].argmax()


def test_no_character_is_cut_in_two(scripted):
    said = "naïve – 語 🎉!"
    checkpoint = scripted(said.encode() + b"\xf0\x9f")
    prompt = encode_prompt(checkpoint, "a")
    pieces = list(generate.generate(checkpoint, prompt, Sampling(0), len(said.encode()) + 2))
    assert "".join(pieces) == said + "\N{REPLACEMENT CHARACTER}"
    assert pieces[:len(said)] == list(said), "each character comes when it is whole"


def test_the_end_of_the_document_ends_the_text(scripted):
    checkpoint = scripted([*b"bye", 259, *b"more"])
    assert "".join(generate.generate(checkpoint, [0], Sampling(0), 8)) == "bye"


def test_symbols_that_no_token_has_are_never_drawn(tmp_path, monkeypatch):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "model", symbols=300))
    monkeypatch.setattr(generate, "next_logits", lambda *_: np.arange(300, dtype=np.float32))
    assert list(generate_tokens(checkpoint, [0], Sampling(1, top_k=2, seed=5), 1)) in ([258], [])


def test_a_stop_text_may_lie_across_tokens(scripted):
    checkpoint = scripted([*b"one ", 257, *b"n two"])      # 257 is "the"
    pieces = generate.generate(checkpoint, [0], Sampling(0), 9, stop=["hen t", "zz"])
    assert "".join(pieces) == "one t"


def cut_at_stop(whole: str, stop: list[str]) -> str:
    ends = [(i + len(s), i) for s in stop for i in range(len(whole)) if whole.startswith(s, i)]
    return whole[:min(ends)[1]] if ends else whole


@given(st.lists(st.text("abc", max_size=3), max_size=12),
       st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_stop_however_it_is_cut(pieces, stop):
    assert "".join(until_stop(pieces, stop)) == cut_at_stop("".join(pieces), stop)


@given(st.lists(st.binary(max_size=4), max_size=12))
def test_bytes_in_pieces_are_the_text_of_all_bytes(pieces):
    whole = b"".join(pieces).decode("utf-8", "replace")
    assert "".join(decode_pieces(pieces)) == whole


def test_without_a_prompt_a_document_begins(folder, tmp_path):
    assert encode_prompt(open_checkpoint(folder), "") == [259]
    bare = open_checkpoint(write_checkpoint(tmp_path / "model", eot=False))
    assert encode_prompt(bare, "") == [ord("\n")]


def test_a_run_gives_its_newest_checkpoint(tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    for step in (5, 20):
        write_checkpoint(checkpoints / f"step_{step:08}")
    write_checkpoint(checkpoints / "step_00000030.tmp")
    assert find_checkpoint(tmp_path / "run") == checkpoints / "step_00000020"
    (checkpoints / "latest").symlink_to("step_00000005")
    for path in (tmp_path / "run", checkpoints, checkpoints / "step_00000005"):
        assert find_checkpoint(path) == checkpoints / "step_00000005"


@pytest.mark.parametrize("settings, sentence", [
    (dict(model="no/such"), "no/such is no folder"),
    (dict(model="empty"), "empty holds neither a checkpoint nor a run"),
    (dict(model="started"), "started has no checkpoint yet"),
    (dict(model="mute"), "mute holds no tokenizer.json"),
    (dict(model="small"), "tokenizer.json has 260 symbols, but the model knows 100"),
    (dict(prompt="x" * (CONTEXT + 1)), "the prompt has 17 tokens, but the model's context holds 16"),
    (dict(temperature=0.0, n=2), "--n 2 with --temperature 0 would be 2 times the same text"),
    (dict(temperature=0.0, top_k=5), "--top_k means nothing with --temperature 0"),
    (dict(temperature=0.0, top_p=0.5), "--top_p means nothing with --temperature 0"),
    (dict(temperature=0.0, min_p=0.1), "--min_p means nothing with --temperature 0"),
    (dict(temperature=-1.0), "temperature is -1; wanted 0"),
    (dict(top_p=1.5), "top_p is 1.5; wanted 0 to 1"),
    (dict(stop=[""]), "--stop is an empty text"),
])
def test_what_cannot_be_done_is_said_in_a_sentence(folder, tmp_path, monkeypatch, capsys, settings,
                                                   sentence):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("started/checkpoints").mkdir(parents=True)
    Path("started/config.json").touch()
    (write_checkpoint(Path("mute")) / "tokenizer.json").unlink()
    write_checkpoint(Path("small"), symbols=100)
    with pytest.raises((ValueError, RuntimeError)) as failure:
        run(Sample(**({"model": str(folder)} | settings)))
    assert sentence in str(failure.value) and "\n" not in str(failure.value)
    assert capsys.readouterr().out == "", "something was written before it failed"


@pytest.mark.parametrize("flag, value, wanted", [
    ("max_tokens", "0", "1 to"), ("n", "0", "1 to"), ("seed", "-1", "0 to 9000000000000000"),
    ("seed", "1e20", "0 to"), ("top_k", "1e20", "0 to"), ("threads", "3e9", "0 to 4096")])
def test_numbers_out_of_range_are_one_line(folder, capsys, flag, value, wanted):
    command = [str(folder), f"--{flag}", value]
    assert cli.guarded(lambda: run(cli.parse(Sample, command))) == 1
    err = capsys.readouterr().err
    assert f"--{flag} is " in err and f", wanted {wanted}" in err and err.count("\n") == 1


@pytest.mark.parametrize("state, sentence", [
    ('{"tokenizer": "00000000000000ff"}', "but the model was trained with 00000000000000ff; copy the one"),
    ("[]", "state.json holds list, wanted an object; copy the checkpoint again"),
    ("{}", "state.json: 'tokenizer' is missing")])
def test_the_tokenizer_of_another_model_is_refused(folder, tmp_path, state, sentence):
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model/state.json").write_text(state)
    with pytest.raises(ValueError) as failure:
        open_checkpoint(tmp_path / "model")
    assert sentence in str(failure.value) and str(tmp_path / "model") in str(failure.value)


def test_a_hugging_face_folder_is_not_taken_for_a_checkpoint(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model/config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="is a Hugging Face folder; make a checkpoint of it: llmc convert"):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("known", [True, False])
def test_its_own_tokenizer_is_taken(folder, tmp_path, known):
    shutil.copytree(folder, tmp_path / "model")
    digest = fingerprint((folder / "tokenizer.json").read_bytes()) if known else 0
    (tmp_path / "model/state.json").write_text(json.dumps({"tokenizer": f"{digest:016x}"}))
    assert open_checkpoint(tmp_path / "model").tokenizer.vocab_size == 260
