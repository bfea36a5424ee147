"""Files from Python: JSON that is damaged, files that are whole, full disks, folders that are locked."""
from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from llmc import disk


@pytest.mark.parametrize("raw, found", [
    (b"", "is no JSON: "), (b"{", "is no JSON: "), (b"\xff\xfe", "is no JSON: "),
    (b"[" * 100_000, "is no JSON: "), (b'{"step": ' + b"9" * 5000 + b"}", "is no JSON: "),
    (b"[]", "holds list, wanted an object"), (b"null", "holds NoneType, wanted an object"),
    (b"{}", ": 'step' is missing, wanted int"), (b'{"step": 1e300}', ": 'step' is float, wanted int"),
    (b'{"step": true}', ": 'step' is bool, wanted int")])
def test_damaged_json_is_a_sentence_that_names_the_file(raw, found, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(raw)
    with pytest.raises(ValueError) as error:
        disk.read_json(path, {"step": int}, "copy it again")
    text = str(error.value)
    assert text.startswith(f"{path} {found}".replace(" :", ":")) and text.endswith("; copy it again")


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"step": 1, "more": []}')
    assert disk.read_json(tmp_path / "x.json", {"step": int}, "") == {"step": 1, "more": []}


def test_of_one_line_the_column_alone_is_told(tmp_path):
    """Its line is the caller's to know; of a whole file both."""
    for raw, fault in ((b'{"a": \n', "a file is no JSON: Expecting value at column 6"),
                       (b'{"a": x}', "a file is no JSON: Expecting value at column 7"),
                       (b'{"a": 1,\n "b" 2}', "a file is no JSON: Expecting ':' delimiter at line 2, column 6")):
        with pytest.raises(ValueError) as error:
            disk.parse_json(raw, "a file", {})
        assert str(error.value) == fault


@pytest.fixture
def full_disk():
    """No file may grow beyond 100,000 bytes; to a program that is as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, full_disk):
    path = tmp_path / "x"
    disk.write_whole(path, b"first")
    with pytest.raises(OSError) as error:
        disk.write_whole(path, bytes(200_000))
    assert (error.value.filename, error.value.errno) == (str(path), errno.EFBIG)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"first", ["x"])
    disk.write_whole(path, b"second")
    assert path.read_bytes() == b"second"


def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path):
    (tmp_path / "x").mkdir()
    for path in (tmp_path / "x", tmp_path / "nowhere/x", tmp_path / ("x" * 255)):
        with pytest.raises(OSError) as error:
            disk.write_whole(path, b"")
        assert error.value.filename == str(path)
    assert os.listdir(tmp_path) == ["x"]


def test_an_error_that_names_its_file_keeps_the_name():
    with pytest.raises(FileNotFoundError) as error, disk.naming("other"):
        open("no such file")
    assert error.value.filename == "no such file"


def test_a_folder_is_locked_for_other_programs_until_the_end(tmp_path):
    code = "import sys, pathlib; from llmc import disk\nwith disk.locked(pathlib.Path(sys.argv[1])): print('in')"

    def other() -> subprocess.CompletedProcess:
        package = Path(disk.__file__).parent.parent
        return subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(package)})

    with disk.locked(tmp_path):
        assert f"{tmp_path}: another program is writing there; wait for it" in other().stderr
    assert other().stdout == "in\n"


def test_a_locked_folder_is_made_and_goes_again_when_it_stays_empty(tmp_path):
    for name, left in (("empty", False), ("used", True)):
        with disk.locked(tmp_path / name):
            if left:
                (tmp_path / name / "x").touch()
        assert (tmp_path / name).exists() == left
    with disk.locked(tmp_path / "used"):
        (tmp_path / "used/x").unlink()
    assert (tmp_path / "used").exists(), "it was there before"
