"""The emulated GPU sees mistakes that a GPU would let pass: kernels with one each, and the same without it."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from building import BUILD, build

SEEDS = range(20)
X = np.arange(256) ** 2 % 101.0
EXPECTED = {
    "fold": X[:128] + X[:127:-1],
    "warp": np.repeat(X[:128].reshape(4, 32).sum(1), 32),
    "wide": X[:128],
    "large": X[:128],
    "copy": X[:128],
    "race": X[:128],
    "there and back": X[:128],
    "graph": X[:128] + 3,
}


@pytest.fixture(scope="session")
def planted() -> str:
    build("planted")
    return str(BUILD / "planted")


def run(planted: str, name: str, seed: int = 0) -> tuple[np.ndarray, str]:
    """What the kernel wrote, or the sentence it ended with."""
    done = subprocess.run([planted, name, str(seed)], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    assert bool(done.returncode) == bool(done.stderr)
    return np.array(done.stdout.split(), float), done.stderr


@pytest.mark.parametrize("name", EXPECTED)
def test_a_right_kernel_gives_the_same_in_every_order(planted, name):
    for seed in SEEDS:
        out, error = run(planted, name, seed)
        assert not error
        np.testing.assert_array_equal(out, EXPECTED[name])


@pytest.mark.parametrize(
    "name",
    [
        "fold without its barrier",
        "fold that reads one too far",
        "fold that leaves an element out",
        "copy without waiting",
        "there and back without waiting",
    ],
)
def test_a_number_that_was_never_written_shows_in_every_order(planted, name):
    for seed in SEEDS:
        out, error = run(planted, name, seed)
        assert not error and np.isnan(out).any()


def test_a_number_of_the_hosts_that_a_graph_keeps_shows(planted):
    out, error = run(planted, "graph with a number of the host's in it")
    assert not error
    np.testing.assert_array_equal(out, X[:128] + 1)         # of the recording, where the third replay's was wanted


def test_an_order_that_is_not_fixed_shows(planted):
    found = {run(planted, "race of floats", seed)[0].tobytes() for seed in SEEDS}
    assert len(found) > 1


@pytest.mark.parametrize(
    "name,sentence",
    [
        ("fold that writes one too far", r"block (0,0,0) wrote beyond an end of tile, of 1024 bytes"),
        ("fold whose thread leaves before the barrier", "waits at a barrier, and thread (31,0,0) has ended"),
        ("fold with two barriers for one", "a barrier that other threads of block (0,0,0) reached at"),
        ("warp with a lane that has left", "waits at a warp's exchange, and thread (40,0,0) has ended"),
        ("warp with lanes apart", "a warp's exchange, while other lanes of block (0,0,0) are at"),
        ("wide from an odd place", "an access of 16 bytes at"),
        ("there and back out of memory that changes", "the host changed 512 bytes that were being copied to the device"),
        ("large and more", "more of 4 bytes beside 49152, wanted at most 49152 in all, 49152 of them static"),
    ],
)
def test_a_mistake_ends_the_launch_with_a_sentence(planted, name, sentence):
    for seed in SEEDS:
        out, error = run(planted, name, seed)
        assert len(out) == 0 and sentence in error
        assert error.startswith("llmc: cuda-emu: ")
