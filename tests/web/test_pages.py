"""Pages in: the same documents as datatrove's reader on good files, and every damage named and passed."""
from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import brotli
import fsspec
import pytest
import zstandard
from archives import arc_bytes, html, put, record_bytes
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import WarcReader
from fastwarc.stream_io import ZstdWriter, zstd_train_dictionary_from_samples
from llmc.patience import Unreachable
from llmc.web.compressed import CHUNK, SLICE
from llmc.web.pages import ArchiveReader, HtmlReader
from llmc.web.records import Problem, records


def read(folder: Path, reader=ArchiveReader, **options):
    """Its documents, the counts of what became of the rest, and the problems it wrote down."""
    step = reader(str(folder), problems=str(folder.parent / "problems"), **options)
    documents = list(step.run())
    lines = (folder.parent / "problems" / "00000.jsonl").read_text().splitlines()
    counts = Counter({name: int(stat.total) for name, stat in step.stats.stats.items()
                      if name not in ("input_files", "documents", "doc_len")})
    problems = [json.loads(line) for line in lines]
    assert counts["problem"] == len(problems)
    assert Counter(problem["kind"] for problem in problems) == {
        name[8:]: count for name, count in counts.items() if name.startswith("problem_")}
    return documents, counts, problems


def same(ours, theirs) -> bool:
    return [(d.text, d.id, d.metadata) for d in ours] == [(d.text, d.id, d.metadata) for d in theirs]


def numbers(documents) -> list[int]:
    """Which of the numbered pages came out, each of them whole."""
    found = [int(document.metadata["url"].rsplit("/")[-1]) for document in documents]
    for number, document in zip(found, documents):
        assert document.text == html(number).decode()
    return found


NEARLY = "<html><p>日本語の文章です。".encode() * 200 + b"\xff</html>"     # UTF-8 but for one byte
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0"
MIXED = [record_bytes(0), record_bytes(1, kind="request", body=b""),
         record_bytes(2, "Grüße, 日本".encode() + html(2)),
         record_bytes(3, "<html><p>Übergrößen für Straßenfüße ändern</html>".encode("latin-1")),
         record_bytes(4, WARC_Identified_Payload_Type="text/html"),
         record_bytes(5, WARC_Identified_Payload_Type="image/png"), record_bytes(6, PNG),
         record_bytes(7, b"Plain text of a WET file.\n", kind="conversion"), record_bytes(8, kind="revisit", body=b""),
         record_bytes(9, kind="metadata"), record_bytes(10, NEARLY),
         record_bytes(11, b"", WARC_Identified_Payload_Type="text/html")]


@pytest.mark.parametrize("name, pack", [
    ("a.warc", lambda parts: b"".join(parts)), ("a.warc.gz", lambda parts: b"".join(map(gzip.compress, parts))),
    ("whole.warc.gz", lambda parts: gzip.compress(b"".join(parts))),
    ("a.warc.zst", lambda parts: b"".join(map(zstandard.compress, parts)))])
def test_documents_are_those_of_datatroves_reader(tmp_path, name, pack):
    folder = put(tmp_path / "in", name, pack(MIXED))
    documents, counts, problems = read(folder)
    assert same(documents, WarcReader(str(folder)).run())
    assert len(documents) == 5 and not problems
    assert counts == {"skipped_request": 1, "skipped_revisit": 1, "skipped_metadata": 1, "dropped_empty": 1,
                      "dropped_mime_image/png": 2, "dropped_charset": 1}


def test_a_body_in_brotli_is_read(tmp_path, monkeypatch):
    pages = [html(0), html(1) + b" " * 5000]
    raw = b"".join(record_bytes(number, brotli.compress(page), encoding="br") for number, page in enumerate(pages))
    documents, _, problems = read(put(tmp_path / "in", "a.warc", raw))
    assert documents[0].text == html(0).decode() and len(documents) == 2 and not problems
    for module in ("pages", "brotli_bodies"):
        monkeypatch.setattr(f"llmc.web.{module}.LARGEST", len(html(1)) + 100)
    documents, _, problems = read(tmp_path / "in")
    assert len(documents) == 1 and [each["kind"] for each in problems] == ["large"]


