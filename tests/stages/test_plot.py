"""plot: what is read of a run's metrics, the averaged curve, and what is refused."""
from __future__ import annotations

import json

import numpy as np
import pytest

from llmc import cli
from llmc.plot import Plot, draw, read_metrics, run, smoothed


def llmc(*args: object) -> int:
    return cli.guarded(lambda: run(cli.parse(Plot, [str(arg) for arg in args])))


def metrics(folder, *lines: dict | str):
    folder.mkdir(exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def updates(count: int, **more) -> list[dict]:
    lines: list[dict] = []
    for step in range(1, count + 1):
        lines.append({"step": step, "loss": 8 / step, "lr": 1e-3, "skipped": True, **more})
        if step % 10 == 0:
            lines.append({"step": step, "val_loss": 9 / step, "val_bits_per_byte": 3 / step})
    return lines


def test_each_series_has_its_steps(tmp_path):
    series = read_metrics(metrics(tmp_path, *updates(30)))
    assert series.keys() == {"loss", "lr", "val_loss", "val_bits_per_byte"}
    assert series["loss"].shape == (30, 2)
    assert series["val_loss"].tolist() == [[10, 0.9], [20, 0.45], [30, 0.3]]


def test_a_step_that_was_repeated_counts_once_and_what_is_not_finite_is_a_gap(tmp_path):
    series = read_metrics(metrics(tmp_path, {"step": 2, "loss": 5}, {"step": 1, "loss": None},
                                  {"step": 2, "loss": 4}, '{"step": 3, "loss": Infinity}', "",
                                  {"step": 4, "loss": -1e308}, {"step": 5, "loss": 10**400}))
    assert series["loss"][:, 0].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(series["loss"][:, 1], [np.nan, 4, np.nan, np.nan, np.nan])


def test_a_torn_last_line_is_passed_over(tmp_path):
    metrics(tmp_path, *updates(3))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert len(read_metrics(tmp_path)["loss"]) == 3


def test_the_average_is_of_what_is_near_and_finite():
    values = np.array([9.0, 1, 2, np.nan, 4, 5, 6])
    np.testing.assert_allclose(smoothed(values, 1), values)
    np.testing.assert_allclose(smoothed(values, 3), [9, 4, 1.5, 3, 4.5, 5, 5.5])
    np.testing.assert_allclose(smoothed(np.full(50, 3.0), 9), 3)
    assert np.isnan(smoothed(np.array([np.nan, np.nan]), 3)).all()


def test_a_figure_shows_each_run_in_its_colour(tmp_path):
    runs = {name: read_metrics(metrics(tmp_path / name, *updates(40))) for name in ("one", "two")}
    figure = draw(runs)
    losses, rates = figure.axes
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [f"{name}  {what}" for what in (
        "training, 0.200 at the end", "validation, 0.225 at best (0.075 bits a byte)")
        for name in runs]
    colours = [line.get_color() for line in losses.get_lines()]
    assert colours[:3] == [colours[0]] * 3 and colours[3:] == [colours[3]] * 3
    assert colours[0] != colours[3]
    assert [line.get_color() for line in rates.get_lines()] == [colours[0], colours[3]]
    np.testing.assert_array_equal(losses.get_lines()[2].get_xydata(), runs["one"]["val_loss"])


def test_the_png_is_written_where_asked_or_in_the_run(tmp_path, capsys):
    one = metrics(tmp_path / "one", *updates(5))
    two = metrics(tmp_path / "two", {"step": 1, "val_loss": 3})
    for path, args in ((one / "plots/loss.png", (one,)), (
            tmp_path / "x/y.png", (one, two / "metrics.jsonl", "--out", tmp_path / "x/y.png"))):
        assert llmc(*args) == 0
        assert path.read_bytes().startswith(b"\x89PNG")
        assert capsys.readouterr().out == f"saved {path}\n"


@pytest.mark.parametrize("text, message", [
    ("", "metrics.jsonl holds no losses"), ('{"step": 1, "lr": 2}\n', "holds no losses"),
    ('{"step": 1, "loss": null}\n', "holds no losses"), ('{"loss": 1}\n', ":1: 'step' is missing"),
    ('{"step": 1, "loss": 1}\noops\n', ":2 is no JSON"), ("[1]\n", ":1 holds list, wanted an ob"),
    ('{"step": null, "loss": 1}\n', ":1: 'step' is NoneType"), ("\x00\x00\n", ":1 is no JSON"),
    ('{"step": 1e300, "loss": 1}\n', ":1: 'step' is float, wanted int"),
    ('{"step": %d, "loss": 1}\n' % 10**400, ":1: 'step' is no number of updates"),
    ("[" * 100_000 + "\n", ":1 is no JSON")])
def test_metrics_without_losses_are_one_line(text, message, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text(text)
    assert llmc(tmp_path) == 1
    err = capsys.readouterr().err
    assert message in err and err.startswith("llmc: ") and err.count("\n") == 1
    assert not (tmp_path / "plots").exists()


def test_large_and_missing_numbers_draw_without_a_warning(tmp_path, recwarn):
    assert llmc(metrics(tmp_path, {"step": 1, "loss": 1e29, "lr": -1e29}, {"step": 2, "loss": -1e29},
                        {"step": 10**15, "val_loss": 3, "val_bits_per_byte": None})) == 0
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("args", [["--smooth", "1e30"], ["--smooth", "-1"]])
def test_numbers_out_of_range_are_one_line(args, tmp_path, capsys):
    assert llmc(metrics(tmp_path, *updates(3)), *args) == 1
    err = capsys.readouterr().err
    assert "--smooth is" in err and ", wanted 0 to 2147483647\n" in err and err.count("\n") == 1


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "none"):
        assert llmc(path) == 1
        assert "No such file" in capsys.readouterr().err
    assert llmc() == 1
    assert "missing: RUNS" in capsys.readouterr().err
