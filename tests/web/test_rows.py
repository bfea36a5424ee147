"""Rows and text in: the same documents as datatrove's readers on good files, and what is bad named and passed."""
from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from archives import put
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from llmc.patience import Unreachable
from llmc.web import rows
from llmc.web.rows import RowReader, TableReader, TextReader

ROWS = [{"text": "One."}, {"text": "Two, Grüße", "id": "second", "url": "http://example.com/2"},
        {"text": "", "id": "no text"}, {"text": "Three", "id": 7, "metadata": {"a": 1}, "b": [1, {"c": None}]},
        {"text": "Four\u2028same line\x85", "metadata": "{\"a\": 2}"}, {"text": "Five", "metadata": [1]},
        {"text": "Six", "media": [{"id": "m", "type": 0, "url": "http://example.com/m", "media_bytes": "QUJD"}]}]
LINES = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS]
PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}


def read(reader, folder: Path, **options):
    """Its documents, the counts of what became of the rest, and the problems it wrote down."""
    step = reader(str(folder), problems=str(folder.parent / "problems"), **options)
    documents = list(step.run())
    problems = [json.loads(line) for line in (folder.parent / "problems" / "00000.jsonl").open()]
    counts = Counter({name: int(stat.total) for name, stat in step.stats.stats.items()
                      if name.startswith(("problem", "dropped"))})
    assert counts["problem"] == len(problems)
    for problem in problems:
        assert counts[f"problem_{problem['kind']}"] and len(problem["problem"]) > 8
    return documents, counts, problems


def same(ours, theirs) -> bool:
    return list(map(asdict, ours)) == list(map(asdict, theirs))


def places(problems) -> list[tuple]:
    return [(Path(each["file"]).name, each["kind"], each["record"]) for each in problems]


@pytest.mark.parametrize("suffix", PACK)
def test_lines_become_the_documents_of_datatroves_reader(tmp_path, suffix):
    data = PACK[suffix](b"".join(LINES[:3])) + (PACK[suffix](b"".join(LINES[3:])) if suffix else b"".join(LINES[3:]))
    folder = put(tmp_path / "in", f"a.jsonl{suffix}", data)
    put(tmp_path / "plain", "a.jsonl", b"".join(LINES))
    documents, counts, problems = read(RowReader, folder, default_metadata={"set": "x"})
    theirs = list(JsonlReader(str(tmp_path / "plain"), default_metadata={"set": "x"}).run())
    for each in theirs:
        each.id = each.id.replace("a.jsonl/", f"a.jsonl{suffix}/") if isinstance(each.id, str) else each.id
        each.metadata["file_path"] = str(folder / f"a.jsonl{suffix}")
    assert len(documents) == 6 and same(documents, theirs) and not problems
    assert counts["dropped_empty"] == 1 and documents[0].id == f"a.jsonl{suffix}/0"


def test_other_keys_and_limits_are_datatroves(tmp_path):
    folder = put(tmp_path / "in", "a.ndjson", b"".join(json.dumps({"body": f"text {i}", "name": i}).encode() + b"\n"
                                                       for i in range(9)))
    options = {"text_key": "body", "id_key": "name", "limit": 4, "skip": 2}
    documents, _, problems = read(RowReader, folder, **options)
    assert same(documents, JsonlReader(str(folder), **options).run()) and not problems and len(documents) == 4
    assert [each.id for each in documents] == [2, 3, 4, 5]


def adapter(self, data, path, number):
    return {"text": data["title"] + data["body"], "id": f"{path}#{number}"}


def test_what_an_adapter_cannot_take_is_named(tmp_path):
    folder = put(tmp_path / "in", "a.jsonl", b'{"title": "a", "body": "b"}\n{"title": "c"}\n')
    documents, _, problems = read(RowReader, folder, adapter=adapter)
    assert [(each.text, each.id) for each in documents] == [("ab", "a.jsonl#0")]
    assert places(problems) == [("a.jsonl", "row", 1)] and "KeyError" in problems[0]["problem"]


