"""Documents from elsewhere: data sets of the Hugging Face hub and Common Crawl, from servers that the tests start."""
from __future__ import annotations

import errno
import gzip
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
from archives import record_bytes
from huggingface_hub import HfFileSystem
from llmc import cli, patience
from llmc.patience import Unreachable
from llmc.prepare_fineweb import PrepareFineWeb, run
from llmc.web import remote, sources
from servers import Files, Hub, served

OLD, NEW = "a" * 40, "b" * 40
CRAWL = "crawl-data/CC-MAIN-2024-10"


def parquet(*texts: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "id": [f"<{text}>" for text in texts]}), out)
    return out.getvalue()


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


CONFIGS = [
    {"config_name": "default", "data_files": [{"split": "train", "path": "data/*/*"}]},
    {"config_name": "sample-10BT", "data_files": [{"split": "train", "path": "sample/10BT/*"}]},
    {"config_name": "splits", "data_dir": "splits",
     "data_files": [{"split": "train", "path": ["a.json.gz", "b*"]}, {"split": "test", "path": "test.jsonl"}]},
    {"config_name": "plain", "data_files": "splits/*.jsonl"}, {"config_name": "folder", "data_dir": "data/CC-2"},
    {"config_name": "elsewhere", "data_files": "https://example.com/a.parquet"}]
FILES = {"README.md": b"# A data set", "dataset_infos.json": b"{}", "data/CC-1/000.parquet": parquet("one", "two"),
         "data/CC-2/000.parquet": parquet("three"), "sample/10BT/001.parquet": parquet("five"),
         "sample/10BT/000.parquet": parquet("four"), "splits/a.json.gz": gzip.compress(lines("six")),
         "splits/b.jsonl": lines("seven"), "splits/test.jsonl": lines("eight"), "raw/train-0.jsonl": lines("nine"),
         "raw/test-0.jsonl": lines("ten"), "notes/x.txt": b"text"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No waits, and no file system of an earlier test, whose server is gone."""
    monkeypatch.setattr(patience, "FIRST_WAIT", 0)
    for each in (HfFileSystem, remote.RemoteFolder):
        each.clear_instance_cache()


def at(url: str, monkeypatch) -> None:
    """What HF_ENDPOINT does, where huggingface_hub is imported already."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url))
    monkeypatch.setattr(constants, "ENDPOINT", url)


@pytest.fixture
def hub(monkeypatch):
    with served(Hub("owner/set", {"configs": CONFIGS}, {OLD: FILES | {"sample/10BT/000.parquet": parquet("old")},
                                                        NEW: dict(FILES)})) as files:
        at(files.url, monkeypatch)
        yield files


def warc(*numbers: int) -> bytes:
    return b"".join(record_bytes(number, gzip=True) for number in numbers)


@pytest.fixture
def crawl():
    paths = [f"{CRAWL}/segments/1/warc/{i:05d}.warc.gz" for i in range(4)]
    texts = [f"{CRAWL}/segments/1/wet/{i:05d}.warc.wet.gz" for i in range(2)]
    wet = [record_bytes(10 + i, b"Plain text.\n", kind="conversion", gzip=True) for i in range(2)]
    with served(Files({f"/{CRAWL}/warc.paths.gz": gzip.compress("\n".join(paths).encode()),
                       f"/{CRAWL}/wet.paths.gz": gzip.compress("\n".join(texts).encode()),
                       f"/{CRAWL}/robotstxt.paths.gz": b"", "/crawl-data/CC-BAD/warc.paths.gz": b"<html>"}
                      | {f"/{path}": warc(2 * i, 2 * i + 1) for i, path in enumerate(paths)}
                      | {f"/{path}": data for path, data in zip(texts, wet)})) as files:
        yield files


def documents(found: list[sources.Found], work: Path) -> list[tuple]:
    return [(each.text, each.id, each.metadata["file_path"]) for one in found for each in one.reader(work, False).run()]


def command(*args: object) -> int:
    argv = ["--val_fraction", "0", "--workers", "1", *map(str, args)]
    return cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv)))


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.bin")}


@pytest.mark.parametrize("config, texts", [
    ("", ["one", "two", "three"]), ("sample-10BT", ["four", "five"]), ("splits", ["six", "seven"]),
    ("plain", ["seven", "eight"]), ("folder", ["three"]), ("raw", ["nine"]), ("data/CC-1", ["one", "two"])])
