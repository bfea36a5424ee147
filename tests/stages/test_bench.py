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
from llmc import Config, Decoder, Device, Model, bench, cli, doctor
from llmc.bench import Bench, Worker
from llmc.bench_cases import CPU, EMULATED, GPU, GROUPS, chosen, peak_cases
from llmc.bench_worker import Work, WorkerEnded, fastest
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
        assert ("memory" in sides) == (row["group"] == "decode" and row["unit"] == "bytes/s")
        top = peak[row["dtype"]] if row["unit"] == "FLOP/s" else max(peak["read"], peak["copy"])
        if "memory" in sides:           # in turns with what reads it, as fast as it was read then
            top = CPU.block / sides["memory"]["seconds"]
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
    argv = [*COMMAND, "--only", "norm", "--match", "layer_norm forward f32", "--rounds", "1", "--threads", "1",
            "--json", str(tmp_path / "x.json"), "--png", str(tmp_path / "x.png")]
    out, _ = train(argv)
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["layer_norm forward 1024x768"] and "ratio" not in out
    assert "1 threads" in out and (tmp_path / "x.png").is_file()


def test_a_full_run_holds_every_product_of_gpt2():
    cases = chosen("matmul", "", CPU)
    assert len(cases) == 5 * 3 * 3 * 2
    largest = max(cases, key=lambda case: case.amount)
    assert largest.amount == 2 * 4096 * 768 * 50304 and largest.name.endswith("M=4096 768x50304")
    names = {case.name for case in chosen("train", "", CPU)}
    assert names == {"quickstart B=4 T=256", "gpt2 B=4 T=256", "gpt2 B=4 T=1024"}


@pytest.mark.parametrize("dtype, number", [("f32", 4), ("bf16", 2), ("int8", 2)])
def test_decoding_reads_all_weights_but_positions_and_each_row_s_cache(dtype, number):
    cases = chosen("decode", f"decode {dtype}", CPU)
    one, four = (case.amount for case in cases if case.name in ("decode rows=1", "decode rows=4"))
    cache = 2 * 12 * 768 * 128 * number         # keys and values, of 12 layers, 768 wide, of 128 tokens
    assert four - one == 3 * cache
    positions = 1024 * 768 * number
    model = Model(Device("cpu", 1), Config.preset("gpt2"), dtype)
    sizes = {"f32": 4, "bf16": 2, "i8": 1 + 4 / 64}             # a scale for 64 numbers
    weights = sum(math.prod(model.shapes[name]) * sizes[model.types[name]] for name in model.names) - positions
    assert one - cache == pytest.approx(weights, rel=2e-3)      # the vocabulary's padding, vectors beside int8


def test_memory_is_read_in_several_ways_of_the_same_amount():
    ways = [case for case in peak_cases(CPU) if case.name == "read"]
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
    assert errors == "" and [row["sides"].keys() for row in found["rows"]] == [{"llmc", "plain", "memory"}]
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
            worker.ask(case={"kind": "poetry", "device": "cpu"})


def test_a_worker_that_failed_works_again(tmp_path):
    case = {"kind": "grad_norm", "N": 64, "device": "cpu"}
    with Worker("llmc.bench_engine", tmp_path, 1) as worker:
        for _ in range(2):
            with pytest.raises(WorkerEnded, match="KeyError"):
                worker.ask(case={})
        worker.ask(case=case)
        assert worker.ask(seconds=0)["seconds"] > 0


# ---- on a GPU -------------------------------------------------------------------------------------------------------


def test_the_emulated_gpu_runs_the_whole_table(tmp_path):
    """What a GPU is asked, but for its sizes."""
    files = ("--json", str(tmp_path / "x.json"), "--png", str(tmp_path / "x.png"))
    out, errors = train([sys.executable, "-m", "llmc.bench", "--device", "cuda-emu", "--rounds", "1", *files])
    found = json.loads((tmp_path / "x.json").read_text())
    rows, peak = found["rows"], found["peak"]
    assert errors == "" and (tmp_path / "x.png").is_file() and found["machine"]["device"] == "cuda-emu"
    assert [row["name"] for row in rows] == [case.name for case in chosen("", "", EMULATED)]
    assert {row["group"] for row in rows} == set(GROUPS) - {"loader"}
    for row in rows:
        top = peak[row["dtype"]] if row["unit"] == "FLOP/s" else peak["copy"]
        assert row["rate"] > 0 and row["share"] == row["rate"] / top
    step = rows[0]
    assert step["sides"]["llmc"]["peak_bytes"] > step["sides"]["recompute"]["peak_bytes"] > 0
    calls = {name: part["calls"] for name, part in step["parts"].items()}
    blocks, products = 2, 2 * 4 + 1         # the head's among them
    assert calls["linear_forward"] == calls["linear_backward"] == products
    assert calls["attention_forward"] == calls["attention_backward"] == blocks and calls["adamw"] > 0
    assert f"{step['name']} bf16, llmc by part" in out and " MFU " in out


def test_beside_the_emulated_gpu_pytorch_computes_on_the_cpu(tmp_path):
    argv = [sys.executable, "-m", "llmc.bench", "--device", "cuda-emu", "--rounds", "1", "--against", "torch",
            "--only", "attention,norm,elementwise,matmul", "--json", str(tmp_path / "x.json")]
    out, errors = train(argv, TMPDIR=str(tmp_path))
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert errors == "" and "torch ms" in out
    assert len(rows) > 10 and all(row["ratio"] > 0 and row["peer"] == "torch" for row in rows)


