"""From documents to token shards by FineWeb's recipe: every step keeps a document or drops it with
one reason, and says how many.

    llmc prepare_fineweb --source documents/ --out data/clean --recipe fineweb

The steps are datatrove's, run by its executors. What they wrote lies under OUT/work: the documents
kept, those dropped by each step, logs. Started again, it goes on where it was left; the shards are
the same bytes for any number of workers, and however often it was stopped. With another --tokenizer
the same documents are cut anew.
"""
from __future__ import annotations

import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from llmc import cli, disk, prepared
from llmc.cli import Range
from llmc.prepared import SPLITS
from llmc.shards import ShardWriter
from llmc.tokenizer import Tokenizer
from llmc.web.extra import needed


@dataclass
class PrepareFineWeb:
    """Clean web documents by a recipe, and cut them into token shards that training reads."""
    source: list[str]           # files and folders: .warc, .arc, .html, and text as .wet, .jsonl,
                                # .ndjson, .parquet, .txt, .md; also compressed; or hf:OWNER/NAME,
                                # hf:OWNER/NAME@REVISION: a data set of the Hugging Face hub, or
                                # cc:CC-MAIN-2024-10, cc:CC-MAIN-2024-10/wet: Common Crawl's pages,
                                # or their text; :0-9 behind these is the first ten files
    out: Path                   # folder for the shards, tokenizer.json and prepared.json
    recipe: str = "llmc-default"    # fineweb, fineweb-edu, edu-scores, llmc-default,
                                # minimal, or a YAML file of steps
    config: str = ""            # of data sets of the hub: the configuration, or a folder
    cc_base: str = "https://data.commoncrawl.org"   # where Common Crawl is read; s3://commoncrawl
                                # needs s3fs and a key of AWS
    set: list[str] | None = None    # STEP.OPTION=VALUE: options of the recipe's steps
    tokenizer: str = "gpt2"     # gpt2, cl100k_base, …, or a tokenizer.json or folder with one
    val_fraction: Annotated[float, Range(0, 0.5)] = 0.01    # share held out, by documents' hashes
    name: str = ""              # what the shards are called; the folder's name if not given
    shard_tokens: Annotated[int, Range(1, 10**12)] = 100_000_000    # tokens in one shard
    seed: cli.Seed = 1337       # decides the order of the documents
    executor: Literal["local", "slurm", "ray"] = "local"    # where tasks run: this machine, or a
                                # cluster that sees the same files
    workers: cli.Threads = 0    # tasks at a time; 0: one for each core, or what the cluster takes
    memory: Annotated[int, Range(300_000_000, 10**15)] = 4_000_000_000  # bytes that finding
                                # duplicates takes here, all its tasks together: fewer work at a
                                # time, at 270 MB each. Beside that: 48 bytes for each document of a
                                # task (exact), 260 for each that has a near-duplicate (minhash)
    task_memory: Annotated[int, Range(1, 10**6)] = 4    # GB that a cluster sets aside for a task
    slurm: list[str] | None = None  # OPTION=VALUE, as sbatch has them: partition=cpu time=20:00:00
    fresh: bool = False         # start anew, whatever another run has left in OUT/work

    @staticmethod
    def more_help() -> str:
        """Every step's options."""
        from llmc.web import recipes

        return recipes.described()


