"""llmc sft: what a run leaves, what it goes on with, and what it says of data that is not right."""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tuning
from building import need_mpi
from llmc import chat, cli, convert, sft
from llmc.chat import Message
from llmc.checkpoint import open_checkpoint
from llmc.conversations import read
from llmc.mixture import Order, load, source
from llmc.sample import Sample
from llmc.sample import run as sample
from training import everything, latest, metrics

SMALL = "--batch_size 2 --lr 3e-3 --warmup_steps 2 --epochs 2 --val_fraction 0.1 --threads 1 --ask hi --plain".split()


LONGER = "--epochs 6 --lr 1e-2 --checkpoint_every 40 --sample_every 100 --keep 0".split()


def command(model: Path, data: Path, run: Path, *flags: object) -> list[str]:
    return [sys.executable, "-m", "llmc.sft", str(model), "--data", str(data), "--run", str(run), *SMALL,
            *map(str, flags)]


def teach(argv: list[str]) -> None:
    """Here, in this process."""
    sft.run(cli.parse(sft.Sft, argv[3:]))


def refusal(argv: list[str]) -> str:
    with pytest.raises(ValueError) as caught:
        teach(argv)
    return cli.sentence(caught.value)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sft")
    return tuning.base_model(folder / "base"), tuning.data(folder / "chat.jsonl", 160, turns=1)


# ---- what a run leaves ----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def whole(place, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    teach(command(*place, run, *LONGER))
    return run


def test_it_learns_and_its_answers_end(whole):
    """Its last words are learned, and the tokens behind them, so that sampling knows where to stop."""
    lines = metrics(whole)
    losses = [line["loss"] for line in lines if "loss" in line]
    held_out = [line["val_loss"] for line in lines if "val_loss" in line]
    assert losses[-1] < 0.5 * losses[0] and held_out[-1] < losses[0]
    assert (whole / "samples.md").read_text().count("> hi") == len(losses) // 100 + 1
    made = open_checkpoint(whole)
    assert chat.manner_of(made.path, made.tokenizer) == chat.Manner("llmc")
    end = made.tokenizer.special["<|im_end|>"]
    asked = chat.render([Message("user", "red sun")], made.tokenizer, answer=True).ids
    tokens = np.array([[*asked, *made.tokenizer.encode("sun")]], np.int32)
    made.model.plan(1, tokens.shape[1], train=False)
    made.model.read(tokens)
    assert made.model.logits(tokens.shape[1] - 1, 1)[0].argmax() == end


def test_other_commands_take_what_it_made(whole, capsys):
    sample(cli.parse(Sample, [str(whole), "--prompt", "the sun", "--max_tokens", "4"]))
    assert capsys.readouterr().out.startswith("the sun")


def test_a_run_goes_on_bit_for_bit_after_a_kill(place, whole, tmp_path):
    """In the middle of an epoch, whatever the number of threads."""
    run = tmp_path / "run"
    started = subprocess.Popen(command(*place, run, *LONGER),
                               stdout=subprocess.PIPE, text=True)
    saved = 0
    for line in started.stdout:                 # killed behind the second checkpoint, inside an update
        saved += line.startswith("saved")
        if saved == 2:
            break
    os.kill(started.pid, signal.SIGKILL)
    started.communicate()
    steps = 1 + int(latest(whole).name.removeprefix("step_"))
    assert int(latest(run).name.removeprefix("step_")) < steps
    teach([*command(*place, run)[:3], "--run", str(run), "--resume", "--threads", "2", "--plain"])
    assert everything(run) == everything(whole)


