"""What experiments have in common: runs that are made once, tables of what came out, plots, the command line.

An experiment says what is run, and its material what the runs are trained on and measured with. `experiments.py` has
those in the world, `real_experiments.py` those on real pictures.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.experiment_data import make_gradients

GOAL = 0.5  # the accuracy that pairs are counted to
AXES = {"batch": "pairs in a batch", "noise": "share of wrong captions"}

# -- what is run ------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One training: the curve and the place on it that it counts for, and its settings."""

    line: str
    x: float | str | None
    seed: int
    settings: dict[str, Any]


class Options(NamedTuple):
    """What the command line says."""

    steps: int
    seeds: int
    quick: bool = False
    model: str = "builtin"


class Experiment(NamedTuple):
    """What is run, for how many steps, and how it is shown."""

    runs: Callable[..., Any]
    steps: int
    x: str  # what the runs of a line differ in; empty: nothing
    shown: tuple[str, ...]  # accuracies of the plot
    names: Mapping[str, str]  # of accuracies
    chance: Mapping[str, float]
    curves: bool = False  # a panel of curves for each x

    @property
    def in_curves(self):
        """Whether the course of a training is shown, or its end alone."""
        return self.curves or not self.x


class Material:
    """What the runs of an experiment are trained on and measured with.

    Args:
        draw: (config, count, file) -> what is known of the pictures of a seed, which are drawn into the file.
        source: (config, file, known) -> a source of the trainer that takes its batches from them.
        test: (count, config) -> an evaluation of the trainer on so many pictures.
        pictures: how many are drawn to train on for each seed, or as many as the largest batch has.
        tested: how many are measured on, and with --quick.
        same_test: config -> what two runs with the same test have in common.
    """

    def __init__(self, draw, source, test, pictures, tested, same_test):
        self.draw, self.source, self._test = draw, source, test
        self._pictures, self._tested, self._same_test = pictures, tested, same_test
        self._tests = {}

    def size(self, runs, options):
        """How many pictures are drawn for each seed."""
        largest = max(run.settings["train"]["batch"] for run in runs)
        return largest if options.quick else max(self._pictures, largest)

    def test(self, config, options):
        """An evaluation of the trainer; the same object, if it is the same."""
        key = self._same_test(config)
        if key not in self._tests:
            self._tests[key] = self._test(self._tested[options.quick], config)
        return self._tests[key]


def settings_of(steps, batch, seed, data, rate, warmup, eval_every, train):
    """The settings that all runs share, and those that a run names; `train` are those of [train] beside these."""
    own = {"steps": steps, "batch": batch, "seed": seed, "dtype": "bfloat16", "bias": prior(batch)}
    return {
        "data": {"seed": seed, **data},
        "optimizer": {"rate": rate, "warmup": warmup},
        "train": own | {"patch_embed": "whiten"} | train,
        "run": {"eval_every": eval_every, "log_every": steps, "checkpoint_minutes": 1000.0, "workers": 1},
    }


def prior(batch):
    """-log(B - 1): the bias at which one pair of B matches, if all are alike."""
    return -math.log(batch - 1)


def plan(experiment, options):
    """All runs of an experiment, seed by seed."""
    return [run for seed in range(options.seeds) for run in experiment.runs(options, seed)]


def shown_x(x):
    """A number, or a word, as people read it."""
    return x if isinstance(x, str) else f"{x:g}"


# -- running ----------------------------------------------------------------------------------------------------------


class Watch:
    """Keeps when the first step was made: before it, processes start and kernels are loaded or compiled."""

    first = None

    def step(self, progress, logged):
        """After every step."""
        self.first = self.first or progress.seconds

    def say(self, text):
        """Nothing."""

    def tell(self, text):
        """Nothing."""


def train(config, source, test, folder):
    """One run: its seconds, and a list of steps with what was measured after them, the seconds from the first step on.

    Raises:
        KeyboardInterrupt: it was stopped.
    """
    from npsiglip.train.metrics_log import read_metrics
    from npsiglip.train.trainer import Trainer

    watch = Watch()
    result = Trainer(config, folder, False, watch, source, make_gradients, test).run()
    if not result.finished:
        raise KeyboardInterrupt
    lines = [line for line in read_metrics(Path(folder)) if "loss" not in line]
    curve = [line | {"seconds": round(line["seconds"] - watch.first, 3)} for line in lines]
    return {"seconds": round(result.summary["seconds"]["total"], 3), "curve": curve}


