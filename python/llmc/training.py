"""A stage's loss, and a run that learns by it: what every stage that trains shares.

A stage says what one update learns from; this module makes the updates, as train_gpt2 does: over
micro-batches and ranks, past spikes, with checkpoints that a run goes on from bit by bit, a line of
metrics each, and a look at the model now and then.
"""
from __future__ import annotations

import json
import math
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

from llmc import _core, cli, disk
from llmc._core import Comm, Model, Progress, Trainer
from llmc.training_flags import Training

MOST_ROLLBACKS = 10
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)   # the last is mpirun's


class Load(NamedTuple):
    """What this rank does in an update, and how much all ranks do together."""
    micro_batches: int
    cursor: int                 # of the update behind it
    targets: int                # what is learned from; 0: the update is passed over
    tokens: int                 # what is read, padding not counted


class Look(NamedTuple):
    """What was found on data that is held out."""
    says: str                   # for a person
    numbers: dict[str, float]   # by their names in metrics.jsonl


class Stage(Protocol):
    """What is trained, and by which loss."""

    def load(self, cursor: int, comm: Comm) -> Load:
        """The update that begins at a cursor."""

    def learn(self, micro_batch: int, accumulate: bool) -> float:
        """Adds the gradients of one micro-batch of it; its part of the loss of all ranks."""

    def sound(self) -> bool:
        """Whether the model makes numbers of what it learned from last, and neither NaN nor inf."""

    def look(self) -> Look | None:
        """At data that is held out, if there is any."""

    def sample(self, step: int) -> str:
        """What the model says; "" for nothing. Of the first rank alone."""

    def save(self, folder: Path) -> None:
        """What a checkpoint holds beside weights, optimizer and progress. Of the first rank."""


@dataclass
class Update:
    """One that was tried."""
    loss: float
    norm: float
    lr: float
    seconds: float
    load: Load
    reason: str = ""            # why it was not applied
    spike: bool = False
    z: float = 0.0              # standard deviations of the spike
    broken: str = ""            # the first that is not finite
    stop: bool = False          # a rank was asked to stop


