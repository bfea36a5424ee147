"""The quick start's second half: an assistant, counted before and after, that goes on where it was left."""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from llmc import cli
from llmc.quickstart import QuickStart, run
from test_quickstart import write_text
from training import everything

FLAGS = ("--data play.txt --vocab_size 500 --preset llama-tiny --n_layer 1 --n_embd 32 --n_head 2 --max_seq_len 256 "
         "--batch_size 2 --steps 4 --warmup_steps 1 --manners 100 --identity 100 --tools 100 --sft_steps 6").split()
ARGV = [sys.executable, "-m", "llmc.quickstart", *FLAGS]


def quick_start(*more: str) -> None:
    run(cli.parse(QuickStart, [*FLAGS, *more]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> SimpleNamespace:
    home = tmp_path_factory.mktemp("home")
    write_text(home / "play.txt")
    done = subprocess.run(ARGV, cwd=home, capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    return SimpleNamespace(home=home, out=done.stdout)


@pytest.fixture
def home(finished, tmp_path, monkeypatch) -> Path:
    shutil.copytree(finished.home, tmp_path / "home", symlinks=True)
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "home"


def test_it_ends_with_scores_before_and_after_and_a_few_turns(finished):
    told = finished.out[finished.out.index("== What the assistant learned"):]
    for what, n in (("says its name", 40), ("refuses harmful", 0), ("answers harmless", 0), ("answers follow-ups", 0),
                    ("counts letters with a tool", 200), ("adds with a tool", 200)):
        line = next(line for line in told.splitlines() if line.startswith(what))
        shares = re.findall(r"([\d.]+)% +([\d.]+)-([\d.]+)", line)
        assert len(shares) == 2 and all(float(low) <= float(share) <= float(high) for share, low, high in shares)
        assert not n or f" {n} " in line
    chat = told[told.index("== A few turns with Pico"):told.index("== What next")]
    assert chat.count("\nyou   ") == 5 and chat.count("\nPico  ") == 5
    assert re.search(r"^talk with it +\S+llmc chat runs/play/assistant$", told, re.M)
    data = finished.home / "runs/play/assistant/conversations"
    of_both = [[json.loads(line)["messages"][0] for line in (data / f"answers_{who}.jsonl").read_text().splitlines()]
               for who in ("base", "assistant")]
    assert of_both[0] == of_both[1] and len(of_both[0]) == 840


def test_the_assistant_answers_where_it_is_said_to_be(home):
    done = subprocess.run([sys.executable, "-m", "llmc.chat", "runs/play/assistant", "--prompt", "Hi", "--max_tokens",
                           "5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_finished_assistant_is_shown_and_left_as_it_is(home, capfd):
    before = everything(home / "runs/play/assistant")
    quick_start()
    out = capfd.readouterr().out
    assert "== The model learns" not in out and "== A few turns with Pico" in out
    assert everything(home / "runs/play/assistant") == before


def test_an_assistant_that_was_stopped_goes_on_as_if_undisturbed(home):
    wanted = everything(home / "runs/play/assistant")
    shutil.rmtree(home / "runs/play/assistant")
    process = subprocess.Popen(ARGV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "step      2/6" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "") and "goes on" in out.splitlines()[-1]
    quick_start()
    assert everything(home / "runs/play/assistant") == wanted


def test_another_name_is_not_put_in_its_place(home):
    before = everything(home / "runs/play/assistant")
    with pytest.raises(ValueError, match=r"was taught otherwise \(name was Pico and is Ada now\); remove that folder"):
        quick_start("--name", "Ada")
    assert everything(home / "runs/play/assistant") == before


def test_an_assistant_of_fewer_settings_is_taken_up(home):
    """As an earlier version left it: the others had their default values."""
    note = home / "runs/play/assistant/quickstart.json"
    noted = json.loads(note.read_text())
    del noted["name"]
    note.write_text(json.dumps(noted))
    quick_start()
    assert json.loads(note.read_text())["name"] == "Pico"
