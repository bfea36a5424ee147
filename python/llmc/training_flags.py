"""What every stage that trains can be told, and what its run remembers of it."""
from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from llmc import cli, disk
from llmc.cli import Range
from llmc.launch import check_ranks, mpirun
from llmc.watched import watched

# Of one start, not of the run
OF_THIS_START = ("resume", "overwrite", "plain", "ranks", "comm", "rendezvous",
                 "rendezvous_timeout", "threads")
# What a run that is resumed may be told anew: the others decide what it learns
FREE = {*OF_THIS_START, "run", "steps", "epochs", "checkpoint_every", "keep", "val_every",
        "sample_every", "spike_z", "max_skips", "device", "ask"}


@dataclass
class Training:
    """Flags of a run that learns; a stage adds its own."""
    run: Path = Path("runs/new")    # the run's folder
    resume: bool = False        # go on from its newest checkpoint, with the settings it was
                                # started with
    overwrite: bool = False     # start anew where a run is
    steps: cli.CountOrZero = 0  # updates; 0: as many as the epochs take
    batch_size: Annotated[int, Range(1, 2**20)] = 8     # rows of a micro-batch, in each process
    total_batch_size: Annotated[int, Range(0, 2**40)] = 0   # tokens an update, over micro-batches
                                # and processes; 0: one micro-batch in each process
    seq_len: cli.CountOrZero = 0    # tokens a row; 0: the model's max_seq_len
    recompute: bool = False     # keep only each block's input and compute the rest again on the way
                                # back: less memory, a third more work
    optimizer: Literal["adamw", "muon"] = "adamw"   # muon: for the blocks' matrices
    lr: Annotated[float, Range(0, 100)] = 2e-5      # peak learning rate
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "linear"     # how it falls
    warmup_steps: cli.CountOrZero = 10  # updates over which it rises
    final_lr: Annotated[float, Range(0, 1)] = 0.0   # its last value, as a part of lr
    decay_fraction: Annotated[float, Range(0, 1)] = 0.2     # wsd: the part of the run over which it
                                # falls
    beta1: Annotated[float, Range(0, 0.999999)] = 0.9       # AdamW: memory of the gradient
    beta2: Annotated[float, Range(0, 0.999999999)] = 0.95   # AdamW: memory of its square
    eps: Annotated[float, Range(0, 1)] = 1e-8       # AdamW: added to the root
    muon_momentum: Annotated[float, Range(0, 0.999999)] = 0.95      # Muon: memory of the gradient
    weight_decay: Annotated[float, Range(0, 100)] = 0.0     # decoupled, on matrices only
    grad_clip: Annotated[float, Range(0, 1e9)] = 1.0        # largest gradient norm; 0: no clipping
    spike_z: Annotated[float, Range(0, 1e9)] = 8.0  # skip an update whose loss or norm lies this
                                # many standard deviations above the last 128; 0: only those not
                                # finite
    max_skips: Annotated[int, Range(1, 2**20)] = 3  # skips in a row after which the run goes back
                                # to its last checkpoint and passes over that data
    checkpoint_every: cli.CountOrZero = 250     # updates between checkpoints; 0: only at the end
    keep: cli.CountOrZero = 2   # newest checkpoints to keep; 0: all
    val_every: cli.CountOrZero = 50     # updates between looks at what is held out; 0: at the end
    sample_every: cli.CountOrZero = 100     # updates between samples; 0: only at the end
    seed: cli.Seed = 1337       # decides the order of the data, new weights and the samples
    dtype: Literal["auto", "f32", "bf16", "int8"] = "auto"  # of weights and activations; auto: as
                                # they are stored, int8 for adapters alone
    device: str = "cpu"         # as `llmc doctor` lists them
    threads: cli.Threads = 0    # 0: one for each processor
    ranks: cli.Count = 1        # processes that train together, started by mpirun
    comm: Literal["auto", "single", "mpi", "tcp"] = "auto"  # how processes talk
    rendezvous: str = ""        # host:port of rank 0, where processes meet over TCP, without MPI
    rendezvous_timeout: cli.Count = 600     # seconds to wait there for the others
    plain: bool = False         # print lines, as where there is no terminal
    given: ClassVar[frozenset[str]] = frozenset()   # of an instance: the flags that were given

    def noted(self) -> dict[str, Any]:
        """What its run remembers."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)
                if field.name not in OF_THIS_START and field.name != "run"}

    def same(self, name: str, before: Any, now: Any) -> bool:
        """Whether a setting is what it was."""
        return before == now

    def resumed(self) -> Training:
        """With the settings of the run that is gone on with, and those given now that may change.
        """
        path = self.run / "config.json"
        if not path.is_file():
            raise ValueError(f"--resume: there is no run at {self.run} (no config.json in it)")
        noted = disk.read_json(path, {"seed": int}, "move the run away, or start it anew")
        names = {field.name for field in fields(self)} & noted.keys() - {*OF_THIS_START, "run"}
        there = {name: noted[name] for name in names}
        try:                    # a person may have changed it, so it is read as flags are
            if empty := [field.name for field in fields(self) if field.name in names
                         and there[field.name] is None and _default(field) is not None]:
                raise ValueError(f"--{empty[0]} is null, wanted a value")
            was = cli.parse(type(self), cli.arguments(dataclasses.replace(self, **there), names),
                            f"llmc {type(self).__name__.lower()}")
            was = dataclasses.replace(was, **{name: value for name, value in there.items()
                                              if value == []})
        except ValueError as error:
            raise ValueError(f"{path}: {error}; put right what it holds, or start the run anew"
                             ) from error
        values = {}
        for name in names:
            now, before = getattr(self, name), getattr(was, name)
            if name in self.given and name not in FREE and not self.same(name, before, now):
                raise ValueError(f"--{name} was {before} and is {now} now; leave it out when "
                                 "resuming, or start another run")
            values[name] = now if name in self.given and name in FREE else before
        return dataclasses.replace(self, **values)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def start_ranks(config: Training, module: str) -> bool:
    """Where several ranks are asked for, mpirun starts this stage again as each of them; whether it
    did. Its failure is this program's."""
    check_ranks(config.ranks)
    if config.ranks == 1:
        return False
    named = {field.name for field in fields(config) if getattr(config, field.name) != _default(field)}
    alone = cli.arguments(config, (named | config.given) - {"ranks"})
    command, env = mpirun([sys.executable, "-m", module, *alone], config.ranks)
    if status := watched(command, env, config.plain):
        raise SystemExit(status)
    return True
