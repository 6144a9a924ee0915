"""Small models of which an npz is made, and its arrays."""

import json
from dataclasses import replace

import numpy as np
from safetensors.numpy import load_file

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.params import random_params
from npsiglip.save import save_folder
from tests.helpers import big_vision_npz

IMAGE = ImageConfig(width=12, depth=2, num_heads=3, mlp_dim=20, image_size=16, patch_size=4)
TEXT = TextConfig(width=12, depth=3, num_heads=2, mlp_dim=14, seq_len=5, vocab_size=11, projection_dim=12)
BOTH = SigLIPConfig(IMAGE, TEXT)
NAFLEX = SigLIPConfig(replace(IMAGE, naflex=True), TEXT)
FORMS = [(stacked, root) for stacked in (False, True) for root in ("params/", "")]


def of_folder(folder, stacked=False, root="params/"):
    """A folder's weights as the arrays of an npz."""
    config = json.loads((folder / "config.json").read_text())
    return big_vision_npz.arrays_of(load_file(folder / "model.safetensors"), config, stacked, root)


def write_folder(folder):
    """The folder "model" in another, with both towers."""
    save_folder(folder / "model", BOTH, random_params(BOTH, seed=1))
    return folder / "model"


def assert_same_files(first, second):
    """The same names, types, shapes and bits."""
    with np.load(first) as a, np.load(second) as b:
        assert sorted(a.files) == sorted(b.files)
        for name in a.files:
            assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
            assert a[name].tobytes() == b[name].tobytes(), name
