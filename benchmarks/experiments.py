"""Experiments on how SigLIP is trained, each in minutes: `python benchmarks/experiments.py NAME`.

loss     sigmoid against softmax, batches of 16 to 4,096
bias     where the bias of the sigmoid loss starts
noise    captions of other pictures, for both losses
locked   the image tower of a trained model, locked, against one from scratch
pooling  the MAP head against the mean of all tokens

All train small models on single objects of the procedural world, with several seeds, and classify pictures that
training never draws. What is found is printed and kept in OUT/NAME.json, with the settings of every run; what is there
already is not run again, so an experiment that was stopped goes on. A seed stands for both the initial parameters and
the pictures: they are drawn once for each seed, and all runs of that seed get the same. docs/experiments.md tells what
came out.

With `--plot FILE`, a picture; needs matplotlib (`pip install 'npsiglip[train]'`).
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

import numpy as np

from benchmarks.experiment_data import Pool, Test, draw_pool, make_gradients

BATCHES = (16, 64, 256, 1024, 4096)
NOISE = (0.0, 0.2, 0.4, 0.6, 0.8)
LOSSES = ("sigmoid", "softmax")
BATCH = 64  # of all experiments but `loss` and `noise`
NOISY_BATCH = 256
POOL = 16384  # pictures to train on, for each seed
TEST = 1024  # pictures to classify
CHANCE = {"top1": 1 / 56, "colour": 1 / 8, "shape": 1 / 8}  # 8 of 64 classes are not shown
NAMES = {"top1": "top-1 of 64", "colour": "colour of 8", "shape": "shape of 8"}

SMALL = {
    "image": {"width": 96, "depth": 2, "num_heads": 3, "mlp_dim": 384, "image_size": 64, "patch_size": 16},
    "text": {"width": 64, "depth": 2, "num_heads": 2, "mlp_dim": 256, "seq_len": 20, "vocab_size": 640},
}
SMALLER = {  # four patches of a picture; ten thousand pairs a second and more on two cores
    "image": {"width": 64, "depth": 1, "num_heads": 2, "mlp_dim": 256, "image_size": 32, "patch_size": 16},
    "text": {"width": 64, "depth": 1, "num_heads": 2, "mlp_dim": 256, "seq_len": 12, "vocab_size": 640},
}
SMALLEST = {  # of --quick
    "image": {"width": 32, "depth": 1, "num_heads": 1, "mlp_dim": 32, "image_size": 32, "patch_size": 8},
    "text": {"width": 32, "depth": 1, "num_heads": 1, "mlp_dim": 32, "seq_len": 8, "vocab_size": 640},
}
WORLD = {"mix": {"single": 1.0}, "difficulty": 0.0, "languages": 0.0, "plain": 1.0, "distinct": False}


# -- what is run ------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One training: the curve and the place on it that it counts for, and its settings."""

    line: str
    x: float | None
    seed: int
    settings: dict[str, Any]


class Options(NamedTuple):
    """What the command line says."""

    steps: int
    seeds: int
    quick: bool = False
    model: str = "builtin"


def prior(batch):
    """-log(B - 1): the bias at which one pair of B matches, if all are alike."""
    return -math.log(batch - 1)