def test_arc_gives_datatroves_texts_and_an_id(tmp_path):
    folder = put(tmp_path / "in", "a.arc.gz", gzip.compress(arc_bytes([html(0), html(1)])))
    documents, counts, problems = read(folder)
    theirs = list(WarcReader(str(folder)).run())
    assert [(d.text, d.metadata) for d in documents] == [(d.text, d.metadata) for d in theirs]
    assert numbers(documents) == [0, 1] and documents[0].metadata["date"] == "20080102030405"
    assert [d.id for d in theirs] == [None, None] and [d.id for d in documents] == ["a.arc.gz/1", "a.arc.gz/2"]
    assert counts == {"skipped_arc_header": 1} and not problems


@pytest.mark.parametrize("compressed_dictionary", [False, True])
def test_zstandard_frames_may_share_a_dictionary(tmp_path, compressed_dictionary):
    parts = [record_bytes(number) for number in range(60)]
    dictionary = zstd_train_dictionary_from_samples(parts, 4096)
    out = BytesIO()
    writer = ZstdWriter(out, dictionary=dictionary, compress_dictionary_frame=compressed_dictionary)
    for part in parts:
        writer.write(part)
        writer.finish()
    writer.flush()
    raw = out.getvalue()
    assert raw.startswith(b"\x5d\x2a\x4d\x18")
    documents, counts, problems = read(put(tmp_path / "in", "a.warc.zst", raw))
    assert numbers(documents) == list(range(60)) and not problems
    size = 8 + int.from_bytes(raw[4:8], "little")
    documents, counts, problems = read(put(tmp_path / "bare", "a.warc.zst", raw[size:]))
    assert not documents and [problem["kind"] for problem in problems] == ["damaged"]


def flipped(member: bytes) -> bytes:
    """A gzip member with other bytes in its middle."""
    at = len(member) // 2
    return member[:at] + bytes(byte ^ 0x5A for byte in member[at:at + 12]) + member[at + 12:]


GOOD = [record_bytes(number) for number in range(5)]
PACKED = [gzip.compress(part, mtime=0) for part in GOOD]
FRAMES = [zstandard.ZstdCompressor(write_checksum=True).compress(part) for part in GOOD]
PLAIN = b"".join(GOOD)


def lengthened(record: bytes, change: int) -> bytes:
    """The same record, its Content-Length wrong by so much."""
    length = re.search(rb"\r\nContent-Length: (\d+)", record)
    return record[:length.start(1)] + b"%d" % (int(length[1]) + change) + record[length.end(1):]


