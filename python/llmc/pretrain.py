"""Token shards to a base model: starts train_gpt2, on one process or several, and shows it at work.

Every flag but the two here is train_gpt2's own and is passed on.
"""
from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from llmc import cli
from llmc.launch import check_ranks, mpirun
from llmc.watched import watched


@dataclass
class Pretrain:
    """Pre-train a model on token shards. On a terminal its progress is drawn, elsewhere printed."""
    ranks: int = 1              # processes that train together, started by mpirun
    plain: bool = False         # print the program's lines, as where there is no terminal
    flags: list[str] = cli.rest()

    @staticmethod
    def more_help() -> str:
        """The flags that are passed on."""
        done = subprocess.run([program(), "--help"], stdout=subprocess.PIPE, text=True, check=True)
        return f"All other flags are passed on to train_gpt2:\n\n{done.stdout}"


def program() -> str:
    """The path of train_gpt2, which is built and installed beside the engine."""
    core = find_spec("llmc._core")
    if core is None or core.origin is None:
        raise ValueError("the engine is not built; run `make setup`")
    path = Path(core.origin).resolve().with_name("train_gpt2")
    if not path.is_file():
        raise ValueError(f"{path} is missing; run `make setup`")
    return str(path)


def run(config: Pretrain) -> None:
    status = train(config.flags, config.ranks, config.plain)
    if status:
        raise SystemExit(status)


def train(flags: Sequence[str], ranks: int = 1, plain: bool = False) -> int:
    """Runs train_gpt2 to its end; its exit status."""
    check_ranks(ranks)
    command, env = [program(), *flags], None
    if ranks > 1:
        command, env = mpirun(command, ranks)
    return watched(command, env, plain)


if __name__ == "__main__":
    cli.main(run)