def started(argv: list[str], until: str) -> subprocess.Popen:
    """In a session of its own, once it has said a line that begins so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)       # nohup's children ignore it
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
    signal.signal(signal.SIGHUP, before)
    assert any(re.match(until, line) for line in process.stdout), "it ended before that"
    return process


def kill_session(leader: int) -> None:
    """At once, and all of its processes, in whatever groups they are."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):                 # it has ended meanwhile
            if int(stat.read_text().rpartition(")")[2].split()[3]) == leader:
                os.kill(int(stat.parent.name), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.parametrize("flags", [["--ranks", 2], ["--optimizer", "muon"], ["--dtype", "bf16"]],
                         ids=lambda flags: flags[1])
def test_other_ways_to_learn_go_on_bit_for_bit_too(place, tmp_path, flags):
    if "--ranks" in flags:
        need_mpi()
    often = ["--epochs", 5, "--checkpoint_every", 10, "--keep", 0, *flags]
    whole, run = tmp_path / "whole", tmp_path / "run"
    subprocess.run(command(*place, whole, *often), check=True, stdout=subprocess.DEVNULL)
    process = started(command(*place, run, *often), r"saved .*step_00000010")
    kill_session(process.pid)
    process.communicate(timeout=60)
    assert latest(run).name < latest(whole).name
    again = [*command(*place, run)[:3], "--run", run, "--resume", "--threads", 1, "--plain"]
    ranks = flags if "--ranks" in flags else []
    subprocess.run([*map(str, [*again, *ranks])], check=True, stdout=subprocess.DEVNULL)
    assert everything(run) == everything(whole)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_other_ranks_and_updates_as_large(place, tmp_path, before, after):
    need_mpi()
    run = tmp_path / "run"
    always = ["--total_batch_size", 256] if before == 1 else []     # two ranks take that by themselves
    for ranks, steps in ((before, 6), (after, 12)):
        argv = command(*place, run, *always, "--dtype", "f32", "--steps", steps) if ranks == before else [
            *command(*place, run)[:3], "--run", run, "--resume", "--steps", steps, "--plain"]
        subprocess.run([*map(str, [*argv, "--ranks", ranks])], check=True, stdout=subprocess.DEVNULL)
        assert json.loads((latest(run) / "state.json").read_text())["update_tokens"] == 256
    assert len(list(latest(run).glob("optimizer.rank*"))) == after
    alone = tmp_path / "alone"
    teach(command(*place, alone, "--total_batch_size", 256, "--dtype", "f32", "--steps", 6))
    teach([*command(*place, alone)[:3], "--run", str(alone), "--resume", "--steps", "12", "--plain"])
    for a, b in zip(metrics(alone), metrics(run), strict=True):
        assert all(abs(a[key] - b[key]) < 2e-5 * max(1, abs(a[key])) for key in a)


def test_ranks_that_cannot_share_an_update_are_refused(place, tmp_path):
    need_mpi()
    run = tmp_path / "run"
    teach(command(*place, run, "--steps", 2))
    before = everything(run)
    done = subprocess.run([*command(*place, run)[:3], "--run", str(run), "--resume", "--steps", "4", "--ranks", "3"],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "--total_batch_size is 128, wanted a multiple of 192: rows of 64 tokens for each" in done.stderr
    assert everything(run) == before


@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGHUP, 1),
                                               (signal.SIGTERM, 2), (signal.SIGHUP, 2)])
def test_a_signal_ends_an_update_and_keeps_it(place, tmp_path, number, ranks):
    if ranks > 1:
        need_mpi()
    run = tmp_path / "run"
    process = started(command(*place, run, "--epochs", 1000, "--ranks", ranks), "step +3/")
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "--resume continues" in out
    assert metrics(run)[-1]["step"] == int(latest(run).name.removeprefix("step_"))
    assert len(list(latest(run).glob("optimizer.rank*"))) == ranks