@pytest.mark.parametrize("data, left, kind, number, offset", [
    pytest.param(b"".join(PACKED)[:-30], [0, 1, 2, 3], "cut_off", 4, sum(map(len, PACKED[:4])), id="gzip cut off"),
    pytest.param(gzip.compress(PLAIN, mtime=0)[:-1], [0, 1, 2, 3, 4], "cut_off", 5, 0, id="one member cut off"),
    pytest.param(b"".join([*PACKED[:2], flipped(PACKED[2]), *PACKED[3:]]), [0, 1, 3, 4], "damaged", 2,
                 len(PACKED[0]) + len(PACKED[1]), id="gzip damaged"),
    pytest.param(b"".join([PACKED[0], PACKED[1][:-8] + b"\0" * 8, *PACKED[2:]]), [0, 2, 3, 4], "damaged", 1,
                 len(PACKED[0]), id="checksum"),
    pytest.param(b"".join([PACKED[0], b"no gzip", *PACKED[1:]]), [0, 1, 2, 3, 4], "damaged", 1, len(PACKED[0]),
                 id="bytes between members"),
    pytest.param(b"".join([*FRAMES[:3], flipped(FRAMES[3]), FRAMES[4]]), [0, 1, 2, 4], "damaged", 3,
                 sum(map(len, FRAMES[:3])), id="zstandard damaged"),
    pytest.param(b"".join(FRAMES)[:-9], [0, 1, 2, 3], "cut_off", 4, sum(map(len, FRAMES[:4])), id="zstandard cut off"),
    pytest.param(PLAIN[:-100], [0, 1, 2, 3], "cut_off", 4, sum(map(len, GOOD[:4])), id="plain cut off"),
    pytest.param(b"".join([GOOD[0], lengthened(GOOD[1], 700), *GOOD[2:]]), [0, 1, 2, 3, 4], "content_length", 1,
                 len(GOOD[0]), id="too long"),
    pytest.param(b"".join([GOOD[0], lengthened(GOOD[1], 10**9), *GOOD[2:]]), [0], "large", 1, len(GOOD[0]),
                 id="far too long"),
    pytest.param(b"".join([GOOD[0], lengthened(GOOD[1], 7), *GOOD[2:]]), [0, 1, 2, 3, 4], "content_length", 1,
                 len(GOOD[0]), id="a little too long"),
    pytest.param(b"".join([*GOOD[:4], lengthened(GOOD[4], 7)]), [0, 1, 2, 3], "cut_off", 4, sum(map(len, GOOD[:4])),
                 id="the last one too long"),
    pytest.param(b"".join([GOOD[0], GOOD[1].replace(b"Content-Length", b"Content-Len", 1), *GOOD[2:]]), [0, 2, 3, 4],
                 "header", 1, len(GOOD[0]), id="no Content-Length"),
    pytest.param(b"".join([GOOD[0], GOOD[1].replace(b"WARC-Target-URI", b"WARC-Target"), *GOOD[2:]]), [0, 2, 3, 4],
                 "header", 1, len(GOOD[0]), id="no URI"),
    pytest.param(b"".join([GOOD[0], GOOD[1].replace(b"WARC-Date", b"WARC-Time"), *GOOD[2:]]), [0, 2, 3, 4],
                 "header", 1, len(GOOD[0]), id="no date"),
    pytest.param(b"".join([GOOD[0], GOOD[1].replace(b"WARC-Type", b"WARC-Kind"), *GOOD[2:]]), [0, 2, 3, 4],
                 "header", 1, len(GOOD[0]), id="no type"),
    pytest.param(b"".join([GOOD[0], GOOD[1].replace(b"WARC/1.0", b"WARC/9.9"), *GOOD[2:]]), [0, 2, 3, 4],
                 "junk", 1, len(GOOD[0]), id="another version"),
    pytest.param(b"".join([*GOOD[:2], bytes(range(256)) * 9, *GOOD[2:]]), [0, 1, 2, 3, 4], "junk", 2,
                 sum(map(len, GOOD[:2])), id="junk"),
    pytest.param(b"", [], "empty", 0, 0, id="empty"),
    pytest.param(b"URL,text\nhttp://example.com/,hello\n" * 9, [], "format", 0, 0, id="another format"),
    pytest.param(b"\x04\x22\x4d\x18" + PLAIN, [], "file", None, None, id="another compression")])
def test_damage_is_named_and_passed(tmp_path, data, left, kind, number, offset):
    documents, counts, problems = read(put(tmp_path / "in", "a.warc.gz", data))
    assert numbers(documents) == left
    assert [(p["kind"], p["record"], p["offset"]) for p in problems] == [(kind, number, offset)]
    assert problems[0]["file"] == str(tmp_path / "in" / "a.warc.gz") and len(problems[0]["problem"]) > 15


def test_a_member_that_breaks_far_behind_its_end_takes_no_other_along(tmp_path):
    noise = [random.Random(number).randbytes(9000).hex().encode() for number in range(8)]
    parts = [gzip.compress(record_bytes(number, b"<html>" + body), mtime=0) for number, body in enumerate(noise)]
    stored = gzip.compress(record_bytes(1, b"<html>" + noise[1]), 0, mtime=0)
    assert stored[10] == 1                      # one block, its bytes as they are: its length, and ~length
    parts[1] = stored[:11] + b"\xff\xff\0\0" + stored[15:]
    documents, counts, problems = read(put(tmp_path / "in", "a.warc.gz", b"".join(parts)))
    assert [d.text for d in documents] == ["<html>" + body.decode() for body in noise]
    assert [p["kind"] for p in problems] == ["junk", "damaged"]


def test_a_record_is_lost_if_its_checksum_is_wrong_though_all_of_it_is_there(tmp_path):
    size = next(n for n in range(SLICE) if len(record_bytes(1, bytes(n))) == SLICE - 15)
    member = gzip.compress(record_bytes(1, b"<html>" + b"x" * (size - 6)), 0, mtime=0)      # data, then 8 bytes of sums
    assert len(member) == SLICE + 8
    data = b"".join([PACKED[0], member[:-8] + bytes(8), *PACKED[2:]])
    documents, counts, problems = read(put(tmp_path / "in", "a.warc.gz", data))
    assert numbers(documents) == [0, 2, 3, 4]
    assert [(p["kind"], p["record"]) for p in problems] == [("damaged", 1)]