def run(config: PrepareFineWeb) -> None:
    """Write the shards, or fail and leave those that were there."""
    with needed("cleaning web documents"):
        from llmc.web import execute, phases, recipes, report, sources, tokens, watch

    where = execute.Where(config.executor, config.workers, config.memory, config.task_memory,
                          _pairs("--slurm", config.slurm or []))
    name = prepared.shard_name(config.name, config.out)
    tokenizer = Tokenizer.load(config.tokenizer)
    steps = recipes.load(config.recipe, config.set or [])
    work = config.out.resolve() / "work"
    found = _found(config, steps, work)
    settings = {"steps": [{"step": step.name} | asdict(step) for step in steps],
                "files": sources.listing(found), "option files": _option_files(steps),
                "tokenizer": f"{tokenizer.fingerprint():016x}", "seed": config.seed}
    about = {"name": name, "recipe": Path(config.recipe).name, "tokenizer": tokenizer.name}
    watcher = watch.Watcher()
    with disk.locked(config.out):
        old = prepared.old_shards(config.out, name, tokenizer, config.fresh or work.exists(),
                                  "--fresh")
        _begin(work, json.loads(json.dumps(settings, default=str)), config.fresh)
        tasks = _tasks(found)
        made = _planned(steps, found, tasks, work)
        execute.run(made, work, where, watcher)
        funnel = _funnel(made, work)
        execute.run([report.phase(work, config.tokenizer, config.seed)], work, where, watcher)
        if not funnel[-1]["kept"]:
            report.write(work, work, about, funnel)
            raise ValueError(_all_dropped(work, funnel, config.source))
        piles = tokens.piles_for(work / "kept")
        cut = tokens.CutToPiles(work / "tokens", config.tokenizer, piles, config.seed)
        execute.run([phases.Phase("tokens", [phases.reader(work / "kept"), cut], tasks)], work,
                    where, watcher)
        unfinished = work / "shards"
        shutil.rmtree(unfinished, ignore_errors=True)
        found_in = _write(unfinished, work, piles, name, tokenizer, config, funnel[-1]["kept"])
        _describe(unfinished, found_in, funnel, settings, tokenizer, name)
        report.write(unfinished, work, about | found_in, funnel)
        with ThreadPoolExecutor(1) as pool:     # signals end the main thread: not halfway here
            pool.submit(prepared.put_in_place, unfinished, config.out, old).result()
    _report(config.out, name, funnel, found_in)


def _found(config: PrepareFineWeb, steps: list[Any], work: Path) -> list[Any]:
    """The sources; a ValueError where the steps cannot do with them."""
    from llmc.web import sources

    sources.apart(config.out, config.source)
    if inside := [place for place in config.source if Path(place).resolve().is_relative_to(work)]:
        raise ValueError(f"--source {inside[0]} lies in what --out {config.out} was made with; "
                         "choose another --out")
    noted = {} if config.fresh else sources.noted(work / "settings.json")
    found = sources.find(config.source, config.config, config.cc_base, noted)
    pages = [each.full(each.paths[0]) for each in found if each.kind in sources.PAGES]
    if pages and not any(step.name == "extract" for step in steps):
        raise ValueError(f"{pages[0]} holds HTML, and recipe {config.recipe} has no step extract, "
                         "which makes text of it; add one")
    bare = [each.full(each.paths[0]) for each in found if each.kind not in sources.WITH_FIELDS]
    if bare and any(step.name == "quality" and not step.model for step in steps):
        raise ValueError(f"{bare[0]} holds documents without a score, which the step quality keeps "
                         "by; --set quality.model=DIR gives them one, by a classifier of llmc "
                         "train_quality")
    return found


def _planned(steps: list[Any], found: list[Any], tasks: int, work: Path) -> list[Any]:
    """The phases."""
    from llmc.web import phases

    for step in steps:
        step.prepare(work)
    declared = any(getattr(step, "declared", False) for step in steps)
    readers = [each.reader(work, declared) for each in found]
    files = [reader.data_folder.resolve_paths(path)
             for each, reader in zip(found, readers) for path in each.paths]
    return phases.plan(steps, readers, files, tasks, work)


TASK_BYTES = 1 << 24            # of sources in a task, about: it loads lists and models first
FEWEST = 4                      # tasks, where there are as many files


