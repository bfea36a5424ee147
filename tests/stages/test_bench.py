"""llmc.bench: what its figures are made of, that the peer does the same work, and that it leaves nothing behind."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from llmc import Config, Decoder, Device, Model, bench, cli
from llmc.bench import Bench, Worker
from llmc.bench_cases import GROUPS, chosen, peak_cases
from training import refusal, train

COMMAND = [sys.executable, "-m", "llmc.bench", "--quick"]


@pytest.fixture(scope="module")
def against_torch(tmp_path_factory):
    """One quick run of everything: what it printed, and the folder of its files."""
    folder = tmp_path_factory.mktemp("bench")
    files = ("--json", folder / "new" / "bench.json", "--png", folder / "bench.png")
    out, errors = train([*COMMAND, "--against", "torch", "--rounds", "2", *map(str, files)], TMPDIR=str(folder))
    assert errors == ""
    return out, folder


@pytest.fixture(scope="module")
def result(against_torch):
    return json.loads((against_torch[1] / "new" / "bench.json").read_text())


def test_every_group_has_a_line_and_the_machine_is_shown(against_torch, result):
    out, _ = against_torch
    machine = result["machine"]
    assert [*dict.fromkeys(row["group"] for row in result["rows"])] == list(GROUPS)
    assert f"device {Device().name}, {machine['threads']} threads, against {machine['peer']}" in out
    for row in result["rows"]:
        line = next(line for line in out.splitlines() if f"  {row['name']} " in line and f" {row['dtype']} " in line)
        assert f"{row['share']:.0%}" in line
        assert ("ratio" in row) == (row["group"] != "loader" and row["dtype"] != "int8")
        last = f"{row['ratio']:.2f}" if "ratio" in row else f"{row['tokens'] / row['sides']['llmc']['seconds']:.0f}"
        assert line.split()[-1] in (last, "eager")
        assert last in line.split()
    assert out.count(" x PyTorch's speed in the median") == 2


def test_figures_follow_from_the_rounds(result):
    peak = result["peak"]
    assert peak.keys() == {"f32", "bf16", "int8", "read", "copy"} and min(peak.values()) > 1e6
    for row in result["rows"]:
        sides = row["sides"]
        for side in sides.values():
            assert len(side["rounds"]) == 2 and side["seconds"] == statistics.median(side["rounds"])
        assert row["rate"] == row["amount"] / sides["llmc"]["seconds"]
        top = peak[row["dtype"]] if row["unit"] == "FLOP/s" else max(peak["read"], peak["copy"])
        assert row["share"] == row["rate"] / top
        if "ratio" in row:
            assert row["ratio"] == sides[row["peer"]]["seconds"] / sides["llmc"]["seconds"]


def test_a_train_step_shows_the_memory_of_each_side_and_counts_no_pure_bf16(result):
    f32, bf16 = [row["sides"] for row in result["rows"] if row["group"] == "train"]
    assert f32.keys() == {"llmc", "eager", "recompute"} and bf16.keys() == f32.keys() | {"pure"}
    assert f32["llmc"]["peak_bytes"] > f32["recompute"]["peak_bytes"] > 1e7
    assert all(row.get("peer") in (None, "torch", "eager") for row in result["rows"])


def test_the_picture_is_written_and_nothing_else_is_left(against_torch):
    _, folder = against_torch
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == ["bench.png", "new"]


def test_without_a_peer_there_are_shares_and_no_ratios(tmp_path):
    argv = [*COMMAND, "--only", "norm", "--match", "forward f32", "--rounds", "1", "--threads", "1",
            "--json", str(tmp_path / "x.json"), "--png", str(tmp_path / "x.png")]
    out, _ = train(argv)
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["layer_norm forward 1024x768"] and "ratio" not in out
    assert "1 threads" in out and (tmp_path / "x.png").is_file()


def test_a_full_run_holds_every_product_of_gpt2():
    cases = chosen("matmul", "", quick=False)
    assert len(cases) == 5 * 3 * 3 * 2
    largest = max(cases, key=lambda case: case.amount)
    assert largest.amount == 2 * 4096 * 768 * 50304 and largest.name.endswith("M=4096 768x50304")
    names = {case.name for case in chosen("train", "", quick=False)}
    assert names == {"quickstart B=4 T=256", "gpt2 B=4 T=256", "gpt2 B=4 T=1024"}


@pytest.mark.parametrize("dtype, number", [("f32", 4), ("bf16", 2), ("int8", 2)])
def test_decoding_reads_all_weights_but_positions_and_each_row_s_cache(dtype, number):
    cases = chosen("decode", f"decode {dtype}", quick=False)
    one, four = (case.amount for case in cases if case.name in ("decode rows=1", "decode rows=4"))
    cache = 2 * 12 * 768 * 128 * number         # keys and values, of 12 layers, 768 wide, of 128 tokens
    assert four - one == 3 * cache
    positions = 1024 * 768 * number
    model = Model(Device("cpu", 1), Config.preset("gpt2"), dtype)
    sizes = {"f32": 4, "bf16": 2, "i8": 1 + 4 / 64}             # a scale for 64 numbers
    weights = sum(math.prod(model.shapes[name]) * sizes[model.types[name]] for name in model.names) - positions
    assert one - cache == pytest.approx(weights, rel=2e-3)      # the vocabulary's padding, vectors beside int8


def test_memory_is_read_in_several_ways_of_the_same_amount():
    ways = [case for case in peak_cases() if case.name == "read"]
    assert len(ways) == 2 and {case.amount for case in ways} == {1 << 28}


@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny"])
def test_the_peer_is_the_same_model(preset):
    import torch
    from llmc.bench_torch import Transformer

    config = Config.preset(preset, vocab_size=128, n_layer=2, max_seq_len=40)
    model = Model(Device("cpu", 1), config)
    model.init(3)
    for name in model.names:            # far from where a model begins: there every loss is log V
        model.set(name, model.get(name) * 8)
    model.plan(2, 37, train=False)
    peer = Transformer(config.to_dict())
    peer.load_state_dict({name: torch.tensor(model.get(name)) for name in model.names})
    rows = np.random.default_rng(0).integers(0, 128, (2, 38), dtype=np.int32)
    tokens, targets = rows[:, :-1].copy(), rows[:, 1:].copy()
    ours = -model.score(tokens, targets)["logp"].mean()
    theirs = peer(torch.from_numpy(tokens).long(), torch.from_numpy(targets).long()).item()
    assert ours > 6 and ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("way", ["flash", "plain"])
@pytest.mark.parametrize("dtype, error", [("f32", 2e-3), ("bf16", 0.03), ("int8", 0.1)])
@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny"])
def test_llama_cpp_reads_the_same_model(preset, dtype, error, way, tmp_path, monkeypatch):
    """Logits of rows with a context of their own; the error, in standard deviations of the logits,
    is that of llama.cpp's tables (f32: GELU and flash attention are in f16) and of each type."""
    from llmc import bench_llama_cpp as peer

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = Config.preset(preset, vocab_size=128, n_layer=2, max_seq_len=64)
    rows, context, T = 3, 20, 5
    tokens = np.random.default_rng(0).integers(0, 128, (rows, context + T))
    model = Model(Device("cpu", 1), config)
    model.init(1)
    decoder = Decoder(model, rows, pages=rows, tokens=tokens.size)
    ours = decoder.feed([(decoder.open(), line, True) for line in tokens])[:, :128]
    case = {"config": config.to_dict(), "dtype": dtype, "rows": rows, "context": context, "T": T, "way": way}
    opened = peer.opened(case, 1)
    for row in range(rows):
        peer.feed(opened, peer.batch(tokens[row:row + 1, :context], [row], 0))
    peer.feed(opened, peer.batch(tokens[:, context:], list(range(rows)), context))
    theirs = peer.logits(opened, rows, T)
    assert np.abs(theirs - ours).max() < error * ours.std()
    types = {tensor.tensor_type.name for tensor in GGUFReader(peer.model_file(case["config"], dtype)).tensors}
    assert types == {"f32": {"F32"}, "bf16": {"F32", "BF16"}, "int8": {"F32", "Q8_0"}}[dtype]


