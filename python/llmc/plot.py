"""Runs to a picture: training and validation loss over the updates, and the learning rate.

Reads RUN/metrics.jsonl: one JSON object a line, with step and loss, lr, … or val_loss.
"""
from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmc import cli, disk

LARGEST = 1e30                  # sums and axes of larger numbers overflow; a loss is none of them
COLOURS = ("#1f6fb4", "#d1495b", "#2a9d63", "#8a5fbf", "#e08e1b", "#3aa6b9", "#7a6a58", "#c8579b")


@dataclass
class Plot:
    """Draw the loss curves of one or more runs."""
    runs: list[Path] = cli.positional()     # folders of runs, or their metrics.jsonl
    out: Path | None = None     # the PNG; without it, plots/loss.png in the first run
    smooth: cli.CountOrZero = 0     # updates that training loss is averaged over; 0: a fiftieth


def run(config: Plot) -> None:
    """Draw, save, and say where."""
    runs = {_name(path, config.runs): read_metrics(path) for path in config.runs}
    out = config.out or _folder(config.runs[0]) / "plots" / "loss.png"
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out is {out}, but a PNG is written; wanted a name that ends in .png")
    image = io.BytesIO()
    draw(runs, config.smooth).savefig(image, dpi=150, format="png")
    out.parent.mkdir(parents=True, exist_ok=True)
    disk.write_whole(out, image.getvalue())
    print(f"saved {out}")


def read_metrics(run: Path) -> dict[str, np.ndarray]:
    """Every number of a run's metrics: name -> (n, 2) of step and value, NaN where that is none or
    has no end. A last line that is not whole, as a killed program leaves, is passed over."""
    path = run / "metrics.jsonl" if run.is_dir() else run
    lines = path.read_bytes().split(b"\n")
    series: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = disk.parse_json(line, f"{path}:{number}", {"step": int})
            if not 0 <= values["step"] < 2**53:
                raise ValueError(f"{path}:{number}: 'step' is no number of updates")
        except ValueError:
            if number == len(lines):
                break
            raise
        step = values.pop("step")
        for key, value in values.items():
            if value is None or type(value) in (int, float):
                finite = value is not None and abs(value) < LARGEST
                series.setdefault(key, {})[step] = float(value) if finite else np.nan
    series = {key: points for key, points in series.items()
              if np.isfinite(list(points.values())).any()}
    if not series.keys() & {"loss", "val_loss"}:
        raise ValueError(f"{path} holds no losses; has the run made its first update?")
    return {key: np.array(sorted(points.items())) for key, points in series.items()}


def smoothed(values: np.ndarray, updates: int) -> np.ndarray:
    """The mean of `updates` values around each, of those that are finite. Near the beginning, where
    a loss falls fast, of as many as lie on either side."""
    count = len(values)
    at = np.arange(count)
    half = np.minimum(at, updates // 2)
    low, high = at - half, np.minimum(at + half + 1, count)
    finite = np.isfinite(values)
    sums = np.concatenate([[0], np.cumsum(np.where(finite, values, 0))])
    seen = np.concatenate([[0], np.cumsum(finite)])
    with np.errstate(invalid="ignore"):
        return (sums[high] - sums[low]) / (seen[high] - seen[low])


def draw(runs: dict[str, dict[str, np.ndarray]], smooth: int = 0):
    """A matplotlib Figure: losses above, learning rates below where there are any."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    rates = any("lr" in series for series in runs.values())
    grid = figure.subplots(1 + rates, 1, sharex=True, squeeze=False,
                           height_ratios=(4, 1) if rates else None)
    losses, lr = grid[0, 0], grid[-1, 0]
    for i, (name, series) in enumerate(runs.items()):
        colour = COLOURS[i % len(COLOURS)]
        _draw_loss(losses, name, series, colour, smooth)
        if "lr" in series:
            wider = 1.2 * (len(runs) - 1 - i)       # so that equal ones do not hide each other
            lr.plot(*series["lr"].T, color=colour, linewidth=1.5 + wider)
    for axes in grid[:, 0]:
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    losses.set_ylabel("loss, nats a token")
    lines = sorted((line for line in losses.get_lines() if line.get_label()[0] != "_"),
                   key=lambda line: line.get_linestyle() != "-")       # a column each
    figure.legend(handles=lines, loc="outside upper left", ncols=2, frameon=False)
    if rates:
        lr.set_ylabel("learning rate")
        lr.set_ylim(bottom=0)
        lr.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
        figure.align_ylabels()
    grid[-1, 0].set_xlabel("update")
    return figure


def _draw_loss(axes, name: str, series: dict[str, np.ndarray], colour: str, smooth: int) -> None:
    """Training loss, pale as it is and clear when averaged; validation loss dotted on a line."""
    if "loss" in series:
        steps, loss = series["loss"].T
        average = smoothed(loss, smooth or max(1, len(loss) // 50))
        axes.plot(steps, loss, color=colour, alpha=0.25, linewidth=0.8,
                  marker="." if len(loss) == 1 else "")
        axes.plot(steps, average, color=colour, linewidth=1.6,
                  label=f"{name}  training, {average[-1]:.3f} at the end")
    if "val_loss" in series:
        steps, loss = series["val_loss"].T
        label = f"{name}  validation, {np.nanmin(loss):.3f} at best"
        if "val_bits_per_byte" in series:
            label += f" ({np.nanmin(series['val_bits_per_byte'][:, 1]):.3f} bits a byte)"
        axes.plot(steps, loss, color=colour, linewidth=1.2, linestyle="--", label=label,
                  marker="o", markevery=max(1, len(loss) // 20), markersize=4.5,
                  markerfacecolor="white", markeredgewidth=1.4)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _name(path: Path, among: list[Path]) -> str:
    """What a run is called in the legend: its folder's name, or its path where names are equal."""
    names = [_folder(other).resolve().name for other in among]
    name = _folder(path).resolve().name
    return name if names.count(name) == 1 else str(path)


if __name__ == "__main__":
    cli.main(run)
