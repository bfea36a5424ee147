"""Conversations of the Hugging Face hub, from a server that the test starts: taken once, checked, train alone."""
from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfFileSystem
from llmc import conversations, hub, patience
from servers import Hub, served

OLD, NEW = "a" * 40, "b" * 40


def rows(*texts: str) -> list[dict]:
    return [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes?"}]}
            for text in texts]


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows(*texts))


def parquet(*texts: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(*texts)), out)
    return out.getvalue()


LARGE = [f"{number} " * 2000 for number in range(30)]
FILES = {"README.md": b"# A set", "dataset_infos.json": b"{}", "all/train-00000-of-00002.parquet": parquet("one"),
         "all/train-00001-of-00002.parquet": parquet("two"), "all/test-00000-of-00001.parquet": parquet("three"),
         "data/train_sft-0.jsonl": lines("four"), "data/train_gen-0.jsonl": lines("five"),
         "data/test_sft-0.jsonl": lines("six"), "raw/train.jsonl": lines("seven"), "raw/test.jsonl": lines("eight"),
         "alone/some.json": json.dumps(rows("nine")).encode(), "large/train.jsonl": lines(*LARGE)}
CONFIGS = [
    {"config_name": "all", "data_files": [{"split": "train", "path": "all/train-*"},
                                          {"split": "test", "path": "all/test-*"}]},
    {"config_name": "sft", "data_files": [{"split": f"{part}_{kind}", "path": f"data/{part}_{kind}-*"}
                                          for part, kind in (("train", "sft"), ("test", "sft"), ("train", "gen"))]}]


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The hub, with an empty cache here."""
    constants = huggingface_hub.constants
    with served(Hub("owner/set", {"configs": CONFIGS}, {OLD: FILES | {"raw/train.jsonl": lines("old")},
                                                        NEW: dict(FILES)})) as files:
        monkeypatch.setattr(patience, "FIRST_WAIT", 0)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                            constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, files.url))
        monkeypatch.setattr(constants, "ENDPOINT", files.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        HfFileSystem.clear_instance_cache()
        yield files


def texts(name: str) -> list[str]:
    return [each.messages[0].text for path in conversations.sources(name) for each in conversations.read(path)]


@pytest.mark.parametrize("name, found", [
    ("hub:owner/set/all", ["one", "two"]), ("hub:owner/set/all:test", ["three"]),
    ("hub:owner/set/sft", ["five", "four"]), ("hub:owner/set/sft:train_sft", ["four"]),
    ("hub:owner/set/sft:test_sft", ["six"]), ("hub:owner/set/raw", ["seven"]), ("hub:owner/set/raw:test", ["eight"]),
    ("hub:owner/set/raw/test.jsonl", ["eight"]), ("hub:owner/set/alone/", ["nine"]),
    (f"hub:owner/set@{OLD}/raw", ["old"])])
def test_a_data_set_s_training_files_are_read(server, name, found):
    assert texts(name) == found


def test_a_set_without_configurations_is_its_files_and_rows_are_preferred(server):
    server.card = {}
    assert sorted(texts("hub:owner/set")) == sorted(["one", "two", "four", "five", "seven", *LARGE])
    for path in list(server.commits[NEW]):
        if not path.endswith(".json"):
            del server.commits[NEW][path]
    HfFileSystem.clear_instance_cache()
    assert texts("hub:owner/set") == ["nine"]


def test_a_file_is_taken_once_and_again_where_it_is_damaged(server):
    def taken() -> int:
        return sum(method == "GET" and "/resolve/" in path for method, path, _ in server.asked)
    assert texts("hub:owner/set/raw") == ["seven"] and taken() == 1
    assert texts("hub:owner/set/raw") == ["seven"] and taken() == 1
    path = conversations.sources("hub:owner/set/raw")[0].resolve()
    path.write_bytes(path.read_bytes()[:-9])
    assert texts("hub:owner/set/raw") == ["seven"] and taken() == 2


def test_a_download_that_is_cut_goes_on_where_it_was(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    path = f"/datasets/owner/set/resolve/{NEW}/large/train.jsonl"
    server.failures = {path: [None, 100_000, *[503] * 99]}      # the first is asked for the size
    with pytest.raises(ValueError, match=r"large/train.jsonl cannot be read \(.*tried 3 times"):
        texts("hub:owner/set/large")
    server.failures = {path: [503, 429]}
    assert texts("hub:owner/set/large") == LARGE
    begins = {int(span[6:-1]) for method, where, span in server.asked if where == path and span}
    assert max(begins) >= 50_000, begins


@pytest.mark.parametrize("name, sentence", [
    ("hub:owner/none", "the Hugging Face hub has no data set owner/none, or none that you may read"),
    ("hub:set", "hub:set is no data set; wanted one like hub:HuggingFaceTB/smoltalk, hub:OWNER/NAME/CONFIG"),
    ("hub:", "hub: is no data set"), ("hub:../../x", "hub:../../x is no data set"),
    ("hub:owner/set", "has 2 configurations and none is the default; choose one as in hub:owner/set/CONFIG: all, sft"),
    ("hub:owner/set@v9/all", "hub:owner/set has no revision v9"),
    ("hub:owner/set/some", "hub:owner/set/some has no .jsonl .ndjson .parquet .json files of configuration or folder"),
    ("hub:owner/set/all:dev", "hub:owner/set/all:dev has no split dev; it has train, test"),
    ("hub:owner/set/raw:dev", "has no split dev; its files are raw/test.jsonl, raw/train.jsonl"),
    ("none.jsonl", "none.jsonl: there is no such file or folder")])
def test_what_is_no_source_is_one_sentence(server, name, sentence):
    with pytest.raises(ValueError) as error:
        conversations.sources(name)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_path_is_a_source(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines("one"))
    assert conversations.sources(str(tmp_path)) == [tmp_path / "a.jsonl"]


def test_a_size_that_is_not_the_hub_s_is_refused(server, monkeypatch):
    entries = Hub.entries
    monkeypatch.setattr(Hub, "entries", staticmethod(
        lambda files: [each | {"size": each["size"] + 1} for each in entries(files)]))
    with pytest.raises(ValueError, match=r"train.jsonl has \d+ bytes, and the hub says \d+; remove it and try again"):
        conversations.sources("hub:owner/set/raw")


@pytest.mark.parametrize("change", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_a_network_it_is_one_sentence(change, tmp_path):
    code = ("from llmc import cli, conversations, patience; patience.FIRST_WAIT = 0\n"
            "raise SystemExit(cli.guarded(lambda: conversations.sources('hub:owner/set')))")
    ended = subprocess.run([sys.executable, "-c", code], env=os.environ | {"HF_HOME": str(tmp_path)} | change,
                           capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1, ended.stderr
    assert "the Hugging Face hub does not answer: owner/set cannot be read (" in ended.stderr