BAD = {b"{\"text\": \"cut": "json", b"[1, 2]": "object", b"\"text\"": "object", b"null": "object", b"{}": "text",
       b"{\"tekst\": \"x\"}": "text", b"{\"text\": null}": "text", b"{\"text\": 5}": "text",
       b"{\"text\": [\"x\"]}": "text",
       b"{\"text\": \"Gr\xfc\xdfe\"}": "encoding", b"\xff\xfe{\0": "encoding", b"\0" * 50: "json",
       b"{\"text\": \"half \\ud800\"}": "json", b"{\"text\": NaN}": "json", b"[" * 100_000: "json",
       b"{\"text\": \"x\", \"media\": 3}": "row"}


def test_each_bad_line_is_named_and_the_others_are_read(tmp_path):
    lines = [line for bad in BAD for line in (b'{"text": "good"}', b"  ", bad)]
    folder = put(tmp_path / "in", "a.jsonl", b"\xef\xbb\xbf" + b"\r\n".join(lines))
    put(folder, "b.jsonl", b'{"text": "next file"}')
    documents, counts, problems = read(RowReader, folder)
    assert [each.id for each in documents] == [*(f"a.jsonl/{3 * i}" for i in range(len(BAD))), "b.jsonl/0"]
    assert places(problems) == [("a.jsonl", kind, 3 * i + 2) for i, kind in enumerate(BAD.values())]
    assert "no key 'text' among 'tekst'" in problems[5]["problem"] and "int, wanted a string" in problems[7]["problem"]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("kind", ["cut_off", "damaged"])
def test_of_a_damaged_file_what_came_before_is_kept(tmp_path, suffix, kind):
    lines = [json.dumps({"text": Random(i).randbytes(300).hex()}).encode() + b"\n" for i in range(9000)]
    data = PACK[suffix](b"".join(lines))
    end = bytes(byte ^ 0x5A for byte in data[-300_000:]) if kind == "damaged" else b""
    folder = put(tmp_path / "in", f"a.jsonl{suffix}", data[:-300_000] + end)
    put(folder, "b.jsonl", LINES[0])
    documents, _, problems = read(RowReader, folder)
    *kept, last = documents
    # gzip and zstandard decode what is damaged for a while, before they see it
    sure = 4500 if suffix in (".xz", ".bz2") or kind == "cut_off" else 7900
    assert len(kept) >= sure and last.text == "One." and last.id == "b.jsonl/0"
    assert [each.text for each in kept[:sure]] == [json.loads(line)["text"] for line in lines[:sure]]
    assert places(problems)[-1][:2] == (f"a.jsonl{suffix}", kind)
    assert kind == "damaged" or len(problems) == 1 and problems[0]["record"] == len(kept)


def test_a_file_that_is_gone_ends_the_run(tmp_path):
    for reader in (RowReader, TextReader, TableReader):
        with pytest.raises(Unreachable, match="gone.x cannot be read: No such file"):
            list(reader(str(tmp_path)).read_file("gone.x"))


def test_a_json_array_is_one_problem(tmp_path):
    documents, _, problems = read(RowReader, put(tmp_path / "in", "a.jsonl", json.dumps(ROWS, indent=1).encode()))
    assert not documents and places(problems) == [("a.jsonl", "array", None)]


def test_a_line_without_an_end_is_passed_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LARGEST", 1 << 10)
    folder = put(tmp_path / "in", "a.jsonl", LINES[0] + b'{"text": "' + b"x" * 5000 + b'"}\n' + LINES[1])
    documents, _, problems = read(RowReader, folder)
    assert [each.id for each in documents] == ["a.jsonl/0", "second"] and places(problems) == [("a.jsonl", "large", 1)]


