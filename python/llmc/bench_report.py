"""Rows of llmc.bench as lines of text and as a picture."""
from __future__ import annotations

import statistics
import sys
from typing import Any

Row = dict[str, Any]
GIGA, TERA = 1e9, 1e12


def head(machine: dict[str, Any], peak: dict[str, float]) -> str:
    peer = f", against {machine['peer']}" if machine["peer"] else ""
    gpu = f"{machine['gpu']} (" + (f"{flops(machine['sheet'])} in bf16 by its data sheet"
                                   if machine["sheet"] else "its data sheet is not known here")
    products = [f"{flops(peak[dtype])} in {dtype}" for dtype in ("f32", "bf16", "int8")
                if dtype in peak]
    return ((f"{gpu}); " if machine["gpu"] else "")
            + f"{machine['processor']}; device {machine['device']}, "
            f"{machine['threads']} threads{peer}\n"
            f"load of the machine at the start: {machine['load']:.1f}\n"
            f"peak measured now: products {', '.join(products)}; "
            f"memory read at {peak['read'] / GIGA:.1f} GB/s, "
            f"copied at {peak['copy'] / GIGA:.1f}")


def number(x: float) -> str:
    return f"{x:.1f}" if x >= 1 else f"{x:.4f}"         # what is emulated is small


def flops(rate: float) -> str:
    """In GFLOP/s, or in TFLOP/s as GPUs reach."""
    if rate >= 10 * TERA:
        return f"{number(rate / TERA)} TFLOP/s"
    return f"{number(rate / GIGA)} GFLOP/s"


def columns(group: str, against: str) -> str:
    """The line above a group's rows; `against` is the peer, or empty. +- is half of what lies
    between the quickest round and the slowest, as a part of the median."""
    text = f"\n{group:<38}{'':>5}{'ms':>10}{'+-':>7}{'rate':>9} {'':<8}{'of peak':>8}"
    if group in ("train", "decode", "loader"):
        text += f"{'tok/s':>12}"
    if against:
        text += f"{against + ' ms':>14}{'+-':>7}{'ratio':>8}"
    return text


def line(row: Row) -> str:
    ours = row["sides"]["llmc"]
    text = f"  {row['name']:<36}{row['dtype']:>5}"
    if "rate" not in row:
        return f"{text}  not measured: {ours['error']}"
    rate, unit = (flops(row["rate"]) if row["unit"] == "FLOP/s"
                  else f"{number(row['rate'] / GIGA)} GB/s").split()
    text += f"{times(ours)}{rate:>9} {unit:<8}{row['share']:>8.0%}"
    if row["tokens"]:
        text += f"{row['tokens'] / ours['seconds']:>12.0f}"
    if "ratio" in row:
        text += f"    {times(row['sides'][row['peer']])}{row['ratio']:>8.2f}"
        tried = row["sides"][row["peer"]].get("tried") or {}
        name = min(tried, key=tried.get) if tried else row["peer"]
        text += f" {name}" if name != "torch" else ""
    for side, answer in row["sides"].items():
        text += f"\n    {side}: {answer['error']}" if "error" in answer else ""
    return text


def times(side: Row) -> str:
    spread = (max(side["rounds"]) - min(side["rounds"])) / 2 / side["seconds"]
    return f"{1e3 * side['seconds']:>10.{1 if side['seconds'] > 0.01 else 3}f}{spread:>7.0%}"


def sides(machine: dict[str, Any], rows: list[Row]) -> str:
    """Of train steps, every side: time, tokens a second, its share of the peak's and the data
    sheet's FLOP/s (MFU), and the most memory it held."""
    steps = [row for row in rows if row["group"] == "train" and "rate" in row]
    text, sheet = "", machine["sheet"]
    if steps:
        text = (f"\n{'train, each side':<38}{'':>17}{'ms':>10}{'+-':>7}{'tok/s':>12}{'MFU':>7}"
                + (f"{'of sheet':>10}" if sheet else "") + f"{'peak GB':>10}\n")
    for row in steps:
        top = row["rate"] / row["share"]
        for name, side in row["sides"].items():
            if "error" in side:
                continue
            rate = row["amount"] / side["seconds"]
            text += (f"  {row['name']:<36}{row['dtype']:>5}  {name:<10}{times(side)}"
                     f"{row['tokens'] / side['seconds']:>12.0f}{rate / top:>7.1%}"
                     + (f"{rate / sheet:>10.1%}" if sheet else "")
                     + f"{side['peak_bytes'] / GIGA:>10.2f}\n")
    return text


