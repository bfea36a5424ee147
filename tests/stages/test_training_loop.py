"""The loop that stages share: what it passes over, where it goes back to, and what it counts."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tuning
from llmc import sft
from llmc._core import Comm, Model
from llmc.checkpoint import open_checkpoint
from llmc.training import Load, Loop
from training import metrics


class Odd:
    """A stage with one row for each update; some have nothing to learn, some are no numbers."""

    def __init__(self, model: Model, nothing=(), broken=()):
        self.model, self.nothing, self.broken = model, nothing, broken
        self.seen: list[int] = []

    def load(self, cursor: int, comm: Comm) -> Load:
        self.cursor = cursor
        self.seen.append(cursor)
        return Load(1, cursor + 1, 0 if cursor in self.nothing else 8, 8)

    def learn(self, micro_batch: int, accumulate: bool) -> float:
        tokens = np.random.default_rng(self.cursor).integers(0, 60, (1, 8)).astype(np.int32)
        slope = np.full((1, 8), np.nan if self.cursor in self.broken else -1 / 8, np.float32)
        found = self.model.train(tokens, tokens, {"logp": slope}, accumulate=accumulate)
        return float("nan") if self.cursor in self.broken else -float(found["logp"].mean())

    def sound(self) -> bool:
        return self.cursor not in self.broken

    def look(self) -> None: ...

    def sample(self, step: int) -> str:
        return ""

    def save(self, folder: Path) -> None: ...


@pytest.fixture
def loop(tmp_path):
    """Makes a loop of so many steps, and opens its run."""
    model = open_checkpoint(tuning.base_model(tmp_path / "base")).model
    model.plan(1, 8)

    def made(steps: int, said: list[str] | None = None, **odd) -> Loop:
        config = sft.Sft(run=tmp_path / "run", seq_len=8, lr=1e-3, checkpoint_every=4)
        found = Loop(config, Odd(model, **odd), model, Comm("single"), steps, 0, (said if said is not None else []).append)
        found.open("none")
        return found
    return made


def test_an_update_with_nothing_to_learn_is_passed_over_and_counted(loop, tmp_path):
    said: list[str] = []
    made = loop(6, said, nothing=(1, 3, 5))
    made.train()
    lines = metrics(tmp_path / "run")
    assert [line.get("skipped", False) for line in lines] == [False, True] * 3
    assert made.trainer.updates == 3 and all(np.isfinite(line["loss"]) for line in lines)
    assert sum("nothing in it is to be learned" in line for line in said) == 3


def test_after_too_many_refusals_a_run_goes_back_and_passes_over_the_data(loop):
    said: list[str] = []
    made = loop(14, said, broken=(5, 6, 7))
    made.train()
    assert made.stage.seen == list(range(18))           # from step 4 on others are learned from
    assert made.progress.step == 14 and made.progress.rollbacks == 1 and made.progress.skipped == 3
    assert sum(line.startswith("went back") and "step_00000004" in line for line in said) == 1
    assert made.trainer.updates == 14 and np.isfinite(made.model.get("wte.weight")).all()


def test_a_model_that_is_broken_takes_no_good_checkpoint_s_place(loop):
    """On the way the guard goes back."""
    made = loop(14, broken=(7, 8, 9))
    saves: list[int] = []
    save = made._save
    made._save = lambda: (saves.append(made.progress.step), save())
    made.train()
    assert saves == [4, 8, 12, 14] and made.stage.seen[7:] == [7, 8, 9, *range(10, 20)]


def test_a_run_that_ends_broken_says_which_checkpoint_is_good(loop):
    made = loop(6, broken=(4, 5))
    with pytest.raises(ValueError, match="diverged: at step 6 .*step_00000004 is from before; start anew with a lower"):
        made.train()


def test_a_run_that_cannot_be_helped_ends_with_one_sentence(loop):
    made = loop(20, broken=range(5, 100))
    with pytest.raises(ValueError, match="after 10 returns to a checkpoint; lower --lr or look at the data"):
        made.train()
