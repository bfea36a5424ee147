"""csrc/files.c: whole or not at all, and a sentence where it cannot be."""

import os
import resource
import signal
import subprocess
import sys

import pytest


def test_a_file_is_read_whole_with_a_zero_after_it(core, tmp_path):
    path = tmp_path / "a"
    for data in [b"", b"x", b"\x00\xff" * 5000]:
        path.write_bytes(data)
        assert core.read_file(str(path)) == data


def test_what_is_no_plain_file_is_refused(core, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, sentence in [
        ("missing", "cannot open {}: No such file or directory"),
        ("", "{} is a folder, wanted a plain file"),
        ("loop", "cannot open {}: Too many levels of symbolic links"),
    ]:
        path = str(tmp_path / name)
        with pytest.raises(RuntimeError) as failure:
            core.read_file(path)
        assert str(failure.value) == sentence.format(path)
    with pytest.raises(RuntimeError, match="/dev/null is no plain file, wanted a plain file"):
        core.read_file("/dev/null")


def test_a_pipe_does_not_hang_the_reader(core, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(RuntimeError, match="is no plain file"):
        core.read_file(str(pipe))


def test_writing_replaces_whole_and_leaves_nothing_beside(core, tmp_path):
    path = tmp_path / "a"
    for data in [b"first" * 1000, b"second", b""]:
        core.write_file(str(path), data)
        assert path.read_bytes() == data
        assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_that_cannot_be_written_is_a_sentence(core, tmp_path):
    with pytest.raises(
        RuntimeError, match=f"^cannot write {tmp_path}/no/a: No such file or directory"
    ):
        core.write_file(f"{tmp_path}/no/a", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        RuntimeError, match=r"^cannot rename .*folder.tmp to .*folder: Is a directory"
    ):
        core.write_file(f"{tmp_path}/folder", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_copy_is_equal_and_over_one_piece_long(core, tmp_path):
    data = os.urandom(3 << 20 | 17)
    (tmp_path / "a").write_bytes(data)
    core.copy_file(f"{tmp_path}/a", f"{tmp_path}/b")
    assert (tmp_path / "b").read_bytes() == data


def test_folders_are_made_with_those_above_them(core, tmp_path):
    for path in ["a/b/c", "a/b/c", "a//d/", "./a/../a/e"]:
        core.make_folders(f"{tmp_path}/{path}")
        assert (tmp_path / path).is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RuntimeError, match=f"^cannot make the folder {tmp_path}/file/x: {tmp_path}/file is a file"
    ):
        core.make_folders(f"{tmp_path}/file/x")


def test_relative_paths_work(core, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    core.make_folders("a/b")
    core.write_file("a/b/c", b"1")
    core.write_file("d", b"2")
    for path in ["d", "a/b/", "/", "/x", "a/b/c"]:
        core.sync_parent(path)
    assert core.read_file("a/b/c") == b"1" and core.read_file("d") == b"2"


def test_removing_a_tree_follows_no_link(core, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("precious")
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "file").write_text("x")
    (tree / "link").symlink_to(kept)
    (tree / "dangling").symlink_to("nowhere")
    assert core.remove_tree(str(tree)) and core.remove_tree(str(tree))
    assert not tree.exists() and (kept / "file").read_text() == "precious"
    (tmp_path / "link").symlink_to(kept)
    assert core.remove_tree(str(tmp_path / "link"))
    assert (kept / "file").exists() and not (tmp_path / "link").is_symlink()


def limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def test_a_file_over_the_limit_leaves_the_old_one(core, tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    script = (
        f"import sys; sys.path[:0] = [{os.path.dirname(core.__file__)!r}]\n"
        f"import _core_tests as core; core.write_file({str(path)!r}, bytes(1 << 20))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], preexec_fn=limit_file_size, capture_output=True, text=True
    )
    assert f"RuntimeError: cannot write {path}: File too large (at byte 65536)" in done.stderr
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]
