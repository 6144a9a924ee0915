"""Pictures of a run: plot.png with loss, rate, gradient norm and accuracy by steps and by minutes; reliability.png."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npsiglip.atomic import write_all
from npsiglip.errors import InputError
from npsiglip.evaluation.plots import reliability
from npsiglip.interrupts import deferred
from npsiglip.train.metrics_log import read_metrics

FILE = "plot.png"
RELIABILITY = "reliability.png"
NO_ACCURACY = ("step", "seconds")  # of the lines that an evaluation writes


def _column(lines: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    found = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in found], [value for _, value in found]


def _minutes(lines: list[dict[str, Any]]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Steps to minutes and back, for a second axis; a run's time is not quite linear in its steps."""
    steps = np.array([0.0, *(line["step"] for line in lines)])
    minutes = np.array([0.0, *(line["seconds"] / 60 for line in lines)])
    rate = max(minutes[-1], 1e-9) / max(steps[-1], 1.0)
    return lambda x: np.asarray(x) * rate, lambda x: np.asarray(x) / rate


def _figure(width: float, height: float) -> Any:
    """An empty figure; None where matplotlib is missing."""
    try:
        with deferred():
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Any, folder: Path, name: str) -> None:
    try:
        write_all(folder, {name: lambda path: figure.savefig(path, dpi=110)})
    except OSError as error:
        raise InputError(f"{folder / name} cannot be written: {error}") from None


def draw_plot(folder: Path, phase_ends: list[int] | None = None) -> bool:
    """Draw the metrics of a folder; False where matplotlib is missing or there is nothing to draw yet.

    Args:
        folder: of the run.
        phase_ends: steps at which the data change, drawn as thin lines.

    Raises:
        InputError: the file cannot be written.
    """
    lines = read_metrics(folder)
    figure = _figure(9, 9) if len(lines) > 1 else None
    if figure is None:
        return False
    loss, rate, accuracy = figure.subplots(3, 1, sharex=True)
    loss.plot(*_column(lines, "loss"), linewidth=1)
    loss.set(ylabel="loss", yscale="log")
    loss.secondary_xaxis("top", functions=_minutes(lines)).set_xlabel("minutes (average speed)")
    rate.plot(*_column(lines, "rate"), label="rate")
    rate.set(ylabel="rate")
    norm = rate.twinx()
    norm.plot(*_column(lines, "norm"), color="tab:orange", linewidth=0.7, label="gradient norm")
    norm.set(ylabel="gradient norm", yscale="log")
    rate.legend(handles=[*rate.get_lines(), *norm.get_lines()], loc="upper right")
    for key in dict.fromkeys(key for line in lines if "loss" not in line for key in line if key not in NO_ACCURACY):
        steps, values = _column(lines, key)
        accuracy.plot(steps, [100 * value for value in values], marker=".", label=key.replace("_", " "))
    accuracy.set(xlabel="steps", ylabel="zero-shot top-1, %", ylim=(0, 101))
    if accuracy.get_lines():  # of a run that is measured
        accuracy.legend(loc="lower right")
    for axes in (loss, rate, accuracy):
        axes.grid(alpha=0.3)
        for end in (phase_ends or [])[:-1]:
            axes.axvline(end, color="grey", linewidth=0.7, linestyle=":")
    _write(figure, folder, FILE)
    return True


def draw_reliability(folder: Path, results: Mapping[str, Any], batch: int) -> bool:
    """Draw probabilities against what happened; False where matplotlib is missing.

    Args:
        folder: where to.
        results: of `npsiglip.train.measure.evaluate`.
        batch: pairs of the batches that were measured.

    Raises:
        InputError: the file cannot be written.
    """
    figure = _figure(13, 4.6)
    if figure is None:
        return False
    titles = {
        "calibration": f"one pair of {batch} matches",
        "calibration_balanced": "one pair of two matches",
        "calibration_corrected": f"one of two, odds times {batch - 1}",
    }
    for axes, (key, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        reliability(axes, results[key], title)
    _write(figure, folder, RELIABILITY)
    return True
