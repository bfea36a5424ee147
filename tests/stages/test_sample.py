"""llmc.sample: one text for one seed, streamed or whole, ended where it was told to end."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tuning
from llmc import Config, Device, Model, cli
from llmc.checkpoint import encode_prompt, find_checkpoint, open_checkpoint
from llmc.encodings import EOT, GPT2_PATTERN, Encoding
from llmc.engine import Engine, agreement
from llmc.prompts import read_examples
from llmc.request import Request
from llmc.sample import Sample, run, surprise
from llmc.shards import fingerprint
from llmc.tokenizer import Tokenizer

CONTEXT = 16
MERGED = [b"th", b"the", b"re"]


def write_checkpoint(folder: Path, seed: int = 1, eot: bool = True, symbols: int = 0,
                     context: int = CONTEXT, dtype: str = "f32") -> Path:
    """A random model of bytes, three merges, and <|endoftext|>; wide draws, so texts differ."""
    ranks = {token: i for i, token in enumerate([*(bytes([b]) for b in range(256)), *MERGED])}
    tokenizer = Tokenizer("tiny", Encoding(GPT2_PATTERN, ranks, {EOT: 259} if eot else {}))
    config = Config.preset("llama-tiny", vocab_size=symbols or tokenizer.vocab_size, n_layer=2,
                           n_embd=32, n_head=2, n_kv_head=2, n_ff=64, max_seq_len=context)
    model = Model(Device(), config, dtype)
    model.init(seed)
    for name in model.names:
        if dtype == "f32" and model.get(name).ndim == 2:
            model.set(name, 8 * model.get(name))
    return tuning.save(folder, model, tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "step_00000007")


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


def test_a_full_context_goes_on_from_its_last_half(folder, capsys):
    checkpoint = open_checkpoint(folder)
    prompt = encode_prompt(checkpoint, "then there")
    (result,), = Engine(checkpoint.model, checkpoint.tokenizer, rows=1).generate(
        [Request(prompt, 3 * CONTEXT, temperature=0, forget=True)])
    assert text(folder, capsys, prompt="then there", temperature=0.0,
                max_tokens=3 * CONTEXT) == f"then there{result.text}\n"
    assert len(prompt + result.tokens) > 2 * CONTEXT
    model = Model(Device("cpu:plain"), checkpoint.config)
    model.load(str(folder / "model.safetensors"))
    model.plan(1, CONTEXT, train=False)
    seen = list(prompt)
    for token in result.tokens:
        model.score(np.array([seen], np.int32))
        assert token == model.logits(len(seen) - 1, 1)[0, :260].argmax()
        seen.append(token)
        if len(seen) > CONTEXT:
            seen = seen[-CONTEXT // 2:]


def test_more_texts_than_rows_are_each_its_own(folder, capsys):
    many = text(folder, capsys, prompt="the", n=19, max_tokens=6)
    drawn = re.split(r"---- \d+ of 19\n", many)[1:]
    assert drawn[:3] == re.split(r"---- \d of 3\n", text(folder, capsys, prompt="the", n=3,
                                                         max_tokens=6))[1:]
    assert len(set(drawn)) > 15


@pytest.mark.parametrize("name, content", [
    ("prompts.txt", "the\n\nthere re\r\n"),
    ("prompts.jsonl", '{"prompt": "the"}\n{"prompt": "there re"}\n')])
def test_prompts_come_from_a_file(folder, capsys, tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    alone = [text(folder, capsys, prompt=prompt) for prompt in ("the", "there re")]
    assert text(folder, capsys, prompts=tmp_path / name) == (
        f"---- 1 of 2\n{alone[0]}---- 2 of 2\n{alone[1]}")


@pytest.mark.parametrize("name, content", [
    ("pairs.tsv", "2\tb\n\n3\tc\n"),
    ("pairs.jsonl", '{"input": "2", "output": "b"}\n{"input": "3", "output": "c"}\n')])
def test_examples_stand_before_the_prompt(tmp_path, capsys, name, content):
    (tmp_path / name).write_text(content)
    assert read_examples(tmp_path / name) == ["Input: 2\nOutput: b\n\n",
                                              "Input: 3\nOutput: c\n\n"]
    wide = write_checkpoint(tmp_path / "model", context=64)
    shown = text(wide, capsys, prompt="4", few_shot=tmp_path / name)
    whole = "Input: 2\nOutput: b\n\nInput: 3\nOutput: c\n\nInput: 4\nOutput:"
    assert text(wide, capsys, prompt=whole, stop=["\n\nInput:"]).endswith(shown)
    assert shown.startswith("Input: 4\nOutput:") and len(shown) > 30


def test_each_token_is_shown_with_its_probability_and_rivals(folder, capsys):
    out = text(folder, capsys, prompt="the", max_tokens=7, show_probs=True, temperature=0.0)
    said = text(folder, capsys, prompt="the", max_tokens=7, temperature=0.0)
    assert out.startswith(said) and "\x1b" not in out
    lines = out[len(said):].splitlines()
    assert len(lines) == 7
    for line in lines:
        shares = [float(share) for share in re.findall(r"([\d.]+)%", line)]
        assert len(shares) == 6 and shares == sorted(shares, reverse=True)     # greedily
        assert sum(shares) <= 100.1


def test_surprise_has_a_colour():
    assert [surprise(math.log(p)) for p in (0.9, 0.2, 0.05, 0.001)] == [
        "green", "yellow", "dark_orange", "red"]


def test_what_a_model_says_by_itself_it_recites(folder, capsys, tmp_path):
    checkpoint = open_checkpoint(folder)
    engine = Engine(checkpoint.model, checkpoint.tokenizer, rows=1)
    for begin in itertools.permutations(b"abcdef", 2):
        (said,), = engine.generate([Request(begin, 2, temperature=0)])
        if said.tokens[0] < 127 and chr(said.tokens[0]).isprintable():
            break
    other = ord("x") if said.tokens[1] != ord("x") else ord("y")
    book = bytes([*begin, said.tokens[0], other]).decode()
    (tmp_path / "book").write_text(book)
    for given in (str(tmp_path / "book"), book):
        run(Sample(str(folder), recite=given))
        assert capsys.readouterr().out.endswith(
            "\n1 of 2 tokens and 1 of 2 characters recited, after 2 tokens\n")


def test_agreement_ends_at_the_first_difference():
    others = ("abxd", "ab", "abcde", "x", "")
    assert [agreement("abcd", other) for other in others] == [2, 2, 4, 0, 0]


@pytest.mark.parametrize("penalty", ["repetition_penalty", "presence_penalty"])
def test_penalties_change_the_text(folder, capsys, penalty):
    free = text(folder, capsys, prompt="the", temperature=0.0)
    assert text(folder, capsys, prompt="the", temperature=0.0, **{penalty: 9.0}) != free


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_model_computes_in_the_type_of_its_weights(tmp_path, dtype):
    folder = write_checkpoint(tmp_path / "model", dtype=dtype)
    assert open_checkpoint(folder).model.dtype == dtype
    assert open_checkpoint(folder, dtype="f32").model.dtype == "f32"
    assert open_checkpoint(folder, dtype="bf16").model.dtype == "bf16"


@pytest.mark.parametrize("content, sentence", [
    ("", "file holds no prompt"),
    (b"\xff", "file is not UTF-8"),
    ("{}", "file.jsonl, line 1: 'prompt' is missing, wanted str"),
    ('{"prompt": 3}', "file.jsonl, line 1: 'prompt' is int, wanted str")])
def test_a_file_that_is_no_prompts_is_refused(folder, tmp_path, content, sentence):
    path = tmp_path / ("file.jsonl" if "{" in str(content) else "file")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=re.escape(sentence)):
        run(Sample(str(folder), prompts=path))


def test_a_file_that_is_no_examples_is_refused(tmp_path):
    for content, sentence in [("a b\n", "line 1: 0 tabs, wanted one"), ("\n", "holds no example")]:
        (tmp_path / "pairs").write_text(content)
        with pytest.raises(ValueError, match=sentence):
            read_examples(tmp_path / "pairs")


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
    (dict(temperature=0.0, n=2), "n 2 with temperature 0 would be 2 times the same text"),
    (dict(temperature=0.0, top_k=5), "top_k means nothing with temperature 0"),
    (dict(temperature=0.0, top_p=0.5), "top_p means nothing with temperature 0"),
    (dict(temperature=0.0, min_p=0.1), "min_p means nothing with temperature 0"),
    (dict(temperature=-1.0), "temperature is -1; wanted 0"),
    (dict(top_p=1.5), "top_p is 1.5; wanted 0 to 1"),
    (dict(temperature=0.0, n=40), "n 40 with temperature 0 would be 40 times the same text"),
    (dict(prompt="a", recite="b"), "--prompt and --recite both say what to continue; give one"),
    (dict(prompts=Path("no"), prompt="b"), "--prompt and --prompts both say what to continue"),
    (dict(recite="a", few_shot=Path("no")), "leave --few_shot out"),
    (dict(recite="a"), "the text to recite has 1 tokens, wanted 2 or more"),
    (dict(stop=[""]), "stop has an empty text"),
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
    (tmp_path / "model/model.safetensors").rename(tmp_path / "model/model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match="is a Hugging Face folder; make a checkpoint of it: llmc convert"):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("known", [True, False])
def test_its_own_tokenizer_is_taken(folder, tmp_path, known):
    shutil.copytree(folder, tmp_path / "model")
    digest = fingerprint((folder / "tokenizer.json").read_bytes()) if known else 0
    (tmp_path / "model/state.json").write_text(json.dumps({"tokenizer": f"{digest:016x}"}))
    assert open_checkpoint(tmp_path / "model").tokenizer.vocab_size == 260
