"""Shards: what Python writes, the core reads; what is no shard is refused with a sentence."""
from __future__ import annotations

import os
import re
import resource
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.shards import HEADER, HEADER_BYTES, MARK, ShardWriter, read_shard


def tokens_of(core, path: Path) -> list[int]:
    """Every token but the last, through the loader."""
    count = core.Loader(str(path), T=1).windows
    return core.Loader(str(path), T=count, shuffle=False).next()["tokens"][0].tolist()


# ---- written and read ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data(), vocab_size=st.sampled_from([1, 7, 65536, 65537, 2**31 - 1]),
       marks=st.booleans(), shard_tokens=st.integers(1, 40))
def test_what_is_written_is_read(core, tmp_path_factory, data, vocab_size, marks, shard_tokens):
    ids = st.integers(0, vocab_size - 1)
    parts = data.draw(st.lists(st.lists(st.tuples(ids, st.booleans()), max_size=30), max_size=6))
    flat = [pair for part in parts for pair in part]
    folder = tmp_path_factory.mktemp("shards")
    with ShardWriter(folder, "x", "val", vocab_size, 2**63 + 1, vocab_size - 1, shard_tokens,
                     marks) as writer:
        for part in parts:
            learned = np.array([unmarked for _, unmarked in part], bool) if marks else None
            writer.append(np.array([token for token, _ in part], np.int64), learned)
        assert writer.tokens == len(flat)
    assert sorted(os.listdir(folder)) == [path.name for path in writer.paths]
    assert len(writer.paths) == -(-len(flat) // shard_tokens)
    for number, path in enumerate(writer.paths):
        expected = flat[number * shard_tokens:][:shard_tokens]
        tokens, header = read_shard(path)
        assert header.width == (4 if marks or vocab_size > 65536 else 2) == tokens.dtype.itemsize
        assert header.marked == (header.width == 4)
        assert (header.vocab_size, header.fingerprint, header.eot, header.count) == (
            vocab_size, 2**63 + 1, vocab_size - 1, len(expected))
        assert [int(t) % MARK for t in tokens] == [token for token, _ in expected]
        if marks:
            assert [t < MARK for t in tokens] == [unmarked for _, unmarked in expected]
        if len(expected) > 1:
            assert tokens_of(core, path) == [token for token, _ in expected[:-1]]


def test_names_count_from_one(tmp_path):
    with ShardWriter(tmp_path / "deep" / "er", "x", "train", 10, shard_tokens=4) as writer:
        writer.append(np.arange(9))
    assert [path.name for path in writer.paths] == [f"x_train_00000{n}.bin" for n in (1, 2, 3)]
    assert [len(read_shard(path)[0]) for path in writer.paths] == [4, 4, 1]


@pytest.mark.parametrize("text, digest", [
    (b"", 0xCBF29CE484222325), (b"a", 0xAF63DC4C8601EC8C), (b"foobar", 0x85944171F73967E8)])
def test_the_fingerprint_is_fnv_1a(core, text, digest):
    assert core.fingerprint(text) == digest


def llm_c_file(path: Path, magic: int, version: int, tokens: np.ndarray) -> Path:
    head = struct.pack("<iii", magic, version, len(tokens)).ljust(1024, b"\0")
    path.write_bytes(head + tokens.tobytes())
    return path


@pytest.mark.parametrize("magic, version, dtype, vocab_size, eot", [
    (20240520, 1, "<u2", 50257, 50256), (20240801, 7, "<u4", 128256, 128000)])
def test_llm_c_files_are_read(core, tmp_path, magic, version, dtype, vocab_size, eot):
    tokens = np.array([eot, 5, 0, vocab_size - 1, 9], dtype)
    path = llm_c_file(tmp_path / "tiny_train.bin", magic, version, tokens)
    assert tokens_of(core, path) == tokens[:-1].tolist()
    loader = core.Loader(str(tmp_path), split="train")
    assert (loader.vocab_size, loader.eot, loader.fingerprint) == (vocab_size, eot, 0)
    read, header = read_shard(path)
    assert read.tolist() == tokens.tolist()
    assert (header.vocab_size, header.eot, header.fingerprint, header.marked) == (
        vocab_size, eot, 0, False)


def test_the_top_bit_of_llama_3_files_is_no_mark(core, tmp_path):
    tokens = np.array([1, 2, 3 | MARK, 4, 5], "<u4")
    path = llm_c_file(tmp_path / "x_val.bin", 20240801, 7, tokens)
    with pytest.raises(RuntimeError, match=f"token 2 of 5 is {3 | MARK}, wanted one below"):
        core.Loader(str(path)).next()


# ---- the core refuses ----------------------------------------------------------------------------


def own_file(tokens: bytes = struct.pack("<5H", *range(5)), pad: bytes = b"", **fields) -> bytes:
    head = dict(magic=0x6C6D6C63, version=1, count=5, width=2, vocab_size=5, fingerprint=3, eot=-1)
    return (HEADER.pack(*(head | fields).values()) + pad).ljust(HEADER_BYTES, b"\0") + tokens


BAD_FILES = {
    "empty": (b"", "is empty; a token shard has a header of 1024 bytes"),
    "half a header": (own_file()[:700], "700 bytes are too few for the header of 1024 bytes"),
    "text": (b"To be, or not to be" * 100, "begins with 1646292820, wanted 1819110499 .a token"),
    "another version": (own_file(version=2), "version 2 of the shard format, wanted 1"),
    "no tokens": (own_file(b"", count=0), "the header promises 0 tokens, wanted at least 1"),
    "negative count": (own_file(count=-5), "the header promises -5 tokens"),
    "huge count": (own_file(count=2**63 - 1),
                   "is truncated: 1034 bytes hold 5 tokens, the header promises 9223"),
    "truncated": (own_file()[:-1], "is truncated: 1033 bytes hold 4 tokens, the header promises 5"),
    "no token follows": (own_file(b""),
                         "is truncated: 1024 bytes hold 0 tokens, the header promises 5"),
    "trailing": (own_file() + b"ab", "2 bytes follow the last of the 5 tokens the header"),
    "width 1": (own_file(width=1), "tokens of 1 bytes, wanted 2 or 4"),
    "width 8": (own_file(width=8), "tokens of 8 bytes, wanted 2 or 4"),
    "width 0": (own_file(width=0), "tokens of 0 bytes, wanted 2 or 4"),
    "no vocabulary": (own_file(vocab_size=0), "vocab_size is 0, wanted 1 to 65536 for tokens of 2"),
    "wide vocabulary": (own_file(vocab_size=65537), "vocab_size is 65537, wanted 1 to 65536"),
    "eot outside": (own_file(eot=5), r"the end-of-text token is 5, wanted -1 .none. or one"),
    "eot below -1": (own_file(eot=-2), "the end-of-text token is -2"),
    "not zero": (own_file(pad=b"\0\0\1"), "header byte 38 is 1, wanted 0"),
    "llm.c version": (struct.pack("<3i", 20240520, 2, 0).ljust(1024, b"\0"),
                      "version 2 of llm.c's format 20240520, wanted 1"),
    "llm.c count": (struct.pack("<3i", 20240801, 7, -1).ljust(1024, b"\0"),
                    "the header promises -1 tokens"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_its_name_and_the_reason(core, tmp_path, name):
    content, sentence = BAD_FILES[name]
    path = tmp_path / "x_train_000001.bin"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"^{re.escape(str(path))}: {sentence}"):
            core.Loader(str(path))


def test_the_file_that_the_bad_ones_vary_is_good(core, tmp_path):
    path = tmp_path / "x_train_000001.bin"
    path.write_bytes(own_file())
    assert tokens_of(core, path) == [0, 1, 2, 3]


def test_what_is_not_there_or_no_file_is_refused(core, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for data, split, sentence in [
        ("missing.bin", "", "no such file, and no file matches it as a pattern"),
        ("x_train_*.bin", "", "no such file, and no file matches it as a pattern"),
        ("pipe", "", "is not a regular file"),
        ("", "", r"is a folder: say which split of it to read, \"train\" or \"val\""),
        ("", "val", "no file in the folder is named NAME_val_000001.bin; make token shards"),
    ]:
        path = tmp_path / data if data else tmp_path
        with pytest.raises(RuntimeError, match=f"^{re.escape(str(path))}:? {sentence}"):
            core.Loader(str(path), split=split)
    with pytest.raises(RuntimeError, match="cannot be opened .No such file"):
        core.Loader(paths=[str(tmp_path / "missing.bin")])
    with pytest.raises(RuntimeError, match="no data; give a shard, a glob or a folder"):
        core.Loader()


@pytest.mark.skipif(os.geteuid() == 0, reason="skipped: root may read every file")
def test_a_file_that_may_not_be_read_is_refused(core, tmp_path):
    path = tmp_path / "x_train_000001.bin"
    path.write_bytes(own_file())
    path.chmod(0)
    with pytest.raises(RuntimeError, match="cannot be opened .Permission denied"):
        core.Loader(str(path))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="skipped: no /proc")
def test_refused_files_leave_nothing_mapped_or_open(core, tmp_path):
    good, bad = tmp_path / "x_train_000001.bin", tmp_path / "x_train_000002.bin"
    good.write_bytes(own_file())
    bad.write_bytes(own_file() + b"!")
    with pytest.raises(RuntimeError):
        core.Loader(str(tmp_path), split="train")
    assert "x_train" not in Path("/proc/self/maps").read_text()
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if "x_train" in str(fd.resolve())]


# ---- Python refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize("content, sentence", [
    (own_file()[:500], "500 bytes are too few"), (own_file(version=3), "version 3; wanted"),
    (own_file(width=3), "promises 5 tokens of 3 bytes"),
    (own_file() + b"!", "1035 bytes, but the header"),
    (own_file(count=6), "promises 6 tokens"), (own_file(count=-5, width=2), "promises -5 tokens")])
