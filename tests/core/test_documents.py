"""Reading documents: kinds of files, compression, blocks, where a text may be cut, and damage."""
from __future__ import annotations

import bz2
import gzip
import json
import lzma
from functools import cache
from pathlib import Path

import pyarrow
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from llmc import documents
from llmc.documents import BadRow, Source, blocks, count, find, last_cut, split_text, texts
from llmc.tokenizer import Tokenizer

STORY = "Once upon a time,\nnaïve 한국어 🤷🏽‍♀️ lived.\r\n\r\n  The end!\n/1 2\n" * 9
PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress,
        ".zst": zstandard.ZstdCompressor(write_content_size=False).compress}


def read(path: Path, skip_bad: bool = False, key: str = "text") -> list[str]:
    """A file's documents."""
    result, unfinished = [], ""
    for block in blocks(find([path])[0], key, skip_bad):
        for text in texts(block, key, skip_bad):
            unfinished += text or ""
            if block.ends:
                result.append(unfinished)
                unfinished = ""
    assert not unfinished
    return result


def write(path: Path, kind: str, documents_: list[str]) -> Path:
    """The documents as a file of a kind, compressed as the path's ending says."""
    if kind == "parquet":
        table = pyarrow.table({"id": range(len(documents_)), "text": documents_})
        whole = pyarrow.BufferOutputStream()
        parquet.write_table(table, whole, row_group_size=2)
        raw = whole.getvalue().to_pybytes()
    elif kind == "jsonl":
        raw = "".join(json.dumps({"text": text}) + "\n" for text in documents_).encode()
    else:
        raw = documents_[0].encode()
    ending = path.suffix if path.suffix in PACK else ""
    path.write_bytes(PACK[ending](raw))
    return path


@cache
def tokenizer(name: str) -> Tokenizer:
    return Tokenizer.load(name)


ALPHABET = st.sampled_from([*"ab Z19.'!/-_\n\r\t\u3000\u0301é한½ǅ\x1c", "\r\n", "'s", "\n\n"])


@settings(max_examples=300, deadline=None)
@given(text=st.lists(ALPHABET, max_size=40).map("".join))
@example(text="a.\n/b c\nd")
def test_a_text_cut_where_it_may_be_has_the_same_ids(text):
    cuts = [match.end() for match in documents.CUT.finditer(text)]
    for name in ("gpt2", "cl100k_base", "o200k_base"):
        encode = tokenizer(name).encode
        for cut in cuts:
            assert encode(text[:cut]) + encode(text[cut:]) == encode(text)


def test_the_last_place_to_cut_is_found_near_the_end_or_far_from_it():
    assert last_cut("one two") == 3
    assert last_cut("a\nb" + "." * 9000) == 2
    assert last_cut("12 34 .. 5\n 6") == 0


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("kind", ["txt", "md", "jsonl", "parquet"])
def test_every_kind_and_compression_gives_the_same_documents(kind, ending, tmp_path):
    wanted = [STORY, "second", "", "fourth\n"] if kind in ("jsonl", "parquet") else [STORY]
    path = write(tmp_path / f"x.{kind}{ending}", kind, wanted)
    assert read(path) == wanted
    assert count(find([path])[0], 9, "text") == len(wanted)
    assert count(find([path])[0], 1, "text") == 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000])
def test_blocks_of_any_size_are_the_whole_text(size, tmp_path, monkeypatch):
    path = write(tmp_path / "x.txt", "txt", [STORY])
    monkeypatch.setattr(documents, "BLOCK", size)
    parts = [block.text for block in blocks(find([path])[0])]
    assert "".join(parts) == STORY and (len(parts) > 5 or size == 1000)
    for name in ("gpt2", "o200k_base"):
        encode = tokenizer(name).encode
        assert sum(map(encode, parts), []) == encode(STORY)


