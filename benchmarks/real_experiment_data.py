"""What `benchmarks/real_experiments.py` trains on and is tested on: emoji of several designers, and their names."""

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from npsiglip.pairs.emoji import load_names
from npsiglip.pairs.opening import open_pairs
from npsiglip.pairs.settings import AugmentSettings
from npsiglip.train.augment import reduced, shown
from npsiglip.train.order import Order

DESIGNERS = ("google", "twitter", "fluent-3d", "fluent-flat", "emojione")
NAMES = "$DATA/emojibase-data"
SHOWN = {"crop": 0.65, "rotate": 12, "aspect": 1.2, "colour": 0.15, "background": ["white", "plain", "gradient"]}
RENDERING = AugmentSettings(crop=0.7, rotate=8, background=("white", "plain", "gradient", "pattern"))
TESTS = {  # by what is measured: which designers, and how they are shown
    "emoji": (DESIGNERS[:3], RENDERING),
    "openmoji": (("openmoji",), AugmentSettings()),
}


def folders(designers):
    """Where their pictures are: $DATA is the folder that `golden/make_builtin_data.py` fills."""
    return [f"$DATA/{designer}" for designer in designers]


@cache
def names_in(language, data):
    """Key -> name in a language, of every emoji."""
    named = load_names(Path(data, "emojibase-data"), {language: 1.0}, "the names")
    return {key: words.names[language][0] for key, words in named.items()}


def names_of(config):
    """Those in the language of a run."""
    (language,) = config.data.sources[0].languages
    return names_in(language, os.environ["DATA"])


def drawn(settings, size, order, label, file=None):
    """Pictures [N, S, S, 3] of a source by their indices, in memory or in a file, and the key of each."""
    pairs = open_pairs(settings, label)
    order = order(pairs)
    shape = (len(order), size, size, 3)
    pictures = np.lib.format.open_memmap(file, "w+", np.uint8, shape) if file else np.empty(shape, np.uint8)
    for n, index in enumerate(order):
        rng = Random(f"{label}, {n}")
        pictures[n] = shown(reduced(pairs.read(index, rng), size), size, rng, settings.augment, flip=False)
    return pictures, [pairs.class_of(index) for index in order]


def draw_pool(config, count, file):
    """Draw the pictures of a seed into a file, and return the key of each: every emoji once before any comes again."""

    def in_turn(pairs):
        indices = range(len(pairs))
        order = Order(config.data.seed, "pool", indices, [pairs.class_of(i) for i in indices])
        return [order(n) for n in range(count)]

    source, size = config.data.sources[0], config.model.image.image_size
    pictures, keys = drawn(source, size, in_turn, f"pool, {config.data.seed}", file)
    pictures.flush()
    return keys


class NamedPool:
    """What a run is trained on: pictures in a file, and the name of what each shows. A source of the trainer.

    Every emoji comes once before any comes again, so that a batch hardly shows one twice.
    """

    def __init__(self, config, file, keys):
        self.config, self.file = config, file
        names = names_of(config)
        self.texts = [names[key] for key in keys]
        self.order = Order(config.data.seed, "batches", range(len(keys)), keys)

    def batch(self, step):
        """Pictures and names of a step."""
        count = self.config.train.batch
        chosen = [self.order(n) for n in range(step * count, (step + 1) * count)]
        return np.load(self.file, mmap_mode="r")[chosen], [self.texts[i] for i in chosen]

    def take_skipped(self):
        """Nothing: every picture is drawn."""
        return {}

    def captions(self, count):
        """For the tokenizer: every name once."""
        return iter(list(dict.fromkeys(self.texts))[:count])


class NamedTest:
    """Pictures of `TESTS`, each against the names of all emoji in the language of the run: an evaluation."""

    def __init__(self, count, config):
        source, size = config.data.sources[0], config.model.image.image_size
        names = names_of(config)
        self.names = list(dict.fromkeys(names.values()))
        number = {name: i for i, name in enumerate(self.names)}
        self.sets = {}
        for test, (designers, augment) in TESTS.items():
            settings = replace(source, path=tuple(folders(designers)), augment=augment)
            pictures, keys = drawn(settings, size, self._some(count), f"test, {test}")
            self.sets[test] = pictures, np.array([number[names[key]] for key in keys])

    @staticmethod
    def _some(count):
        return lambda pairs: sorted(np.random.default_rng(0).permutation(len(pairs))[:count].tolist())

    def __call__(self, model):
        """The parts that are right; classes that are called the same are one."""
        from npsiglip.train.data import Pixels
        from npsiglip.train.measure import ids_of

        ztxt, pixels = model.encode_text(ids_of(model, self.names)), Pixels()
        found = {}
        for test, (pictures, labels) in self.sets.items():
            logits = model.compare(model.encode_image(pixels(pictures)), ztxt).logits_per_image
            found[test] = float((logits.argmax(axis=1) == labels).mean())
        return found


def unknown(init, texts):
    """The part of the letters of texts that the vocabulary of a model cannot spell."""
    from npsiglip.texts.siglip import Tokenizer
    from npsiglip.train.starting import vocabulary_of

    tokenizer = Tokenizer(vocabulary_of(init), 4)
    letters = [letter for text in texts for letter in text.lower() if letter.isalpha()]
    kinds = sorted(set(letters))
    ids = np.asarray(tokenizer(kinds))
    cannot = {kind for kind, row in zip(kinds, ids, strict=True) if tokenizer.unk_id in row}
    return sum(letter in cannot for letter in letters) / max(1, len(letters))
