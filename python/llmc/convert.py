"""Published weights in, and checkpoints out: Hugging Face folders, GGUF, llm.c's and llama2.c's files."""
from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llmc import chat_export, cli, disk, gguf_file, hugging_face, llama2_c, llm_c, model_files
from llmc.checkpoint import find_checkpoint
from llmc.disk import read_json
from llmc.gguf_tokenizer import vocabulary
from llmc.hugging_face_config import config_to
from llmc.model_files import CARRIED, TOKENIZER, ModelFiles
from llmc.tokenizer import Tokenizer, from_json, in_folder

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "merges.txt"]
LLAMA2_C_TOKENIZER = "tokenizer.bin"
WRITTEN = re.compile(           # what a conversion writes into a folder
    r"config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|"
    + "|".join(map(re.escape, CARRIED)))


@dataclass
class Convert:
    """Turn a published model into a checkpoint of llmc, or a model of either kind into a Hugging Face
    folder or a GGUF file. Known are GPT-2, Llama, Qwen 2 and 3."""
    source: str = cli.positional()  # a Hugging Face folder or its name on the hub, a checkpoint or
                                    # run of llmc, llm.c's or llama2.c's .bin
    target: Path = cli.positional()     # a new folder, or a new file NAME.gguf
    to: Literal["auto", "llmc", "hf", "gguf"] = "auto"  # what to write; auto: gguf for NAME.gguf,
                                    # otherwise hf from llmc, and llmc from all else
    dtype: Literal["auto", "f32", "bf16", "int8", "q8_0"] = "auto"  # auto: as the source, int8 as
                                    # what it stands for; int8: in a checkpoint; q8_0: in GGUF
    tokenizer: str = ""             # another one than the source's: a published encoding, a folder, a
                                    # tokenizer.json or llama2.c's tokenizer.bin; none: go without
    ignore: list[str] = field(default_factory=list)     # keys of config.json that change no number
    overwrite: bool = False         # replace what an earlier conversion left at the target


# ---- reading --------------------------------------------------------------------------------------

def open_source(config: Convert) -> ModelFiles:
    """What the source is, opened; a ValueError if it is nothing that is known."""
    path = Path(config.source)
    if path.is_file():
        return _open_file(path, config)
    if not path.exists():
        path = download(config.source)
    name = Path(config.source).resolve().name
    settings = path / "config.json"
    theirs = settings.is_file() and "model_type" in read_json(settings, {}, hugging_face.AGAIN)
    if theirs:
        model = hugging_face.from_folder(path, name, config.ignore)
    else:
        model = model_files.from_checkpoint(find_checkpoint(path), name)
    return with_tokenizer(model, config.tokenizer)


def _open_file(path: Path, config: Convert) -> ModelFiles:
    if path.suffix == ".gguf" or gguf_file.is_gguf(path):
        raise ValueError(f"{path} is GGUF, which llmc writes and does not read; convert the Hugging "
                         "Face folder it was made from")
    if path.suffix in (".safetensors", ".json"):
        raise ValueError(f"{path} is part of a model; give its folder, {path.parent}")
    if llm_c.is_checkpoint(path):
        model, beside = llm_c.from_file(path), "gpt2"
    else:
        model, beside = llama2_c.from_file(path), str(path.with_name(LLAMA2_C_TOKENIZER))
    return with_tokenizer(model, config.tokenizer or beside)


def with_tokenizer(model: ModelFiles, name: str) -> ModelFiles:
    """The model with the tokenizer that was named; without a name, with its own."""
    if name == "":
        return model
    if name == "none":
        return model.with_tokenizer(None)
    path = Path(name)
    if path.suffix != ".bin":
        if not path.exists():
            return model.with_tokenizer(Tokenizer.load(name).to_json())
        return model.with_tokenizer((in_folder(path) if path.is_dir() else path).read_bytes())
    if not path.is_file():
        raise ValueError(f"{path} is not there; give the model's tokenizer by --tokenizer, or "
                         "--tokenizer none to go without")
    return model.with_tokenizer(llama2_c.tokenizer_json(path, model.config.vocab_size))