def test_a_configuration_of_the_hub_is_read(hub, tmp_path, config, texts):
    found = sources.find(["hf:owner/set"], config)
    made = documents(found, tmp_path)
    assert [text for text, _, _ in made] == texts
    for each in found:
        assert each.root == f"hf://datasets/owner/set@{NEW}"
        assert each.sizes == {path: len(FILES[path]) for path in each.paths}
    assert all(file == f"{each.root}/{path}" for _, _, file in made for path in [file.removeprefix(each.root + "/")])
    if config == "sample-10BT":
        assert [name for _, name, _ in made] == ["<four>", "<five>"]


def test_a_set_without_configurations_is_all_its_files(hub, tmp_path):
    hub.card = {}
    made = documents(sources.find(["hf:owner/set"], "raw"), tmp_path)
    assert made == [("nine", "raw/train-0.jsonl/0", f"hf://datasets/owner/set@{NEW}/raw/train-0.jsonl")]
    for path in ("raw/train-0.jsonl", "raw/test-0.jsonl", "splits/test.jsonl"):
        del hub.commits[NEW][path]
    texts = [text for text, _, _ in documents(sources.find(["hf:owner/set"]), tmp_path)]
    assert texts == ["seven", "one", "two", "three", "four", "five"]


def test_a_revision_and_a_range_choose_files(hub, tmp_path):
    for place, texts in {f"hf:owner/set@{OLD}": ["old", "five"], "hf:owner/set@main:0": ["four"],
                         f"hf:owner/set@{OLD}:0-1": ["old", "five"], "hf:owner/set:1": ["five"]}.items():
        assert [text for text, _, _ in documents(sources.find([place], "sample-10BT"), tmp_path)] == texts


@pytest.mark.parametrize("place, config, sentence", [
    ("hf:owner/none", "", "the Hugging Face hub has no data set owner/none, or none that you may read"),
    ("hf:owner/set@v9", "", "hf:owner/set has no revision v9"), ("hf:set", "", "hf:set is no data set; wanted one"),
    ("hf:../x", "", "hf:../x is no data set; wanted one"),
    ("hf:owner/set", "sample-1BT", "files of configuration or folder 'sample-1BT'; its configurations are default, "),
    ("hf:owner/set", "elsewhere", "files of configuration elsewhere are elsewhere: https://example.com/a.parquet"),
    ("hf:owner/set", "notes", "has no .jsonl .ndjson .parquet"),
    ("hf:owner/set:2-5", "sample-10BT", "files 2 to 5 are wanted, and it has 0 to 1")])
def test_what_the_hub_does_not_have_is_one_sentence(hub, tmp_path, capsys, place, config, sentence):
    assert command("--source", place, "--config", config, "--out", tmp_path / "out", "--recipe", "minimal") == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
    hub.card = {"configs": CONFIGS[1:]}
    with pytest.raises(ValueError, match="has 5 configurations and none is the default; choose one by --config: "):
        sources.find(["hf:owner/set"])