def test_a_text_without_a_place_to_cut_is_cut_at_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", 10)
    monkeypatch.setattr(documents, "LONGEST", 100)
    path = write(tmp_path / "x.txt", "txt", ["한" * 999])
    parts = [block.text for block in blocks(find([path])[0])]
    assert "".join(parts) == "한" * 999 and max(map(len, parts)) <= 110


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99])
def test_a_text_is_split_at_its_share_of_bytes(share, size, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", size)
    for ending, text in (("", STORY), (".zst", STORY), (".gz", "한국어 " * 20)):
        path = write(tmp_path / f"x.txt{ending}", "txt", [text])
        parts = {False: "", True: ""}
        for block in blocks(find([path])[0], split=share):
            parts[block.tail] += block.text
        assert (parts[False], parts[True]) == split_text(text, share)
        assert parts[False] + parts[True] == text
        assert 0 <= len(parts[False].encode()) - int(len(text.encode()) * share) < 4


def test_an_empty_file_has_no_document_and_a_byte_order_mark_is_no_text(tmp_path):
    assert read(write(tmp_path / "e.txt", "txt", [""])) == []
    assert read(write(tmp_path / "e.jsonl", "jsonl", [])) == []
    assert read(write(tmp_path / "b.txt", "txt", ["\ufeffa\ufeff"])) == ["a\ufeff"]


def test_folders_are_searched_in_order_and_other_files_passed_over(tmp_path):
    for name in ("b/x.txt", "a/y.jsonl.gz", "a/z.MD", "a/c.csv", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find([tmp_path, tmp_path / "b/x.txt"])
    assert [str(source.path.relative_to(tmp_path)) for source in found] == [
        "a/y.jsonl.gz", "a/z.MD", "b/x.txt", "d.txt"]


def test_an_input_with_nothing_to_read_is_a_sentence(tmp_path):
    (tmp_path / "x.csv").write_text("a,b")
    with pytest.raises(ValueError, match=f"{tmp_path} holds no files llmc reads: .txt, .md"):
        find([tmp_path])
    with pytest.raises(ValueError, match="x.csv is none of the files llmc reads"):
        find([tmp_path / "x.csv"])
    with pytest.raises(FileNotFoundError):
        find([tmp_path / "none.txt"])


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("damage", ["cut off", "changed", "not compressed"])
def test_damaged_compression_names_the_file(ending, damage, tmp_path):
    raw = bytearray(PACK[ending](STORY.encode() * 40))
    if damage == "cut off":
        del raw[-20:]
    elif damage == "changed":
        raw[len(raw) // 2] ^= 0xFF
        raw[-3] ^= 0xFF
    else:
        raw = bytearray(b"plain text\n" * 9)
    path = tmp_path / f"x.txt{ending}"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        read(path)


def test_frames_of_zstandard_follow_each_other(tmp_path):
    (tmp_path / "x.txt.zst").write_bytes(PACK[".zst"](b"one ") + PACK[".zst"](b"two"))
    assert read(tmp_path / "x.txt.zst") == ["one two"]


def test_a_large_frame_is_read_in_good_time(tmp_path):
    (tmp_path / "x.txt.zst").write_bytes(PACK[".zst"](b"word " * 4_000_000))
    assert sum(map(len, read(tmp_path / "x.txt.zst"))) == 20_000_000


@pytest.mark.parametrize("line, reason", [
    (b"{", "no JSON"), (b'"text"', "str, wanted an object with the key 'text'"),
    (b'{"body": "x", "id": 1}', "no key 'text' among 'body', 'id'"), (b"{}", "among none"),
    (b'{"text": null}', "'text' is NoneType, wanted a string"), (b'{"text": "\xff"}', "no JSON"),
    (b'{"text": "a\\ud83d b"}', "'text' is not UTF-8 (surrogates not allowed)"),
    (b"[" * 100_000, "no JSON")])
def test_bad_lines_of_json_are_named_or_left_out(line, reason, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}')
    with pytest.raises(BadRow) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:3: ") and reason in str(error.value)
    assert [text for text in read(path, skip_bad=True) if text] == ["a", "b"]


def test_rows_keep_their_numbers_in_later_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", 30)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 40 + b"oops\n")
    with pytest.raises(BadRow, match=f"{path}:41: "):
        read(path)


@pytest.mark.parametrize("size", [3, 1 << 20])
def test_lines_that_are_not_utf8_are_named_or_left_out(size, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", size)
    path = tmp_path / "x.txt"
    path.write_bytes("één\n".encode() + b"tw\xffo\rx\nthree \n\xc3\n")
    with pytest.raises(ValueError, match=f"{path}:2: not UTF-8 .invalid start byte."):
        read(path)
    if size > 100:
        assert read(path, skip_bad=True) == ["één\nthree \n"]
        assert sum(block.bad for block in blocks(find([path])[0], skip_bad=True)) == 2


def test_parquet_needs_a_column_of_strings(tmp_path):
    path = write(tmp_path / "x.parquet", "parquet", ["a", "b"])
    with pytest.raises(ValueError, match="has no column 'body'; it has id, text"):
        read(path, key="body")
    with pytest.raises(ValueError, match="column 'id' is int64, wanted strings"):
        read(path, key="id")
    parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(BadRow, match=f"{path}:2: 'text' is NoneType"):
        read(path)


@pytest.mark.parametrize("kind", documents.AS_BYTES)
def test_strings_of_parquet_that_are_not_utf8_are_named_or_left_out(kind, tmp_path):
    raw = pyarrow.array([b"one", b"tw\xffo", "naïve".encode()], documents.AS_BYTES[kind])
    strings = pyarrow.Array.from_buffers(getattr(pyarrow, kind)(), 3, raw.buffers())
    parquet.write_table(pyarrow.table({"text": strings}), tmp_path / "x.parquet")
    with pytest.raises(BadRow, match=r"x.parquet:2: 'text' is not UTF-8 \(invalid start byte\)"):
        read(tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet", skip_bad=True)[::2] == ["one", "naïve"]


@pytest.mark.parametrize("damage", ["cut off", "changed", "footer"])
def test_damaged_parquet_is_a_sentence_or_left_out(damage, tmp_path):
    path = write(tmp_path / "x.parquet", "parquet", [STORY] * 9)
    raw = bytearray(path.read_bytes())
    at = parquet.ParquetFile(path).metadata.row_group(2).column(1).dictionary_page_offset
    if damage == "changed":
        raw[at:at + 60] = b"\xff" * 60
    if damage == "footer":
        raw[-60:-8] = b"\xff" * 52
    path.write_bytes(raw[:at + 60] if damage == "cut off" else raw)
    with pytest.raises(ValueError, match=f"(?s){path} is damaged near row 1: .*--skip_bad leaves"):
        read(path)
    found = [*blocks(find([path])[0], skip_bad=True)]
    assert sum(block.bad for block in found) == 1
    assert [text for block in found for text in texts(block, "text", True)] == []
    assert count(find([path])[0], 99, "text") in (0, 9)


def test_reading_reports_every_byte(tmp_path):
    path = write(tmp_path / "x.txt.gz", "txt", [STORY])
    seen: list[int] = []
    list(blocks(Source(path, "text", ".gz"), on_read=seen.append))
    assert sum(seen) == path.stat().st_size
