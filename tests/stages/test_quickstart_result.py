"""What `make run` ends with: a loss, words that exist, nothing learned by heart. The sweep behind the bound is in
dev/notes/2026-11-22-quick-start.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from llmc.quickstart import sources

BOUND = 2.01        # bits a byte: the recipe's, and two hundredths more


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


@pytest.mark.slow
def test_the_quick_start_learns_and_writes(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "llmc.quickstart"], cwd=tmp_path, capture_output=True, timeout=3000)
    out = done.stdout.decode(errors="replace")
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    lines = [json.loads(line) for line in (tmp_path / "runs/quickstart/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["val_bits_per_byte"] <= BOUND

    corpus = words("\n".join(path.read_text(errors="replace") for path in sources("")))
    known, twelves = set(corpus), set(zip(*(corpus[i:] for i in range(12))))
    shown = out[out.index("== What it writes"):out.index("== Its losses")]
    samples = [words(part) for part in re.split(r"^---- \d of 3\n", shown, flags=re.M)[1:]]
    assert len(samples) == 3
    written = [word for sample in samples for word in sample]
    assert sum(word in known for word in written) >= 0.85 * len(written)
    assert not any(tuple(sample[i:i + 12]) in twelves for sample in samples for i in range(len(sample) - 11))
