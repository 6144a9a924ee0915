"""Random models of odd sizes as folders, what they compute, and how a folder is refused."""

import shutil

import numpy as np

from npsiglip import save_folder
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.params import random_params
from tests.helpers.golden_data import TINY

# No size is a multiple of a panel's 16 columns or of a step's 4 numbers.
IMAGE = ImageConfig(width=42, depth=2, num_heads=3, mlp_dim=53, image_size=20, patch_size=5)
TEXT = TextConfig(width=27, depth=2, num_heads=3, mlp_dim=61, seq_len=7, vocab_size=1009, projection_dim=42)
ODD = SigLIPConfig(IMAGE, TEXT)

PANELS, SCALE, TOTAL = (f"image.blocks.01.mlp.fc1.{part}" for part in ("panels", "scale", "total"))


def float_folder(folder, config=ODD, dtype="float32", **options):
    """A model with random weights and tiny's tokenizer."""
    save_folder(folder, config, random_params(config, seed=4, **options), dtype)
    for name in ("spiece.model", "tokenizer_config.json") if config.text else ():
        shutil.copy(TINY / name, folder)
    return folder


def inputs_of(config, n=3):
    rng = np.random.default_rng(0)
    pixels = config.image and rng.uniform(-1, 1, (n, 3, config.image.image_size, config.image.image_size))
    ids = config.text and rng.integers(0, config.text.vocab_size, (n, config.text.seq_len))
    return {"images": config.image and pixels.astype(np.float32), "texts": ids}


def results(model, passes=1):
    """Every intermediate of a pass."""
    for _ in range(passes):
        taps = dict(model.trace(**inputs_of(model.config)))
    return taps


def assert_same_bits(one, other):
    assert list(one) == list(other)
    for name, tap in one.items():
        np.testing.assert_array_equal(tap, other[name], err_msg=name)