def test_a_run_against_llama_cpp_compares_int8_with_q8_0(tmp_path):
    argv = [*COMMAND, "--against", "llama.cpp", "--match", "rows=1 int8", "--rounds", "1",
            "--json", str(tmp_path / "x.json"), "--png", str(tmp_path / "x.png")]
    out, errors = train(argv, TMPDIR=str(tmp_path))
    found = json.loads((tmp_path / "x.json").read_text())
    assert errors == "" and [row["sides"].keys() for row in found["rows"]] == [{"llmc", "plain"}]
    assert found["rows"][0]["peer"] == "plain"
    assert f"against {found['machine']['peer']}" in out and "cyllama" in out and "llama.cpp ms" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.png"]


@pytest.mark.parametrize("kind", ["decode", "first_token"])
@pytest.mark.parametrize("side", ["bench_engine", "bench_torch", "bench_llama_cpp"])
def test_each_side_forgets_what_it_read(side, kind, tmp_path):
    """Many more calls than the cache has room for."""
    config = Config.preset("gpt2-tiny", vocab_size=50257, n_layer=1, n_embd=32, max_seq_len=64)
    case = {"kind": kind, "config": config.to_dict(), "dtype": "f32", "rows": 1 if kind == "first_token" else 2,
            "context": 0 if kind == "first_token" else 7, "T": 3, "way": "plain", "device": "cpu"}
    with Worker(f"llmc.{side}", tmp_path, 1) as worker:
        worker.ask(case=case)
        assert all(worker.ask(seconds=0)["seconds"] > 0 for _ in range(100))


