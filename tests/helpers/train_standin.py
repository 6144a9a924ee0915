"""A small stand-in for the world, which draws in microseconds, and settings that train in seconds.

Worker processes import this module by its name, so it is no part of a test file.
"""

import copy
import os
import time

import numpy as np

from npsiglip.train.config import read_config

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "yellow": (230, 220, 40)}
WORDS = ("a", "the", "one", "big", "small", "square", "left", "right", "top", "bottom", "picture", "of", "on", "at")

TABLES = {
    "model": {
        "image": {"width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 24, "image_size": 16, "patch_size": 8},
        "text": {"width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 24, "seq_len": 8, "vocab_size": 96},
    },
    "data": {"tokenizer_captions": 200},
    "optimizer": {"rate": 2e-3, "warmup": 2},
    "train": {"steps": 6, "batch": 4, "seed": 3},
    "run": {"log_every": 1, "eval_every": 0, "checkpoint_minutes": 100.0, "dtype": "float32"},
}


def tables(**changes):
    """The settings above with others: `tables(train={"steps": 3})`."""
    result = copy.deepcopy(TABLES)
    for section, values in changes.items():
        result.setdefault(section, {}).update(values)
    return result


def config(**changes):
    return read_config(tables(**changes))


class StandIn:
    """Pictures of one colour on noise, and captions; a pure function of seed and step."""

    def __init__(self, batch=4, size=16, seed=0, fail_at=None, die_at=None, slow=0.0):
        self.batch_size, self.size, self.seed = batch, size, seed
        self.fail_at, self.die_at, self.slow = fail_at, die_at, slow

    def batch(self, step):
        if step == self.fail_at:
            raise RuntimeError("no more paint")
        if step == self.die_at:
            os._exit(3)
        time.sleep(self.slow)
        rng = np.random.default_rng([self.seed, step])
        pictures = rng.integers(0, 60, (self.batch_size, self.size, self.size, 3), dtype=np.uint8)
        names = rng.choice(list(COLOURS), self.batch_size)
        for picture, name in zip(pictures, names, strict=True):
            x, y = rng.integers(0, self.size // 2, 2)
            picture[y : y + self.size // 2, x : x + self.size // 2] = COLOURS[name]
        return pictures, [f"a {name} square, number {step}" for name in names]

    def take_skipped(self):
        return {}

    def captions(self, count):
        rng = np.random.default_rng(self.seed)
        for i in range(count):
            words = rng.choice(WORDS, 3)
            yield f"{' '.join(words)} {list(COLOURS)[i % 4]} square"