def test_read_shard_refuses_damage(tmp_path, content, sentence):
    path = tmp_path / "x_train_000001.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{sentence}"):
        read_shard(path)


@pytest.mark.parametrize("tokens, sentence", [
    ([3, 10], "token 10 is not in a vocabulary of 10"), ([-1], "token -1 is not in a vocabulary"),
    ([[1, 2]], "shape .1, 2., wanted integers"), ([0.5], "float64 .* wanted integers")])
def test_tokens_that_cannot_be_written_are_refused(tmp_path, tokens, sentence):
    with ShardWriter(tmp_path, "x", "train", 10) as writer:
        with pytest.raises(ValueError, match=sentence):
            writer.append(np.array(tokens))
    assert not any(tmp_path.iterdir())


def test_tokens_that_are_not_learned_need_marks(tmp_path):
    with ShardWriter(tmp_path, "x", "train", 10) as writer:
        with pytest.raises(ValueError, match="open the writer with marks=True"):
            writer.append(np.array([1, 2]), np.array([True, False]))


@pytest.mark.parametrize("arguments, sentence", [
    (("test", 10), "the split is 'test', wanted 'train' or 'val'"), (("val", 0), "vocab_size 0"),
    (("val", MARK), "wanted 1 to 2147483647"), (("val", 10, 0, 10), "end-of-text token 10"),
    (("val", 10, 0, -1, 0), "shards of 0 tokens")])