def test_a_hub_that_cannot_be_reached_is_one_sentence(hub, tmp_path, monkeypatch, capsys):
    at("http://127.0.0.1:9", monkeypatch)
    assert command("--source", "hf:owner/set", "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "the Hugging Face hub does not answer: owner/set cannot be read (" in error and error.count("\n") == 1
    argv = [sys.executable, "-m", "llmc", "prepare_fineweb", "--source", "hf:owner/set", "--out", tmp_path / "out"]
    ended = subprocess.run(argv, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert ended.returncode == 1 and "offline mode" in ended.stderr and ended.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_with_the_commit_it_began_with(hub, tmp_path, capsys):
    hub.commits = {OLD: hub.commits[OLD]}
    bad = "/datasets/owner/set/resolve/" + OLD + "/sample/10BT/001.parquet"
    hub.failures = {bad: [403] * 9}
    args = ["--source", "hf:owner/set", "--config", "sample-10BT", "--recipe", "minimal", "--out"]
    assert command(*args, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"{OLD}/sample/10BT/001.parquet cannot be read (" in error and "403" in error and error.count("\n") == 1
    assert "started again it goes on from here" in error
    assert len([path for _, path, _ in hub.asked if path == bad]) == 1, "no second try can help"
    hub.commits[NEW], hub.failures = dict(FILES), {}
    hub.asked.clear()
    assert command(*args, tmp_path / "out") == 0, capsys.readouterr().err
    assert not [path for _, path, _ in hub.asked if "000.parquet" in path or NEW in path]
    made = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert made["sources"] == [f"hf://datasets/owner/set@{OLD}/sample/10BT/00{i}.parquet" for i in range(2)]
    asked = len(hub.asked)
    assert command(*args, tmp_path / "out") == 0 and len(hub.asked) == asked, "all of it has been read"
    assert command(*args, tmp_path / "new") == 0
    made = json.loads((tmp_path / "new" / "prepared.json").read_text())
    assert made["sources"][0] == f"hf://datasets/owner/set@{NEW}/sample/10BT/000.parquet"
    assert shards(tmp_path / "out") != shards(tmp_path / "new")
    assert command(*args, tmp_path / "out", "--config", "default") == 1
    assert "was begun with other files: hf:owner/set --config default is new; --fresh" in capsys.readouterr().err


def test_the_command_asks_the_hub_of_the_environment(hub, tmp_path):
    argv = [sys.executable, "-m", "llmc", "prepare_fineweb", "--source", "hf:owner/set", "--recipe", "minimal",
            "--out", tmp_path / "out", "--val_fraction", "0", "--workers", "2"]
    ended = subprocess.run(argv, env=os.environ | {"HF_ENDPOINT": hub.url}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["train_documents"] == 3


def test_a_bad_file_of_the_hub_is_named_and_passed(hub, tmp_path):
    hub.commits[NEW]["sample/10BT/000.parquet"] = b"PAR1 and no more"
    assert [text for text, _, _ in documents(sources.find(["hf:owner/set"], "sample-10BT"), tmp_path)] == ["five"]
    problem, = (tmp_path / "problems" / "parquet_1").rglob("*.jsonl")
    assert json.loads(problem.read_text())["file"].endswith(f"owner/set@{NEW}/sample/10BT/000.parquet")


def test_pages_and_texts_of_a_crawl_are_read(crawl, tmp_path):
    for place, count in {"cc:CC-MAIN-2024-10": 8, "cc:CC-MAIN-2024-10/warc:1-2": 4, "cc:CC-MAIN-2024-10/wet": 2,
                         "cc:CC-MAIN-2024-10:3": 2}.items():
        found = sources.find([place], cc_base=crawl.url)
        made = documents(found, tmp_path)
        assert len(made) == count
    assert made[0][1:] == (f"<urn:uuid:{6:032x}>", f"{crawl.url}/{CRAWL}/segments/1/warc/00003.warc.gz")
    asked = [path for method, path, _ in crawl.asked if path.endswith("00003.warc.gz")]
    assert len(asked) == 2, "one request a file and run"


@pytest.mark.parametrize("answers", [[503, 503], [429], [0], [100], [60, 503, 9, 40]])
def test_what_fails_is_asked_again_from_where_it_stopped(crawl, tmp_path, answers):
    path = f"/{CRAWL}/segments/1/warc/00003.warc.gz"
    crawl.failures = {path: list(answers), f"/{CRAWL}/warc.paths.gz": [503]}
    texts = [text for text, _, _ in documents(sources.find(["cc:CC-MAIN-2024-10:3"], cc_base=crawl.url), tmp_path)]
    assert len(texts) == 2 and "word7-39" in texts[1]
    asked = [span for _, each, span in crawl.asked if each == path]
    done, spans = 0, [""]
    for answer in answers:
        done += answer if answer < 400 else 0
        spans.append(f"bytes={done}-" if done else "")
    assert asked == spans


def test_a_server_without_ranges_gives_the_same(crawl, tmp_path):
    path = f"/{CRAWL}/segments/1/warc/00003.warc.gz"
    crawl.failures = {path: [100, 300]}
    crawl.ranges = False
    made = documents([sources.Found("archive", {path[1:]: None}, crawl.url, "cc:x", "archive_1")], tmp_path)
    assert len(made) == 2 and len(crawl.asked) == 3


def test_halves_of_two_versions_of_a_file_are_not_put_together(crawl):
    path = f"{CRAWL}/segments/1/warc/00003.warc.gz"
    crawl.failures = {f"/{path}": [100]}
    first = crawl.files[f"/{path}"]
    with remote.RemoteFolder(crawl.url).open(path) as file:
        crawl.files[f"/{path}"] = bytes(len(first))
        with pytest.raises(Unreachable, match="is not what it was when reading it began"):
            file.read()


def test_a_crawl_goes_on_where_it_failed(crawl, tmp_path, capsys):
    args = ["--source", "cc:CC-MAIN-2024-10", "--cc_base", crawl.url, "--recipe", tmp_path / "mine.yaml",
            "--name", "x", "--out"]
    (tmp_path / "mine.yaml").write_text("steps: [{extract: {precision: false}}]\n")
    assert command(*args, tmp_path / "whole") == 0, capsys.readouterr().err
    bad = f"/{CRAWL}/segments/1/warc/00002.warc.gz"
    crawl.failures = {bad: [503] * remote.TRIES}
    assert command(*args, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"{bad} cannot be read (" in error and "503" in error and f"tried {remote.TRIES} times" in error
    assert error.count("\n") == 1 and not list((tmp_path / "out").glob("*.bin"))
    crawl.asked.clear()
    assert command(*args, tmp_path / "out") == 0, capsys.readouterr().err
    assert [path[-13:] for _, path, _ in crawl.asked] == ["00002.warc.gz", "00003.warc.gz"]
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")
    made = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert made["train_documents"] == 8 and made["sources"][2] == f"{crawl.url}{bad}"


@pytest.mark.parametrize("place, base, sentence", [
    ("cc:CC-MAIN-2099-10", None, "there is no crawl CC-MAIN-2099-10: "), ("cc:CC MAIN", None, "cc:CC MAIN is no crawl; "),
    ("cc:CC-BAD", None, "CC-BAD/warc.paths.gz is no list of paths"), ("cc:CC-MAIN-2024-10:2-4", None, "it has 0 to 3"),
    ("cc:CC-MAIN-2024-10", "http://127.0.0.1:9", "http://127.0.0.1:9/crawl-data/CC-MAIN-2024-10/warc.paths.gz cannot"),
    ("cc:CC-MAIN-2024-10", "s3://commoncrawl", "--cc_base s3://commoncrawl needs a package that is not installed"),
    ("cc:CC-ODD", None, "names '../../etc/passwd', which is no archive of a crawl"),
    ("cc:CC-EMPTY", None, "CC-EMPTY/warc.paths.gz names no files"),
    ("cc:CC-MAIN-2024-10", "", "--cc_base is empty; wanted https://data.commoncrawl.org"),
    ("cc:CC-MAIN-2024-10", "no://x", "--cc_base no://x: Protocol not known: no; wanted a URL or a folder")])
def test_what_common_crawl_does_not_have_is_one_sentence(crawl, tmp_path, monkeypatch, capsys, place, base, sentence):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for name, listed in (("ODD", b"../../etc/passwd\n"), ("EMPTY", b"\n")):
        crawl.files[f"/crawl-data/CC-{name}/warc.paths.gz"] = gzip.compress(listed)
    assert command("--source", place, "--cc_base", crawl.url if base is None else base, "--out", tmp_path / "out") == 1
    *before, error = capsys.readouterr().err.splitlines()
    assert sentence in error and all("once more in" in each for each in before) and not (tmp_path / "out").exists()


def test_local_and_remote_files_are_read_together(hub, crawl, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ndjson").write_bytes(lines("here"))
    places = ["hf:owner/set", str(tmp_path / "in"), "cc:CC-MAIN-2024-10/wet:0", "hf:owner/set"]
    found = sources.find(places, cc_base=crawl.url)
    assert [text for text, _, _ in documents(found, tmp_path)] == ["here", "one", "two", "three", "Plain text.\n"]
    noted = json.loads(json.dumps(sources.listing(found)))
    hub.commits, crawl.files = {}, {}
    again = sources.find(places, cc_base=crawl.url, noted=noted)
    assert again == found and sources.listed(noted)[:2] == [
        str(tmp_path / "in" / "a.ndjson"), f"hf://datasets/owner/set@{NEW}/data/CC-1/000.parquet"]


def test_an_empty_folder_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=f"--source {tmp_path}: no file of a known kind; wanted .warc .arc .html"):
        sources.find([str(tmp_path)])


def test_what_is_no_file_and_names_that_no_list_can_hold_are_refused(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="a.jsonl: there is no such file or folder"):
        sources.find([str(tmp_path / "a.jsonl")])       # which waits for someone to write
    (tmp_path / "Bild\xa0\u200c1.jsonl").touch()
    assert sources.find([str(tmp_path)])[0].paths
    for name in (b"a\nb.jsonl", b"\xff.jsonl"):
        path = Path(os.fsdecode(bytes(tmp_path) + b"/" + name))
        path.touch()
        with pytest.raises(ValueError, match="rename it") as error:
            sources.find([str(tmp_path)])
        assert str(error.value).isprintable()
        path.unlink()
    with pytest.raises(ValueError, match="choose another --out"):
        sources.apart(tmp_path / "a[b]", [])


def test_a_crawl_s_log_is_no_source(tmp_path):
    (tmp_path / "a.warc.gz").touch()
    (tmp_path / "a.warc.gz.frontier.jsonl").touch()
    assert [each.kind for each in sources.find([str(tmp_path)])] == ["archive"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    (tmp_path / "a.jsonl").touch()
    listed = os.scandir

    def scandir(folder):                # root may read every one
        if str(folder).endswith("secret"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="secret"):
        sources.find([str(tmp_path)])
