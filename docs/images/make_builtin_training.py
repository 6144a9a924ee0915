"""Draws docs/images/builtin_training.png: `python docs/images/make_builtin_training.py`.

What the trainings of the built-in model's image tower measured on their way, each of which goes on from the one before,
by the pairs that they saw: npsiglip/data/builtin_training.json, which has the curve by steps.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the root of the repository

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from npsiglip.explain.training import default

TARGET = Path(__file__).with_name("builtin_training.png")
NAMES = {
    "emoji": "emoji, English", "openmoji": "OpenMoji", "drawings": "drawings", "grocery": "groceries",
    "clothing": "clothes", "seen": "the world, seen", "held_out": "the world, held out",
}  # fmt: skip
RUNS = ((1, 5000, 192), (2, 5391, 192), (3, 2622, 256), (4, 2600, 256), (6, 5000, 384), (8, 4500, 384))
"""Number of the training, its steps, its batch."""


def draw(found, target=TARGET):
    """The loss and the accuracies of `npsiglip.explain.training.curve`."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    ends = np.cumsum([0, *(steps for _, steps, _ in RUNS)])
    million = np.cumsum([0, *(steps * batch / 1e6 for _, steps, batch in RUNS)])

    def drawn(axes, points, **style):
        steps, values = np.array(points).T
        axes.plot(np.interp(steps, ends, million), values, **style)

    drawn(loss, found["loss"], color="tab:blue", linewidth=0.7)
    for (number, _, _), begin, end in zip(RUNS, million[:-1], million[1:], strict=True):
        for axes in (loss, accuracy):
            axes.axvline(end, color="grey", linewidth=0.5)
        loss.text((begin + end) / 2, 0.94, str(number), transform=loss.get_xaxis_transform(), ha="center", va="top")
    for key, name in NAMES.items():
        points = [(step, 100 * value) for step, value in found["accuracy"][key]]
        drawn(accuracy, points, marker=".", linewidth=1, label=name)
    loss.set(ylabel="loss", yscale="log")
    accuracy.set(ylabel="top-1, %", xlabel="million pairs", ylim=(0, 100))
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    draw(default())