def key_of(entry):
    """What makes two runs the same."""
    return json.dumps([entry["line"], entry["x"], entry["settings"], entry["pictures"]], sort_keys=True)


def run_all(name, experiment, options, out, material, train=train, say=print):
    """Make all runs that the file does not have yet, and return the entries of all of them."""
    from npsiglip.atomic import write_all
    from npsiglip.formats.safetensors import json_writer
    from npsiglip.train.config import read_config

    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}.json"
    known = {key_of(entry): entry for entry in json.loads(file.read_text())["runs"]} if file.exists() else {}
    runs, entries = plan(experiment, options), []
    count = material.size(runs, options)
    drawn = pool_seed = None
    with tempfile.TemporaryDirectory(prefix=".pictures-", dir=out) as temporary:
        pool = Path(temporary, "pictures.npy")
        for i, run in enumerate(runs, 1):
            config = read_config(run.settings)
            entry = {
                "line": run.line,
                "x": run.x,
                "seed": run.seed,
                "pictures": config.data.embedded or count,
                "settings": json.loads(json.dumps(config.deciding())),
            }
            entry = known.get(key_of(entry)) or entry
            entries.append(entry)
            if "curve" not in entry:
                test = material.test(config, options)
                if pool_seed != run.seed:
                    drawn, pool_seed = material.draw(config, count, pool), run.seed
                with tempfile.TemporaryDirectory(prefix=".run-", dir=out) as folder:
                    entry |= train(config, material.source(config, pool, drawn), test, folder)
                known[key_of(entry)] = entry
                write_all(out, {file.name: json_writer({"experiment": name, "runs": list(known.values())})})
            last = entry["curve"][-1]
            found = ", ".join(
                f"{label} {100 * last[key]:.1f} %" for key, label in experiment.names.items() if key in last
            )
            what = f"{experiment.x} {shown_x(run.x)}, " if run.x is not None else ""
            say(f"{i}/{len(runs)}  {what}{run.line}, seed {run.seed}: {found}; {entry['seconds']:.1f} s")
    return entries


# -- showing ----------------------------------------------------------------------------------------------------------


