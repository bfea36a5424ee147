"""Products by cuBLASLt, over a stand-in for it: what is asked of it, what it cannot do, and which kernels are kept."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from building import BUILD, build


@pytest.fixture(scope="session")
def products() -> str:
    build("products")
    return str(BUILD / "products")


def run(products: str, folder: Path, *words: str) -> tuple[int, int]:
    """Every product agrees with our own kernel's. How many were asked for and timed."""
    done = subprocess.run([products, *words], env=os.environ | {"LLMC_CACHE": str(folder)},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    exact, half, asked, timed, _ = map(float, done.stdout.split())
    assert exact < 1e-6         # sums of small numbers in f32, in another order
    assert half < 2**-7         # one more rounding to bf16
    return int(asked), int(timed)


def the_file(folder: Path) -> Path:
    file, = folder.iterdir()
    assert file.name == "cublaslt-130000-A_stand-in__1.txt"
    return file


@pytest.mark.parametrize("words", [(), ("no_epilogue",), ("no_kernel",), ("no_memory",)], ids=" ".join)
def test_products_are_ours_whatever_the_library_can_do(products, tmp_path, words):
    asked, _ = run(products, tmp_path, *words)
    assert asked > 100


def test_a_kernel_is_chosen_once_and_kept(products, tmp_path):
    asked, timed = run(products, tmp_path / "not" / "there" / "yet")
    assert timed == 2 * asked           # the first of three guesses does not run
    text = the_file(tmp_path / "not" / "there" / "yet").read_text()
    assert len(text.splitlines()) == asked + 1 and text.count("\t0000000000000002 ") == asked
    assert run(products, tmp_path / "not" / "there" / "yet") == (0, 0)


def test_products_of_about_as_many_rows_share_a_kernel(products, tmp_path):
    """5 to 8 rows do, but 6 need another kernel here, which is then kept in its place; it does for all of them."""
    run(products, tmp_path)
    for rows in (5, 7, 8):
        assert run(products, tmp_path, f"rows={rows}") == (0, 0)
    asked, timed = run(products, tmp_path, "rows=6")
    assert asked == timed > 50
    assert run(products, tmp_path, "rows=9")[0] == asked
    for rows in (5, 6, 7):
        assert run(products, tmp_path, f"rows={rows}") == (0, 0)


def test_what_is_damaged_foreign_or_of_no_use_is_found_again(products, tmp_path):
    asked, _ = run(products, tmp_path)
    file = the_file(tmp_path)
    whole = file.read_text()
    head, first, second, third, *rest = whole.splitlines()
    first = first.replace("\t0000000000000002", "\t0000000000000001")       # a kernel that does not run
    file.write_text("\n".join([head, first, second[:-1] + "x", third[:-9], "rubbish", *rest]))
    assert run(products, tmp_path)[0] == 3
    assert file.read_text() == whole
    file.write_text("\n".join(["another head", *rest]))
    assert run(products, tmp_path)[0] == asked
    assert file.read_text() == whole


def test_a_folder_that_cannot_be_written_is_no_failure(products, tmp_path):
    (tmp_path / "file").write_text("")
    assert run(products, tmp_path / "file" / "folder")[0] > 100
