"""What training takes of a device's memory is known beforehand, and a micro-batch that fits is found by it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from building import need_mpi
from llmc import Config, Device, LlmcError, Model, launch
from test_training import MUON, RECIPE, trainer, update
from training import command, everything, latest, metrics, refusal, train, write_data

ROWS, T = 8, 32                             # an update of TINY: 256 tokens
FLAGS = re.compile(r"--batch_size (\d+)(?: --recompute)?(?: --total_batch_size \d+)?")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("walk"))


def on_emu(data: Path, run: Path, *flags: object) -> list[str]:
    return command(data, run, "--device", "cuda-emu", "--steps", 2, "--val_every", 0, "--sample_tokens", 0, *flags)


def planned(data: Path, *flags: object, **environment: str) -> dict[str, int]:
    """The rows of a plan's table, in bytes."""
    out, _ = train(on_emu(data, data / "none", "--plan", *flags), **environment)
    rows = (re.fullmatch(r"  (\S.*?) +\d+ +(\d+) bytes .*", line) for line in out.splitlines())
    return {row[1]: int(row[2]) for row in rows if row}


@pytest.fixture(scope="module")
def needs(data: Path) -> dict[tuple[int, bool], int]:
    """The bytes of a micro-batch of so many rows, without recomputation and with it."""
    return {(rows, recompute): planned(data, "--batch_size", rows, *["--recompute"] * recompute)["all"]
            for rows in (1, 2, 4, 8) for recompute in (False, True)}


def memory(size: int) -> dict[str, str]:
    return {"LLMC_EMU_MEMORY": str(size)}


def chosen(out: str) -> tuple[int, int, bool]:
    """Rows of a micro-batch, how many make an update, and whether it recomputes."""
    line = re.search(r"^memory .*micro-batches of (\d+) rows, (\d+) an update, (.*) \(--batch_size auto\)$", out, re.M)
    assert line, out
    return int(line[1]), int(line[2]), line[3] == "recomputing"


@pytest.mark.parametrize("recipe", [RECIPE, MUON], ids=lambda recipe: recipe.optimizer)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("rows, columns, longest, width, recompute", [
    (4, T, T, 32, False),
    (4, T, T, 32, True),
    (1, 1, 100_000, 8, False),              # the largest workspace is that of a norm, of the longest parameter
])
def test_a_plan_is_what_is_taken(data, dtype, recipe, rows, columns, longest, width, recompute):
    flags = "--dtype", dtype, "--optimizer", recipe.optimizer, *["--recompute"] * recompute
    size = "--n_embd", width, "--batch_size", rows, "--seq_len", columns, "--max_seq_len", longest
    plan = planned(data, *flags, *size, "--total_batch_size", rows * columns)
    device = Device("cuda-emu")
    shape = dict(n_layer=2, n_embd=width, n_head=2, max_seq_len=longest, vocab_size=61)
    model = Model(device, Config.preset("gpt2-tiny", **shape), dtype)
    model.plan(rows, columns, recompute=recompute)
    tokens = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns) % 61
    optimizer = trainer(model, recipe)
    update(model, optimizer, [(tokens, np.roll(tokens, -1, 1))], 1e-3)
    parts = "parameters", "gradients", "optimizer state", "activations", "workspace"
    assert device.taken == plan["all"] == sum(plan[part] for part in parts)


def test_an_emulated_gpu_gives_what_it_has_and_no_more(monkeypatch):
    monkeypatch.setenv("LLMC_EMU_MEMORY", "123456789")
    device = Device("cuda-emu")
    for size in (5000, 123_456_789):                # a workspace that grows is given back before
        device.reserve(size)
        assert device.taken == size
    with pytest.raises(LlmcError, match=r"^out of memory on cuda-emu: no room for 0\.123 GB of workspace; 0\.000 GB "
                                        r"are taken, and 0\.123 GB of 0\.123 GB are free$"):
        device.reserve(123_456_790)