@pytest.mark.parametrize("suffix", PACK)
def test_a_text_file_is_a_document(tmp_path, suffix):
    folder = put(tmp_path / "in", f"a.txt{suffix}", PACK[suffix]("\ufeffGrüße\r\nund mehr\n".encode()))
    put(folder, f"b.txt{suffix}", PACK[suffix](b""))
    put(folder, f"c.txt{suffix}", PACK[suffix](b"Gr\xfc\xdfe"))
    put(folder, f"d.txt{suffix}", PACK[suffix](b"last"))
    documents, counts, problems = read(TextReader, folder)
    assert [(each.text, each.id) for each in documents] == [("Grüße\nund mehr\n", f"a.txt{suffix}/0"),
                                                            ("last", f"d.txt{suffix}/0")]
    assert counts["dropped_empty"] == 1 and places(problems) == [(f"c.txt{suffix}", "encoding", None)]


def test_a_damaged_text_is_left_out(tmp_path):
    folder = put(tmp_path / "in", "a.txt.gz", gzip.compress(b"text " * 999)[:-9])
    documents, _, problems = read(TextReader, folder)
    assert not documents and places(problems) == [("a.txt.gz", "cut_off", 0)]


def test_a_text_without_an_end_is_left_out_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LARGEST", 1 << 10)
    folder = put(tmp_path / "in", "a.txt.gz", gzip.compress(b"x" * 1024))
    put(folder, "b.txt", b"x" * 1023)
    documents, _, problems = read(TextReader, folder)
    assert [each.id for each in documents] == ["b.txt/0"] and places(problems) == [("a.txt.gz", "large", None)]


def table(path: Path, rows: list[dict], **options) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_parquet_gives_the_documents_of_datatroves_reader(tmp_path):
    rows = [{"text": f"text {i}" if i % 5 else "", "id": f"<{i}>", "url": "u", "score": i / 3} for i in range(2500)]
    table(tmp_path / "in" / "a.parquet", rows)
    documents, counts, problems = read(TableReader, tmp_path / "in", default_metadata={"set": "x"}, batch_size=7)
    assert same(documents, ParquetReader(str(tmp_path / "in"), default_metadata={"set": "x"}).run())
    assert len(documents) == 2000 and counts["dropped_empty"] == 500 and not problems


def test_a_column_of_bytes_is_text_where_they_are_utf_8(tmp_path):
    table(tmp_path / "in" / "a.parquet", [{"text": each, "raw": b"\xff"} for each in ("Grüße".encode(), b"Gr\xfc")])
    documents, _, problems = read(TableReader, tmp_path / "in")
    assert [(each.text, each.metadata["raw"]) for each in documents] == [("Grüße", "<1 bytes>")]
    assert places(problems) == [("a.parquet", "text", 1)]
    assert problems[0]["problem"] == "'text' is bytes, wanted a string"


def test_a_bad_parquet_file_is_named_and_the_next_is_read(tmp_path):
    rows = [{"text": f"text {i}" * 200} for i in range(3000)]
    raw = bytearray(table(tmp_path / "in" / "b.parquet", rows, row_group_size=1000, use_dictionary=False,
                          compression="gzip").read_bytes())
    at = pq.ParquetFile(tmp_path / "in" / "b.parquet").metadata.row_group(2).column(0).data_page_offset
    raw[at:at + 100] = bytes(100)            # where the page says what it holds
    put(tmp_path / "in", "a.parquet", b"PAR1 and no more")
    put(tmp_path / "in", "b.parquet", bytes(raw))
    table(tmp_path / "in" / "c.parquet", [{"body": "x"}] * 5)
    table(tmp_path / "in" / "d.parquet", [{"text": "good"}, {"text": None}, {"text": "good"}])
    table(tmp_path / "in" / "e.parquet", [{"text": 5}])
    documents, _, problems = read(TableReader, tmp_path / "in")
    assert [each.text for each in documents] == [*(row["text"] for row in rows[:2000]), "good", "good"]
    assert places(problems) == [("a.parquet", "file", None), ("b.parquet", "damaged", 2000),
                                ("c.parquet", "file", None), ("d.parquet", "text", 1), ("e.parquet", "text", 0)]
    assert "no column 'text' among body" in problems[2]["problem"]
