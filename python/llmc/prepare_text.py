"""Text to token shards: .txt, .md, .jsonl, .ndjson and .parquet in, NAME_train_000001.bin out.

A text file is one document, a row of the others is one; <|endoftext|> follows each. For validation
documents are set aside, evenly spread, or, where there are too few, the end of each. The shards
are the same for any number of workers.
"""
from __future__ import annotations

import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from llmc import cli, disk, documents, prepared
from llmc.cli import Range
from llmc.documents import Block, Source
from llmc.prepared import SPLITS
from llmc.progress import progress
from llmc.shards import ShardWriter
from llmc.tokenizer import Tokenizer



@dataclass
class PrepareText:
    """Cut text into tokens and write them to shards that training reads."""
    input: list[Path]           # files and folders: .txt, .md, .jsonl, .ndjson, .parquet, also
                                # compressed
    out: Path                   # folder for the shards, tokenizer.json and prepared.json
    tokenizer: str = "gpt2"     # gpt2, cl100k_base, …, or a tokenizer.json or folder with one
    val_fraction: Annotated[float, Range(0, 0.5)] = 0.01    # share set aside for validation
    val: list[Path] | None = None   # files and folders to validate on, instead of a share
    text_key: str = "text"      # key of a JSON line, or column of parquet, that holds the text
    name: str = ""              # what the shards are called; the folder's name if not given
    shard_tokens: Annotated[int, Range(1, 10**12)] = 100_000_000    # tokens in one shard
    workers: cli.Threads = 0    # threads that cut text; 0: one for each core
    skip_bad: bool = False      # leave out rows and lines that cannot be read, and count them
    overwrite: bool = False     # replace the shards that are there


class Plan(NamedTuple):
    """Which documents are for validation."""
    fraction: float             # their share
    by_document: bool           # whole ones; otherwise the end of each is


class Cut(NamedTuple):
    """What a block became: ids for each split, and what was counted."""
    ids: dict[str, np.ndarray]
    counts: Counter[str]


def run(config: PrepareText) -> None:
    """Write the shards, or fail and leave the folder as it was."""
    name = prepared.shard_name(config.name, config.out)
    tokenizer = Tokenizer.load(config.tokenizer)
    train = documents.find(config.input)
    val = documents.find(config.val) if config.val else []
    with disk.locked(config.out):
        old = prepared.old_shards(config.out, name, tokenizer, config.overwrite)
        unfinished = config.out / f".{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            made = _write(config, tokenizer, name, train, val, unfinished)
            with ThreadPoolExecutor(1) as pool:     # signals end the main thread: not halfway here
                pool.submit(prepared.put_in_place, unfinished, config.out, old).result()
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    _report(config.out, name, made)


def plan(sources: list[Source], fraction: float, text_key: str) -> Plan:
    """Whole documents where there are enough that at least one of them is a share."""
    if fraction == 0:
        return Plan(0, True)
    enough, have = ceil(1 / max(fraction, 1e-15)), 0
    for source in sources:
        have += documents.count(source, enough - have, text_key)
        if have >= enough:
            return Plan(fraction, True)
    return Plan(fraction, False)


def is_val(index: int, fraction: float) -> bool:
    """Whether document `index` is set aside: evenly spread, `fraction` of any run of them."""
    return int((index + 1) * fraction + 0.5) > int(index * fraction + 0.5)


def cut(block: Block, first: int, plan: Plan, tokenizer: Tokenizer, config: PrepareText) -> Cut:
    """One block's ids and counts; `first` is the index of its first document."""
    ids: dict[str, list[int]] = {split: [] for split in SPLITS}
    counts: Counter[str] = Counter(skipped=block.bad)
    end = [] if tokenizer.eot is None else [tokenizer.eot]
    for index, text in enumerate(documents.texts(block, config.text_key, config.skip_bad), first):
        if text is None:
            counts["skipped"] += 1
            continue
        if plan.by_document:
            parts = {"val" if is_val(index, plan.fraction) else "train": text}
        elif block.rows is None:
            parts = {"val" if block.tail else "train": text}
        else:
            parts = dict(zip(SPLITS, documents.split_text(text, 1 - plan.fraction)))
        for split, part in parts.items():
            if part or (block.ends and block.rows is None):     # the end of a text may be bare
                ids[split] += tokenizer.encode(part)
                ids[split] += end if block.ends else []
                counts[f"{split}_bytes"] += len(part.encode())
                counts[f"{split}_documents"] += block.ends
    return Cut({split: np.array(ids[split], np.uint32) for split in SPLITS}, counts)


