"""csrc/json.c against Python's json, both ways, and against what is no JSON."""

import json
import locale
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=24),
    max_leaves=60,
)


def same(a, b) -> bool:
    """Equal, and of equal types all the way down: 1, 1.0 and True differ, 0.0 and -0.0 too."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b and str(a) == str(b)


@given(value=VALUES, ascii=st.booleans(), indent=st.sampled_from([None, 0, 3, "\t"]))
@settings(max_examples=100, deadline=None)
def test_reads_what_python_writes(core, value, ascii, indent):
    text = json.dumps(value, ensure_ascii=ascii, indent=indent).encode()
    assert same(core.json_parse(text).python(), value)


@given(value=VALUES, pretty=st.booleans())
@settings(max_examples=100, deadline=None)
def test_python_reads_what_it_writes(core, value, pretty):
    text = core.json_dump(value, pretty=pretty)
    assert same(json.loads(text), value)
    assert pretty or b"\n" not in text


@given(number=st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=200, deadline=None)
def test_doubles_round_trip(core, number):
    assert same(core.json_parse(core.json_dump([number]))[0].double(), number)


def test_not_a_number_is_written_as_null(core):
    assert core.json_dump([math.nan, math.inf, -math.inf]) == b"[null,null,null]"


def test_pretty_is_one_entry_a_line_and_flat_arrays(core):
    value = {"a": 1, "b": [1, 2, {"c": []}], "d": {}, "e": {"f": None}}
    assert core.json_dump(value, pretty=True).decode() == (
        '{\n    "a": 1,\n    "b": [1, 2, {\n            "c": []\n        }],\n'
        '    "d": {},\n    "e": {\n        "f": null\n    }\n}'
    )


def test_bytes_that_are_no_text_are_replaced_when_written(core):
    assert json.loads(core.json_put_bytes("a€".encode()[:-1] + b"b\xff\xed\xa0\x80")) == "a��b����"


REFUSED = [
    (b"", "line 1, byte 1: the end of the text, wanted a value"),
    (b"  \n ", "line 2, byte 2: the end of the text, wanted a value"),
    (b"[1,\n 2,\n x]", "line 3, byte 2: 'x', wanted a value"),
    (b"[1 2]", "'2', wanted ',' or ']'"),
    (b"[1,]", "']', wanted a value"),
    (b"[,1]", "',', wanted a value"),
    (b"[1", "the end of the text, wanted ',' or ']'"),
    (b'{"a":1,}', "'}', wanted a key in quotes"),
    (b'{"a" 1}', "'1', wanted a colon"),
    (b"{a:1}", "'a', wanted a key in quotes"),
    (b'{"a":1 "b":2}', "wanted ',' or '}'"),
    (b"{1:2}", "wanted a key in quotes"),
    (b"1 2", "'2', wanted nothing after the value"),
    (b"1\x00", "the byte 0x00, wanted nothing after the value"),
    (b"\xef\xbb\xbf1", "the byte 0xef, wanted a value"),
    (b"nul", "'n', wanted a value"),
    (b"True", "'T', wanted a value"),
    (b"NaN", "'N', wanted a value"),
    (b"-Infinity", "'I', wanted a digit"),
    (b"// no\n1", "'/', wanted a value"),
    (b"'a'", "wanted a value"),
    (b"01", "'1', wanted nothing"),
    (b"+1", "'+', wanted a value"),
    (b"-", "the end of the text, wanted a digit"),
    (b"1.", "the end of the text, wanted a digit"),
    (b".5", "'.', wanted a value"),
    (b"1e", "the end of the text, wanted a digit"),
    (b"1e+", "the end of the text, wanted a digit"),
    (b"0x10", "'x', wanted nothing"),
    (b'"a', "the end of the text, wanted the rest of a string"),
    (b'"a\nb"', "the byte 0x0a, wanted the rest of a string"),
    (b'"a\x00b"', "the byte 0x00, wanted the rest of a string"),
    (b'"\\x"', "'x', wanted one of"),
    (b'"\\', "the end of the text, wanted one of"),
    (b'"\\u12g4"', "'g', wanted four hexadecimal digits"),
    (b'"\\u12', "the end of the text, wanted four hexadecimal digits"),
    (b'"\\ud800"', "wanted no half of a surrogate pair"),
    (b'"\\ud800\\u0041"', "wanted no half of a surrogate pair"),
    (b'"\\ud800\\ud800"', "wanted no half of a surrogate pair"),
    (b'"\\udc00\\ud800"', "wanted no half of a surrogate pair"),
    (b'"\x80"', "the byte 0x80, wanted UTF-8"),
    (b'"\xc0\x80"', "wanted UTF-8"),
    (b'"\xc1\xbf"', "wanted UTF-8"),
    (b'"\xe0\x9f\xbf"', "wanted UTF-8"),
    (b'"\xed\xa0\x80"', "wanted UTF-8"),
    (b'"\xf0\x8f\xbf\xbf"', "wanted UTF-8"),
    (b'"\xf4\x90\x80\x80"', "wanted UTF-8"),
    (b'"\xf5\x80\x80\x80"', "wanted UTF-8"),
    (b'"\xe2\x82', "wanted UTF-8"),
    (b'"\xff"', "wanted UTF-8"),
    (b'{"a":1,"a":2}', 'the key "a" is twice in one object'),
    (b'{"a":1,"\\u0061":2}', 'the key "a" is twice in one object'),
    (b"[" * 65 + b"]" * 65, "byte 65: '[', wanted at most 64 levels"),
    (b"[" * 100000, "wanted at most 64 levels"),
]


@pytest.mark.parametrize("text, sentence", REFUSED, ids=[repr(text[:24]) for text, _ in REFUSED])
def test_what_is_no_json_is_refused_with_its_place(core, text, sentence):
    with pytest.raises(RuntimeError) as failure:
        core.json_parse(text)
    assert str(failure.value).startswith("test.json: line ")
    assert sentence in str(failure.value)


def test_the_deepest_allowed_document_is_read(core):
    assert core.json_parse(b"[" * 64 + b"]" * 64).python() is not None


@pytest.mark.parametrize("n", [2, 16, 17, 18, 100, 5000])
@pytest.mark.parametrize("where", ["first", "last"])
def test_a_key_twice_is_found_in_objects_of_any_size(core, n, where):
    keys = [f"key{i}" for i in range(n)]
    text = json.dumps({"outer": {key: [{"key1": key}] for key in keys}})
    assert core.json_parse(text.encode())["outer"].python() == json.loads(text)["outer"]
    again = keys[0 if where == "first" else -1]
    with pytest.raises(RuntimeError, match=f'the key "{again}" is twice'):
        core.json_parse((text[:-2] + f', "{again}": 0}}}}').encode())


@pytest.mark.parametrize("text, value", [
    ("0", 0), ("-0", 0), ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63)),
    ("1.0", 1), ("1e3", 1000), ("-2.5e1", -25), ("9007199254740992.0", 2**53), ("0e999999999", 0),
])  # fmt: skip
def test_whole_numbers_are_exact(core, text, value):
    assert core.json_parse(text.encode()).int() == value


@pytest.mark.parametrize("text, wanted", [
    ("9223372036854775808", "a whole number of at most 64 bits"),
    ("-9223372036854775809", "a whole number of at most 64 bits"),
    ("99999999999999999999999999", "a whole number of at most 64 bits"),
    ("1e16", "a whole number of at most 64 bits"),
    ("1e999", "a whole number of at most 64 bits"),
    ("0.5", "a whole number"), ("1e-1", "a whole number"), ('"1"', "a whole number"),
    ("true", "a whole number"), ("null", "a whole number"), ("[1]", "a whole number"),
])  # fmt: skip
def test_other_numbers_are_no_whole_numbers(core, text, wanted):
    with pytest.raises(RuntimeError, match=f"wanted {wanted}$"):
        core.json_parse(text.encode()).int()


def test_a_failure_names_file_place_found_and_wanted(core):
    text = json.dumps({
        "n_head": "twelve", "lr": 1e-3, "flag": 1, "deep": {"list": [0, {"x": {}}]},
        "long": "é" * 99, "big": 1.5, "a\nb": [None],
    })  # fmt: skip
    root = core.json_parse(text.encode(), "config.json")
    huge = core.json_parse(b'{"big": 1e999}', "config.json")
    cases = [
        (lambda: root["n_head"].int(), 'n_head is "twelve", wanted a whole number'),
        (lambda: root["lr"].int(), "lr is 0.001, wanted a whole number"),
        (lambda: root["flag"].bool(), "flag is 1, wanted true or false"),
        (
            lambda: root["deep"]["list"][1]["x"].string(),
            "deep.list[1].x is an object, wanted a string",
        ),
        (lambda: root["deep"]["list"].double(), "deep.list is an array, wanted a number"),
        (lambda: root["deep"]["list"]["x"], "deep.list is an array, wanted an object"),
        (lambda: root["deep"]["list"][0][1], "deep.list[0] is 0, wanted an array or an object"),
        (lambda: root["a\nb"][0].bool(), "a?b[0] is null, wanted true or false"),
        (lambda: root["missing"], "missing is missing"),
        (lambda: root["deep"]["missing"], "deep.missing is missing"),
        (lambda: root.int(), "the document is an object, wanted a whole number"),
        (lambda: root["n_head"].fail("one of a, b"), 'n_head is "twelve", wanted one of a, b'),
        (lambda: huge["big"].double(), "big is 1e999, wanted a number of at most 1.8e308"),
    ]
    for call, sentence in cases:
        with pytest.raises(RuntimeError) as failure:
            call()
        assert str(failure.value) == f"config.json: {sentence}"
    with pytest.raises(RuntimeError, match='^config.json: long is "é{30}", wanted a number$'):
        root["long"].double()


def test_find_tells_absent_from_null(core):
    root = core.json_parse(b'{"a": null, "": 1, "z\\u0000": 2}')
    assert "a" in root and "" in root and "b" not in root and "z" not in root
    assert len(root) == 3


def test_a_file_is_read_and_named(core, tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"n_head": 12}')
    assert core.json_read(str(path))["n_head"].int() == 12
    path.write_text('{"n_head": 12')
    with pytest.raises(RuntimeError, match=f"^{path}: line 1, byte 14: the end of the text"):
        core.json_read(str(path))
    with pytest.raises(RuntimeError, match=f"^cannot open {path}x: No such file"):
        core.json_read(f"{path}x")
    with pytest.raises(RuntimeError, match=f"^{tmp_path} is a folder, wanted a plain file"):
        core.json_read(str(tmp_path))


def test_numbers_do_not_obey_the_locale(core):
    before = locale.setlocale(locale.LC_NUMERIC)
    commas = [name for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR") if has_locale(name)]
    if not commas:
        pytest.skip("this machine has no locale with a decimal comma")
    try:
        locale.setlocale(locale.LC_NUMERIC, commas[0])
        assert core.json_parse(b"1.5").double() == 1.5
        assert core.json_dump(1.5) == b"1.5"
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


def has_locale(name: str) -> bool:
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, name)
    except locale.Error:
        return False
    locale.setlocale(locale.LC_NUMERIC, before)
    return True


def test_a_large_vocabulary_is_read_in_a_moment(core):
    vocab = {f"Ġtoken{i}\n": i for i in range(200_000)}
    merges = [f"tok en{i}" for i in range(200_000)]
    text = json.dumps({"added": [{"id": 0}], "model": {"vocab": vocab, "merges": merges}}).encode()
    assert len(text) > 9e6
    start = time.process_time()
    root = core.json_parse(text)
    assert len(root["model"]["vocab"]) == 200_000
    assert time.process_time() - start < 2
    assert root["model"].python() == {"vocab": vocab, "merges": merges}
