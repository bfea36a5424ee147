"""How long an index takes to make and to ask, and how often the right document comes first.

    python dev/bench/search.py ../shared/data/corpora/wiki_summaries_en.jsonl.xz [--questions 500]

Each question is made of a document: its title; and a sentence of it, not the first, without the title's words. Told are
the seconds to make the index, the median and the slowest of the times to search, and in how many of the searches the
document that the question is of comes first, or among the first three.
"""
from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from llmc import documents
from llmc.index import KINDS, MakeIndex, update
from llmc.tools.passages import sentences, words
from llmc.tools.search import Index


def rows(path: Path) -> list[tuple[str, str]]:
    """Title and text of a file's rows."""
    found = (row for block in documents.blocks(documents.find([path], KINDS)[0], also=("title",))
             for row in documents.rows(block, "text", False, ("title",)))
    return [(others["title"], text) for text, others in found if text]


def asked(title: str, text: str) -> list[str]:
    """A question of each kind, if the document has one."""
    known, more = set(words(title)), sentences(text)[1:2]
    return [title, *(" ".join(word for word in words(each) if word not in known) for each in more)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--questions", type=int, default=500)
    given = parser.parse_args()
    chosen = random.Random(1).sample(found := rows(given.file), min(given.questions, len(found)))
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        update(MakeIndex(out=Path(folder) / "index", documents=[given.file]))
        print(f"{len(found):,} documents: {time.perf_counter() - begin:.1f} s")
        with Index(Path(folder) / "index") as index:
            for kind, name in enumerate(("title", "sentence")):
                times, places = [], []
                for title, text in chosen:
                    if len(questions := asked(title, text)) > kind:
                        begin = time.perf_counter()
                        results = index.search(questions[kind], 3)
                        times.append(1000 * (time.perf_counter() - begin))
                        places.append(next((i for i, r in enumerate(results) if r.title == title), 3))
                print(f"{name}: {len(times)} questions, median {statistics.median(times):.1f} ms, slowest "
                      f"{max(times):.1f} ms; first {sum(p == 0 for p in places) / len(places):.1%}, "
                      f"among three {sum(p < 3 for p in places) / len(places):.1%}")


if __name__ == "__main__":
    main()