@pytest.mark.parametrize("size", [3 * CHUNK - 3, 3 * CHUNK - 2, 3 * CHUNK - 1, 3 * CHUNK, 5 * CHUNK])
def test_the_next_member_is_found_wherever_it_begins(tmp_path, size):
    data = b"\x1f\x8b\x08" + b"\xff" * (size - 3) + b"".join(PACKED)
    documents, counts, problems = read(put(tmp_path / "in", "a.warc.gz", data))
    assert numbers(documents) == [0, 1, 2, 3, 4] and [p["kind"] for p in problems] == ["damaged"]


def test_a_length_too_small_keeps_the_page_as_datatrove_cuts_it(tmp_path):
    folder = put(tmp_path / "in", "a.warc", b"".join([GOOD[0], lengthened(GOOD[1], -9), *GOOD[2:]]))
    documents, counts, problems = read(folder)
    assert [d.text for d in documents][1] == html(1).decode()[:-9] and len(documents) == 5
    assert [(p["kind"], p["record"]) for p in problems] == [("junk", 2)]


def test_arc_goes_on_after_a_wrong_length(tmp_path):
    good = arc_bytes([html(n) for n in range(3)])
    length = int(re.search(rb"/1 127.0.0.1 \d+ text/html (\d+)", good)[1])
    wrong = good.replace(b"/1 127.0.0.1 20080102030405 text/html %d" % length,
                         b"/1 127.0.0.1 20080102030405 text/html %d" % (length + 50))
    documents, counts, problems = read(put(tmp_path / "in", "a.arc", wrong))
    assert numbers(documents) == [0, 1, 2]
    assert [(p["kind"], p["record"]) for p in problems] == [("content_length", 2)]


@pytest.mark.parametrize("data", [PLAIN, b"".join(PACKED), b"".join(FRAMES)], ids=["plain", "gzip", "zstandard"])
def test_three_wrong_bytes_lose_two_records_at_most(data):
    for at in range(0, len(data) - 3, 13):
        broken = data[:at] + bytes(byte ^ 0xA5 for byte in data[at:at + 3]) + data[at + 3:]
        found = list(records(BytesIO(broken)))
        good = [f for f in found if not isinstance(f, Problem)]
        assert len(good) >= 3 and len(found) <= 2 * len(GOOD)


def test_what_is_declared_is_believed_where_that_is_wanted(tmp_path):
    other = "<html><head><meta charset='windows-1251'><p>Съешь же ещё</html>".encode("cp1251")
    parts = [record_bytes(0, b"just text, but it is said to be HTML"), record_bytes(1, NEARLY),
             record_bytes(2, b"just text", content_type="text/plain"),
             record_bytes(3, other, content_type="text/html", WARC_Identified_Payload_Type="text/html")]
    folder = put(tmp_path / "in", "a.warc", b"".join(parts))
    plain, counts, _ = read(folder)
    assert same(plain, WarcReader(str(folder)).run())
    assert counts["dropped_charset"] == 1 and counts["dropped_mime_text/plain"] == 2
    documents, counts, _ = read(folder, declared=True)
    assert counts == {"dropped_mime_text/plain": 1, "kept_declared": 2}
    texts = {d.metadata["url"][-1]: d.text for d in documents}
    assert texts["0"] == "just text, but it is said to be HTML"
    assert texts["1"] == NEARLY.decode(errors="replace")
    assert texts["3"] == other.decode("cp1251")


def test_a_file_that_is_gone_ends_the_run(tmp_path):
    for reader, name in ((ArchiveReader, "gone.warc"), (HtmlReader, "gone.html")):
        with pytest.raises(Unreachable, match=f"{name} cannot be read: No such file"):
            list(reader(str(tmp_path)).read_file(name))