def _tasks(found: list[Any]) -> int:
    """How many: by the sources alone, so that results do not depend on who works. A file is read by
    one task."""
    sizes = [TASK_BYTES if size is None else size for each in found for size in each.sizes.values()]
    return min(max(len(each.paths) for each in found), max(FEWEST, -(-sum(sizes) // TASK_BYTES)))


def _option_files(steps: list[Any]) -> dict[str, str]:
    """The files that options name, by their checksums."""
    named = [value for step in steps for option in vars(step).values()
             for value in (option if isinstance(option, list) else [option])
             if isinstance(value, Path)]
    files = [path for each in named for path in ([each] if each.is_file() else each.rglob("*"))
             if path.is_file()]
    return {str(path): disk.sha256(path) for path in sorted(files)}


def _pairs(option: str, given: list[str]) -> dict[str, str]:
    """Of OPTION=VALUE each."""
    if wrong := [each for each in given if "=" not in each]:
        raise ValueError(f"{option} is {wrong[0]!r}, wanted OPTION=VALUE")
    return dict(each.lstrip("-").split("=", 1) for each in given)


def _begin(work: Path, settings: dict[str, Any], fresh: bool) -> None:
    """work/ for these settings: new, or as it was left by a run with the same."""
    noted = work / "settings.json"
    work.mkdir(parents=True, exist_ok=True)
    if not _ours(noted):
        raise ValueError(f"{work} was not made here, where unfinished work would lie; move it "
                         "away, or choose another --out")
    changed = []
    if fresh:
        for each in (*work.glob("logs/*/completions"), *work.iterdir()):    # the marks first
            if each != noted:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
    elif noted.exists():
        before = disk.read_json(noted, {"steps": list, "files": dict}, "--fresh starts anew")
        changed = [key for key in settings if before.get(key) != settings[key]]
    if changed == ["tokenizer"]:                # the documents are the same
        for each in ("logs/tokens", "logs/report", "tokens", "report"):
            shutil.rmtree(work / each, ignore_errors=True)
    elif changed:
        which = _changed(before["files"], settings["files"]) if changed == ["files"] else ""
        raise ValueError(f"{work} was begun with other {' and '.join(changed)}{which}; --fresh "
                         "starts anew, another --out keeps it")
    disk.write_whole(noted, (json.dumps(settings, indent=1) + "\n").encode())


def _ours(noted: Path) -> bool:
    """Whether the folder of these settings is empty or a run's; where they are damaged, its logs
    tell."""
    if not noted.exists():
        return all(each.name.startswith(f".{noted.name}.") for each in noted.parent.iterdir())
    try:
        found = disk.read_json(noted, {}, "")
    except ValueError:
        return any(noted.parent.glob("logs/*/completions"))
    return {"steps", "files"} <= found.keys()


def _changed(before: dict[str, Any], files: dict[str, Any]) -> str:
    """The first of the files that is not what it was."""
    for name in sorted({**before, **files}):
        if before.get(name) != files.get(name):
            what = ("is new" if name not in before else "is missing" if name not in files
                    else "has another size or date")
            return f": {name if ':' in name else f'/{name}'} {what}"
    return ""


def _funnel(made: list[Any], work: Path) -> list[dict[str, Any]]:
    """Of each step, the documents that came and were kept, and why others were not."""
    from llmc.web import execute

    rows: list[dict[str, Any]] = []
    for phase in made:
        for place, counted in enumerate(execute.counts(phase, work)):
            if not (step := phase.steps.get(place)):
                continue
            reasons = {key.removeprefix("dropped_"): int(value) for key, value in counted.items()
                       if key.startswith("dropped_")}
            if step == "read":
                kept = int(counted["documents"])
                came = kept + sum(reasons.values())
            else:
                came, kept = int(counted["total"]), int(counted["forwarded"])
            if unnamed := came - kept - sum(reasons.values()):
                reasons["duplicate"] = unnamed
            if rows and step == "read":         # one more kind of source
                came, kept = came + rows[0]["documents"], kept + rows[0]["kept"]
                reasons = dict(Counter(reasons) + Counter(rows.pop()["reasons"]))
            rows.append({"step": step, "documents": came, "kept": kept, "reasons": reasons})
    for before, row in zip(rows, rows[1:]):
        if row["documents"] != before["kept"]:
            raise _missing(row["documents"], before["kept"], work)
    return rows


def _missing(found: int, kept: int, work: Path) -> ValueError:
    return ValueError(f"{found} of {kept} documents kept were found in {work}, from which "
                      "something is missing; --fresh starts anew")


def _all_dropped(work: Path, funnel: list[dict[str, Any]], places: list[str]) -> str:
    """A sentence."""
    lost = Counter({row["step"]: row["documents"] - row["kept"] for row in funnel})
    reasons = {row["step"]: ", ".join(sorted(row["reasons"], key=row["reasons"].get)[:-4:-1])
               for row in funnel}
    read = funnel[0]["documents"]
    if not read:
        return "; ".join([f"no documents were found in {', '.join(places)}", *_problems(work)])
    why = ", ".join(f"{count} {step} ({reasons[step]})"
                    for step, count in lost.most_common() if count)
    return f"all {read} documents were dropped: {why}; {work / 'report.html'} shows some of each"


def _problems(work: Path) -> list[str]:
    """What could not be read: nothing, or a sentence with the first as an example."""
    folder = work / "problems"
    found = [line for path in sorted(folder.rglob("*.jsonl"))
             for line in path.read_bytes().splitlines()]
    if not found:
        return []
    try:
        first = json.loads(found[0])
    except ValueError as error:
        raise ValueError(f"{folder} is damaged ({error}); --fresh starts anew") from error
    return [f"{len(found):,} records or files could not be read, the first in {first['file']}: "
            f"{first['problem']}; {folder} names them"]


def _write(folder: Path, work: Path, piles: int, name: str, tokenizer: Tokenizer,
           config: PrepareFineWeb, kept: int) -> dict[str, Any]:
    """The shards, and what prepared.json says of them."""
    from llmc.web import tokens

    with ExitStack() as stack:
        writers = {split: stack.enter_context(ShardWriter(
            folder, name, split, tokenizer.vocab_size, tokenizer.fingerprint(),
            -1 if tokenizer.eot is None else tokenizer.eot, config.shard_tokens))
            for split in SPLITS}
        counts = tokens.write_shards(work / "tokens", piles, config.val_fraction, writers)
    whole = sum(counts[f"{split}_documents"] for split in SPLITS)
    if whole != kept:
        raise _missing(whole, kept, work)
    if not writers["train"].tokens or config.val_fraction and not writers["val"].tokens:
        purpose = "validate" if writers["train"].tokens else "train"
        raise ValueError(f"of {whole} documents none is left to {purpose} on; give more, or "
                         "another --val_fraction")
    made: dict[str, Any] = {}
    for split in SPLITS:
        made |= {f"{split}_tokens": writers[split].tokens,
                 f"{split}_bytes": counts[f"{split}_bytes"],
                 f"{split}_documents": counts[f"{split}_documents"],
                 f"{split}_shards": {path.name: disk.sha256(path)
                                     for path in writers[split].paths}}
    return made


def _describe(folder: Path, made: dict[str, Any], funnel: list[dict[str, Any]],
              settings: dict[str, Any], tokenizer: Tokenizer, name: str) -> None:
    """tokenizer.json and prepared.json: sources, recipe, counts, checksums."""
    from llmc.web import sources

    whole = {"name": name, "tokenizer": tokenizer.name, "vocab_size": tokenizer.vocab_size,
             "eot": tokenizer.eot, "fingerprint": settings["tokenizer"]} | made
    whole |= {"funnel": funnel, "steps": settings["steps"], "seed": settings["seed"],
              "sources": sources.listed(settings["files"])}
    disk.write_whole(folder / "tokenizer.json", tokenizer.to_json())
    disk.write_whole(folder / "prepared.json",
                     (json.dumps(whole, indent=1, default=str) + "\n").encode())


def _report(out: Path, name: str, funnel: list[dict[str, Any]], made: dict[str, Any]) -> None:
    """What became of the documents, for people."""
    for row in funnel:
        why = ", ".join(f"{count} {reason}" for reason, count in
                        Counter(row["reasons"]).most_common())
        print(f"{row['step']:<20}{row['documents']:>10,} -> {row['kept']:>10,}  {why}")
    for split in SPLITS:
        if made[f"{split}_tokens"]:
            print(f"{split:<6} {made[f'{split}_tokens']:>13,} tokens  "
                  f"{made[f'{split}_documents']:>9,} documents")
    for sentence in _problems(out / "work"):
        print(sentence)
    print(f"saved in {out}: {name}_*.bin, tokenizer.json, prepared.json, report.html, report.json")


if __name__ == "__main__":
    cli.main(run)