def test_an_impossible_shard_is_refused(tmp_path, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ShardWriter(tmp_path, "x", *arguments)


def test_shards_of_an_older_data_set_are_neither_mixed_nor_overwritten(tmp_path):
    for attempt in range(2):
        with ShardWriter(tmp_path, "other", "train", 10), ShardWriter(tmp_path, "x", "val", 10):
            pass
        with ShardWriter(tmp_path, f"x{attempt}", "train", 10) as writer:
            writer.append(np.arange(4))
    before = writer.paths[0].read_bytes()
    with pytest.raises(FileExistsError, match="x1_train_000001.bin exists already; remove it"):
        ShardWriter(tmp_path, "x1", "train", 10)
    assert writer.paths[0].read_bytes() == before


def test_an_interrupted_writer_leaves_only_whole_shards(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with ShardWriter(tmp_path, "x", "train", 10, shard_tokens=4) as writer:
            writer.append(np.arange(6))
            assert sorted(os.listdir(tmp_path)) == ["x_train_000001.bin", "x_train_000002.bin.tmp"]
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["x_train_000001.bin"]
    assert read_shard(writer.paths[0])[0].tolist() == [0, 1, 2, 3]


def test_a_write_that_fails_leaves_no_shard(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
        with pytest.raises(OSError, match="File too large"):
            with ShardWriter(tmp_path, "x", "train", 10) as writer:
                writer.append(np.arange(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not any(tmp_path.iterdir())
