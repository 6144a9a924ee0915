"""Experiments on real pictures, each in minutes: `python benchmarks/real_experiments.py NAME --data DATA`.

real_loss   sigmoid with two biases against softmax, in batches of 64 and 256, for 600 steps and more
real_noise  names of other pictures, for both losses
language    a locked image tower and a text tower for a new language: new, or English before; and both from scratch

DATA is the folder that `golden/make_builtin_data.py` fills. All train on the emoji of five designers and their names,
and are measured on some of them in another rendering, and on those of OpenMoji, a designer that is never trained on:
each picture against all of some 1,900 names. As in `experiments.py`, what is found is printed and kept in
OUT/NAME.json; what is there already is not run again. A seed stands for the initial parameters and for how pictures
are shown: these are drawn once for each seed. docs/experiments.md tells what came out.

With `--plot FILE`, a picture; needs matplotlib (`pip install 'npsiglip[train]'`).
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

from benchmarks.experiment_runs import Experiment, Material, Run, parser_of, prior, run_and_show, settings_of
from benchmarks.real_experiment_data import (
    DESIGNERS,
    NAMES,
    SHOWN,
    NamedPool,
    NamedTest,
    draw_pool,
    folders,
    names_in,
    unknown,
)

BATCHES = (64, 256)
NOISE = (0.0, 0.3, 0.6)
NOISY_BATCH = 256
LANGUAGES = ("sv", "th")  # which the built-in model was not trained on; the letters of one are new, too
LANGUAGE_BATCH = 64
SPELT = 0.2  # of the letters may be unknown where a vocabulary is kept
POOL = 16384  # pictures to train on, for each seed
TEST = 512  # pictures of each test
MEASURED = {"emoji": "another rendering", "openmoji": "OpenMoji"}
CHANCE = {"emoji": 1 / 1923, "openmoji": 1 / 1923}

SMALL = {  # 16 patches of a picture
    "image": {"width": 96, "depth": 2, "num_heads": 3, "mlp_dim": 384, "image_size": 48, "patch_size": 12},
    "text": {"width": 64, "depth": 2, "num_heads": 2, "mlp_dim": 256, "seq_len": 16, "vocab_size": 2000},
}
SMALLEST = {  # of --quick
    "image": {"width": 32, "depth": 1, "num_heads": 1, "mlp_dim": 32, "image_size": 24, "patch_size": 12},
    "text": {"width": 32, "depth": 1, "num_heads": 1, "mlp_dim": 32, "seq_len": 16, "vocab_size": 2000},
}


# -- what is run ------------------------------------------------------------------------------------------------------


def settings(seed, batch, steps, model=SMALL, language="en", evaluations=8, noise=0.0, **train):
    """The settings of a run; `train` are those of [train]. Without a model, its shapes are those of `init`."""
    source = {
        "kind": "emoji",
        "path": folders(DESIGNERS),
        "names": NAMES,
        "languages": {language: 1.0},
        "plain": 1.0,
        "augment": SHOWN,
    }
    data = {"label_noise": noise, "sources": [source]}
    shared = settings_of(steps, batch, seed, data, 1e-3, min(60, steps // 5), max(3, steps // evaluations), train)
    return {**({"model": model} if model else {}), **shared}


def of_real_loss(options, seed):
    """The steps are those of the largest batch; a smaller one makes more of them, to see as many pairs."""
    model, batches = (SMALLEST, BATCHES[:1]) if options.quick else (SMALL, BATCHES)
    for batch in batches:
        steps = options.steps * max(batches) // batch
        for line, loss, bias in (
            ("sigmoid, bias -10", "sigmoid", -10.0),
            ("sigmoid, bias -log(B - 1)", "sigmoid", prior(batch)),
            ("softmax", "softmax", prior(batch)),
        ):
            yield Run(line, batch, seed, settings(seed, batch, steps, model, loss=loss, bias=bias))


def of_real_noise(options, seed):
    """The tests are without noise."""
    batch = BATCHES[0] if options.quick else NOISY_BATCH
    for noise in NOISE[:2] if options.quick else NOISE:
        for loss in ("sigmoid", "softmax"):
            given = settings(seed, batch, options.steps, SMALLEST if options.quick else SMALL, noise=noise, loss=loss)
            yield Run(loss, noise, seed, given)


def of_language(options, seed):
    """All towers have the folder's shapes. The new vocabulary is that of the names.

    A text tower that knew another language keeps its vocabulary, and is left out where that cannot spell the names.
    """
    from npsiglip.config import SigLIPConfig
    from npsiglip.hub.resolve import model_folder

    config = SigLIPConfig.from_folder(model_folder(options.model))
    model = {tower: {key: getattr(getattr(config, tower), key) for key in SMALL[tower]} for tower in SMALL}
    model["text"]["vocab_size"] = SMALL["text"]["vocab_size"]
    locked = {"lock": "image", "init": options.model}
    for language in LANGUAGES[:1] if options.quick else LANGUAGES:
        lines = {"locked, new text tower": (model, locked), "from scratch": (model, {})}
        if unknown(options.model, names_in(language, os.environ["DATA"]).values()) <= SPELT:
            lines["locked, text tower from English"] = None, locked | {"new": ""}
        for line, (shapes, train) in lines.items():
            given = settings(seed, LANGUAGE_BATCH, options.steps, shapes, language, 5, **train)
            yield Run(line, language, seed, given)


def experiment(runs, steps, x, shown, **more):
    """With the names of what is measured on emoji."""
    return Experiment(runs, steps, x, shown, MEASURED, CHANCE, **more)


EXPERIMENTS = {
    "real_loss": experiment(of_real_loss, 600, "batch", ("emoji",), curves=True, goal=0.1),
    "real_noise": experiment(of_real_noise, 400, "noise", ("emoji", "openmoji")),
    "language": experiment(of_language, 320, "language", ("emoji",), curves=True),
}


def emoji():
    """Emoji as they are shown in training, and those that are measured: with names in the language of a run."""

    def same_test(config):
        return *config.data.sources[0].languages, config.model.image.image_size

    return Material(draw_pool, NamedPool, NamedTest, POOL, {False: TEST, True: 16}, same_test)


def main(arguments=None):
    """Run an experiment."""
    parser = parser_of(__doc__, EXPERIMENTS, 2)
    parser.add_argument("--data", required=True, metavar="DATA", help="what golden/make_builtin_data.py made")
    parser.add_argument("--model", default="builtin", metavar="FOLDER", help="whose towers `language` takes")
    arguments = parser.parse_args(arguments)
    if not Path(arguments.data, "emojibase-data").is_dir():
        parser.error(f"{arguments.data} has no emojibase-data; expected the folder that make_builtin_data.py fills")
    os.environ["DATA"] = arguments.data  # settings name no folder of this machine
    run_and_show(arguments, EXPERIMENTS, emoji())


if __name__ == "__main__":
    main()