def _write(config: PrepareText, tokenizer: Tokenizer, name: str, train: list[Source],
           val: list[Source], folder: Path) -> dict:
    """Everything into `folder`; what prepared.json says of it."""
    digest = tokenizer.fingerprint()
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        size = sum(source.path.stat().st_size for source in [*train, *val])
        writers = {split: stack.enter_context(ShardWriter(
            folder, name, split, tokenizer.vocab_size, digest,
            -1 if tokenizer.eot is None else tokenizer.eot, config.shard_tokens))
            for split in SPLITS}
        advance = stack.enter_context(progress("cutting text", size))
        share = 0.0 if val else config.val_fraction
        split = plan(train, share, config.text_key)
        for sources, rule in ((train, split), (val, Plan(1, True))):
            for part in _in_order(sources, rule, tokenizer, config, advance):
                counts += part.counts
                for key, writer in writers.items():
                    writer.append(part.ids[key])
    tokens = {key: writer.tokens for key, writer in writers.items()}
    if not tokens["train"] or not tokens["val"] and (val or share):
        empty = "train" if not tokens["train"] else "validate"
        raise ValueError(f"no text is left to {empty} on: {counts['skipped']} rows were bad, "
                         f"{counts['train_documents']} had text; give more text"
                         f"{'' if empty == 'train' else ', or another --val_fraction'}")
    made = {"name": name, "tokenizer": tokenizer.name, "vocab_size": tokenizer.vocab_size,
            "eot": tokenizer.eot, "fingerprint": f"{digest:016x}"}
    for key in SPLITS:
        made |= {f"{key}_tokens": tokens[key], f"{key}_bytes": counts[f"{key}_bytes"],
                 f"{key}_documents": counts[f"{key}_documents"],
                 f"{key}_shards": [path.name for path in writers[key].paths]}
    arguments = {key: value for key, value in asdict(config).items() if key != "workers"}
    made |= {"skipped": counts["skipped"], "arguments": arguments,
             "sources": [str(source.path) for source in [*train, *val]]}
    disk.write_whole(folder / "tokenizer.json", tokenizer.to_json())
    text = json.dumps(made, indent=1, default=str) + "\n"
    disk.write_whole(folder / "prepared.json", text.encode())
    return made


def _in_order(sources: Iterable[Source], plan: Plan, tokenizer: Tokenizer, config: PrepareText,
              advance) -> Iterator[Cut]:
    """The blocks of the sources, cut on several threads, handed out in order.
    tiktoken releases Python's lock; at most a few blocks a worker are in memory."""
    workers = config.workers or os.cpu_count() or 1
    waiting: deque = deque()
    split = None if plan.by_document else 1 - plan.fraction
    with ThreadPoolExecutor(workers) as pool:
        try:
            index = 0
            for source in sources:
                for block in documents.blocks(source, config.text_key, config.skip_bad, split,
                                              advance):
                    waiting.append(pool.submit(cut, block, index, plan, tokenizer, config))
                    index += len(block.rows) if block.rows is not None else block.ends
                    if len(waiting) > 2 * workers:
                        yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _report(out: Path, name: str, made: dict) -> None:
    """What was written, for people."""
    for key in SPLITS:
        tokens, size = made[f"{key}_tokens"], made[f"{key}_bytes"]
        if tokens:
            shards = len(made[f"{key}_shards"])
            print(f"{key:<6} {tokens:>13,} tokens  {size / tokens:5.2f} bytes a token  "
                  f"{made[f'{key}_documents']:>9,} documents  {shards} shard{'s' * (shards > 1)}")
    if made["skipped"]:
        print(f"{made['skipped']:,} bad rows left out")
    print(f"saved in {out}: {name}_*.bin, tokenizer.json, prepared.json")


if __name__ == "__main__":
    cli.main(run)