def test_two_ranks_learn_what_one_does(place, tmp_path):
    need_mpi()
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ["--total_batch_size", 256, "--steps", 12, "--dtype", "f32"]
    teach(command(*place, one, *flags))
    done = subprocess.run(command(*place, two, *flags, "--ranks", 2), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step     12/12") == 1
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert a.keys() == b.keys() and all(abs(a[key] - b[key]) < 2e-5 * max(1, abs(a[key])) for key in a)


def test_a_rank_that_fails_ends_all_with_one_sentence(place, tmp_path):
    need_mpi()
    done = subprocess.run(command(place[0], tmp_path / "none.jsonl", tmp_path / "run", "--ranks", 2),
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("there is no such file or folder") == 1, done.stderr


# ---- settings -------------------------------------------------------------------------------------------------------

def test_a_run_is_not_overwritten_and_not_changed_by_chance(place, whole, tmp_path):
    model, data = place
    assert "say --resume to continue it, --overwrite" in refusal_of_engine(command(*place, whole))
    again = [*command(*place, whole)[:3], str(model), "--run", str(whole), "--resume", "--plain"]
    assert "--lr was 0.01 and is 0.1 now; leave it out when resuming" in refusal([*again, "--lr", "0.1"])
    assert "give a larger --steps or --epochs to go on" in refusal(again)
    assert "there is no run at" in refusal([*again[:3], "--run", str(tmp_path / "no"), "--resume"])
    with data.open("a") as file:
        before = data.read_bytes()
        file.write(before.decode().splitlines()[0].replace("sun", "moon") + "\n")
    try:
        assert "was started with other data than is there now" in refusal([*again, "--epochs", "9"])
    finally:
        data.write_bytes(before)


def refusal_of_engine(argv: list[str]) -> str:
    from llmc import LlmcError

    with pytest.raises(LlmcError) as caught:
        teach(argv)
    return str(caught.value)


@pytest.mark.parametrize(("flags", "says"), [
    (["--seq_len", "65"], "--seq_len is 65, but the model's context holds 64"),
    (["--total_batch_size", "100"], "--total_batch_size is 100, wanted a multiple of 64"),
    (["--ask", "the " * 70], "tokens, but the model's context holds 64; shorten it"),
    (["--system", "the " * 80], "tokens with a question, and a row has 64; shorten it"),
    (["--lora_alpha", "3"], "--lora_alpha is for adapters; give --lora_rank too"),
    (["--ask", " "], "--ask is empty"), (["--data", "=2"], "--data =2 names no file"),
    (["--resume", "--overwrite"], "give one of them"),
    (["--dtype", "int8"], "int8 weights are not trained; give --lora_rank, or another --dtype"),
    (["--template", "chatml", "--system", "<|im_end|>", "--epochs", "0.0001"], "wanted 0.001 to 1000"),
])
def test_what_cannot_be_is_said(place, tmp_path, flags, says):
    assert says in refusal(command(*place, tmp_path / "run", *flags))
    assert not (tmp_path / "run").exists()


def test_what_is_missing_is_said(place, tmp_path):
    assert "the model is missing" in refusal(["", "", "", "--run", str(tmp_path / "run")])
    assert "--data is missing" in refusal(["", "", "", str(place[0]), "--run", str(tmp_path / "run")])


def test_a_model_is_not_overwritten_by_what_it_becomes(place, whole, tmp_path):
    made = tmp_path / "made"
    shutil.copytree(whole, made, symlinks=True)
    base = latest(made)
    for run in (made, made / "checkpoints", base, base / "inside"):
        for start in ([base], [made]):
            says = refusal(command(*start, place[1], run, "--overwrite"))
            assert "is a folder of the model that is tuned" in says
    assert everything(made) == everything(whole)
    teach(command(made, place[1], made / "further", "--steps", 1))


def test_a_reader_that_leaves_ends_a_run_with_what_was_learned(place, tmp_path):
    run = tmp_path / "run"
    started = subprocess.Popen(command(*place, run, "--epochs", 1000), stdout=subprocess.PIPE, text=True)
    while not re.match(r"step +3/", started.stdout.readline()):
        pass
    started.stdout.close()
    started.wait(timeout=60)
    assert metrics(run)[-1]["step"] == int(latest(run).name.removeprefix("step_"))


# ---- tokens and their rows ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("template", ["llmc", "chatml", "llama3"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_tokens_that_a_model_lacks_get_rows_like_the_others(tmp_path, template, tied):
    from llmc import Device, tuned_model

    folder = tuning.base_model(tmp_path / "base", tied=tied)
    base, before = tuned_model.open_base(folder, template), open_checkpoint(folder)
    known, names = before.config.vocab_size, chat.template_of(template).tokens
    assert base.tokenizer.vocab_size == base.config.vocab_size == known + len(names)
    assert base.fresh == [base.tokenizer.special[name] for name in names]
    model = tuned_model.make_model(base, Device("cpu", 1), "f32", 1, 3)
    for name in before.model.names:
        old, new = before.model.get(name), model.get(name)
        if name not in ("wte.weight", "lm_head.weight"):
            assert np.array_equal(old, new)
            continue
        rows, spread = new[known:known + len(names)], 0.1 if name == "lm_head.weight" else 1.0
        assert np.array_equal(new[:known], old[:known]) and not new[known + len(names):].any()
        away = (rows - old[:known].mean(0)) / old[:known].std(0)
        assert 0.7 * spread < away.std() < 1.3 * spread and len(np.unique(rows, axis=0)) == len(rows)


def test_rows_that_a_model_has_learned_stay(tmp_path, whole):
    """A model of ours that chats already, and one from elsewhere whose tokenizer has the tokens."""
    from llmc import tuned_model

    assert tuned_model.open_base(whole).fresh == []
    theirs = tuning.base_model(tmp_path / "theirs", trained=False)
    words = tuning.tokenizer().with_special(["<|im_start|>", "<|im_end|>"])
    assert len(tuned_model.open_base(theirs).fresh) == 13
    (theirs / "tokenizer.json").write_bytes(words.to_json())
    config = json.loads((theirs / "config.json").read_text())
    assert words.vocab_size <= config["padded_vocab_size"]
    (theirs / "config.json").write_text(json.dumps(config | {"vocab_size": words.vocab_size}))
    base = tuned_model.open_base(theirs)
    assert chat.is_base(theirs) is False and base.manner.template == "chatml" and not {words.special["<|im_start|>"]} & set(base.fresh)


def test_a_base_model_of_ours_stays_one_when_it_is_converted(tmp_path):
    """Its tokenizer may have the tokens of conversations: it has never seen them."""
    from llmc import tuned_model

    words = tuning.tokenizer().with_special(chat.template_of("llmc").tokens)
    ours = tuning.base_model(tmp_path / "ours", vocab_size=words.vocab_size)
    (ours / "tokenizer.json").write_bytes(words.to_json())
    (ours / "state.json").write_text(json.dumps({"tokenizer": f"{words.fingerprint():016x}"}))
    for source, target in (("ours", "int8"), ("ours", "theirs"), ("theirs", "back")):
        how = ["--dtype", "int8"] if target == "int8" else []
        convert.run(cli.parse(convert.Convert, [str(tmp_path / source), str(tmp_path / target), *how]))
    for folder in (ours, tmp_path / "int8", tmp_path / "back"):
        assert chat.manner_of(folder, words) is None and len(tuned_model.open_base(folder).fresh) == 13


# ---- mixtures -------------------------------------------------------------------------------------------------------

def rendered(messages):
    ids = [len(message.text) % 251 for message in messages] * 3
    return chat.Rendered(ids, [number > 0 for number in range(len(ids))])


def test_weights_say_how_often_an_epoch_brings_a_conversation(tmp_path):
    one, two, three = (tuning.data(tmp_path / f"{name}.jsonl", count, seed=count) for name, count in
                       (("a", 30), ("b=3", 20), ("c", 40)))
    learned, held_out, report = load([str(one), f"{two}=2", f"{three}=0.25"], rendered, 64, 0.0)
    assert (len(learned), len(held_out), report.read) == (90, 0, 90)
    order = Order(learned, 64, seed=5)
    seen = np.zeros((8, 90), int)
    for epoch in range(8):
        begin, end = order.begin(epoch), order.begin(epoch + 1)
        for row in order.rows(begin, end - begin):
            np.add.at(seen[epoch], row, 1)
    of_a, of_b, of_c = seen[:, :30], seen[:, 30:50], seen[:, 50:]
    assert (of_a == 1).all() and (of_b == 2).all()
    assert (of_c.sum(1) == 10).all() and (of_c[:4].sum(0) == 1).all() and (of_c[4:].sum(0) == 1).all()
    again = Order(learned, 64, seed=5)          # at any place, in any order of asking
    assert again.rows(order.begin(6) + 2, 9) == order.rows(order.begin(6) + 2, 9)
    assert order.rows(0, 5) != Order(learned, 64, seed=6).rows(0, 5)
    assert source("a=b.jsonl").name == "a=b.jsonl"


@pytest.mark.parametrize("weight", ["0", "-1", "1e9", "nan"])
def test_a_weight_is_a_number_of_times(weight):
    with pytest.raises(ValueError, match="the weight is .*, wanted more than 0"):
        source(f"a.jsonl={weight}")


@pytest.mark.parametrize("weight", ["0.001", "0.0000001"])
def test_an_epoch_brings_something(tmp_path, weight):
    with pytest.raises(ValueError, match="brings less than one conversation; give larger weights"):
        load([f"{tuning.data(tmp_path / 'a.jsonl')}={weight}"], rendered, 64, 0.0)


def test_what_is_held_out_is_held_out_wherever_it_stands(tmp_path):
    path = tuning.data(tmp_path / "a.jsonl", 300)
    doubled = tmp_path / "b.jsonl"
    doubled.write_text("".join(sorted(path.read_text().splitlines(True)) * 2))
    _, held_out, _ = load([str(path)], rendered, 64, 0.2)
    learned, twice, _ = load([str(doubled)], rendered, 64, 0.2)
    assert len(twice) == 2 * len(held_out) and 35 < len(held_out) < 90 and len(learned) + len(twice) == 600


# ---- bad data -------------------------------------------------------------------------------------------------------

GOOD = {"messages": [{"role": "user", "content": "the sun"}, {"role": "assistant", "content": "sun"}]}
BAD = {
    "an unknown role": (json.dumps({"messages": [{"role": "judge", "content": "a"}]}), "there is no role 'judge'"),
    "an empty turn": (json.dumps({"messages": [GOOD["messages"][0], {"role": "assistant", "content": " "}]}),
                      "message 2, the assistant's, is empty"),
    "two answers": (json.dumps({"messages": [*GOOD["messages"], GOOD["messages"][1]]}),
                    "message 3 is the assistant's, and so is the one before"),
    "no JSON": ('{"messages": [{"role": "user"', "no JSON"),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_a_bad_line_is_named(place, tmp_path, kind):
    """Line 7,312, before anything is made; --skip_bad counts it instead."""
    line, says = BAD[kind]
    data = tmp_path / "chat.jsonl"
    data.write_text("".join([json.dumps(GOOD) + "\n"] * 7311 + [line + "\n"] + [json.dumps(GOOD) + "\n"] * 3))
    found = refusal(command(place[0], data, tmp_path / "run"))
    assert f"{data}, line 7312" in found and says in found and not (tmp_path / "run").exists()
    _, _, report = load([str(data)], rendered, 64, 0.0, skip_bad=True)
    assert (report.read, len(report.faults)) == (7314, 1) and "line 7312" in report.faults[0]


def test_each_line_that_is_left_out_is_named_in_the_run(place, tmp_path):
    """Also rows that call tools in a way that would lose something."""
    bad = [{"messages": []}, {"query": "?", "tools": [], "answers": []}, 5]
    data = tmp_path / "chat.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [*[GOOD] * 20, *bad]))
    done = subprocess.run(command(place[0], data, tmp_path / "run", "--steps", 1, "--skip_bad"), capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert f"3 left out: unreadable, each named in left_out.txt of the run, the first {data}, line 21" in done.stdout
    assert (tmp_path / "run/left_out.txt").read_text().splitlines() == [
        f"{data}, line 21: the conversation has no messages",
        f"{data}, line 22: it has 0 calls at a time, and no outputs; wanted one call",
        f"{data}, line 23: it is int, wanted an object"]


def test_what_does_not_fit_and_what_teaches_nothing_is_counted(place, tmp_path):
    long = [Message("user", "the " * 200), Message("assistant", "sun")]
    cut = [Message("user", "the sun"), Message("assistant", "sun"), Message("user", "the " * 200),
           Message("assistant", "moon")]
    mute = [Message("user", "the sun"), Message("assistant", "sun", learned=False)]
    data = tuning.write(tmp_path / "chat.jsonl", [long, cut, mute, *(each.messages for each in read(place[1]))])
    done = subprocess.run(command(place[0], data, tmp_path / "run", "--steps", 1), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for says in ("163 conversations", "1 cut at a turn to fit the context", "1 left out: their first answer does not",
                 "1 left out: nothing in them is to be learned"):
        assert says in done.stdout
    only = tuning.write(tmp_path / "mute.jsonl", [mute])
    assert "nothing is there to learn from" in refusal(command(place[0], only, tmp_path / "other"))


def test_a_model_that_writes_no_text_is_no_language_model(tmp_path):
    folder = tuning.base_model(tmp_path / "critic", head="scalar", tied=False)
    with pytest.raises(ValueError, match="critic has a scalar head, which writes no text; give a language model"):
        open_checkpoint(folder)


# ---- updates that are refused ---------------------------------------------------------------------------------------

def test_losses_that_are_not_finite_end_a_run_and_a_broken_model_is_not_saved(place, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="3 updates in a row were refused, and there is no checkpoint"):
        teach(command(*place, run, "--lr", 100, "--grad_clip", 0, "--warmup_steps", 0, "--optimizer", "adamw",
                      "--dtype", "f32", "--epochs", 50, "--eps", 0))
    lines = metrics(run)
    assert [line.get("skipped") for line in lines[-3:]] == [True] * 3 and lines[-1]["loss"] is None
    assert not list((run / "checkpoints").iterdir())


@pytest.mark.parametrize("steps", [1, 2])
def test_a_model_that_diverges_in_its_last_steps_is_not_saved(place, tmp_path, steps):
    """The last good checkpoint stays, and no sample is asked of it first."""
    run = tmp_path / "run"
    with pytest.raises(ValueError, match=f"the model has diverged: at step {steps} .*; start anew with a lower --lr"):
        teach(command(*place, run, "--lr", 100, "--grad_clip", 0, "--warmup_steps", 0, "--steps", steps, "--eps", 0))
    assert not list((run / "checkpoints").iterdir())


@pytest.mark.parametrize("name, value, says", [
    ("lr", "x", "--lr: 'x' is no number"), ("lr", 1e9, "--lr is 1000000000.0, wanted 0 to 100"),
    ("steps", 1.5, "--steps: '1.5' is no whole number"), ("dtype", "f64", "--dtype: invalid choice: 'f64'"),
    ("lr", None, "--lr is null, wanted a value"), ("packed", "yes", "--packed"), ("total_batch_size", {}, "--total_batch_size: '{}' is no whole number")])
def test_a_config_that_was_changed_by_hand_is_named(place, whole, tmp_path, name, value, says):
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    noted = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(noted | {name: value}))
    found = refusal([*command(*place, run)[:3], "--run", str(run), "--resume", "--plain"])
    assert f"{run}/config.json: {says}" in found and found.endswith("; put right what it holds, or start the run anew")


def test_a_run_without_questions_goes_on_without(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    noted = json.loads((run / "config.json").read_text())
    for asked in ([], ["one", "two"]):
        (run / "config.json").write_text(json.dumps(noted | {"ask": asked}))
        assert cli.parse(sft.Sft, ["--run", str(run), "--resume"]).resumed().ask == asked


def test_a_batch_that_memory_does_not_hold_is_refused_with_one_that_fits(place, tmp_path, monkeypatch):
    monkeypatch.setattr(sft, "training_bytes", lambda model, rows, *more: rows * 10**9)
    found = refusal(command(*place, tmp_path / "run", "--batch_size", 2**20, "--seq_len", 64))
    wanted = re.fullmatch(r"--batch_size 1,048,576 takes ([\d.]+) GB on cpu\S*, which has ([\d.]+) GB for it; "
                          r"--batch_size (\d+) would fit", found)
    assert float(wanted[1]) > float(wanted[2]) and 2**20 * float(wanted[2]) / float(wanted[1]) > int(wanted[3]) > 0
    assert not (tmp_path / "run").exists()


def test_rows_that_hold_no_conversation_are_refused_with_a_length_that_does(place, tmp_path):
    found = refusal(command(*place, tmp_path / "run", "--seq_len", 5))
    least = int(re.search(r"give --seq_len (\d+) or more, as far as the model's context goes", found)[1])
    assert "--seq_len" in refusal(command(*place, tmp_path / "run", "--seq_len", least - 1))
    teach(command(*place, tmp_path / "run", "--seq_len", least, "--steps", 1))
