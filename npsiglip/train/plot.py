"""plot.png of a run: loss, rate and gradient norm, and accuracy, by steps and by minutes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from npsiglip.atomic import write_all
from npsiglip.errors import InputError
from npsiglip.train.metrics_log import read_metrics

FILE = "plot.png"


def _column(lines: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    found = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in found], [value for _, value in found]


def _minutes(lines: list[dict[str, Any]]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Steps to minutes and back, for a second axis; a run's time is not quite linear in its steps."""
    steps = np.array([0.0, *(line["step"] for line in lines)])
    minutes = np.array([0.0, *(line["seconds"] / 60 for line in lines)])
    rate = max(minutes[-1], 1e-9) / max(steps[-1], 1.0)
    return lambda x: np.asarray(x) * rate, lambda x: np.asarray(x) / rate


def draw_plot(folder: Path, phase_ends: list[int] | None = None) -> bool:
    """Draw the metrics of a folder; False where matplotlib is missing or there is nothing to draw yet.

    Args:
        folder: of the run.
        phase_ends: steps at which the data change, drawn as thin lines.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    lines = read_metrics(folder)
    if len(lines) < 2:
        return False
    figure = Figure(figsize=(9, 9), layout="constrained")
    FigureCanvasAgg(figure)
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
    for key, label in (("seen", "seen combinations"), ("held_out", "held-out combinations")):
        steps, values = _column(lines, key)
        accuracy.plot(steps, [100 * value for value in values], marker=".", label=label)
    accuracy.set(xlabel="steps", ylabel="zero-shot top-1, %", ylim=(0, 101))
    accuracy.legend(loc="lower right")
    for axes in (loss, rate, accuracy):
        axes.grid(alpha=0.3)
        for end in (phase_ends or [])[:-1]:
            axes.axvline(end, color="grey", linewidth=0.7, linestyle=":")
    try:
        write_all(folder, {FILE: lambda path: figure.savefig(path, dpi=110)})
    except OSError as error:
        raise InputError(f"{folder / FILE} cannot be written: {error}") from None
    return True
