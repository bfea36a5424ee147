"""minhash: how many near-duplicates it finds at a similarity known beforehand, and how similar is what it finds."""
from __future__ import annotations

import json
import lzma
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from prose import Writer

from llmc.web import execute, near, phases, recipes, watch

BUCKETS, HASHES, N = 14, 8, 5
PAIRS = 500                 # of each similarity
WORDS = 300


def deduplicated(texts: list[str], folder: Path) -> Path:
    """work/ of a recipe of minhash alone, in two tasks; ids are the places in the list."""
    from datatrove.pipeline.readers import JsonlReader

    for task in range(2):
        (folder / "in").mkdir(exist_ok=True, parents=True)
        (folder / "in" / f"{task}.jsonl").write_text("".join(
            json.dumps({"text": text, "id": str(i)}) + "\n" for i, text in enumerate(texts) if i % 2 == task))
    (folder / "recipe.yaml").write_text("steps: [minhash]")
    steps = recipes.load(str(folder / "recipe.yaml"))
    made = phases.plan(steps, [JsonlReader(str(folder / "in"))], [], 2, folder / "work")
    execute.run(made, folder / "work", execute.Where(workers=1), watch.Watcher())
    return folder / "work"


def shingles(texts: list[str]) -> list[frozenset[int]]:
    """datatrove's own: hashes of five words in a row, of the text made simple."""
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    step = MinhashDedupSignature("unused", MinhashConfig(N, hash_config=HashConfig(precision=64, hash_fc="sha1")))
    return [frozenset(step.get_shingles(text).ravel().tolist()) for text in texts]


def jaccard(one: frozenset, other: frozenset) -> float:
    return len(one & other) / len(one | other)


def altered(words: list[str], writer: Writer, wanted: float) -> list[str]:
    """The words with some replaced, which costs five n-grams each, and some added, which costs one."""
    def grams(words: list[str]) -> frozenset:
        return frozenset(zip(*(words[i:] for i in range(N))))

    new, first = list(words), grams(words)
    while jaccard(first, grams(new)) > wanted + 2 * N / len(words):
        new[int(writer.rng.integers(len(words)))] = writer.take(1)[0]
    while jaccard(first, grams(new)) > wanted:
        new += writer.take(1)
    return new


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Of pairs of each similarity: the true Jaccard index, and which were found."""
    writer, wanted = Writer(11), np.repeat([0.95, 0.85, 0.75, 0.6], PAIRS)
    texts = []
    for similarity in wanted:
        words = writer.take(WORDS)
        texts += [" ".join(words), " ".join(altered(words, writer, similarity))]
    sets = shingles(texts)
    true = np.array([jaccard(*sets[i:i + 2]) for i in range(0, len(sets), 2)])
    assert np.abs(true - wanted).max() < 0.01
    work = deduplicated(texts, tmp_path_factory.mktemp("pairs"))
    kept = Counter(int(row.id) // 2 for row in phases.reader(work / "kept").run())
    assert set(kept) == set(range(len(wanted))), "of every pair one is left"
    lost = np.array([kept[i] == 1 for i in range(len(wanted))])
    return {each: (true[wanted == each], lost[wanted == each]) for each in np.unique(wanted)}


@pytest.mark.slow
@pytest.mark.parametrize("similarity", [0.95, 0.85, 0.75, 0.6])
def test_the_share_found_is_the_one_that_the_formula_gives(similarity, found):
    true, lost = found[similarity]
    chance = 1 - (1 - true ** HASHES) ** BUCKETS        # A. Broder, 1997
    error = np.sqrt((chance * (1 - chance)).sum()) / PAIRS
    print(f"J = {similarity}: {lost.mean():.4f} found, {chance.mean():.4f} expected, standard error {error:.4f}")
    assert abs(lost.mean() - chance.mean()) <= 3 * error


def met(work: Path) -> set[tuple[int, int]]:
    """Every pair of documents with the same hashes in a bucket. The second phase writes those that follow one another
    in order of their hashes: a chain of them has the same."""
    def place(file: int, doc: int) -> int:
        task, part = divmod(file - near.FIRST, near.PARTS)
        return 2 * (near.PART * part + doc) + task

    pairs = set()
    for path in sorted((work / "2_minhash" / "buckets").glob("*.dups")):
        chain: list[int] = []
        for match in struct.iter_unpack("<4I", path.read_bytes()):
            first, second = place(*match[:2]), place(*match[2:])
            if chain[-1:] != [first]:
                chain = [first]
            pairs |= {tuple(sorted((other, second))) for other in chain}
            chain.append(second)
    return pairs


@pytest.mark.slow
@pytest.mark.shared
def test_what_meets_among_wikipedias_leads_is_similar(shared, tmp_path):
    """The leads, and of each tenth a copy with words replaced: by themselves hardly two are alike."""
    with lzma.open(shared / "data" / "corpora" / "wiki_summaries_en.jsonl.xz", "rt") as file:
        texts = [json.loads(line)["text"] for line in file]
    writer, leads, copied = Writer(12), len(texts), range(0, len(texts), 10)
    texts += [" ".join(altered(texts[i].split(), writer, writer.rng.uniform(0.3, 1))) for i in copied]
    sets, pairs = shingles(texts), sorted(met(deduplicated(texts, tmp_path)))
    true = np.array([jaccard(sets[a], sets[b]) for a, b in pairs])
    for (a, b), value in zip(pairs, true):
        if b < leads or value < 0.5:
            print(f"J = {value:.3f}: {texts[a][:50]!r} and {texts[b][:50]!r}")
    count, edges = np.histogram(true, [0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.001])
    print(f"{leads:,} leads and {len(copied):,} copies, {len(pairs):,} of {len(texts) * (len(texts) - 1) // 2:,} pairs "
          f"met, {sum(b < leads for _, b in pairs)} of them two leads;",
          ", ".join(f"{number} of J {low:.1f} to {high:.1f}" for low, high, number in zip(edges, edges[1:], count)))
    chance = np.array([1 - (1 - jaccard(sets[i], sets[leads + at]) ** HASHES) ** BUCKETS
                       for at, i in enumerate(copied)])
    found = len({(i, leads + at) for at, i in enumerate(copied)} & set(pairs))
    assert abs(found - chance.sum()) <= 3 * np.sqrt((chance * (1 - chance)).sum())
    assert (true < 0.3).sum() * 10_000 <= len(pairs)
