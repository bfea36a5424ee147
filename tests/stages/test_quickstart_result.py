"""What `make run` ends with: a loss, also with int8 weights, words that exist, nothing learned by heart. The sweep behind
the bound is in dev/notes/2026-11-22-quick-start.md."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llmc.checkpoint import open_checkpoint
from llmc.perplexity import score
from llmc.quickstart import sources
from llmc.shards import read_shard

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

    tokens, _ = read_shard(next((tmp_path / "runs/quickstart/data").glob("*_val_*.bin")))
    nats = {}
    for dtype in ("bf16", "int8"):                      # a tenth of the held-out text is enough
        model = open_checkpoint(tmp_path / "runs/quickstart", dtype=dtype).model
        nats[dtype] = -score(model, tokens[:8192].astype(np.int32), 256, 128).mean()
    assert abs(math.exp(nats["int8"] - nats["bf16"]) - 1) < 0.005

    corpus = words("\n".join(path.read_text(errors="replace") for path in sources("")))
    known, twelves = set(corpus), set(zip(*(corpus[i:] for i in range(12))))
    shown = out[out.index("== What it writes"):out.index("== Its losses")]
    samples = [words(part) for part in re.split(r"^---- \d of 3\n", shown, flags=re.M)[1:]]
    assert len(samples) == 3
    written = [word for sample in samples for word in sample]
    assert sum(word in known for word in written) >= 0.85 * len(written)
    assert not any(tuple(sample[i:i + 12]) in twelves for sample in samples for i in range(len(sample) - 11))