def download(name: str) -> Path:
    """The folder of a model on the Hugging Face hub, taken from there or from its cache."""
    if not HUB_NAME.fullmatch(name):
        raise ValueError(f"{name} is no file or folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:          # of many classes, of several libraries
        reason = cli.sentence(error)
        raise ValueError(f"{name} is no file or folder here, and the Hugging Face hub does not "
                         f"give it: {reason}") from error


# ---- checking -------------------------------------------------------------------------------------

def target_kind(config: Convert, model: ModelFiles) -> str:
    """llmc, hf or gguf, and a ValueError where that cannot be written."""
    kind, named = config.to, config.target.suffix == ".gguf"
    if kind == "auto":
        plain = model.format == "llmc" and config.dtype != "int8"
        kind = "gguf" if named else "hf" if plain else "llmc"
    if named != (kind == "gguf"):
        raise ValueError(f"{config.target} is no name for --to {kind}; GGUF files end in .gguf, and "
                         "nothing else does")
    if config.dtype == "q8_0" and kind != "gguf":
        raise ValueError("--dtype q8_0 is for GGUF; give f32 or bf16, or int8 for a checkpoint")
    if config.dtype == "int8" and kind != "llmc":
        raise ValueError("--dtype int8 is for a checkpoint of llmc; give f32 or bf16, or q8_0 for "
                         "GGUF")
    return kind


def check_target(config: Convert) -> None:
    """A ValueError if something is there that must not be replaced."""
    target = config.target
    if not target.exists() and not target.is_symlink():
        return
    if not config.overwrite:
        raise ValueError(f"{target} is there already; give another target, or --overwrite")
    made = target.is_file() if target.suffix == ".gguf" else (target / "config.json").is_file()
    if not made or target.is_symlink():
        raise ValueError(f"{target} was not made by a conversion, and is not replaced")
    if target.resolve() in (Path(config.source).resolve(), *Path(config.source).resolve().parents):
        raise ValueError(f"{target} holds the source; give another target")
    if target.is_dir():
        for path in sorted(target.iterdir()):
            if not _written(path):
                kind = "a folder, " if path.is_dir() else ""
                raise ValueError(f"{target} holds {kind}{path.name}, which no conversion makes; it "
                                 "is not replaced")


def _written(path: Path) -> bool:
    """Whether a conversion may have left it."""
    if path.name == chat_export.README and path.is_file():
        return chat_export.MADE in path.read_text(encoding="utf-8", errors="replace")
    return bool(WRITTEN.fullmatch(path.name)) and not path.is_dir()


def check_tokenizer(config: Convert, model: ModelFiles) -> None:
    """A ValueError if the tokenizer is missing, cannot be read, or is another model's."""
    if config.tokenizer == "none":
        return
    if TOKENIZER not in model.texts:
        raise ValueError(f"{config.source} holds no {TOKENIZER}; give its tokenizer by --tokenizer, "
                         "or --tokenizer none to go without")
    where = f"{model.name}: {TOKENIZER}"
    size = from_json(model.texts[TOKENIZER], where, where).vocab_size
    if size > model.config.vocab_size:
        raise ValueError(f"{where} has {size:,} symbols, but the model knows "
                         f"{model.config.vocab_size:,}; it is another model's")


# ---- writing --------------------------------------------------------------------------------------

def writer(kind: str, model: ModelFiles, dtype: str) -> Callable[[Path], None]:
    """What writes the target at a path. All that can be wrong with the model is found here."""
    if kind == "gguf":
        config_to(model.config.to_dict())
        words = vocabulary(model)
        return lambda path: gguf_file.to_file(model, path, dtype, words)
    if kind == "hf":
        config_to(model.config.to_dict())
        return lambda path: hugging_face.to_folder(model, path, dtype)
    return lambda path: model_files.to_checkpoint(model, path, dtype)


@contextmanager
def replacing(target: Path, folder: bool) -> Iterator[Path]:
    """A path beside the target, which takes its place in the end; if that is not reached, nothing is
    left of it."""
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    target = target.parent.resolve() / target.name      # a/../a is nowhere while a has another name
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        if folder:
            beside.mkdir()
        yield beside
        _sync(beside)
        if target.exists():
            target.rename(old)
        beside.rename(target)
        made = []
        _sync_one(target.parent)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for path in (beside, old):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def _sync(path: Path) -> None:
    """What was written is on the disk before it gets its name."""
    for each in [*path.glob("*"), path]:
        _sync_one(each)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def run(config: Convert) -> None:
    check_target(config)
    model = open_source(config)
    check_tokenizer(config, model)
    kind = target_kind(config, model)
    dtype = model.dtype if config.dtype == "auto" else config.dtype
    if kind != "llmc":
        model = chat_export.with_manner(model)
    write = writer(kind, model, dtype)
    count = model.config.param_count()
    print(f"{model.name}: {model.format}, {count:,} parameters in {model.dtype}")
    with disk.naming(config.target), replacing(config.target, kind != "gguf") as path:
        write(path)
    print(f"{config.target}: {kind}, {dtype}, {_size(config.target):,} bytes")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))


if __name__ == "__main__":
    cli.main(run)
