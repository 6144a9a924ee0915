"""Draws docs/images/builtin_training.png: `python docs/images/make_builtin_training.py RUN:BATCH ...`.

What the trainings of the built-in model measured on their way, each of which goes on from the one before, by the pairs
that they saw. BATCH is a run's train.batch.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the root of the repository

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from npsiglip.train.metrics_log import read_metrics

TARGET = Path(__file__).with_name("builtin_training.png")
NAMES = {
    "emoji": "emoji, English", "emoji_mean": "emoji, mean of seven other languages", "openmoji": "OpenMoji",
    "drawings": "drawings", "grocery": "groceries", "clothing": "clothes", "seen": "the world, seen",
    "held_out": "the world, held out",
}  # fmt: skip


def draw(runs, target=TARGET):
    """The loss and the accuracies of runs, pairs of a folder and its batch."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    found, before = {key: [] for key in NAMES}, 0.0
    for number, (folder, batch) in enumerate(runs, 1):
        lines, begin = read_metrics(Path(folder)), before
        steps = np.array([(line["step"], line["loss"]) for line in lines if "loss" in line])
        pairs = begin + steps[:, 0] * batch / 1e6
        loss.plot(pairs, steps[:, 1], color="tab:blue", linewidth=0.7)
        for line in lines:
            for key in NAMES:
                if "loss" not in line and key in line:
                    found[key].append((begin + line["step"] * batch / 1e6, 100 * line[key]))
        before = pairs[-1]
        for axes in (loss, accuracy):
            axes.axvline(before, color="grey", linewidth=0.5)
        loss.text((begin + before) / 2, 0.94, str(number), transform=loss.get_xaxis_transform(), ha="center", va="top")
    for key, name in NAMES.items():
        accuracy.plot(*np.array(found[key]).T, marker=".", linewidth=1, label=name)
    loss.set(ylabel="loss", yscale="log")
    accuracy.set(ylabel="top-1, %", xlabel="million pairs", ylim=(0, 100))
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    draw([(one.rpartition(":")[0], int(one.rpartition(":")[2])) for one in sys.argv[1:]])
