"""The training program: it learns, stops and resumes without a trace, and refuses bad input in a sentence."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from training import command, everything, latest, metrics, refusal, resumes_bit_for_bit, start, train, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(command(data, run, "--steps", 60, "--checkpoint_every", 20, "--sample_every", 30))
    return run


def wait_for(path: Path) -> None:
    for _ in range(2000):
        if path.exists():
            return
        time.sleep(0.005)
    raise AssertionError(f"{path} did not appear")


def test_the_loss_falls_and_every_step_is_recorded(whole):
    lines = metrics(whole)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 61))
    assert steps[-1]["loss"] < 0.6 * steps[0]["loss"]
    assert [line["step"] for line in lines if "val_loss" in line] == [10, 20, 30, 40, 50, 60]
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == [
        "latest", "step_00000020", "step_00000040", "step_00000060"]
    assert (whole / "samples.md").read_text().count("## step") == 2


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_bits_do_not_depend_on_threads(whole, data, tmp_path, threads):
    flags = "--steps", 60, "--checkpoint_every", 20, "--sample_every", 30, "--threads", threads
    train(command(data, tmp_path / "run", *flags))
    assert everything(tmp_path / "run") == everything(whole)


def test_resuming_after_sigterm_leaves_no_trace(whole, data, tmp_path):
    run = tmp_path / "run"
    process = start(command(data, run, "--steps", 60, "--sample_every", 30, "--checkpoint_every", 20))
    wait_for(run / "metrics.jsonl")
    while (run / "metrics.jsonl").read_text().count("loss") < 7:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped" in out, err
    assert latest(run).name != "step_00000060"
    train([command(data, run)[0], "--run", str(run), "--resume"])       # everything else is in the run
    assert everything(run) == everything(whole)


def test_a_closed_terminal_or_pipe_stops_and_saves(data, tmp_path):
    for how in ("hup", "pipe"):
        run = tmp_path / how
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)       # nohup's children ignore it, and are left alone
        process = start(command(data, run, "--steps", 1_000_000, "--checkpoint_every", 0))
        signal.signal(signal.SIGHUP, before)
        assert process.stdout.readline()
        wait_for(run / "config.json")
        process.send_signal(signal.SIGHUP) if how == "hup" else process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert (latest(run) / "state.json").exists()


def test_closed_streams_do_not_end_up_in_the_run_s_files(data, tmp_path):
    shell = " ".join(map(str, command(data, tmp_path / "run", "--steps", 3))) + " <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", shell], timeout=60).returncode == 0
    assert [line["step"] for line in metrics(tmp_path / "run") if "loss" in line] == [1, 2, 3]


def test_steps_after_a_checkpoint_are_made_again_exactly(whole, data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    shutil.rmtree(run / "checkpoints" / "step_00000060")
    (run / "checkpoints" / "latest").unlink()
    (run / "checkpoints" / "latest").symlink_to("step_00000040")
    train(command(data, run, "--resume"))
    assert everything(run) == everything(whole)


def kill_and_resume(data: Path, run: Path, whole: Path, kills: int, seed: int) -> None:
    """So many kills; a run that comes to its end between two of them is compared, and another begun."""
    rng = random.Random(seed)
    flags = "--steps", 60, "--checkpoint_every", 1, "--sample_every", 30, "--keep", 2
    end = run / "checkpoints" / "step_00000060"

    def argv() -> list[str]:
        return command(data, run, *flags, *(["--resume"] if (run / "config.json").exists() else []))

    for _ in range(kills):
        if end.exists():
            assert everything(run) == everything(whole)
            shutil.rmtree(run)
        process = start(argv())
        time.sleep(rng.uniform(0.02, 0.5))
        process.kill()
        process.communicate()
        for folder in (run / "checkpoints").glob("step_????????"):      # each whole one can be read
            assert json.loads((folder / "state.json").read_text())["step"] == int(folder.name[5:])
            assert (folder / "model.safetensors").exists() and (folder / "optimizer.rank0of1.safetensors").exists()
    if not end.exists():
        train(argv())
    assert everything(run) == everything(whole)


def test_kill_nine_never_tears_a_checkpoint(whole, data, tmp_path):
    kill_and_resume(data, tmp_path / "run", whole, kills=6, seed=1)


@pytest.mark.slow
def test_kill_nine_at_thirty_moments(whole, data, tmp_path):
    kill_and_resume(data, tmp_path / "run", whole, kills=30, seed=2)


def test_recomputing_changes_no_bit(whole, data, tmp_path):
    train(command(data, tmp_path / "run", "--steps", 60, "--checkpoint_every", 20, "--sample_every", 30, "--recompute"))
    assert everything(tmp_path / "run") == everything(whole)


def test_bf16_learns_like_f32(whole, data, tmp_path):
    train(command(data, tmp_path / "run", "--steps", 60, "--dtype", "bf16"))
    ours, exact = (next(m["val_loss"] for m in reversed(metrics(r)) if "val_loss" in m) for r in (tmp_path / "run", whole))
    assert abs(ours - exact) < 0.05


def test_bf16_resumes_bit_for_bit(data, tmp_path):
    flags = "--dtype", "bf16", "--checkpoint_every", 5
    train(command(data, tmp_path / "whole", "--steps", 10, *flags))
    train(command(data, tmp_path / "part", "--steps", 10, *flags))
    shutil.rmtree(tmp_path / "part" / "checkpoints" / "step_00000010")
    train(command(data, tmp_path / "part", "--resume"))
    assert everything(tmp_path / "part") == everything(tmp_path / "whole")


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_muon_learns_and_resumes_bit_for_bit_with_any_threads(data, tmp_path, dtype):
    whole = resumes_bit_for_bit(data, tmp_path, 60, "--optimizer", "muon", "--dtype", dtype)
    steps = [line["loss"] for line in metrics(whole) if "loss" in line]
    assert steps[-1] < 0.6 * steps[0]


def test_a_llama_trains(data, tmp_path):
    train(command(data, tmp_path / "run", "--preset", "llama-tiny", "--n_kv_head", 1, "--steps", 60))
    steps = [line["loss"] for line in metrics(tmp_path / "run") if "loss" in line]
    assert steps[-1] < 0.6 * steps[0]


def test_plan_prints_the_total_and_touches_nothing(data, tmp_path):
    out, _ = train(command(data, tmp_path / "run", "--plan"))
    assert "attn.qkv" in out and "optimizer state" in out and "workspace" in out
    rows = {line.split("  ")[1]: int(line.split("bytes")[0].split()[-1]) for line in out.splitlines()
            if "bytes" in line and line.startswith("  ")}
    total = rows.pop("all")
    assert total == sum(rows[k] for k in ("parameters", "gradients", "optimizer state", "activations", "workspace"))
    assert not (tmp_path / "run").exists()


def test_plan_counts_muon_s_state_and_scratch(data, tmp_path):
    def taken(optimizer: str, part: str) -> int:
        wide = "--n_embd", 256, "--n_layer", 1, "--seq_len", 1, "--total_batch_size", 2, "--optimizer", optimizer
        out, _ = train(command(data, tmp_path / "run", "--plan", *wide))
        return next(int(line.split()[-4]) for line in out.splitlines() if line.startswith(f"  {part} "))

    matrices = 12 * 256 * 256
    saved = taken("adamw", "optimizer state") - taken("muon", "optimizer state")
    assert saved == 4 * matrices, "a second moment of each element"
    assert taken("muon", "workspace") >= 4 * (1024 * 256 + 2 * 256 * 256)
    assert taken("muon", "all") - taken("adamw", "all") == taken("muon", "workspace") - taken("adamw", "workspace") - saved


def test_samples_are_utf8_whatever_the_model_spells(tmp_path):
    data = write_data(tmp_path / "data")
    stands_for = {0x80: "\u0122", 0xE2: "\u00e2", 0x00: "\u0100"}       # halves of characters, and a zero
    vocab = {character: i for i, character in enumerate(stands_for.values())} | {f"a{i}": i for i in range(3, 61)}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    (data / "tokenizer.json").write_text(json.dumps({"model": model, "decoder": {"type": "ByteLevel"}}))
    train(command(data, tmp_path / "run", "--steps", 1, "--sample_tokens", 60, "--sample_temperature", 5))
    assert "\ufffd" in (tmp_path / "run" / "samples.md").read_text(encoding="utf-8", errors="strict")


def test_profile_names_the_ops(data, tmp_path):
    out, _ = train(command(data, tmp_path / "run", "--steps", 2, "--profile"))
    calls = {words[0]: words[1] for words in map(str.split, out.splitlines()) if len(words) > 1}
    assert {"linear_forward", "attention_backward"} < calls.keys()
    assert calls["adamw"] == "2", "one call moves all of the model's weights"


# ---- bad steps ------------------------------------------------------------------------------------------------------

def test_a_loss_that_is_not_finite_is_skipped_and_located(whole, data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    path = latest(run) / "model.safetensors"
    weights = load_file(path)
    weights["h.1.mlp.up.weight"][0, 0] = np.inf
    save_file(weights, path)
    out, err = train(command(data, run, "--resume", "--steps", 100), status=1)
    assert "the loss is not finite; the first that is not finite: h.1\n" in out
    assert out.count("went back") == 10 and "after 10 returns to a checkpoint" in err


QUIET = 170     # updates: enough for a window of 128 in which the loss hardly moves


def spiky_data(folder: Path) -> Path:
    """QUIET updates of one token, ten of noise, twenty quiet ones, when read in the order of the file."""
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 61, 10 * 256 - 1)
    return write_data(folder, np.concatenate([np.full(QUIET * 256 + 1, 5), noise, np.full(20 * 256 + 1, 5)]))


def test_spikes_are_skipped_and_do_not_enter_the_window(tmp_path):
    data = spiky_data(tmp_path / "data")
    train(command(data, tmp_path / "run", "--steps", QUIET + 30, "--max_skips", 1000, "--no-shuffle", "--val_every", 0))
    lines = [m for m in metrics(tmp_path / "run") if "loss" in m]
    assert [m["step"] for m in lines if m.get("skipped")] == list(range(QUIET + 1, QUIET + 11))
    assert max(m["loss"] for m in lines[-15:]) < 0.1, "weights that the noise never touched still know the quiet text"


def test_repeated_spikes_go_back_to_the_checkpoint_and_pass_over_the_data(tmp_path):
    data = spiky_data(tmp_path / "data")
    out, _ = train(command(data, tmp_path / "run", "--steps", QUIET + 5, "--max_skips", 3, "--checkpoint_every", 10,
                           "--no-shuffle", "--val_every", 0))
    assert out.count("went back") == 3 and f"step_00000{QUIET}" in out      # after 3, 6 and 9 of the ten noisy updates
    state = json.loads((latest(tmp_path / "run") / "state.json").read_text())
    assert state["rollbacks"] == 3 and state["step"] == QUIET + 5 and state["skipped"] == 10
    assert state["cursor"] == (QUIET + 9 + 5) * 8


def test_the_last_good_weights_are_saved_where_there_was_no_checkpoint(data, tmp_path):
    run = tmp_path / "run"
    out, err = train(command(data, run, "--steps", 50, "--checkpoint_every", 0, "--lr", 100, "--warmup_steps", 0, "--grad_clip", 0,
                             "--spike_z", 0, "--dtype", "bf16"), status=1)
    assert "not finite" in out and "no checkpoint to go back to" in err
    assert all(np.isfinite(w.astype(np.float32)).all() for w in load_file(latest(run) / "optimizer.rank0of1.safetensors").values())


def test_repeated_spikes_without_a_checkpoint_do_not_end_the_run(tmp_path):
    data = spiky_data(tmp_path / "data")
    out, _ = train(command(data, tmp_path / "run", "--steps", QUIET + 10, "--max_skips", 3, "--no-shuffle", "--val_every", 0,
                           "--checkpoint_every", 0))
    lines = [m for m in metrics(tmp_path / "run") if "loss" in m]
    assert out.count("went on") == 1
    assert [m["step"] for m in lines if m.get("skipped")] == [QUIET + 1, QUIET + 2, QUIET + 3]


# ---- bad input ------------------------------------------------------------------------------------------------------

def test_unknown_flags_name_the_nearest(data, tmp_path):
    assert "did you mean --batch_size" in refusal(command(data, tmp_path / "run", "--bathc_size", 4))


@pytest.mark.parametrize("asked", [["-h"], ["--help"]])
def test_help_lists_the_flags(data, tmp_path, asked):
    out, _ = train(command(data, tmp_path / "run", *asked))
    assert "--total_batch_size" in out and not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags, words", [
    (("--n_head", 3), ("n_embd 32", "n_head 3")),
    (("--seq_len", 64), ("64", "max_seq_len is 32")),
    (("--vocab_size", 12), ("12", "61 symbols")),
    (("--total_batch_size", 100), ("100", "multiple of")),
    (("--batch_size", 0), ("batch_size", "0", "or auto")),
    (("--lr", "fast"), ("lr", "fast")),
    (("--preset", "gpt5"), ("gpt5", "gpt2-xl")),
    (("--device", "tpu"), ("tpu", "cpu")),
    (("--schedule", "square"), ("square", "cosine")),
    (("--tied", "--head", "scalar"), ("scalar", "tied")),
    (("--no-tied", "--head", "scalar"), ("scalar", "--head lm")),
    (("--seed", -1), ("-1", "9000000000000000")),
    (("--run=",), ("--run is empty",)),
    (("--help=1",), ("--help takes no value",)),
])
def test_impossible_settings_are_refused_in_a_sentence(data, tmp_path, flags, words):
    sentence = refusal(command(data, tmp_path / "run", *flags))
    for word in words:
        assert word in sentence
    assert not (tmp_path / "run" / "config.json").exists()


def damage(data: Path, tmp_path: Path, change) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(data, folder)
    path = folder / "walk_train_000001.bin"
    path.write_bytes(change(path.read_bytes()))
    return folder


@pytest.mark.parametrize("change, words", [
    (lambda b: b"", ("empty",)),
    (lambda b: b[:-100], ("bytes",)),
    (lambda b: b"\0\0\0\0" + b[4:], ("begins with 0",)),
    (lambda b: b[:1024] + b"\xff\xff" * ((len(b) - 1024) // 2), ("65535", "61")),
])
def test_damaged_shards_are_refused_in_a_sentence(data, tmp_path, change, words):
    sentence = refusal(command(damage(data, tmp_path, change), tmp_path / "run"))
    for word in ("walk_train_000001.bin", *words):
        assert word in sentence


def test_damaged_validation_shards_are_refused_before_training(data, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(data, folder)
    path = folder / "walk_val_000001.bin"
    path.write_bytes(path.read_bytes()[:1024 + 2 * 100] + b"\xff\xff" + path.read_bytes()[1024 + 2 * 101:])
    sentence = refusal(command(folder, tmp_path / "run"))
    assert "walk_val_000001.bin: token 100" in sentence and not (tmp_path / "run").exists()


def test_missing_shards_are_refused(tmp_path):
    assert "nowhere" in refusal(command(tmp_path / "nowhere", tmp_path / "run"))


def test_another_tokenizer_is_refused_when_resuming(whole, data, tmp_path):
    other = write_data(tmp_path / "other", fingerprint=99)
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    assert "tokenizer" in refusal(command(other, run, "--resume", "--steps", 70))
    assert everything(run) == everything(whole)


def test_a_run_is_never_overwritten_unasked(whole, data):
    before = everything(whole)
    assert "--resume" in refusal(command(data, whole, "--steps", 5))
    assert everything(whole) == before


def test_resuming_nothing_is_refused(data, tmp_path):
    assert "no run" in refusal(command(data, tmp_path / "run", "--resume"))


@pytest.mark.parametrize("flags, words", [
    (("--n_layer", 3), "another model"),
    (("--dtype", "bf16"), "trained in f32, but --dtype is bf16"),
    (("--optimizer", "muon"), "trained with adamw, but --optimizer is muon"),
    (("--steps", 20), "the run has made 60 steps and steps is 20"),
])
def test_a_refused_resume_leaves_the_run_as_it_was(whole, data, tmp_path, flags, words):
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    before = everything(run), (run / "config.json").read_bytes()
    sentence = refusal(command(data, run, "--resume", *flags))
    assert words in sentence and "away" not in sentence         # nothing is wrong with the checkpoint
    assert (everything(run), (run / "config.json").read_bytes()) == before


def test_resuming_without_a_checkpoint_says_so_and_keeps_the_logs(whole, data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    shutil.rmtree(run / "checkpoints")
    logged = (run / "metrics.jsonl").read_bytes()
    out, _ = train(command(data, run, "--resume"))
    assert "no checkpoint in" in out and "starting at step 0" in out
    assert everything(run) == everything(whole)
    assert (run / "metrics.jsonl.before").read_bytes() == logged
    shutil.rmtree(run / "checkpoints")
    train(command(data, run, "--resume", "--steps", 2))
    assert (run / "metrics.jsonl.before").read_bytes() == logged and (run / "metrics.jsonl.before2").exists()


def test_the_run_s_settings_stand_under_those_of_another_config_file(whole, data, tmp_path):
    run, more = tmp_path / "run", tmp_path / "more"
    shutil.copytree(whole, run, symlinks=True)
    before = json.loads((run / "config.json").read_text())
    more.write_text("steps = 62\n")
    train([command(data, run)[0], "--config", str(more), "--run", str(run), "--resume"])
    assert json.loads((run / "config.json").read_text()) == before | {"steps": 62}


def test_one_program_trains_in_a_run_at_a_time(data, tmp_path):
    run = tmp_path / "run"
    busy = start(command(data, run, "--steps", 100_000))
    try:
        wait_for(run / "config.json")
        for flag in ("--resume", "--overwrite"):
            assert "another program is training there" in refusal(command(data, run, "--steps", 5, flag))
    finally:
        busy.send_signal(signal.SIGTERM)
        busy.communicate(timeout=60)
    assert busy.returncode == 0


def test_the_folder_of_the_data_is_no_place_for_a_run(data):
    before = sorted(data.iterdir())
    assert "is the folder of the data" in refusal(command(data, data, "--steps", 5))
    assert sorted(data.iterdir()) == before


def test_checkpoints_of_no_run_are_not_mixed_in(whole, data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    (run / "config.json").unlink()
    assert "holds checkpoints but no config.json" in refusal(command(data, run, "--steps", 5))


def test_validation_shards_with_llm_c_names_are_found(data, tmp_path):
    for split in ("train", "val"):
        shutil.copy(data / f"walk_{split}_000001.bin", tmp_path / f"tiny_train_{split}.bin")
    for given in (tmp_path, tmp_path / "tiny_train_train.bin"):
        train(command(given, tmp_path / "run", "--steps", 1, "--overwrite"))
        assert "val_loss" in metrics(tmp_path / "run")[-1]


def test_the_end_of_a_text_has_no_bytes(data, tmp_path):
    """Every other token is the end of a text, whose name is long."""
    names = {chr(ord("A") + i): i for i in range(60)} | {"<|endoftext|>": 60}
    tokens = np.stack([np.full(2000, 60), np.random.default_rng(1).integers(0, 60, 2000)], 1).ravel()
    tokenizer = {"model": {"type": "BPE", "vocab": names, "merges": []}, "decoder": {"type": "ByteLevel"},
                 "added_tokens": [{"id": 60, "content": "<|endoftext|>", "special": True}]}
    folder = write_data(tmp_path / "data", tokens, eot=60)
    shutil.copy(folder / "walk_train_000001.bin", folder / "walk_val_000001.bin")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    train(command(folder, tmp_path / "run", "--steps", 1))
    last = metrics(tmp_path / "run")[-1]
    assert last["val_bits_per_byte"] == pytest.approx(last["val_loss"] / np.log(2) * 2, rel=1e-6)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.rank0of1.safetensors", "state.json", "config.json"])
@pytest.mark.parametrize("change", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"{" + b[1:] + b"}"])
def test_a_damaged_checkpoint_is_refused_by_name(whole, data, tmp_path, name, change):
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    path = latest(run) / name
    path.write_bytes(change(path.read_bytes()))
    sentence = refusal(command(data, run, "--resume", "--steps", 70))
    assert name in sentence
    assert name == "state.json" or sentence.endswith(f"to resume from {run}/checkpoints/step_00000040"), sentence


def test_a_full_disk_is_a_sentence_and_the_old_checkpoint_stays(data, tmp_path):
    run = tmp_path / "run"
    train(command(data, run, "--steps", 3, "--checkpoint_every", 1))
    before = everything(run)

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    argv = command(data, run, "--resume", "--steps", 6, "--checkpoint_every", 1)
    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=small_files, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("llmc: ") and done.stderr.count("\n") == 1
    assert "step_00000004" in done.stderr
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "latest", "step_00000001", "step_00000002", "step_00000003"]
    after = everything(run)
    assert {k: after[k] for k in after if k.endswith("safetensors")} == {k: before[k] for k in before if k.endswith("safetensors")}
    train(command(data, run, "--resume", "--steps", 6, "--checkpoint_every", 1))
