"""Experiments on real pictures, each in minutes: `python benchmarks/real_experiments.py NAME --data DATA`.

real_loss   sigmoid with two biases against softmax, in batches of 64 and 256, for 600 steps and more
real_noise  names of other pictures, for both losses
language    a text tower for a new language: new, or English before; and both towers from scratch

In the first two, and in the third where both are not from scratch, the image tower is that of a trained model, locked.

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
EMBEDDED = 8192  # the same, where they are embedded once for every run: the rounds of all emoji that hold so many
TEST = 512  # pictures of each test
MEASURED = {"emoji": "another rendering", "openmoji": "OpenMoji"}
CHANCE = {"emoji": 1 / 1923, "openmoji": 1 / 1923}

TEXT = {"width": 64, "depth": 2, "num_heads": 2, "mlp_dim": 256, "seq_len": 16, "vocab_size": 2000}
LOCKED_RATE = 3e-3  # of `on_locked`


# -- what is run ------------------------------------------------------------------------------------------------------


def settings(seed, batch, steps, model, language="en", evaluations=8, rate=1e-3, more=(), **train):
    """The settings of a run; `train` are those of [train], `more` of [data]. Without a model, the shapes of `init`."""
    source = {
        "kind": "emoji",
        "path": folders(DESIGNERS),
        "names": NAMES,
        "languages": {language: 1.0},
        "plain": 1.0,
        "augment": SHOWN,
    }
    data = {"sources": [source], **dict(more)}
    shared = settings_of(steps, batch, seed, data, rate, min(60, steps // 5), max(3, steps // evaluations), train)
    return {**({"model": model} if model else {}), **shared}


def shapes_of(folder):
    """The settings of [model] that a folder has."""
    from npsiglip.config import SigLIPConfig
    from npsiglip.hub.resolve import model_folder
    from npsiglip.train.starting import SHAPES

    config = SigLIPConfig.from_folder(model_folder(folder))
    return {tower: {key: getattr(getattr(config, tower), key) for key in keys} for tower, keys in SHAPES.items()}


def on_locked(options, seed, batch, steps, noise=0.0, **train):
    """A new text tower beside the folder's image tower, which embeds all pictures once: a pair costs its text alone."""
    more = {"embedded": 2 * batch if options.quick else EMBEDDED, "label_noise": noise}
    train |= {"lock": "image", "init": options.model}
    return settings(seed, batch, steps, {"text": TEXT}, rate=LOCKED_RATE, more=more, **train)


def of_real_loss(options, seed):
    """The steps are those of the largest batch; a smaller one makes more of them, to see as many pairs."""
    batches = BATCHES[:1] if options.quick else BATCHES
    for batch in batches:
        steps = options.steps * max(batches) // batch
        for line, loss, bias in (
            ("sigmoid, bias -10", "sigmoid", -10.0),
            ("sigmoid, bias -log(B - 1)", "sigmoid", prior(batch)),
            ("softmax", "softmax", prior(batch)),
        ):
            yield Run(line, batch, seed, on_locked(options, seed, batch, steps, loss=loss, bias=bias))


def of_real_noise(options, seed):
    """The tests are without noise."""
    batch = BATCHES[0] if options.quick else NOISY_BATCH
    for noise in NOISE[:2] if options.quick else NOISE:
        for loss in ("sigmoid", "softmax"):
            yield Run(loss, noise, seed, on_locked(options, seed, batch, options.steps, noise, loss=loss))


def of_language(options, seed):
    """All towers have the folder's shapes. The new vocabulary is that of the names.

    A text tower that knew another language keeps its vocabulary, and is left out where that cannot spell the names.
    """
    model = shapes_of(options.model)
    model["text"]["vocab_size"] = TEXT["vocab_size"]
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
    "real_loss": experiment(of_real_loss, 600, "batch", ("emoji",), curves=True),
    "real_noise": experiment(of_real_noise, 400, "noise", ("emoji", "openmoji")),
    "language": experiment(of_language, 320, "language", ("emoji",), curves=True),
}


def emoji():
    """Emoji as they are shown in training, and those that are measured: with names in the language of a run.

    Where the image tower embeds its pictures once, the trainer draws them itself.
    """

    def draw(config, count, file):
        return None if config.data.embedded else draw_pool(config, count, file)

    def source(config, file, known):
        return None if config.data.embedded else NamedPool(config, file, known)

    def same_test(config):
        return *config.data.sources[0].languages, config.model.image.image_size

    return Material(draw, source, NamedTest, POOL, {False: TEST, True: 16}, same_test)


def main(arguments=None):
    """Run an experiment."""
    parser = parser_of(__doc__, EXPERIMENTS, 2)
    parser.add_argument("--data", required=True, metavar="DATA", help="what golden/make_builtin_data.py made")
    parser.add_argument(
        "--model",
        default="builtin",
        metavar="FOLDER",
        help="whose image tower is locked, and whose text tower `language` goes on with",
    )
    arguments = parser.parse_args(arguments)
    if not Path(arguments.data, "emojibase-data").is_dir():
        parser.error(f"{arguments.data} has no emojibase-data; expected the folder that make_builtin_data.py fills")
    os.environ["DATA"] = arguments.data  # settings name no folder of this machine
    run_and_show(arguments, EXPERIMENTS, emoji())


if __name__ == "__main__":
    main()