def parts(rows: list[Row], peak: dict[str, float]) -> str:
    """Of train steps of llmc, every op, each waited for by itself: calls, time, share of the step,
    and what it reaches of the peaks."""
    text = ""
    for row in rows:
        ops = row.get("parts") or {}
        if ops:
            title = f"{row['name']} {row['dtype']}, llmc by part"
            text += (f"\n{title:<48}{'calls':>10}{'ms':>10}{'share':>8}{'FLOP/s':>9}"
                     f"{'memory':>9}\n")
        whole = sum(op["seconds"] for op in ops.values())
        for name, op in sorted(ops.items(), key=lambda item: -item[1]["seconds"]):
            text += (f"  {name:<46}{op['calls']:>10}{1e3 * op['seconds']:>10.3f}"
                     f"{op['seconds'] / whole:>8.1%}"
                     f"{op['flops'] / op['seconds'] / peak[row['dtype']]:>9.1%}"
                     f"{op['bytes'] / op['seconds'] / peak['copy']:>9.1%}\n")
    return text


def summary(rows: list[Row]) -> str:
    """Of products against the peer: the median ratio and the lowest."""
    text = ""
    for dtype in ("f32", "bf16"):
        some = [row for row in rows
                if row["group"] == "matmul" and row["dtype"] == dtype and "ratio" in row]
        if some:
            worst = min(some, key=lambda row: row["ratio"])
            text += (f"\nproducts in {dtype}, {len(some)} shapes: "
                     f"{statistics.median(row['ratio'] for row in some):.2f} x PyTorch's speed "
                     f"in the median, {worst['ratio']:.2f} at least ({worst['name']})")
    return text + "\n" if text else ""


def status(text: str) -> None:
    """What is being done, on a terminal: overwritten by the next, gone with an empty one."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def draw(machine: dict[str, Any], rows: list[Row]):
    """A matplotlib Figure: bars of ratios where there is a peer, to the right of 1 where llmc is
    faster; else of shares of the peak."""
    from matplotlib.figure import Figure

    key, base = ("ratio", 1) if any("ratio" in row for row in rows) else ("share", 0)
    rows = [row for row in rows if key in row]
    panels = [[row for row in rows if row["dtype"] == dtype]
              for dtype in ("f32", "bf16", "int8", "")]
    panels = [some for some in panels if some]
    height = 1.2 + 0.2 * max(map(len, panels))
    figure = Figure(figsize=(5.5 * len(panels), height), layout="constrained")
    groups = dict.fromkeys(row["group"] for row in rows)
    colours = {group: f"C{i}" for i, group in enumerate(groups)}
    for axes, some in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        bars = axes.barh(range(len(some)), [row[key] - base for row in some], 0.75, left=base,
                         color=[colours[row["group"]] for row in some])
        axes.bar_label(bars, [f"{row[key]:.2f}" for row in some], padding=2, fontsize=7)
        axes.set_yticks(range(len(some)), [row["name"] for row in some], fontsize=7)
        axes.axvline(1, color="#444444", linewidth=0.9)
        axes.set_title(some[0]["dtype"] or "tokens")
        if base:
            axes.set_xscale("log")
        axes.margins(x=0.15, y=0.01)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    what = f"speed as a multiple of that of {machine['peer']}" if base else "share of the peak"
    where = machine["gpu"] or machine["processor"]
    figure.suptitle(f"{what}; {where}, {machine['device']}", fontsize=9)
    return figure