def settings(options, model, seed, batch=BATCH, world=WORLD, evaluations=0, noise=0.0, **train):
    """The settings of a run; `train` are those of [train]."""
    steps, rate = options.steps, 3e-3 if model is SMALLER else 1e-3
    return {
        "model": SMALLEST if options.quick and "init" not in train else model,
        "data": {"seed": seed, "tokenizer_captions": 2000, "label_noise": noise, "phases": [dict(world)]},
        "optimizer": {"rate": rate, "warmup": min(20, steps // 5)},
        "train": {
            "steps": steps,
            "batch": batch,
            "seed": seed,
            "dtype": "bfloat16",
            "bias": prior(batch),
            "patch_embed": "whiten",
        }
        | train,
        "run": {
            "eval_every": max(1, steps // evaluations) if evaluations else 0,
            "log_every": steps,
            "checkpoint_minutes": 1000.0,
            "workers": 1,
        },
    }


def of_loss(options, seed):
    """The same steps with every batch: a larger one sees more pairs."""
    for batch in BATCHES[:2] if options.quick else BATCHES:
        for loss in LOSSES:
            yield Run(loss, batch, seed, settings(options, SMALLER, seed, batch, loss=loss))


def of_bias(options, seed):
    """-10 is the paper's; of 0, every pair is as likely to match as not."""
    for name, bias in (("-10", -10.0), ("-log(B - 1)", prior(BATCH)), ("0", 0.0)):
        yield Run(f"bias {name}", None, seed, settings(options, SMALLER, seed, evaluations=32, bias=bias))


def of_noise(options, seed):
    """The test is without noise."""
    for noise in NOISE[:2] if options.quick else NOISE:
        for loss in LOSSES:
            yield Run(loss, noise, seed, settings(options, SMALLER, seed, NOISY_BATCH, noise=noise, loss=loss))


def of_locked(options, seed):
    """Both towers have the folder's shapes; the text tower and the vocabulary are new in both."""
    from npsiglip.config import SigLIPConfig
    from npsiglip.hub.resolve import model_folder

    config = SigLIPConfig.from_folder(model_folder(options.model))
    keys = {"image": SMALL["image"], "text": SMALL["text"]}
    model = {tower: {key: getattr(getattr(config, tower), key) for key in keys[tower]} for tower in keys}
    world = WORLD | {"difficulty": 0.3}
    for line, train in (("locked", {"lock": "image", "init": options.model}), ("from scratch", {"init": ""})):
        yield Run(line, None, seed, settings(options, model, seed, world=world, evaluations=10, **train))


def of_pooling(options, seed):
    """With captions that name shapes alone: a mean of colours is a colour, a mean of edges is no shape."""
    world = WORLD | {"colourless": 1.0}
    for pool in ("map", "mean"):
        yield Run(pool, None, seed, settings(options, SMALL, seed, world=world, evaluations=24, pool=pool))


class Experiment(NamedTuple):
    """What is run, for how many steps, and how it is shown."""

    runs: Callable[..., Any]
    steps: int
    x: str  # what the runs of a line differ in; empty: a curve for each line
    shown: tuple[str, ...]  # accuracies of the plot


EXPERIMENTS = {
    "loss": Experiment(of_loss, 80, "batch", ("top1", "colour")),
    "bias": Experiment(of_bias, 640, "", ("colour", "top1")),
    "noise": Experiment(of_noise, 160, "noise", ("top1", "colour")),
    "locked": Experiment(of_locked, 320, "", ("top1",)),
    "pooling": Experiment(of_pooling, 960, "", ("shape",)),
}


def plan(name, options):
    """All runs of an experiment, seed by seed."""
    return [run for seed in range(options.seeds) for run in EXPERIMENTS[name].runs(options, seed)]


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
    lines = [line for line in read_metrics(Path(folder)) if "shape" in line]
    curve = [line | {"seconds": round(line["seconds"] - watch.first, 3)} for line in lines]
    return {"seconds": round(result.summary["seconds"]["total"], 3), "curve": curve}


def key_of(entry):
    """What makes two runs the same."""
    return json.dumps([entry["line"], entry["x"], entry["settings"], entry["pictures"]], sort_keys=True)


def run_all(name, options, out, train=train, say=print):
    """Make all runs that the file does not have yet, and return the entries of all of them."""
    from npsiglip.atomic import write_all
    from npsiglip.formats.safetensors import json_writer
    from npsiglip.train.config import read_config

    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}.json"
    known = {key_of(entry): entry for entry in json.loads(file.read_text())["runs"]} if file.exists() else {}
    runs, entries = plan(name, options), []
    test = texts = pool_seed = None
    with tempfile.TemporaryDirectory(prefix=".pictures-", dir=out) as temporary:
        pool = Path(temporary, "pictures.npy")
        for i, run in enumerate(runs, 1):
            config = read_config(run.settings)
            largest = max(other.settings["train"]["batch"] for other in runs)
            count = largest if options.quick else max(POOL, largest)
            entry = {
                "line": run.line,
                "x": run.x,
                "seed": run.seed,
                "pictures": count,
                "settings": json.loads(json.dumps(config.deciding())),
            }
            entry = known.get(key_of(entry)) or entry
            entries.append(entry)
            if "curve" not in entry:
                test = test or Test(64 if options.quick else TEST, config)
                if pool_seed != run.seed:
                    texts, pool_seed = draw_pool(config, count, pool), run.seed
                with tempfile.TemporaryDirectory(prefix=".run-", dir=out) as folder:
                    entry |= train(config, Pool(config, pool, texts), test, folder)
                known[key_of(entry)] = entry
                write_all(out, {file.name: json_writer({"experiment": name, "runs": list(known.values())})})
            last = entry["curve"][-1]
            found = ", ".join(f"{NAMES[key]} {100 * last[key]:.1f} %" for key in NAMES if key in last)
            what = " ".join([EXPERIMENTS[name].x, f"{run.x:g}, "]) if run.x is not None else ""
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


def pairs_to_half(entry, key):
    """The pairs after which half of the test was right for the first time; infinite if it never was."""
    batch = entry["settings"]["train.batch"]
    return next((batch * point["step"] for point in entry["curve"] if point[key] >= 0.5), math.inf)


def table(name, entries):
    """Mean and standard deviation over seeds, as a Markdown table."""
    experiment = EXPERIMENTS[name]
    measured = [key for key in NAMES if key in entries[0]["curve"][-1]]
    half = f"pairs to half of: {NAMES[experiment.shown[0]]}"
    heads = [*filter(None, [experiment.x]), "run", *(f"{NAMES[key]}, %" for key in measured), "seconds"]
    if not experiment.x:
        heads.append(half)
    rows = [heads]
    for (x, line), group in grouped(entries).items():
        row = [] if x is None else [f"{x:g}"]
        row.append(line)
        for key in measured:
            mean, deviation = mean_and_deviation([100 * entry["curve"][-1][key] for entry in group])
            row.append(f"{mean:.1f}" if math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}")
        row.append(f"{statistics.mean(entry['seconds'] for entry in group):.1f}")
        if not experiment.x:
            pairs = statistics.mean(pairs_to_half(entry, experiment.shown[0]) for entry in group)
            row.append(f"{pairs:,.0f}" if math.isfinite(pairs) else "not by all")
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def draw_points(axes, name, entries, key):
    """Accuracy against what is varied, with error bars."""
    for line in dict.fromkeys(entry["line"] for entry in entries):
        groups = {x: group for (x, other), group in grouped(entries).items() if other == line}
        values = [mean_and_deviation([100 * e["curve"][-1][key] for e in group]) for group in groups.values()]
        means, deviations = zip(*values, strict=True)
        axes.errorbar([*groups], means, np.nan_to_num(deviations), fmt="o-", capsize=4, label=line)
    axes.set(xlabel={"batch": "pairs in a batch", "noise": "share of wrong captions"}[EXPERIMENTS[name].x])
    if EXPERIMENTS[name].x == "batch":
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
    axes.set(xlabel={"pairs": "pairs", "seconds": "seconds"}[by])
    axes.set_xlim(left=0)


def plot(file, name, entries):
    """A picture of the experiment."""
    import matplotlib.pyplot as plt

    experiment = EXPERIMENTS[name]
    shown = [(key, "pairs") for key in experiment.shown]
    shown += [(experiment.shown[0], "seconds")] if len(shown) == 1 else []
    figure, both = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for axes, (key, by) in zip(both, shown, strict=True):
        if experiment.x:
            draw_points(axes, name, entries, key)
        else:
            draw_curves(axes, entries, key, by)
        axes.axhline(100 * CHANCE[key], color="grey", linewidth=0.7, linestyle=":")
        axes.set(ylabel=f"{NAMES[key]}, % right")
        axes.set_ylim(0, 101)
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(file, dpi=100)
    plt.close(figure)


def main(arguments=None):
    """Run an experiment, print its table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--out", default="experiments", metavar="FOLDER", help="for the results (default: experiments)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--steps", type=int, metavar="N", help="of each run")
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("--model", default="builtin", metavar="FOLDER", help="whose image tower `locked` takes")
    parser.add_argument("--quick", action="store_true", help="one seed and a few steps, to see that it works")
    options = parser.parse_args(arguments)
    steps = options.steps or (5 if options.quick else EXPERIMENTS[options.name].steps)
    seeds = 1 if options.quick else options.seeds
    try:
        entries = run_all(options.name, Options(steps, seeds, options.quick, options.model), Path(options.out))
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command goes on with the run that was under way") from None
    print(f"\n{options.name}, {steps} steps; mean and standard deviation over {seeds} seed{'s' * (seeds > 1)}\n")
    print(table(options.name, entries))
    if options.plot:
        plot(options.plot, options.name, entries)


if __name__ == "__main__":
    main()