def test_peers_are_only_loaded_by_their_workers():
    check = ("import sys; import llmc.bench, llmc.bench_engine, llmc.bench_report; "
             "sys.exit(not {'torch', 'cyllama'}.isdisjoint(sys.modules))")
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.parametrize("against, said", [
    ("torch", "PyTorch, which is not installed (pip install torch)"),
    ("llama.cpp", "llama.cpp's wheel cyllama, which is not installed (pip install cyllama)")])
def test_a_missing_peer_is_one_sentence(against, said, monkeypatch, capsys):
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    assert cli.guarded(lambda: bench.run(Bench(against=against))) == 1
    assert capsys.readouterr().err == f"llmc: --against {against} needs {said}\n"


@pytest.mark.parametrize("flags, message", [
    (["--only", "matmul,atention"], "there is no group 'atention'; did you mean attention?"),
    (["--match", "gpt3"], "no row has all of the words 'gpt3'"),
    (["--rounds", "0"], "--rounds is 0, wanted 1 to 2147483647"),
    (["--png", "x.jpg"], "--png is x.jpg, wanted a name that ends in .png"),
    (["--json", "."], ". is a folder, wanted the name of a file"),
    (["--device", "abacus"], "no such device"),
    (["--against", "llama.cpp", "--only", "train,norm"], "--against llama.cpp compares decode only"),
    (["--against", "jax"], "invalid choice: 'jax'")])
def test_what_cannot_be_measured_is_refused_at_once(flags, message):
    assert message in refusal([*COMMAND, *flags])


def test_a_worker_that_fails_says_why(tmp_path):
    with Worker("llmc.bench_engine", tmp_path, 1) as worker:
        with pytest.raises(ValueError, match=r"llmc.bench_engine ended with status 1: KeyError: 'poetry'"):
            worker.ask(case={"kind": "poetry"})


def processes_with(word: str) -> list[str]:
    """Of those whose environment has the word."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if word in environment.read_text(errors="replace"):
                found.append(environment.parent.name)
        except OSError:
            continue
    return found


def ctrl_c_is_heard() -> None:
    """In a child: tests that run in the background were started with it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def comes_true(claim: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not (true := claim()) and time.monotonic() < end:
        time.sleep(0.05)
    return true


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_what_stops_it_stops_its_workers(number, status, tmp_path):
    process = subprocess.Popen([*COMMAND, "--only", "matmul", "--rounds", "1000"], stdout=subprocess.PIPE, text=True,
                               env=os.environ | {"TMPDIR": str(tmp_path)}, preexec_fn=ctrl_c_is_heard)
    try:
        assert process.stdout.readline().endswith("threads\n")
        assert comes_true(lambda: len(processes_with(str(tmp_path))) == 2)      # it, and its worker
        os.kill(process.pid, number)
        assert process.wait(30) == status
    finally:
        process.kill()
        process.communicate()
    assert comes_true(lambda: not processes_with(str(tmp_path)))    # a killed one's worker ends its turn
    assert number == signal.SIGKILL or not list(tmp_path.iterdir())
