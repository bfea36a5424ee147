"""Windows of tokens: which, in what order, on which rank, and what a batch says about them."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.shards import ShardWriter, shard_path

COUNTS = (103, 61, 7, 200)      # tokens of the shards; none occurs twice, so windows can be told
ROOT = Path(__file__).resolve().parents[2]
KEYS = ("tokens", "targets", "pos", "first")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    parts = np.split(np.arange(sum(COUNTS)), np.cumsum(COUNTS)[:-1])
    write(folder, parts, vocab_size=sum(COUNTS))
    return folder


def write(folder: Path, shards: list, name="x", split="train", learned=None, **header) -> list[str]:
    """Shards of exactly these tokens."""
    paths = []
    for number, tokens in enumerate(shards, 1):
        header["marks"] = learned is not None
        with ShardWriter(folder / "parts", f"{name}{number}", split, **header) as writer:
            writer.append(np.array(tokens), learned and np.array(learned[number - 1]))
        path = shard_path(folder, name, split, number)
        writer.paths[0].rename(path)
        paths.append(str(path))
    return paths


def open_train(core, folder: Path, **config):
    return core.Loader(str(folder), split="train", **config)


def stream(core, folder: Path, count: int, ranks: int = 1, start: int = 0, **config) -> dict:
    """`count` windows of all ranks from the cursor `start`, in the order of the epoch."""
    loaders = [open_train(core, folder, rank=r, ranks=ranks, **config) for r in range(ranks)]
    rows: dict[str, list] = {key: [] for key in KEYS}
    for loader in loaders:
        loader.seek(start)
    while sum(map(len, rows["tokens"])) < count:
        for loader in loaders:
            for _ in range(loader.micro_batches):
                batch = loader.next()
                for key in KEYS:
                    rows[key].append(batch[key])
    return {key: np.concatenate(rows[key])[:count] for key in KEYS}


def assert_same(a: dict, b: dict) -> None:
    for key in KEYS:
        assert np.array_equal(a[key], b[key]), key


@st.composite
def divisions(draw):
    """How an update is dealt to ranks, micro-batches and threads; and T, seed and order."""
    B, ranks, micro_batches = (draw(st.integers(1, most)) for most in (4, 4, 3))
    return dict(B=B, ranks=ranks, update_windows=B * ranks * micro_batches,
                prefetch=draw(st.integers(0, 5)))


def streams():
    return st.fixed_dictionaries(
        dict(T=st.integers(1, 30), seed=st.integers(0, 2**64 - 1), shuffle=st.booleans()))


# ---- which windows -------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(which=streams())
def test_the_stream_is_the_windows_in_the_order_of_each_epoch(core, folder, which):
    T, starts, begin = which["T"], [], 0
    for count in COUNTS:
        starts += [begin + i * T for i in range((count - 1) // T)]
        begin += count
    n = len(starts)
    assert open_train(core, folder, **which).windows == n
    got = stream(core, folder, 2 * n + 1, **which)
    for visit in range(2 * n + 1):
        i = visit % n
        if which["shuffle"]:
            i = core.shuffle_index(which["seed"], visit // n, n, i)
        window = np.arange(starts[i], starts[i] + T)
        assert np.array_equal(got["tokens"][visit], window)
        assert np.array_equal(got["targets"][visit], window + 1)
        assert np.array_equal(got["pos"][visit], np.arange(T))
        assert not got["first"][visit].any()


@settings(max_examples=40, deadline=None)
@given(which=streams(), how=divisions())
def test_every_window_comes_once_an_epoch_however_it_is_dealt(core, folder, which, how):
    n = open_train(core, folder, **which).windows
    got = stream(core, folder, 2 * n, **which, **how)["tokens"][:, 0]
    for epoch in (got[:n], got[n:]):
        assert len(np.unique(epoch)) == n
    assert set(got[:n]) == set(got[n:])


@settings(max_examples=60, deadline=None)
@given(which=streams(), how=divisions(), count=st.integers(1, 150))
def test_ranks_micro_batches_and_prefetch_change_nothing(core, folder, which, how, count):
    assert_same(stream(core, folder, count, **which), stream(core, folder, count, **which, **how))


@settings(max_examples=60, deadline=None)
@given(which=streams(), how=divisions(), start=st.integers(0, 1000), before=st.integers(0, 5))
def test_resuming_at_any_cursor_equals_not_stopping(core, folder, which, how, start, before):
    whole = stream(core, folder, start + 20, **which)
    resumed = stream(core, folder, 20, start=start, **which, **how)
    assert_same({key: whole[key][start:] for key in KEYS}, resumed)
    busy = open_train(core, folder, **which, prefetch=how["prefetch"])
    for _ in range(before):                                 # seeking drops what was prefetched
        busy.next()
    busy.seek(start)
    for window in range(start, start + 3):
        assert np.array_equal(busy.next()["tokens"][0], whole["tokens"][window])


@pytest.mark.parametrize("prefetch", [0, 3])
def test_the_cursor_counts_whole_updates(core, folder, prefetch):
    loader = open_train(core, folder, B=2, T=5, ranks=2, update_windows=12, prefetch=prefetch)
    assert loader.micro_batches == 3
    for update in range(10):
        for _ in range(3):
            assert loader.cursor == 12 * update
            loader.next()


def test_an_update_may_be_larger_than_an_epoch(core, folder):
    loader = open_train(core, folder, B=7, T=60, update_windows=21)
    assert loader.windows == 1 + 1 + 0 + 3
    got = np.concatenate([loader.next()["tokens"][:, 0] for _ in range(3)])
    assert all(len(set(got[i:i + 5])) == 5 for i in (0, 5, 10, 15))
    assert loader.cursor // loader.windows == 4


# ---- what a batch says ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data(), how=divisions(), wide=st.booleans())
def test_marked_tokens_are_read_but_are_no_targets(core, tmp_path_factory, data, how, wide):
    learned = [data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in (30, 40)]
    shards = [np.arange(30), np.arange(40) + 30]
    folder = tmp_path_factory.mktemp("marked")
    write(folder, shards, vocab_size=100_000 if wide else 100, learned=learned)
    flat = np.concatenate(learned)
    ranks = how.pop("ranks")
    for rank in range(ranks):
        loader = open_train(core, folder, T=6, rank=rank, ranks=ranks, **how)
        for _ in range(3):
            promised, counts = loader.count_targets(), []
            for _ in range(loader.micro_batches):
                assert loader.count_targets() == promised
                batch = loader.next()
                following = batch["tokens"] + 1
                assert np.array_equal(batch["targets"], np.where(flat[following], following, -1))
                assert batch["target_count"] == (batch["targets"] >= 0).sum()
                counts.append(batch["target_count"])
            assert promised == sum(counts)


@pytest.mark.parametrize("prefetch", [0, 1])
def test_every_target_counts_where_there_are_no_marks(core, folder, prefetch):
    loader = open_train(core, folder, B=3, T=5, ranks=2, update_windows=12, prefetch=prefetch)
    assert loader.count_targets() == 6 * 5
    assert loader.next()["target_count"] == 3 * 5


@settings(max_examples=60, deadline=None)
@given(tokens=st.lists(st.integers(0, 4), min_size=12, max_size=80), T=st.integers(1, 11),
       mask=st.booleans(), prefetch=st.integers(0, 2))
def test_documents_begin_after_eot_and_see_only_themselves(
        core, tmp_path_factory, tokens, T, mask, prefetch):
    folder, eot = tmp_path_factory.mktemp("documents"), 3
    write(folder, [tokens], vocab_size=5, eot=eot)
    loader = open_train(core, folder, T=T, shuffle=False, document_mask=mask, prefetch=prefetch)
    for window in range(loader.windows):
        batch = loader.next()
        seen = tokens[window * T:][:T]
        assert batch["tokens"][0].tolist() == seen
        assert batch["targets"][0].tolist() == tokens[window * T + 1:][:T]
        for t in range(T):
            ends = [i + 1 for i in range(t) if mask and seen[i] == eot]
            assert batch["first"][0, t] == max(ends, default=0)
            assert batch["pos"][0, t] == t - max(ends, default=0)


# ---- finding shards ------------------------------------------------------------------------------


def test_data_is_a_file_a_glob_a_folder_or_a_list(core, tmp_path):
    one, two = write(tmp_path, [np.arange(10), np.arange(20)], vocab_size=20)
    write(tmp_path, [np.arange(15)], vocab_size=20, split="val")
    (tmp_path / "x_train_notes.bin").write_text("another file")
    (tmp_path / "x_train_000003.bin.tmp").write_text("a shard that is being written")
    tokens = lambda *args, **config: core.Loader(*args, **config).tokens
    assert tokens(two) == 20
    assert tokens(f"{tmp_path}/x_train_0*.bin") == 30
    assert tokens(str(tmp_path), split="train") == 30
    assert tokens(str(tmp_path), split="val") == 15
    assert tokens(paths=[two, one, two]) == 50
    first = core.Loader(paths=[two, one], shuffle=False, T=19)
    assert first.next()["tokens"].size == 19 and first.windows == 1 and first.shards == 2


def test_files_are_read_in_the_order_of_their_names(core, tmp_path):
    paths = write(tmp_path, [[n, n, n] for n in range(12)], vocab_size=12)
    for data in (f"{tmp_path}/x_train_*.bin", str(tmp_path)):
        loader = core.Loader(data, split="train", T=2, shuffle=False)
        assert [loader.next()["tokens"][0, 0] for _ in paths] == list(range(12))


def test_a_path_with_pattern_characters_is_a_path_first(core, tmp_path):
    folder = tmp_path / "a[1]*"
    path, = write(folder, [np.arange(10)], vocab_size=10)
    assert core.Loader(path).tokens == 10
    assert open_train(core, folder).tokens == 10


def test_the_loader_tells_what_the_shards_say(core, tmp_path):
    write(tmp_path, [np.arange(10)], vocab_size=70_000, fingerprint=2**64 - 3, eot=69_999)
    loader = core.Loader(str(tmp_path), split="train")
    assert (loader.vocab_size, loader.fingerprint, loader.eot) == (70_000, 2**64 - 3, 69_999)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("config, sentence", [
    (dict(B=0), "B=0 rows and T=4 steps, wanted at least 1"),
    (dict(T=-1), "T=-1 steps"),
    (dict(rank=2, ranks=2), "rank 2 of 2, wanted one from 0 to ranks - 1"),
    (dict(B=2, ranks=2, update_windows=6),
     r"updates of 6 windows, wanted a multiple of ranks \* B = 2 \* 2 = 4"),
    (dict(update_windows=-4), "updates of -4 windows"),
    (dict(prefetch=-1), "prefetch is -1"),
    (dict(T=200), "x_train_000004.bin: 200 tokens are fewer than a window of T=200 and the token"),
    (dict(document_mask=True), "x_train_000001.bin: names no end-of-text token"),
])
def test_an_impossible_configuration_is_refused(core, folder, config, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        open_train(core, folder, **config)


def test_a_negative_cursor_is_refused_and_changes_nothing(core, folder):
    loader = open_train(core, folder, prefetch=2)
    loader.next()
    with pytest.raises(RuntimeError, match="cursor is -1, wanted 0 or more"):
        loader.seek(-1)
    assert loader.cursor == 1
    loader.next()


@pytest.mark.parametrize("other, sentence", [
    (dict(vocab_size=11), "vocab_size is 11, but that of .*x_train_000001.bin is 10"),
    (dict(fingerprint=8), "fingerprint is 0{15}8, but that of .*x_train_000001.bin is 0{15}7"),
    (dict(fingerprint=0), "fingerprint is 0{16}"),
    (dict(eot=8), "end-of-text token is 8, but that of .*x_train_000001.bin is 9"),
])
def test_shards_of_two_tokenizers_are_refused(core, tmp_path, other, sentence):
    header = dict(vocab_size=10, fingerprint=7, eot=9)
    write(tmp_path, [np.arange(10)], **header)
    write(tmp_path, [np.arange(10)], name="y", **header | other)
    with pytest.raises(RuntimeError, match=f"y_train_000001.bin: .*{sentence}"):
        core.Loader(str(tmp_path), split="train")


@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("width", [2, 4])
def test_a_token_outside_the_vocabulary_is_named_where_it_is_met(core, tmp_path, prefetch, width):
    learned = [np.arange(100) % 3 == 0] if width == 4 else None
    path, = write(tmp_path, [np.arange(100)], vocab_size=100, learned=learned)
    with open(path, "r+b") as file:
        file.seek(1024 + 50 * width)
        file.write((777).to_bytes(width, "little"))
    loader = core.Loader(path, T=10, shuffle=False, prefetch=prefetch)
    for window in range(4):
        assert loader.next()["tokens"][0, 0] == 10 * window
    for _ in range(3):                                      # it stays there, and says so again
        sentence = f"{path}: token 50 of 100 is 777, wanted one below vocab_size 100; the shard is"
        with pytest.raises(RuntimeError, match=re.escape(sentence)):
            loader.next()
        assert loader.cursor == 4
    loader.seek(6)
    assert loader.next()["tokens"][0, 0] == 60


def test_closing_drops_what_is_prefetched(core, folder):
    for used in range(4):
        loader = open_train(core, folder, prefetch=3)
        for _ in range(used):
            loader.next()
        del loader


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_the_thread_has_no_race_and_no_leak(tmp_path, sanitizer):
    tokens = np.arange(2000) % 50
    path, = write(tmp_path, [tokens], vocab_size=50, eot=9, learned=[tokens % 7 > 0])
    core, program = ROOT / "csrc", tmp_path / "loader_threads"
    command = ["cc", "-std=gnu11", "-g", "-O1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all",
               f"-I{core}", ROOT / "tests/core/loader_threads.c",
               core / "base.c", core / "shards.c", core / "loader.c",
               "-o", program, "-lm", "-lpthread"]
    subprocess.run(command, check=True)
    done = subprocess.run([program, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
