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

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

from benchmarks.experiment_data import Pool, Test, draw_pool
from benchmarks.experiment_runs import Experiment, Material, Run, parser_of, prior, run_and_show, settings_of

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


def settings(options, model, seed, batch=BATCH, world=WORLD, evaluations=0, noise=0.0, **train):
    """The settings of a run; `train` are those of [train]."""
    steps, rate = options.steps, 3e-3 if model is SMALLER else 1e-3
    data = {"tokenizer_captions": 2000, "label_noise": noise, "phases": [dict(world)]}
    eval_every = max(1, steps // evaluations) if evaluations else 0
    shared = settings_of(steps, batch, seed, data, rate, min(20, steps // 5), eval_every, train)
    return {"model": SMALLEST if options.quick and "init" not in train else model, **shared}


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


def experiment(runs, steps, x, shown):
    """With the names of what is measured in the world."""
    return Experiment(runs, steps, x, shown, NAMES, CHANCE)


EXPERIMENTS = {
    "loss": experiment(of_loss, 80, "batch", ("top1", "colour")),
    "bias": experiment(of_bias, 640, "", ("colour", "top1")),
    "noise": experiment(of_noise, 160, "noise", ("top1", "colour")),
    "locked": experiment(of_locked, 320, "", ("top1",)),
    "pooling": experiment(of_pooling, 960, "", ("shape",)),
}


def drawn():
    """Pictures of the world, and those of its test split: the same for all runs."""
    return Material(draw_pool, Pool, Test, POOL, {False: TEST, True: 64}, lambda config: None)


def main(arguments=None):
    """Run an experiment."""
    parser = parser_of(__doc__, EXPERIMENTS, 3)
    parser.add_argument("--model", default="builtin", metavar="FOLDER", help="whose image tower `locked` takes")
    run_and_show(parser.parse_args(arguments), EXPERIMENTS, drawn())


if __name__ == "__main__":
    main()
