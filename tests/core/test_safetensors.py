"""csrc/safetensors.c against the safetensors package, both ways, and against files that lie."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

NUMPY = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "i32": np.int32, "u8": np.uint8}
DTYPES = list(NUMPY.values())
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)


def array_of(described: tuple) -> np.ndarray:
    dtype, shape, data = described
    return np.frombuffer(data, NUMPY[dtype]).reshape(shape)


def bits(arrays: dict) -> dict:
    """For the harness, which takes uint16 as bf16."""
    return {k: a.view(np.uint16) if a.dtype == ml_dtypes.bfloat16 else a for k, a in arrays.items()}


def random_array(rng: np.random.Generator, dtype: type, shape: tuple) -> np.ndarray:
    return rng.integers(0, 100, shape).astype(dtype)


def build(header: object, data: bytes = b"", pad: bool = True) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8 if pad else 0)
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@st.composite
def tensor_sets(draw: st.DrawFn) -> dict:
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    names = draw(
        st.lists(NAMES.filter(lambda name: name != "__metadata__"), unique=True, max_size=8)
    )
    shapes = st.lists(st.integers(0, 5), min_size=1, max_size=4)
    return {n: random_array(rng, draw(st.sampled_from(DTYPES)), tuple(draw(shapes))) for n in names}


@given(arrays=tensor_sets(), metadata=st.dictionaries(NAMES, NAMES, max_size=3))
@settings(max_examples=60, deadline=None)
def test_the_package_reads_ours_and_ours_reads_the_package(
    core, tmp_path_factory, arrays, metadata
):
    folder = tmp_path_factory.mktemp("safetensors")
    ours, theirs = str(folder / "ours"), str(folder / "theirs")
    core.safetensors_write(ours, bits(arrays), list(metadata.items()))
    safetensors.numpy.save_file(arrays, theirs, metadata or None)
    with safetensors.safe_open(ours, "numpy") as file:
        assert (file.metadata() or {}) == metadata
        read = {name: file.get_tensor(name) for name in file.keys()}
    assert read.keys() == arrays.keys()
    for path in [ours, theirs]:
        file = core.safetensors_open(path)
        assert sorted(file.names) == sorted(arrays)
        assert all(file.metadata(key) == value for key, value in metadata.items())
        for name, array in arrays.items():
            mine = array_of(file.get(name))
            assert mine.dtype == array.dtype == read[name].dtype
            assert mine.shape == array.shape == read[name].shape
            assert mine.tobytes() == array.tobytes() == read[name].tobytes()


def test_bytes_depend_on_content_alone_and_wider_types_come_first(core, tmp_path):
    arrays = {
        "u8": np.arange(3, dtype=np.uint8),
        "f32": np.arange(2, dtype=np.float32),
        "bf16": np.arange(3, dtype=ml_dtypes.bfloat16),
        "i32": np.arange(1, dtype=np.int32),
    }
    for name in ["a", "b"]:
        core.safetensors_write(
            f"{tmp_path}/{name}", bits(arrays), [("format", "pt"), ("by", "llmc")]
        )
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    assert length % 8 == 0 and len(data) == 8 + length + 8 + 4 + 6 + 3
    text = data[8 : 8 + length].decode()
    assert text.rstrip(" ") == json.dumps(json.loads(text), separators=(",", ":"))
    assert list(json.loads(text)) == ["__metadata__", "f32", "i32", "bf16", "u8"]
    assert core.safetensors_open(f"{tmp_path}/a").names == ["f32", "i32", "bf16", "u8"]


def test_tensors_may_be_put_in_pieces_and_in_any_order(core, tmp_path):
    path = f"{tmp_path}/a"
    arrays = {
        "a": np.zeros(4, np.uint8),
        "b": np.zeros(2, np.int32),
        "empty": np.zeros((0, 3), np.float32),
    }
    core.safetensors_put(path, arrays, [(0, 2, b"cd"), (1, 0, b"ABCDEFGH"), (0, 0, b"ab")])
    file = core.safetensors_open(path)
    assert file.get("a")[2] == b"abcd" and file.get("b")[2] == b"ABCDEFGH"
    assert file.get("empty") == ("f32", [0, 3], b"")


@pytest.mark.parametrize("puts, sentence", [
    ([], "4 bytes of tensor 0 were not put"),
    ([(0, 0, b"abc")], "1 bytes of tensor 0 were not put"),
    ([(0, 0, b"abcde")], "5 bytes at byte 0 of tensor 0, which has 4 of which 4 are still wanted"),
    ([(0, 2, b"abc")], "3 bytes at byte 2 of tensor 0"),
    ([(0, 0, b"abc"), (0, 0, b"abc")], "which has 4 of which 1 are still wanted"),
    ([(0, -1, b"a")], "1 bytes at byte -1"),
    ([(1, 0, b"a")], "tensor 1 of 1"),
    ([(-1, 0, b"a")], "tensor -1 of 1"),
])  # fmt: skip
def test_what_was_not_put_whole_leaves_no_file(core, tmp_path, puts, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        core.safetensors_put(f"{tmp_path}/a", {"a": np.zeros(4, np.uint8)}, puts)
    assert list(tmp_path.iterdir()) == []


def test_impossible_names_are_refused_when_written(core, tmp_path):
    with pytest.raises(RuntimeError, match='the key "__metadata__" is twice'):
        core.safetensors_write(
            f"{tmp_path}/a", {"__metadata__": np.zeros(1, np.uint8)}, [("a", "b")]
        )
    with pytest.raises(RuntimeError, match="no name or no shape"):
        core.safetensors_write(f"{tmp_path}/a", {"scalar": np.zeros((), np.float32)})
    assert list(tmp_path.iterdir()) == []


def test_a_scalar_has_one_element(core):
    assert core.safetensors_parse(build({"s": entry("F32", [], 0, 4)}, b"abcd")).get("s") == (
        "f32",
        [1],
        b"abcd",
    )


def test_types_it_has_not_may_be_there_until_asked_for(core):
    header = {
        "ids": entry("I64", [2], 0, 16),
        "w": entry("F32", [1], 16, 20),
        "m": entry("BOOL", [3], 20, 23),
    }
    file = core.safetensors_parse(build(header, bytes(23)))
    assert file.names == ["ids", "w", "m"] and file.get("w")[0] == "f32"
    with pytest.raises(
        RuntimeError, match=r'^test.safetensors: ids.dtype is "I64", wanted F32, BF16, I32 or U8$'
    ):
        file.get("ids")


def test_a_missing_tensor_is_named(core):
    file = core.safetensors_parse(build({"a": entry("U8", [1], 0, 1)}, b"x"))
    assert file.find("a") == 0 and file.find("b") == -1
    with pytest.raises(RuntimeError, match="^test.safetensors: no tensor b among its 1$"):
        file.get("b")
    for index in [-1, 1]:
        with pytest.raises(RuntimeError, match=f"tensor {index} of 1"):
            file.at(index)


@pytest.mark.parametrize("length", range(8))
def test_headers_of_any_length_give_aligned_data(core, tmp_path, length):
    """Published files have headers of odd lengths; reading a float there is undefined."""
    values = np.arange(5, dtype=np.float32)
    text = json.dumps({"a" * (length + 1): entry("F32", [5], 0, 20)}).encode()
    (tmp_path / "a").write_bytes(build(text, values.tobytes(), pad=False))
    file = core.safetensors_open(f"{tmp_path}/a")
    assert file.get("a" * (length + 1))[2] == values.tobytes()
    assert file.address("a" * (length + 1)) % 8 == 0


def test_a_float_at_an_odd_place_in_the_data_is_a_sentence(core, tmp_path):
    header = {"a": entry("U8", [1], 0, 1), "b": entry("F32", [1], 1, 5)}
    (tmp_path / "a").write_bytes(build(header, bytes(5)))
    file = core.safetensors_open(f"{tmp_path}/a")
    assert file.get("a")[2] == b"\0"
    with pytest.raises(
        RuntimeError, match="b begins at byte 1 of the data, wanted a multiple of 4"
    ):
        file.get("b")


A = entry("F32", [2], 0, 8)
LIES = [
    (b"", "0 bytes, wanted a safetensors file"),
    (b"\x02\0\0\0\0\0\0\0{", "9 bytes, wanted a safetensors file"),
    (b"\x03\0\0\0\0\0\0\0{}", "say 3 of header"),
    (b"\xff" * 8 + b"{}", "say 18446744073709551615 of header"),
    (b"\xf8\xff\xff\xff\xff\xff\xff\xff{}", "say 18446744073709551608 of header"),
    (b"\x00" * 10, r"'\?' \(0x00\) follows"),
    (b"PK\x03\x04" + b"\0" * 100, "wanted a safetensors file"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs's note of a file that was not downloaded; run git lfs"),
    (build(b" {}"), r"\(0x20\) follows"),
    (build(b"[]"), r"'\[' \(0x5b\) follows"),
    (build(b"{"), "the end of the text, wanted a key"),
    (build(b'{"a":1'), "the end of the text"),
    (build(b"{}"), None),
    (build(b"{}", b"x"), "the tensors take 0 bytes, the file holds 1 after its header"),
    (build(b"{}\0"), "the byte 0x00, wanted nothing after the value"),
    (build({"a": 1}), "a is 1, wanted dtype, shape and data_offsets"),
    (build({"a": {}}), "a is an object, wanted dtype, shape and data_offsets"),
    (
        build({"a": {**A, "more": 1}}, bytes(8)),
        "a is an object, wanted dtype, shape and data_offsets",
    ),
    (
        build({"a": {"dtype": "F32", "shape": [2], "offsets": [0, 8]}}, bytes(8)),
        "a.data_offsets is missing",
    ),
    (
        build({"a": entry("F31", [2], 0, 8)}, bytes(8)),
        'a.dtype is "F31", wanted a type of the safetensors format',
    ),
    (build({"a": entry(32, [2], 0, 8)}, bytes(8)), "a.dtype is 32, wanted a string"),
    (build({"a": entry("F32", 2, 0, 8)}, bytes(8)), "a.shape is 2, wanted an array of sizes"),
    (
        build({"a": entry("F32", {"2": 2}, 0, 8)}, bytes(8)),
        "a.shape is an object, wanted an array of sizes",
    ),
    (
        build({"a": entry("F32", [-2], 0, 8)}, bytes(8)),
        r"a.shape\[0\] is -2, wanted a size of 0 or more",
    ),
    (
        build({"a": entry("F32", [2.5], 0, 8)}, bytes(8)),
        r"a.shape\[0\] is 2.5, wanted a whole number",
    ),
    (
        build({"a": entry("F32", ["2"], 0, 8)}, bytes(8)),
        r'a.shape\[0\] is "2", wanted a whole number',
    ),
    (build({"a": entry("F32", [1, 1, 1, 2, 1], 0, 8)}, bytes(8)), "wanted at most 4 dimensions"),
    (build({"a": entry("F32", [2**62, 2], 0, 8)}, bytes(8)), "wanted fewer elements than 2"),
    (build({"a": entry("F32", [2**32, 2**32], 0, 8)}, bytes(8)), "wanted fewer elements than 2"),
    (build({"a": entry("F32", [2**62], 0, 8)}, bytes(8)), "a takes 2.63 bytes or more"),
    (
        build({"a": entry("F32", [2**64], 0, 8)}, bytes(8)),
        "wanted a whole number of at most 64 bits",
    ),
    (
        build({"a": entry("F32", [3], 0, 8)}, bytes(8)),
        "a has 8 bytes of data, its shape and type want 12",
    ),
    (
        build({"a": {**A, "data_offsets": 8}}, bytes(8)),
        "a.data_offsets is 8, wanted a begin and an end",
    ),
    (
        build({"a": {**A, "data_offsets": [8]}}, bytes(8)),
        "a.data_offsets is an array, wanted a begin and an end",
    ),
    (build({"a": {**A, "data_offsets": [0, 8, 8]}}, bytes(8)), "wanted a begin and an end"),
    (
        build({"a": entry("F32", [2], -8, 0)}, bytes(8)),
        "a lies at bytes -8 to 0 of the data, which has 8",
    ),
    (build({"a": entry("F32", [2], 8, 0)}, bytes(8)), "a lies at bytes 8 to 0"),
    (
        build({"a": entry("F32", [2], 0, 8)}, bytes(7)),
        "a lies at bytes 0 to 8 of the data, which has 7; the file",
    ),
    (build({"a": entry("F32", [2], 0, 8)}, bytes(9)), "the tensors take 8 bytes, the file holds 9"),
    (
        build({"a": entry("F32", [2], 1, 9)}, bytes(9)),
        "a begins at byte 1 of the data, the tensor before it ends at 0",
    ),
    (
        build({"a": A, "b": A}, bytes(8)),
        "begins at byte 0 of the data, the tensor before it ends at 8",
    ),
    (
        build({"a": A, "b": entry("F32", [2], 4, 12)}, bytes(12)),
        "b begins at byte 4 .* ends at 8; gaps and overlaps",
    ),
    (
        build({"a": A, "b": entry("F32", [2], 12, 20)}, bytes(20)),
        "b begins at byte 12 .* ends at 8",
    ),
    (build(b'{"a":%s,"a":%s}' % ((json.dumps(A).encode(),) * 2), bytes(8)), 'the key "a" is twice'),
    (build({"__metadata__": {"a": 1}}), "__metadata__.a is 1, wanted a string"),
    (build({"__metadata__": []}), "__metadata__ is an array, wanted an object of strings"),
]


@pytest.mark.parametrize("data, sentence", LIES)
def test_a_file_that_lies_is_refused(core, tmp_path, data, sentence):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    if sentence is None:
        assert core.safetensors_open(str(path)).names == []
        return
    with pytest.raises(RuntimeError, match=sentence):
        core.safetensors_open(str(path))
    with pytest.raises(RuntimeError, match=sentence):
        core.safetensors_parse(data)


def test_a_header_over_the_limit_is_refused_before_it_is_read(core, tmp_path):
    path = tmp_path / "a"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{")
        file.truncate(200_000_000)
    with pytest.raises(RuntimeError, match="say 100000001 of header .* at most 100000000"):
        core.safetensors_open(str(path))


def test_every_truncation_of_a_file_is_refused(core):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3, dtype=np.uint8)}
    data = safetensors.numpy.save(arrays, {"k": "v"})
    core.safetensors_parse(data)
    for size in range(len(data)):
        with pytest.raises(RuntimeError, match="^test.safetensors: "):
            core.safetensors_parse(data[:size])


def test_tensors_in_any_order_in_the_header_come_in_the_order_of_their_data(core):
    header = {f"t{i}": entry("U8", [1], i, i + 1) for i in [3, 1, 4, 0, 2]}
    header["empty"] = entry("F32", [0], 2, 2)
    file = core.safetensors_parse(build(header, b"abcde"))
    assert file.names == ["t0", "t1", "empty", "t2", "t3", "t4"]
    assert [file.at(i)[2] for i in [0, 1, 3, 4, 5]] == [b"a", b"b", b"c", b"d", b"e"]


def test_a_file_of_many_tensors_is_read_in_a_moment(core, tmp_path):
    header = {f"h.{i}.weight": entry("U8", [1], i, i + 1) for i in range(100_000)}
    file = core.safetensors_parse(build(header, bytes(100_000)))
    assert len(file.names) == 100_000
