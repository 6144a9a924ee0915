"""Plots of an evaluation: reliability, and the accuracy of each class. Needs matplotlib (the extra `train`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npsiglip.atomic import write_all
from npsiglip.errors import InputError
from npsiglip.extras import library

MOST_CLASSES = 40  # named in a plot


def reliability(axes: Any, bins: Mapping[str, Any], title: str) -> None:
    """Probabilities against what happened, with the number of pairs at each point; `bins`: `Calibration`, as a dict."""
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.7, linestyle=":")
    axes.plot(bins["probability"], bins["matched"], marker="o")
    for x, y, count in zip(bins["probability"], bins["matched"], bins["count"], strict=True):
        axes.annotate(f"{count:,}", (x, y), (4, -10), textcoords="offset points", fontsize=7, color="grey")
    axes.set(title=f"{title}: ECE {bins['ece']:.4f}", xlabel="probability", ylabel="part that matches")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)


def draw(path: Path, report: Mapping[str, Any]) -> None:
    """One picture of what `npsiglip evaluate` found.

    Args:
        path: .png, .svg or .pdf.
        report: of `npsiglip.evaluation.measure.classification` or `retrieval`.

    Raises:
        InputError: matplotlib is missing, or the file cannot be written.
    """
    Figure: Any = library("matplotlib.figure", "train", "a plot").Figure
    if "texts" in report:
        last = list(report["texts"].values())[-1]  # the ensemble, where there is one
        classes = sorted(last["classes"].items(), key=lambda item: item[1])
        if len(classes) > MOST_CLASSES:
            half = MOST_CLASSES // 2
            classes = [*classes[:half], *classes[-half:]]
        figure = Figure((11, max(4.5, 0.22 * len(classes))), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2)
        left.barh([name for name, _ in classes], [100 * value for _, value in classes])
        left.set(xlabel="top-1, %", title="by class", xlim=(0, 100))
        left.tick_params(axis="y", labelsize=8)
        reliability(right, last["calibration"], "every picture with every class")
    else:
        figure = Figure((11, 4.5), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2)
        for key, label in (("image_to_text", "image to text"), ("text_to_image", "text to image")):
            left.plot(
                list(report[key]), [100 * found["value"] for found in report[key].values()], marker="o", label=label
            )
        left.set(xlabel="k", ylabel="R@k, %", ylim=(0, 101))
        left.legend()
        left.grid(alpha=0.3)
        reliability(right, report["calibration"], "every picture with every caption")
    try:
        write_all(path.parent, {path.name: lambda place: figure.savefig(place, format=path.suffix[1:] or "png")})
    except (OSError, ValueError) as error:
        raise InputError(f"the plot {path} cannot be written: {error}") from None