def test_both_sides_know_all_kinds_of_work():
    from llmc import bench_engine, bench_torch

    kinds = {case.work["kind"] for sizes in (CPU, GPU, EMULATED) for case in chosen("", "", sizes)}
    assert kinds | {"memory"} == bench_engine.KINDS.keys()
    assert kinds - {"loader"} == bench_torch.KINDS.keys()


def test_attention_is_that_of_the_fastest_kernel_there_is(monkeypatch):
    """On the CPU PyTorch has one of the three."""
    import torch
    from llmc import bench_torch
    from llmc.bench_worker import by_clock

    monkeypatch.setattr(bench_torch, "by_events", by_clock(lambda: None))
    case = chosen("attention", "forward", EMULATED)[0].work | {"device": "cuda-emu"}
    try:
        step, tried = bench_torch.with_fastest_attention(case)
        assert tried.keys() == {"flash"} and step().shape == (1, 2, 32, 32)
        assert torch.backends.cuda.flash_sdp_enabled() and not torch.backends.cuda.math_sdp_enabled()
    finally:
        for kernels in ("flash", "cudnn", "mem_efficient", "math"):
            getattr(torch.backends.cuda, f"enable_{kernels}_sdp")(True)


def test_a_gpu_s_sizes_are_those_that_others_publish():
    """GPT-2's step of 6 FLOP a parameter and token and 12 L C T; attention of 16 rows, 32 heads of 64 columns."""
    small, large = chosen("train", "", GPU)
    assert (small.name, small.smaller.name) == ("gpt2 B=64 T=1024", "gpt2 B=32 T=1024")
    assert (large.name, large.smaller.name) == ("gpt2-xl B=8 T=1024", "gpt2-xl B=4 T=1024")
    parameters = 124_439_808 - 1024 * 768               # positions aside
    assert small.amount == (6 * parameters + 12 * 12 * 768 * 1024) * small.tokens == 2 * small.smaller.amount
    forward, both = chosen("attention", "", GPU)
    assert forward.amount == 2 * 16 * 32 * 1024**2 * 64 and both.amount == 3.5 * forward.amount
    assert {case.dtype for case in chosen("", "", GPU)} == {"bf16", "int8", "f32"}      # f32: the gradient's norm


class Full:
    """In place of a Worker: a GPU that holds half of the batch; and a peer that has a mistake."""
    asked: list[int] = []

    def __init__(self, module, folder, threads):
        self.module = module

    __enter__ = lambda self: self
    __exit__ = lambda self, *error: None

    def ask(self, **request):
        if "case" in request:
            self.asked.append(request["case"]["B"])
        if request.get("case", {}).get("B") == 64:
            raise WorkerEnded("torch.OutOfMemoryError: CUDA out of memory")
        if self.module == "llmc.bench_torch" and "seconds" in request:
            raise WorkerEnded("TypeError: a mistake")
        return {"seconds": 1.0, "peak_bytes": 1, "parts": {}}


def test_a_batch_that_does_not_fit_becomes_the_next_and_a_side_that_fails_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "Worker", Full)
    conductor = bench.Conductor(Bench(device="cuda", against="torch", rounds=2), GPU, 1, tmp_path)
    (case, sides), = conductor.measure(chosen("train", "gpt2", GPU)[:1])
    assert case.name == "gpt2 B=32 T=1024" and Full.asked[0] == 64 and set(Full.asked[1:]) == {32}
    assert sides["compiled"]["error"] == "TypeError: a mistake"
    row = bench.summed_up(case, sides, {"bf16": 1e15, "copy": 1e12}, "cuda")
    assert "ratio" not in row and row["rate"] == case.amount
    assert "compiled: TypeError: a mistake" in bench.bench_report.line(row)
    sides["llmc"] = {"error": "KeyError: 'poetry'"}
    row = bench.summed_up(case, sides, {"bf16": 1e15, "copy": 1e12}, "cuda")
    assert "not measured: KeyError: 'poetry'" in bench.bench_report.line(row)


def test_short_calls_are_timed_together():
    counts = []
    work = Work(lambda: None, lambda step, count: counts.append(count) or 1e-3 * count, together=4.5e-3)
    assert fastest(work, 8e-3) == 1e-3 and counts == [1, 5, 5]
    alone = Work(lambda: None, lambda step, count: counts.append(count) or 1e-3)
    assert fastest(alone, 2e-3) == 1e-3 and counts[3:] == [1, 1]


def test_a_gpu_is_known_by_its_name(monkeypatch):
    about = "driver for CUDA 13.0; cuda:0: NVIDIA H100 80GB HBM3, 85 GB, compute capability 9.0"
    monkeypatch.setattr(doctor, "about_gpus", lambda: about)
    assert bench.SHEET[doctor.gpu_name(Device("cpu"))] == 989e12        # its memory is number 0, too


@pytest.mark.parametrize("config, said", [
    (Bench(device="cuda", against="torch"), "PyTorch 2.13.0+cpu was built without CUDA"),
    (Bench(device="cuda-emu", against="llama.cpp"), "compares on the CPU, not on cuda-emu")])
def test_a_peer_that_cannot_be_there_is_refused(config, said, monkeypatch, capsys):
    monkeypatch.setattr(bench.metadata, "version", lambda package: "2.13.0+cpu")
    assert cli.guarded(lambda: bench.run(config)) == 1
    assert said in capsys.readouterr().err


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