def mean_and_deviation(values):
    """Of at least one; the deviation of one is not known."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def grouped(entries):
    """(x, line) -> its entries, one for each seed, in their order."""
    groups = {}
    for entry in entries:
        groups.setdefault((entry["x"], entry["line"]), []).append(entry)
    return groups


def pairs_to_goal(entry, key):
    """The pairs after which so much of the test was right for the first time; infinite if it never was."""
    batch = entry["settings"]["train.batch"]
    return next((batch * point["step"] for point in entry["curve"] if point[key] >= GOAL), math.inf)


def table(experiment, entries):
    """Mean and standard deviation over seeds, as a Markdown table."""
    names = experiment.names
    measured = [key for key in names if key in entries[0]["curve"][-1]]
    first = experiment.shown[0]
    heads = [*filter(None, [experiment.x]), "run", *(f"{names[key]}, %" for key in measured), "seconds"]
    if experiment.in_curves:
        heads.append(f"pairs to half of: {names[first]}")
    rows = [heads]
    for (x, line), group in grouped(entries).items():
        row = [] if x is None else [shown_x(x)]
        row.append(line)
        for key in measured:
            mean, deviation = mean_and_deviation([100 * entry["curve"][-1][key] for entry in group])
            row.append(f"{mean:.1f}" if math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}")
        row.append(f"{statistics.mean(entry['seconds'] for entry in group):.1f}")
        if experiment.in_curves:
            pairs = statistics.mean(pairs_to_goal(entry, first) for entry in group)
            row.append(f"{pairs:,.0f}" if math.isfinite(pairs) else "not by all")
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def draw_points(axes, experiment, entries, key):
    """Accuracy against what is varied, with error bars."""
    for line in dict.fromkeys(entry["line"] for entry in entries):
        groups = {x: group for (x, other), group in grouped(entries).items() if other == line}
        values = [mean_and_deviation([100 * e["curve"][-1][key] for e in group]) for group in groups.values()]
        means, deviations = zip(*values, strict=True)
        axes.errorbar([*groups], means, np.nan_to_num(deviations), fmt="o-", capsize=4, label=line)
    axes.set(xlabel=AXES[experiment.x])
    if experiment.x == "batch":
        axes.set(xscale="log")
        axes.set_xticks([*groups], [f"{x:,.0f}" for x in groups], minor=False)
        axes.xaxis.minorticks_off()


def draw_curves(axes, entries, key, by):
    """Accuracy against pairs or seconds: the mean, and one standard deviation to both sides."""
    for (_, line), group in grouped(entries).items():
        values = np.array([[100 * point[key] for point in entry["curve"]] for entry in group])
        x = np.mean([[point["step" if by == "pairs" else by] for point in entry["curve"]] for entry in group], axis=0)
        x = x * group[0]["settings"]["train.batch"] if by == "pairs" else x
        mean = values.mean(axis=0)
        axes.plot(x, mean, ".-", label=line)
        if len(group) > 1:
            deviation = values.std(axis=0, ddof=1)
            axes.fill_between(x, mean - deviation, mean + deviation, alpha=0.2)
    axes.set(xlabel=by)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def panels(experiment, entries):
    """(title, entries, accuracy, what it is drawn against) of both panels; against None: what is varied."""
    first = experiment.shown[0]
    if experiment.curves:
        return [
            (f"{experiment.x} {shown_x(x)}", [entry for entry in entries if entry["x"] == x], first, "pairs")
            for x in dict.fromkeys(entry["x"] for entry in entries)
        ]
    found = [("", entries, key, None if experiment.x else "pairs") for key in experiment.shown]
    return found + ([("", entries, first, "seconds")] if len(found) == 1 else [])


def plot(file, experiment, entries):
    """A picture of the experiment."""
    import matplotlib.pyplot as plt

    shown, lines = panels(experiment, entries), {}
    figure, every = plt.subplots(1, len(shown), figsize=(5 * len(shown), 4), constrained_layout=True, squeeze=False)
    for axes, (title, part, key, by) in zip(every[0], shown, strict=True):
        if by is None:
            draw_points(axes, experiment, part, key)
        else:
            draw_curves(axes, part, key, by)
        lines |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.axhline(100 * experiment.chance[key], color="grey", linewidth=0.7, linestyle=":")
        axes.set(ylabel=f"{experiment.names[key]}, % right", title=title)
        axes.set_ylim(0, 101)
    figure.legend([*lines.values()], [*lines], loc="outside upper center", ncols=3)
    figure.savefig(file, dpi=100)
    plt.close(figure)


# -- the command ------------------------------------------------------------------------------------------------------


def parser_of(doc, experiments, seeds):
    """The arguments that all experiments have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=experiments)
    parser.add_argument("--out", default="experiments", metavar="FOLDER", help="for the results (default: experiments)")
    parser.add_argument("--seeds", type=int, default=seeds, metavar="N", help=f"default: {seeds}")
    parser.add_argument("--steps", type=int, metavar="N", help="of each run")
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="one seed and a few steps, to see that it works")
    return parser


def run_and_show(arguments, experiments, material):
    """Run an experiment, print its table, and draw it."""
    name, experiment = arguments.name, experiments[arguments.name]
    steps = arguments.steps or (5 if arguments.quick else experiment.steps)
    seeds = 1 if arguments.quick else arguments.seeds
    options = Options(steps, seeds, arguments.quick, arguments.model)
    try:
        entries = run_all(name, experiment, options, Path(arguments.out), material)
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command goes on with the run that was under way") from None
    print(f"\n{name}, {steps} steps; mean and standard deviation over {seeds} seed{'s' * (seeds > 1)}\n")
    print(table(experiment, entries))
    if arguments.plot:
        plot(arguments.plot, experiment, entries)
