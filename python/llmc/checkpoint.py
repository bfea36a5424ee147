"""A run or a checkpoint's folder -> a model, and the tokenizer it was trained with."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.disk import read_json
from llmc.model_files import carried, token_ids
from llmc.shards import fingerprint
from llmc.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llmc._core import Config, Model


@dataclass(frozen=True)
class Checkpoint:
    """A model that was opened, and the tokenizer it was trained with."""
    path: Path                  # its folder
    model: Model
    tokenizer: Tokenizer
    ends: frozenset[int]        # the tokens that end a text

    @property
    def config(self) -> Config:
        return self.model.config


def find_checkpoint(path: str | Path) -> Path:
    """The folder that holds the weights: `path` itself, or the newest checkpoint of that run."""
    from llmc._core import checkpoint_latest

    path = Path(path)
    if (path / "model.safetensors").is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; give a run, such as runs/quickstart, or a "
                         "checkpoint in it")
    newest = checkpoint_latest(str(path / "checkpoints")) or checkpoint_latest(str(path))
    if newest:
        return Path(newest)
    if (path / "config.json").is_file():
        _refuse_theirs(path)
        raise ValueError(f"{path} has no checkpoint yet; wait for its first, or stop the run: "
                         "it then saves one (--checkpoint_every N saves some on the way)")
    raise ValueError(f"{path} holds neither a checkpoint nor a run")


def whole_checkpoint(path: str | Path) -> Path:
    """As find_checkpoint; a ValueError where it is a folder of the hub, or its tokenizer is missing
    or another's."""
    folder = find_checkpoint(path)
    _refuse_theirs(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer.json; copy the one the model was trained "
                         "with there (it lies beside the token shards)")
    check_tokenizer(folder)
    return folder


def open_checkpoint(path: str | Path, device: str = "cpu", threads: int = 0,
                    dtype: str = "auto") -> Checkpoint:
    """Open the weights, config.json and tokenizer.json of a checkpoint, or of a run's newest. The
    model computes in f32 or bf16, or with int8 weights; auto: as they are stored."""
    from llmc import Config, Device, Model

    folder = whole_checkpoint(path)
    config = Config.read(str(folder / "config.json"))
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"{folder}: tokenizer.json has {tokenizer.vocab_size} symbols, but the "
                         f"model knows {config.vocab_size}; it is another model's")
    ends = {*token_ids(carried(folder), "eos_token_id", f"{folder}/"), tokenizer.eot} - {None}
    if config.head != "lm":
        raise ValueError(f"{folder} has a {config.head} head, which writes no text; give a "
                         "language model")
    weights = str(folder / "model.safetensors")
    model = Model(Device(device, threads), config, dtype if dtype != "auto" else stored(weights))
    model.load(weights)
    return Checkpoint(folder, model, tokenizer, frozenset(ends))


def _refuse_theirs(folder: Path) -> None:
    if b'"model_type"' in (folder / "config.json").read_bytes():
        raise ValueError(f"{folder} is a Hugging Face folder; make a checkpoint of it: "
                         f"llmc convert {folder} runs/{folder.name}")


def stored(weights: str) -> str:
    """int8 if a .safetensors file holds any, bf16 if it holds nothing else, else f32."""
    from llmc._core import Safetensors

    kinds = {kind for _, kind, _ in Safetensors(weights).tensors}
    return "int8" if "I8" in kinds else "bf16" if kinds == {"BF16"} else "f32"


def check_tokenizer(folder: Path) -> None:
    """A ValueError if a checkpoint's tokenizer.json is another than its state.json remembers."""
    path = folder / "state.json"
    if not path.is_file():                      # weights that no run of ours left
        return
    wanted = read_json(path, {"tokenizer": str}, "copy the checkpoint again")["tokenizer"]
    found = f"{fingerprint((folder / 'tokenizer.json').read_bytes()):016x}"
    if wanted not in (found, "0" * 16):         # zeros: the shards did not say
        raise ValueError(f"{folder}/tokenizer.json has the fingerprint {found}, but the model was "
                         f"trained with {wanted}; copy the one beside its token shards there")


def encode_prompt(checkpoint: Checkpoint, prompt: str) -> list[int]:
    """The tokens to continue. Without a prompt: the token that stands before a document, or else
    the end of a line."""
    tokenizer, most = checkpoint.tokenizer, checkpoint.config.max_seq_len
    begin = [] if tokenizer.bos is None else [tokenizer.bos]
    if prompt == "" and (begin or tokenizer.eot is not None):
        return begin or [tokenizer.eot]
    tokens = begin + tokenizer.encode(prompt or "\n")
    if len(tokens) > most:
        raise ValueError(f"the prompt has {len(tokens):,} tokens, but the model's context holds "
                         f"{most:,}; shorten it")
    return tokens