@pytest.mark.parametrize("rows, recompute, spare, finds", [
    (8, False, 0, (8, 1, False)),
    (8, False, -1, (4, 2, False)),          # a byte less
    (1, False, 0, (1, 8, False)),
    (1, False, -1, None),                   # as many rows as fit with recomputation
    (1, True, 0, (1, 8, True)),
])
def test_auto_trains_with_the_largest_batch_that_fits(data, tmp_path, needs, rows, recompute, spare, finds):
    size = needs[rows, recompute] + spare
    fit = max((r for r in (1, 2, 4, 8) if needs[r, True] <= size), default=0)
    finds = finds or (fit, ROWS // fit, True)
    out, _ = train(on_emu(data, tmp_path / "auto", "--batch_size", "auto"), **memory(size))
    assert chosen(out) == finds
    same = ["--batch_size", finds[0], *["--recompute"] * finds[2]]
    train(on_emu(data, tmp_path / "same", *same), **memory(size))
    assert everything(tmp_path / "same") == everything(tmp_path / "auto")
    if finds[0] < ROWS:
        next_one = ["--batch_size", 2 * finds[0], *["--recompute"] * finds[2]]
        assert "out of memory on cuda-emu" in refusal_with(on_emu(data, tmp_path / "next", *next_one), size)


def refusal_with(argv: list[str], size: int) -> str:
    return refusal(["env", f"LLMC_EMU_MEMORY={size}", *argv])


def test_training_is_the_same_but_for_rounding(data, tmp_path, needs):
    train(on_emu(data, tmp_path / "whole", "--batch_size", ROWS))
    out, _ = train(on_emu(data, tmp_path / "parts", "--batch_size", "auto"), **memory(needs[2, False]))
    assert chosen(out) == (2, 4, False)
    losses = [np.array([line["loss"] for line in metrics(tmp_path / run) if "loss" in line])
              for run in ("whole", "parts")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_what_was_said_of_recomputation_holds(data, tmp_path, needs):
    size = needs[8, False]
    out, _ = train(on_emu(data, tmp_path / "run", "--batch_size", "auto", "--recompute"), **memory(size))
    assert chosen(out) == (8, 1, True)
    never = on_emu(data, tmp_path / "never", "--batch_size", "auto", "--no-recompute")
    sentence = refusal_with(never, needs[1, False] - 1)
    assert "nothing would fit: --batch_size 1, the least, takes" in sentence


@pytest.mark.parametrize("asked, wants", [
    (["--batch_size", 8], "--batch_size 4 would fit"),
    (["--batch_size", 8, "--total_batch_size", 0], "--batch_size 4 --total_batch_size 256 would fit"),
])
def test_the_sentence_names_flags_that_run(data, tmp_path, needs, asked, wants):
    size = needs[4, False]
    sentence = refusal_with(on_emu(data, tmp_path / "run", *asked), size)
    assert sentence.startswith("llmc: out of memory on cuda-emu: training takes ") and wants in sentence
    assert not (tmp_path / "run").exists()
    flags = FLAGS.search(sentence)[0].split()
    train(on_emu(data, tmp_path / "run", *asked, *flags), **memory(size))


def test_the_sentence_names_recomputation_where_it_alone_fits(data, tmp_path, needs):
    size = needs[1, True]
    sentence = refusal_with(on_emu(data, tmp_path / "run", "--batch_size", 1), size)
    assert "; --batch_size 1 --recompute would fit" in sentence
    train(on_emu(data, tmp_path / "run", *FLAGS.search(sentence)[0].split()), **memory(size))
    sentence = refusal_with(on_emu(data, tmp_path / "less", "--batch_size", 1), size - 1)
    assert "nothing would fit: --batch_size 1 --recompute, the least, takes" in sentence
    for batch_size in ("auto", 1):
        flags = on_emu(data, tmp_path / "less", "--batch_size", batch_size)
        assert "nothing would fit" in refusal_with(flags, size - 1)


def test_memory_that_ends_in_spite_of_the_plan_is_one_sentence(data, tmp_path):
    """The device says it has a terabyte, and the system gives it 8 GB of addresses."""
    huge = on_emu(data, tmp_path / "run", "--batch_size", 2**18, "--total_batch_size", 0)
    sentence = refusal_with(["sh", "-c", 'ulimit -v 8000000; exec "$@"', "sh", *huge], 10**12)
    assert "out of memory on cuda-emu: no room for " in sentence and " of activations; " in sentence
    found = FLAGS.search(sentence)
    assert int(found[1]) == 2**17 and found[0].endswith(f"--total_batch_size {2**18 * T}")
    assert "--recompute" not in found[0]


def test_plan_says_what_fits(data, tmp_path, needs):
    size = needs[4, False]
    for flags, fits in ((["--batch_size", 4], "this fits"), (["--batch_size", 8], "this does not fit")):
        out, _ = train(on_emu(data, tmp_path / "run", "--plan", *flags), **memory(size))
        assert fits in out and "--batch_size auto is --batch_size 4\n" in out
        assert "cuda-emu has 0.00" in out and not (tmp_path / "run").exists()
    found = planned(data, "--batch_size", "auto", **memory(size))
    most = max(rows for rows in (1, 2, 4, 8) if needs[rows, True] <= size)
    assert found["all"] == found["--batch_size 4"] == size
    assert found[f"--batch_size {most} --recompute"] == needs[most, True]
    out, _ = train(on_emu(data, tmp_path / "run", "--plan"), **memory(needs[1, True] - 1))
    assert "auto finds nothing that fits" in out and out.count("too large: --batch_size 1") == 2


def test_a_run_goes_on_with_what_was_chosen(data, tmp_path, needs):
    flags = "--batch_size", "auto", "--steps", 4, "--checkpoint_every", 2
    train(on_emu(data, tmp_path / "whole", *flags), **memory(needs[1, True]))
    shutil.copytree(tmp_path / "whole", tmp_path / "part", symlinks=True)
    shutil.rmtree(latest(tmp_path / "part"))
    settings = json.loads((tmp_path / "part" / "config.json").read_text())
    assert settings["batch_size"] == 1 and settings["recompute"] is True
    program = command(data, tmp_path)[0]
    train([program, "--run", str(tmp_path / "part"), "--resume"])           # in as much memory as there is
    assert everything(tmp_path / "part") == everything(tmp_path / "whole")
    out, _ = train([program, "--run", str(tmp_path / "part"), "--resume", "--batch_size", "auto", "--no-recompute",
                    "--steps", "5"])
    assert chosen(out) == (8, 1, False)


def test_the_rank_with_the_least_memory_decides(data, tmp_path):
    need_mpi()
    asked = "--batch_size", "auto"

    def argv(run: str, *flags: object, sizes: tuple[int, int]) -> list[str]:
        one = f"if [ $OMPI_COMM_WORLD_RANK = 1 ]; then LLMC_EMU_MEMORY={sizes[1]}; else LLMC_EMU_MEMORY={sizes[0]}; fi"
        return ["sh", "-c", one + '; export LLMC_EMU_MEMORY; exec "$@"', "sh", *on_emu(data, tmp_path / run, *flags)]

    def ranks(run: str, *flags: object, sizes: tuple[int, int], status: int = 0) -> tuple[str, str]:
        wrapped, environment = launch.mpirun(argv(run, *flags, sizes=sizes), 2)
        return train(wrapped, status, **environment)

    plan, _ = ranks("none", "--batch_size", 2, "--plan", sizes=(10**12, 10**12))
    size = next(int(line.split()[2]) for line in plan.splitlines() if line.startswith("  all "))
    for sizes in ((size, 10**12), (10**12, size)):
        out, _ = ranks(f"run{sizes[0]}", *asked, sizes=sizes)
        assert chosen(out) == (2, 2, False)                 # each of the ranks has half of the update's 8 rows
        _, err = ranks("none", "--batch_size", 4, sizes=sizes, status=1)
        assert len(err.splitlines()) == 1 and "--batch_size 2 would fit" in err


@pytest.mark.parametrize("said", ["much", "-1", "0", "16GB", ""])
def test_a_size_that_is_none_is_refused(data, tmp_path, said):
    sentence = refusal(["env", f"LLMC_EMU_MEMORY={said}", *on_emu(data, tmp_path / "run")])
    assert sentence == (f"llmc: LLMC_EMU_MEMORY is '{said}'; wanted the bytes of the device cuda-emu, such as 16e9")


def test_auto_wants_to_know_the_size_of_an_update(data, tmp_path):
    sentence = refusal(on_emu(data, tmp_path / "run", "--batch_size", "auto", "--total_batch_size", 0))
    assert "--batch_size auto wants --total_batch_size" in sentence
    uneven = refusal(on_emu(data, tmp_path / "run", "--batch_size", "auto", "--total_batch_size", 100))
    assert "total_batch_size is 100 tokens, wanted a multiple of" in uneven


def test_auto_is_found_on_the_cpu_too(data, tmp_path):
    out, _ = train(command(data, tmp_path / "run", "--steps", 1, "--batch_size", "auto"))
    assert chosen(out) == (8, 1, False)
    huge = command(data, tmp_path / "huge", "--batch_size", 2**20, "--total_batch_size", 0)
    limited = ["sh", "-c", 'ulimit -v 8000000; exec "$@"', "sh", *huge]
    found = FLAGS.search(refusal(limited))
    assert 1 <= int(found[1]) < 2**20 and found[0].endswith(f"--total_batch_size {2**20 * T}")
    plan = subprocess.run([*limited, "--plan", *found[0].split()], capture_output=True, text=True)
    assert plan.returncode == 0 and "this fits" in plan.stdout