class Loop:
    """The updates of a run, until its steps are made or it is asked to stop."""

    def __init__(self, config: Training, stage: Stage, model: Model, comm: Comm, steps: int,
                 tokenizer: int, say: Callable[[str], None]):
        """tokenizer: its fingerprint, which a run that is resumed must have again; say: takes the
        lines of the first rank."""
        self.config, self.stage, self.model, self.comm = config, stage, model, comm
        self.steps, self.first = steps, comm.rank == 0
        self._reader: Callable[[str], None] | None = say if self.first else None
        self.trainer = Trainer(
            model, config.beta1, config.beta2, config.eps, config.weight_decay, config.grad_clip,
            config.optimizer, config.muon_momentum, seed=config.seed, comm=comm)
        self.progress = Progress(config.spike_z)
        self.progress.tokenizer = tokenizer
        self.stopping = False

    def open(self, data: str) -> None:
        """Begin the run's folder, or go on where its newest checkpoint stands. data: the data's
        fingerprint; a run goes on with the data that it was started with."""
        config = self.config
        note = config.run / "config.json"
        if config.resume and disk.read_json(note, {"data_fingerprint": str}, "start the run anew"
                                            )["data_fingerprint"] != data:
            raise ValueError(f"{config.run} was started with other data than is there now; bring "
                             "that back, or start another run")
        start = "resume" if config.resume else "overwrite" if config.overwrite else "new"
        self.run = _core.Run(str(config.run), start, self.comm)
        folder = _core.checkpoint_latest(self.run.checkpoints) if config.resume else None
        if folder:
            self._load(folder)
        elif config.resume:
            self.say(f"no checkpoint in {self.run.checkpoints}: starting at step 0")
        if self.progress.step >= self.steps:
            raise ValueError(f"the run has made {self.progress.step:,} steps of {self.steps:,}; "
                             "give a larger --steps or --epochs to go on")
        self.run.rewind(self.progress)
        if self.first:
            noted = config.noted() | {"data_fingerprint": data}
            text = json.dumps(noted, indent=1, ensure_ascii=False) + "\n"
            disk.write_whole(note, text.encode())

    def train(self) -> None:
        """All updates that are left; one that was begun when a signal came is made."""
        config, saved, stop = self.config, self.progress.step, False
        with self._signals():
            while self.progress.step < self.steps and not stop:
                update = self._update()
                progress = self.progress
                progress.step += 1
                progress.cursor = update.load.cursor
                progress.tokens += update.load.tokens
                stop = update.stop
                self._note(update)
                if not update.reason:
                    progress.skips_in_a_row = 0
                elif self._refused(update):
                    continue
                if self._pause(stop):
                    saved = progress.step
            if saved != self.progress.step:
                self._save()
        if stop:
            self.say(f"stopped    at step {self.progress.step}; --resume continues")

    def say(self, text: str) -> None:
        """A line for a person. When whoever read them is gone there is nobody to train for, but
        what was learned is kept."""
        try:
            if self._reader:
                self._reader(text)
        except OSError:
            self._reader, self.stopping = None, True

    def _pause(self, last: bool) -> bool:
        """Between updates: looks, samples and saves where that is due; whether it saved. A model
        that an update broke writes nothing and takes no good checkpoint's place: the guard refuses
        what follows and goes back; behind the last update nothing follows."""
        config, step = self.config, self.progress.step
        end = step == self.steps
        look, sample, save = (end or _due(step, every) for every in (
            config.val_every, config.sample_every, config.checkpoint_every))
        save |= last
        if not (look or sample or save):
            return False
        sound = self._sound() and (not look or self._look())
        if not sound and (end or last):
            self._give_up()
        if not sound:
            self.say(f"not saved  step {step}: the model's loss is not finite")
            return False
        if sample:
            self._sample()
        if save:
            self._save()
        return save

    def _sound(self) -> bool:
        """Whether the model of every rank makes numbers."""
        return not self.comm.sums([not self.stage.sound()])[0]

    def _give_up(self) -> NoReturn:
        folder, step = _core.checkpoint_latest(self.run.checkpoints), self.progress.step
        kept = f"{folder} is from before" if folder else "there is no checkpoint from before"
        advice = ("--resume goes on from there" if folder and step < self.steps else
                  "start anew with a lower --lr, or look at the data")
        raise ValueError(f"the model has diverged: at step {step} its loss is not finite, and it "
                         f"is not saved; {kept}; {advice}")

    # ---- an update -------------------------------------------------------------------------------

    def _update(self) -> Update:
        """Sums losses and gradients over micro-batches and ranks; applies what looks sane."""
        config, progress = self.config, self.progress
        begin = time.perf_counter()
        lr = _core.schedule_lr(progress.step, config.schedule, config.lr, config.final_lr,
                               config.decay_fraction, config.warmup_steps, self.steps)
        load = self.stage.load(progress.cursor, self.comm)
        broken, loss = "", 0.0
        for number in range(load.micro_batches if load.targets else 0):
            accumulate = self.trainer.micro_batch(number, load.micro_batches)
            part = self.stage.learn(number, accumulate)
            if not math.isfinite(part):
                broken = broken or self.model.first_nonfinite() or ""
            loss += part
        loss, stops = self.comm.sums([loss, self.stopping])
        update = Update(loss, 0.0, lr, 0.0, load, stop=stops > 0)
        if load.targets:
            update.norm = self.trainer.reduce()
            update.reason, update.spike, update.z = progress.judge(loss, update.norm)
            if update.reason and not update.spike:
                update.broken = self.comm.first_said(broken or self.trainer.first_nonfinite() or "")
        else:
            update.reason = "nothing in it is to be learned"
        if not update.reason:
            self.trainer.apply(lr)
            progress.enter(loss, update.norm)
        update.seconds = time.perf_counter() - begin
        return update

    def _note(self, update: Update) -> None:
        """A line for a person, and one of metrics."""
        speed = update.load.tokens / update.seconds
        tflops = self.model.config.train_flops(self.config.seq_len) * speed / 1e12
        step = self.progress.step
        self.say(f"step {step:6}/{self.steps} | loss {update.loss:8.4f} | lr {update.lr:.2e} | "
                 f"norm {update.norm:8.4f} | {1e3 * update.seconds:8.1f} ms | {speed:8.0f} tok/s | "
                 f"{tflops:.3f} TFLOP/s")
        numbers = {"step": step, "loss": update.loss, "lr": update.lr, "grad_norm": update.norm,
                   "ms": 1e3 * update.seconds, "tokens_per_second": speed, "tflops": tflops}
        self._metric(numbers | ({"skipped": True} if update.reason else {}))

    def _refused(self, update: Update) -> bool:
        """An update that was not applied is said and counted; whether the run went back to another
        step."""
        progress = self.progress
        progress.skipped += 1
        notes = []
        if update.spike:
            notes.append(f"{update.z:.1f} standard deviations above the last updates")
        if update.broken:
            notes.append(f"the first that is not finite: {update.broken}")
        self.say(f"skipped    step {progress.step}: {update.reason}"
                 + "".join(f" ({note})" for note in notes))
        if update.load.targets:
            progress.skips_in_a_row += 1
        if progress.skips_in_a_row < self.config.max_skips:
            return False
        return self._go_back(update.spike)

    def _go_back(self, finite: bool) -> bool:
        """Too many refusals in a row: the weights of the last checkpoint, and the data since then
        is passed over. Where that cannot be or did not help, losses that are finite are what this
        run has come to."""
        progress = self.progress
        here, skipped, rollbacks = progress.cursor, progress.skipped, progress.rollbacks + 1
        folder = _core.checkpoint_latest(self.run.checkpoints)
        if finite and (not folder or rollbacks > MOST_ROLLBACKS):
            progress.forget()
            progress.skips_in_a_row = 0
            self.say("went on    " + ("after many returns to a checkpoint" if folder else
                                      "without a checkpoint to go back to")
                     + "; spikes are measured anew")
            return False
        refused = f"{self.config.max_skips} updates in a row were refused"
        if not folder:
            if self._sound():
                self._save()            # the weights of the last update that was applied
            raise ValueError(f"{refused}, and there is no checkpoint to go back to; lower --lr, or "
                             "look at the data")
        if rollbacks > MOST_ROLLBACKS:
            raise ValueError(f"{refused}, after {MOST_ROLLBACKS} returns to a checkpoint; lower "
                             "--lr or look at the data")
        self._load(folder)
        self.progress.cursor, self.progress.skipped = here, skipped
        self.progress.rollbacks, self.progress.skips_in_a_row = rollbacks, 0
        self.say(f"went back  to {folder}; the data since then is passed over")
        return True

    # ---- looking ---------------------------------------------------------------------------------

    def _look(self) -> bool:
        """Whether what was found are numbers."""
        look = self.stage.look()
        if look is None:
            return True
        self.say(look.says)
        self._metric({"step": self.progress.step} | look.numbers)
        return all(map(math.isfinite, look.numbers.values()))

    def _sample(self) -> None:
        text = self.stage.sample(self.progress.step) if self.first else ""
        if text:
            self.run.sample(self.progress.step, text)
            self.say(f"---- sample at step {self.progress.step}\n{text}\n----")

    def _metric(self, numbers: dict[str, Any]) -> None:
        self.run.metric(json.dumps({name: value if math.isfinite(value) else None
                                    for name, value in numbers.items()}))

    # ---- checkpoints -----------------------------------------------------------------------------

    def _save(self) -> None:
        progress, places = self.progress, self.run.checkpoints
        progress.updates = self.trainer.updates
        progress.update_tokens = self.config.total_batch_size
        self.run.note_sizes(progress)
        unfinished = _core.UnfinishedCheckpoint(places, progress.step) if self.first else None
        self.comm.barrier()
        folder = _core.checkpoint_path(places, progress.step, False)
        self.trainer.save(folder)
        if self.first:
            (Path(folder) / "config.json").write_text(self.model.config.to_json(), encoding="utf-8")
            self.stage.save(Path(folder))
            progress.write(folder)
        self.comm.barrier()
        if unfinished:
            unfinished.commit(self.config.keep)
        self.say(f"saved      {_core.checkpoint_path(places, progress.step)}")
        self.comm.barrier()

    def _load(self, folder: str) -> None:
        """Weights, optimizer and progress."""
        try:
            found = Progress.read(folder, self.config.spike_z)
            if found.tokenizer != self.progress.tokenizer:
                raise ValueError(f"{folder}: trained with tokenizer {found.tokenizer:016x}, and "
                                 f"this is {self.progress.tokenizer:016x}; give the model the run "
                                 "was started with")
            self.trainer.load(folder, found.updates)
        except _core.LlmcError as error:
            before = _core.checkpoint_before(folder)
            raise ValueError(f"{error}; move that checkpoint away to resume from {before}"
                             if before else str(error)) from error
        self.progress = found

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C, a polite end, a closed terminal: the update is made, saved, and the run ends. A
        second one ends it at once."""
        def ask(number: int, frame: object) -> None:
            self.stopping = True
            signal.signal(number, signal.SIG_DFL)

        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN     # nohup: the run is to go on
        before = {number: signal.signal(number, ask) for number in SIGNALS
                  if not (ignored and number == signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def processes(config: Training) -> Iterator[Comm]:
    """The ranks that train together. Where one fails all end, and its sentence is said once."""
    comm = Comm(config.comm, config.rendezvous, float(config.rendezvous_timeout))
    try:
        yield comm
    except Exception as error:
        if comm.ranks == 1:
            raise
        if not cli.is_users(error):
            traceback.print_exc()
        comm.abort(cli.sentence(error))


@contextmanager
def shown(plain: bool) -> Iterator[Callable[[str], None]]:
    """Takes lines such as train_gpt2's: on a terminal they become a picture that stays in its
    place."""
    if plain or not sys.stdout.isatty():
        yield partial(print, flush=True)
        return
    from rich.console import Console

    from llmc.train_display import TrainDisplay

    def feed(text: str) -> None:
        for line in text.split("\n"):
            display.feed(line)

    display = TrainDisplay(Console())
    display.__enter__()
    try:
        yield feed
    finally:
        with suppress(OSError):         # a terminal that is gone draws no end
            display.__exit__()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
