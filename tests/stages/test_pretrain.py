"""llmc.pretrain: train_gpt2's flags, lines, signals and exit status, drawn where there is a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from building import need_mpi
from llmc import pretrain
from llmc.cli import parse
from llmc.terminal import curve, printable
from llmc.train_display import TrainDisplay, clock
from rich.console import Console
from terminals import take_terminal
from training import TINY, command, latest, metrics, start, train, write_data

LLMC = [sys.executable, "-m", "llmc.pretrain"]
STEP = "step {:6}/40 | loss   {} | lr 1.00e-03 | norm   0.5000 |    150.0 ms |     1200 tok/s | 0.030 TFLOP/s"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("walk"))


def flags(data: Path, run: Path, *more: object) -> list[str]:
    return command(data, run, *more)[1:]


def without_times(lines: str) -> list[str]:
    return [re.sub(r"\| +\S+ ms .*|runs at .*", "", line) for line in lines.splitlines()]


def test_elsewhere_the_lines_are_the_programs_own(data, tmp_path):
    run = tmp_path / "run"
    theirs, _ = train(command(data, run, "--steps", 12))
    ours, errors = train([*LLMC, *flags(data, run, "--steps", 12, "--overwrite")])
    assert without_times(ours) == without_times(theirs) and errors == ""
    assert "step     12/12" in ours


def test_help_is_ours_and_then_the_programs():
    out, _ = train([*LLMC, "--help"])
    theirs, _ = train([pretrain.program(), "--help"])
    assert out.startswith("usage: llmc pretrain") and "--ranks" in out and out.endswith(theirs)


def test_flags_are_passed_on_in_their_order():
    given = ["--lr", "-1", "--ranks", "3", "--no-resume", "--data=a b", "--plain", "stray", "--steps", "7"]
    config = parse(pretrain.Pretrain, given)
    assert (config.ranks, config.plain) == (3, True)
    assert config.flags == ["--lr", "-1", "--no-resume", "--data=a b", "stray", "--steps", "7"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_refusal_is_shown_once_and_as_it_is(tmp_path, terminal):
    wrong = ["--data", str(tmp_path / "no [bold]such"), "--steps", "3"]
    _, wanted = train([pretrain.program(), *wrong], status=1)
    if not terminal:
        assert train([*LLMC, *wrong], status=1) == ("", wanted)
        return
    shown, errors, status = on_a_terminal([*LLMC, *wrong])
    assert (shown.strip(), errors, status) == ("", wanted, 1)


@pytest.mark.parametrize("ranks", [0, -2])
def test_no_ranks_are_refused(ranks):
    _, errors = train([*LLMC, "--ranks", str(ranks)], status=1)
    assert errors == f"llmc: --ranks is {ranks}, wanted 1 or more\n"


def test_ranks_that_would_swamp_the_machine_are_refused():
    _, errors = train([*LLMC, "--ranks", "1000000"], status=1)
    assert errors.startswith("llmc: --ranks is 1000000, but this machine has ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_with_a_checkpoint(data, tmp_path, number):
    run = tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)       # nohup's children ignore it
    process = start([*LLMC, *flags(data, run, "--steps", 100_000)])
    signal.signal(signal.SIGHUP, before)
    wait_for_steps(run, 3)
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert "stopped    at step" in out
    assert latest(run).name == f"step_{metrics(run)[-1]['step']:08}"


@pytest.mark.skipif(sys.platform != "linux", reason="the launcher is found in /proc")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_hangup_that_is_ignored_does_not_end_the_run(data, tmp_path, ranks):
    """As nohup starts it."""
    if ranks > 1:
        need_mpi()
    run = tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    process = start([*LLMC, "--ranks", str(ranks), *flags(data, run, "--steps", 100_000)])
    signal.signal(signal.SIGHUP, before)
    wait_for_steps(run, 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for number in (process.pid, *map(int, children)):
        os.kill(number, signal.SIGHUP)
    wait_for_steps(run, len(metrics(run)) + 200)
    process.terminate()
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "") and "stopped    at step" in out


@pytest.mark.parametrize("script, status", [("exit 7", 7), ("kill -KILL $$", 137)])
def test_the_exit_status_is_the_programs(tmp_path, monkeypatch, script, status):
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(pretrain, "program", lambda: str(program))
    before = signal.getsignal(signal.SIGINT)
    assert pretrain.train([]) == status
    assert signal.getsignal(signal.SIGINT) is before


def test_a_terminal_shows_a_picture(data, tmp_path):
    run = tmp_path / "run"
    shown, errors, status = on_a_terminal([*LLMC, *flags(data, run, "--steps", 30, "--sample_every", 10)])
    assert (status, errors) == (0, "")
    assert "model      gpt2-tiny" in shown
    for part in ("30 of 30", "┤", "validation", "sample at step 30", "saved"):
        assert part in shown.split("\x1b[2K")[-1] or part in shown, part
    assert "| loss" not in shown, "a line of progress was printed, not drawn"


def test_ctrl_c_on_a_terminal_saves_and_ends(data, tmp_path):
    """The terminal signals every process of the foreground group; a second SIGINT would kill the
    program before it has saved."""
    run = tmp_path / "run"

    def press(terminal: int) -> None:
        wait_for_steps(run, 3)
        os.write(terminal, b"\x03")
    shown, errors, status = on_a_terminal([*LLMC, *flags(data, run, "--steps", 100_000)], press)
    assert (status, errors) == (0, ""), shown
    assert "stopped    at step" in shown and latest(run).is_dir()


def test_plain_lines_on_a_terminal(data, tmp_path):
    shown, _, status = on_a_terminal([*LLMC, "--plain", *flags(data, tmp_path / "run", "--steps", 3)])
    assert status == 0 and "step      3/3 | loss" in shown


# ---- the picture ---------------------------------------------------------------------------------


def drawn(lines: list[str], width: int = 90, seconds: float = 0) -> tuple[str, str]:
    """What is printed above, and the last picture."""
    clock = iter([0.0] * 2 + [seconds] * 1000)
    out = io.StringIO()
    console = Console(file=out, width=width, height=40, force_terminal=True, color_system=None)
    display = TrainDisplay(console, now=lambda: next(clock))
    for line in lines:
        display.feed(line)
    picture = Console(file=io.StringIO(), width=width, height=40, color_system=None)
    picture.print(display.picture())
    return out.getvalue(), picture.file.getvalue()


def test_the_picture_holds_the_latest_of_everything():
    lines = ["run        runs/x, step 0 of 40", "", STEP.format(1, "4.1000"),
             "validation loss 4.0000 nats a token, 2.1000 bits a byte, over 100 tokens",
             STEP.format(10, "3.2000"), "---- sample at step 10", "Once [red]upon", "a\x1b[2Jtime", "----",
             "saved      runs/x/checkpoints/step_00000010", STEP.format(20, "3.1250")]
    above, picture = drawn(lines, seconds=60)
    assert "20 of 40  50 % 1:00 elapsed, 1:00 left" in re.sub(" +", " ", picture).replace("50 %", " 50 %")
    assert "loss 3.1250   lr 1.00e-03   norm 0.5000   150 ms   1,200 tok/s   0.030 TFLOP/s" in picture
    assert "validation 4.0000 nats a token, 2.1000 bits a byte, at step 1\n" in picture
    assert "saved runs/x/checkpoints/step_00000010" in picture
    assert "sample at step 10" in picture and "Once [red]upon" in picture
    assert "\x1b" not in picture and "a\N{REPLACEMENT CHARACTER}[2Jtime" in picture
    assert "runs/x, step 0 of 40" in above and "Once" not in above


def test_what_is_not_progress_is_printed_above():
    said = ["skipped    step 4: the loss is a spike [bold]9[/bold]", "stopped    at step 5; --resume continues"]
    above, picture = drawn([STEP.format(4, "nan"), *said, STEP.format(5, "4.0")])
    assert all(line in above for line in said) and "skipped" not in picture


def test_a_continued_run_shows_its_past(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(
        f'{{"step":{i},"loss":{9 - i / 10}}}\n' for i in range(1, 21)))
    _, picture = drawn([f"run        {tmp_path}, step 20 of 40", STEP.format(21, "5.0000")], seconds=10)
    assert "5.00 ┤" in picture and "8.70 ┤" in picture
    assert "0:10 elapsed, 3:10 left" in picture, "time left is reckoned from this process's own steps"


def test_a_curve_falls_as_its_points_do():
    lines = curve([(x, 5 - x / 20) for x in range(1, 81)], 80, 48, 4)
    assert [len(line) for line in lines] == [48] * 4
    assert (lines[0][:8], lines[-1][:8]) == ("  4.60 ┤", "  1.02 ┤")
    ends = [max(i for i, dot in enumerate(line[8:]) if dot != "\u2800") for line in lines]
    assert ends == sorted(ends) and ends[-1] == 39, "each row ends further right, the last at the end"
    half = curve([(x, 5 - x / 20) for x in range(1, 41)], 80, 48, 4)
    assert all(set(line[8 + 21:]) == {"\u2800"} for line in half), "the second half is still to come"


def test_the_dots_of_a_level_curve():
    assert curve([(0, 2.0), (10, 2.0)], 10, 10, 1) == ["  2.00 ┤" + "\u2809\u2809"]


def test_the_dots_of_a_fall_hang_together():
    assert curve([(0, 4.0), (1, 0.0)], 2, 10, 2) == ["  4.00 ┤\u28b9\u2800", "  0.00 ┤\u2808\u2847"]


def test_times_are_minutes_and_hours():
    assert [clock(s) for s in (0, 59.6, 3599, 3725)] == ["0:00", "1:00", "59:59", "1:02:05"]


def test_control_characters_do_not_reach_a_terminal():
    assert printable("a\tb\nc\x1b]0;x\x07é\x9b") == "a\tb\nc\ufffd]0;x\ufffdé\ufffd"


# ---- terminals -----------------------------------------------------------------------------------


def wait_for_steps(run: Path, count: int) -> None:
    for _ in range(6000):
        if (run / "metrics.jsonl").exists() and len(metrics(run)) >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"{run} made no {count} steps")


def on_a_terminal(argv: list[str], then=lambda terminal: None) -> tuple[str, str, int]:
    """Runs on a terminal of its own; what it shows, what it says on stderr, its exit status."""
    terminal, inside = pty.openpty()
    process = subprocess.Popen(argv, stdin=inside, stdout=inside, stderr=subprocess.PIPE,
                               start_new_session=True, preexec_fn=take_terminal,
                               env=os.environ | {"COLUMNS": "100", "LINES": "40", "TERM": "xterm"})
    os.close(inside)
    then(terminal)
    shown = b""
    while process.poll() is None or select.select([terminal], [], [], 0)[0]:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:                     # all who had it open are gone
                break
    os.close(terminal)
    errors = process.stderr.read().decode()
    process.stderr.close()
    return shown.decode(errors="replace"), errors, process.wait(timeout=60)
