"""csrc/store.c: a checkpoint is there whole or not at all, whatever happens while it is written."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

SAVER = Path(__file__).with_name("save_forever.py")


def weights(step: int, size: int = 1000) -> dict[str, np.ndarray]:
    return {"wte.weight": np.full(size, step, np.float32), "bias": np.full(3, step, np.int32)}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def check_whole(core, folder: str) -> int:
    """The step of a checkpoint, all of whose files are of that step."""
    step = core.checkpoint_step(folder)
    assert names(Path(folder)) == ["model.safetensors", "state.json"]
    assert core.json_read(f"{folder}/state.json")["step"].int() == step
    file = core.safetensors_open(f"{folder}/model.safetensors")
    for name in file.names:
        data = np.frombuffer(file.get(name)[2], np.float32 if name == "wte.weight" else np.int32)
        assert (data == step).all()
    return step


def save(core, folder: Path, step: int, keep: int = 0) -> None:
    core.checkpoint_save(str(folder), step, weights(step), f'{{"step": {step}}}', keep)


def test_a_saved_checkpoint_is_the_latest(core, tmp_path):
    assert core.checkpoint_latest(str(tmp_path / "none")) is None
    assert core.checkpoint_latest(str(tmp_path)) is None
    folder = tmp_path / "runs" / "a" / "checkpoints"
    for step in [0, 7, 1000, 123456789]:
        save(core, folder, step)
        assert core.checkpoint_latest(str(folder)) == f"{folder}/step_{step:08d}"
        assert (
            check_whole(core, f"{folder}/latest".replace("latest", os.readlink(folder / "latest")))
            == step
        )
    assert names(folder) == [
        "latest",
        "step_00000000",
        "step_00000007",
        "step_00001000",
        "step_123456789",
    ]


@pytest.mark.parametrize("path, step", [
    ("step_00000007", 7), ("a/b/step_00000007", 7), ("a/step_00000007/", 7),
    ("step_123456789", 123456789), ("step_7", -1), ("step_000000007", -1),
    ("step_00000007.tmp", -1), ("step_0000000x", -1), ("step_", -1),
    ("", -1), ("/", -1), ("latest", -1), ("step_99999999999999999999", -1), ("step_-0000001", -1),
])  # fmt: skip
def test_a_step_is_read_from_a_finished_name_alone(core, path, step):
    assert core.checkpoint_step(path) == step


def test_only_the_newest_are_kept(core, tmp_path):
    for step in range(1, 8):
        save(core, tmp_path, step, keep=3)
    assert names(tmp_path) == ["latest", "step_00000005", "step_00000006", "step_00000007"]


def test_going_back_deletes_the_abandoned_steps_first(core, tmp_path):
    for step in [100, 200, 300, 400]:
        save(core, tmp_path, step)
    save(core, tmp_path, 250, keep=4)
    assert names(tmp_path) == [
        "latest",
        "step_00000100",
        "step_00000200",
        "step_00000250",
        "step_00000300",
    ]
    save(core, tmp_path, 260, keep=2)
    assert names(tmp_path) == ["latest", "step_00000250", "step_00000260"]
    assert core.checkpoint_latest(str(tmp_path)).endswith("step_00000260")
    save(core, tmp_path, 100, keep=1)
    assert names(tmp_path) == ["latest", "step_00000100"]


def test_what_is_not_a_checkpoint_is_never_deleted(core, tmp_path):
    (tmp_path / "notes.tmp").write_text("mine")
    (tmp_path / "step_by_step").mkdir()
    (tmp_path / "step_00000001").write_text("a file")
    for step in [2, 3]:
        save(core, tmp_path, step, keep=1)
    assert names(tmp_path) == [
        "latest",
        "notes.tmp",
        "step_00000001",
        "step_00000003",
        "step_by_step",
    ]


def test_saving_a_step_again_replaces_it(core, tmp_path):
    save(core, tmp_path, 5)
    extra = tmp_path / "step_00000005" / "extra"
    extra.write_text("of the first one")
    save(core, tmp_path, 5)
    assert check_whole(core, f"{tmp_path}/step_00000005") == 5
    assert names(tmp_path) == ["latest", "step_00000005"]


def test_unfinished_folders_are_swept_away(core, tmp_path):
    for stale in ["step_00000009.tmp", "step_00000004.tmp", "step_00000001.old.tmp"]:
        (tmp_path / stale).mkdir()
        (tmp_path / stale / "model.safetensors").write_text("half of it")
    (tmp_path / "latest.tmp").symlink_to("step_00000001")
    assert core.checkpoint_latest(str(tmp_path)) is None
    save(core, tmp_path, 4)
    assert names(tmp_path) == ["latest", "step_00000004"]
    assert check_whole(core, core.checkpoint_latest(str(tmp_path))) == 4


def test_begin_starts_from_an_empty_folder(core, tmp_path):
    for _ in range(2):
        folder = Path(core.checkpoint_begin(str(tmp_path), 3))
        assert folder == tmp_path / "step_00000003.tmp" and names(folder) == []
        (folder / "file").write_text("x")
    assert str(folder) == core.checkpoint_path(str(tmp_path), 3, finished=False)
    with pytest.raises(RuntimeError, match="a checkpoint of step -1, wanted 0 or more"):
        core.checkpoint_begin(str(tmp_path), -1)


@pytest.mark.parametrize("name", ["step_00000001", "other.tmp", "step_1.tmp", ".tmp"])
def test_only_unfinished_checkpoints_are_committed(core, tmp_path, name):
    folder = tmp_path / "inner" / name
    folder.mkdir(parents=True)
    with pytest.raises(RuntimeError, match="is no unfinished checkpoint"):
        core.checkpoint_commit(str(folder))


@pytest.mark.parametrize("target", [
    "step_00000009", "nowhere", "../step_00000001", "/", "step_00000002.tmp", "x" * 200,
])  # fmt: skip
def test_a_latest_that_names_no_checkpoint_is_not_trusted(core, tmp_path, target):
    folder = tmp_path / "checkpoints"
    save(core, folder, 2)
    save(core, folder, 3)
    (folder / "step_00000002.tmp").mkdir()
    (folder / "latest").unlink()
    (folder / "latest").symlink_to(target)
    assert core.checkpoint_latest(str(folder)) == f"{folder}/step_00000003"
    (folder / "latest").unlink()
    assert core.checkpoint_latest(str(folder)) == f"{folder}/step_00000003"
    save(core, folder, 1)
    assert core.checkpoint_latest(str(folder)) == f"{folder}/step_00000001"


def test_a_path_that_is_a_file_is_a_sentence(core, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="cannot make the folder .*file is a file"):
        save(core, tmp_path / "file", 1)
    assert core.checkpoint_latest(str(tmp_path / "file")) is None
    (tmp_path / "ok" / "latest").mkdir(parents=True)
    with pytest.raises(
        RuntimeError, match="cannot rename .*latest.tmp to .*latest: Is a directory"
    ):
        save(core, tmp_path / "ok", 1)
    assert check_whole(core, core.checkpoint_latest(str(tmp_path / "ok"))) == 1


# ---- the optimizer's files ----------------------------------------------------------------------


def write_ranks(core, folder: Path, state: dict[str, np.ndarray], cuts: list[float]) -> None:
    """Each parameter cut at the given fractions; rank r holds the r-th range of each."""
    ranks = len(cuts) - 1
    for rank in range(ranks):
        held = {}
        for name, values in state.items():
            group, parameter = name.split("/", 1)
            begin, end = (round(cut * len(values)) for cut in cuts[rank : rank + 2])
            held[core.optimizer_name(group, parameter, begin, end)] = values[begin:end]
        core.safetensors_write(core.optimizer_path(str(folder), rank, ranks), held)


@pytest.fixture
def state() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"wte.weight": 97, "h.3.mlp.up.weight": 64, "h.3.mlp.up.weight[x]": 5, "b": 1}
    groups = ["exp_avg", "exp_avg_sq"]
    return {
        f"{g}/{n}": rng.standard_normal(s, dtype=np.float32)
        for g in groups
        for n, s in sizes.items()
    }


@pytest.mark.parametrize("cuts", [[0, 1], [0, 0.5, 1], [0, 0.1, 0.1, 0.7, 1]])
def test_any_range_is_gathered_from_any_number_of_ranks(core, tmp_path, state, cuts):
    write_ranks(core, tmp_path, state, cuts)
    for name, values in state.items():
        group, parameter = name.split("/", 1)
        n = len(values)
        ranges = [(0, n), (0, 0), (n, n), (n // 3, n), (0, n // 2), (n // 3, n // 2), (n - 1, n)]
        ranks, pieces = core.optimizer_read(str(tmp_path), group, parameter, ranges)
        assert ranks == len(cuts) - 1
        for (begin, end), piece in zip(ranges, pieces):
            np.testing.assert_array_equal(piece, values[begin:end])


@pytest.mark.parametrize("parameter, begin, end, missing", [
    ("wte.weight", 0, 98, 97), ("wte.weight", 97, 98, 97), ("wte.weight", -1, 3, -1),
    ("wte", 0, 1, 0), ("wte.weight[0:97]", 0, 1, 0), ("c", 5, 6, 5),
])  # fmt: skip
def test_a_range_no_file_holds_is_a_sentence(core, tmp_path, state, parameter, begin, end, missing):
    write_ranks(core, tmp_path, state, [0, 0.5, 1])
    with pytest.raises(RuntimeError) as failure:
        core.optimizer_read(str(tmp_path), "exp_avg", parameter, [(begin, end)])
    assert str(failure.value) == (
        f"{tmp_path}: no optimizer file holds element {missing} of exp_avg/{parameter} "
        f"({begin} to {end} were wanted)"
    )


def test_a_hole_between_ranks_is_found(core, tmp_path):
    for rank, (begin, end) in enumerate([(0, 4), (6, 9)]):
        held = {core.optimizer_name("m", "w", begin, end): np.zeros(end - begin, np.float32)}
        core.safetensors_write(core.optimizer_path(str(tmp_path), rank, 2), held)
    with pytest.raises(RuntimeError, match="holds element 4 of m/w"):
        core.optimizer_read(str(tmp_path), "m", "w", [(0, 9)])


def test_a_missing_or_foreign_rank_is_a_sentence(core, tmp_path, state):
    with pytest.raises(RuntimeError, match=f"^{tmp_path}: no optimizer.rank"):
        core.optimizer_read(str(tmp_path), "exp_avg", "b", [(0, 1)])
    write_ranks(core, tmp_path, state, [0, 0.3, 0.6, 1])
    path = Path(core.optimizer_path(str(tmp_path), 1, 3))
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(
        RuntimeError,
        match=f"^{path} is missing: the optimizer's state is of 3 ranks, 2 have a file",
    ):
        core.optimizer_read(str(tmp_path), "exp_avg", "b", [(0, 1)])
    path.write_bytes(data)
    other = tmp_path / "optimizer.rank0of2.safetensors"
    other.write_bytes(data)
    with pytest.raises(RuntimeError, match="optimizer files of [23] and of [23] ranks"):
        core.optimizer_read(str(tmp_path), "exp_avg", "b", [(0, 1)])
    other.unlink()
    for bad in [
        "optimizer.rank3of3.safetensors",
        "optimizer.rankxof3.safetensors",
        "optimizer.rank1.safetensors",
    ]:
        (tmp_path / bad).write_bytes(data)
        with pytest.raises(RuntimeError, match=f"{bad} is no optimizer's file name"):
            core.optimizer_read(str(tmp_path), "exp_avg", "b", [(0, 1)])
        (tmp_path / bad).unlink()
    (tmp_path / "optimizer.rank0of999999999.safetensors").write_bytes(data)
    for file in tmp_path.glob("*of3*"):
        file.unlink()
    with pytest.raises(RuntimeError, match="rank1of999999999.safetensors is missing"):
        core.optimizer_read(str(tmp_path), "exp_avg", "b", [(0, 1)])


@pytest.mark.parametrize("name, array", [
    ("m/w[0:3]", np.zeros(4, np.float32)), ("m/w[0:4]", np.zeros((2, 2), np.float32)),
    ("m/w[0:4]", np.zeros(4, np.int32)), ("m/w", np.zeros(4, np.float32)),
    ("m/w[4:0]", np.zeros(4, np.float32)), ("m/w[0:4", np.zeros(4, np.float32)),
    ("m/w[-4:0]", np.zeros(4, np.float32)),
    ("m/w[0:99999999999999999999]", np.zeros(4, np.float32)),
])  # fmt: skip
def test_a_tensor_that_is_no_range_is_refused(core, tmp_path, name, array):
    core.safetensors_write(core.optimizer_path(str(tmp_path), 0, 1), {name: array})
    with pytest.raises(RuntimeError, match="is no range of an optimizer's state"):
        core.optimizer_read(str(tmp_path), "m", "w", [(0, 1)])


# ---- killed, and out of room --------------------------------------------------------------------


def saver(core, folder: Path, *args: object, **options: object) -> subprocess.Popen:
    command = [sys.executable, str(SAVER), core.__file__, str(folder), *map(str, args)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def kill_at_random(core, folder: Path, times: int, keep: int) -> None:
    """Saves every step until killed, again and again: each time the latest is whole."""
    rng = random.Random(times)
    seen = -1
    for _ in range(times):
        process = saver(core, folder, seen + 1, keep)
        assert process.stdout.readline() == "saving\n"
        time.sleep(rng.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.communicate()[0].split()]
        latest = core.checkpoint_latest(str(folder))
        if latest is None:
            assert not reported and seen < 0
            continue
        step = check_whole(core, latest)
        assert step >= max([seen, *reported])
        for name in names(folder):
            if core.checkpoint_step(name) >= 0:
                assert check_whole(core, f"{folder}/{name}") == core.checkpoint_step(name)
        seen = step
    assert seen > 0, "no checkpoint was ever written: the kills came too early to test anything"


def test_a_kill_at_any_moment_leaves_a_whole_latest(core, tmp_path):
    kill_at_random(core, tmp_path / "steps", times=10, keep=2)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, 1, 3])
def test_many_kills_leave_a_whole_latest(core, tmp_path, keep):
    kill_at_random(core, tmp_path / "steps", times=30, keep=keep)


def test_a_kill_while_a_step_is_replaced_loses_no_checkpoint(core, tmp_path):
    """The same step saved again and again: one whole folder is there at every moment."""
    rng = random.Random(0)
    save(core, tmp_path, 5)
    for _ in range(10):
        process = saver(core, tmp_path, 5, 1, "same")
        assert process.stdout.readline() == "saving\n"
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert check_whole(core, core.checkpoint_latest(str(tmp_path))) == 5


def test_a_file_size_limit_while_saving_leaves_the_old_checkpoint(core, tmp_path):
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    save(core, tmp_path, 1)
    process = saver(core, tmp_path, 2, 1, "large", preexec_fn=limit)
    _, error = process.communicate()
    want = f"cannot write {tmp_path}/step_00000002.tmp/model.safetensors: File too large"
    assert process.returncode == 1 and want in error
    assert names(tmp_path) == ["latest", "step_00000001"]
    assert check_whole(core, core.checkpoint_latest(str(tmp_path))) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_while_saving_leaves_the_old_checkpoint(core, small_disk):
    save(core, small_disk, 1)
    before = names(small_disk)
    with pytest.raises(
        RuntimeError, match="cannot write .*model.safetensors: No space left on device"
    ):
        core.checkpoint_save(str(small_disk), 2, weights(2, 1 << 20), '{"step": 2}')
    assert names(small_disk) == before
    save(core, small_disk, 3)
    assert check_whole(core, core.checkpoint_latest(str(small_disk))) == 3


def test_a_disk_of_its_last_byte_never_loses_the_old_checkpoint(core, small_disk):
    """Room shrinks by a page at a time, so that the failure falls on every file in turn."""
    save(core, small_disk, 1)
    failed = saved = 0
    filler = small_disk / "filler"
    for pages in range(240, 257):
        try:
            filler.write_bytes(bytes(pages * 4096))
        except OSError:
            pass
        try:
            save(core, small_disk, 2, keep=1)
            saved += 1
        except RuntimeError as failure:
            failed += 1
            assert "No space left on device" in str(failure)
        filler.unlink()
        check_whole(core, core.checkpoint_latest(str(small_disk)))
    assert failed and saved