def test_remote_folders_are_read(tmp_path):
    files = fsspec.filesystem("memory")
    files.pipe({"/remote/a.warc.gz": b"".join(PACKED), "/remote/sub/b.html": html(7)})
    documents = list(ArchiveReader("memory://remote", glob_pattern="*.warc.gz").run())
    assert numbers(documents) == [0, 1, 2, 3, 4]
    assert documents[0].metadata["file_path"] == "memory:///remote/a.warc.gz"
    document, = HtmlReader("memory://remote", glob_pattern="**/*.html").run()
    assert (document.id, document.metadata["url"]) == ("sub/b.html", "memory:///remote/sub/b.html")


def test_problems_outlive_the_tasks_of_an_executor(tmp_path):
    folder = tmp_path / "in"
    for number in range(3):
        put(folder, f"{number}.warc.gz", b"".join(PACKED)[:-20 - number])
    logs = tmp_path / "logs"
    reader = ArchiveReader(str(folder), problems=str(logs / "problems"))
    LocalPipelineExecutor([reader], tasks=2, workers=2, logging_dir=str(logs)).run()
    stats = json.loads((logs / "stats.json").read_text())[0]["stats"]
    lines = [json.loads(line) for path in sorted((logs / "problems").iterdir()) for line in path.open()]
    assert [Path(line["file"]).name for line in lines] == ["0.warc.gz", "2.warc.gz", "1.warc.gz"]
    total = stats["problem_cut_off"]
    assert (total["total"] if isinstance(total, dict) else total) == len(lines) == 3


def test_html_files_become_documents(tmp_path):
    folder = put(tmp_path / "in", "index.html", html(1))
    put(folder / "sub folder", "b.HTM.gz", gzip.compress("Grüße".encode("utf-8") + html(2)))
    put(folder, "latin.xhtml", "<p>Übergrößen für Straßenfüße ändern".encode("latin-1"))
    put(folder, "style.css", b"p {}")
    put(folder, "cut.html.gz", gzip.compress(html(3) * 99)[:-20])
    documents, counts, problems = read(folder, HtmlReader, base_url="https://example.com/docs/")
    assert [(d.id, d.metadata["url"]) for d in documents] == [
        ("index.html", "https://example.com/docs/index.html"), ("latin.xhtml", "https://example.com/docs/latin.xhtml"),
        ("sub folder/b.HTM.gz", "https://example.com/docs/sub%20folder/b.HTM.gz")]
    assert documents[0].text == html(1).decode() and "Straßenfüße" in documents[1].text
    assert counts == {"skipped_file": 1, "problem": 1, "problem_file": 1}
    assert Path(problems[0]["file"]).name == "cut.html.gz"
    documents, _, _ = read(folder, HtmlReader)
    assert documents[0].metadata["url"] == (folder / "index.html").as_uri()


@pytest.mark.shared
def test_real_archives_give_what_datatrove_gives_or_more(shared):
    folder = shared / "data" / "warc"
    files = sorted(path for path in (folder / "samples").rglob("*") if path.is_file())
    assert len(files) == 59
    documents = problems = 0
    for path in [*files, folder / "trafilatura_eval.warc.gz"]:
        step = ArchiveReader(str(path.parent), glob_pattern=path.name)
        ours = [(d.text, d.metadata) for d in step.run()]
        theirs = []
        try:
            theirs += ((d.text, d.metadata) for d in WarcReader(str(path.parent), glob_pattern=path.name).run())
        except Exception:               # it ends at damage, in many ways
            pass
        if path.name == "example-space-in-url.arc":         # 12 bytes short of what its header says
            assert not ours and step.stats["problem_cut_off"].total == 1
            continue
        assert ours[:len(theirs)] == theirs, path
        documents, problems = documents + len(ours), problems + step.stats["problem"].total
    assert (documents, problems) == (461, 10)


@pytest.mark.shared
def test_pages_of_a_set_of_html_files_are_read(shared, tmp_path):
    with tarfile.open(shared / "data" / "warc" / "readability_test_pages.tar.xz") as archive:
        archive.extractall(tmp_path / "in", filter="data")
    documents, counts, problems = read(tmp_path / "in", HtmlReader)
    assert not problems and len(documents) + counts["dropped_charset"] == 260


def test_programs_started_later_find_their_own_libraries():
    script = ("import os; before = dict(os.environ); import llmc.web.pages; "
              "changed = {key for key in os.environ if os.environ[key] != before.get(key)}; assert changed <= {'MAGIC'}")
    subprocess.run([sys.executable, "-c", script], check=True)
