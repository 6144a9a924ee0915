"""The float32 kernels' error against float64, next to that of transformers' own float32, tap by tap.

Both run the same weights and inputs, and both are compared with `npsiglip.reference`, which
test_reference_parity.py holds to transformers in float64. The bar is a ratio of 1.0 at most for every tap. It is a
statistical statement: a tap with few elements needs many inputs before the ratio means anything, so small models get
many.
"""

from functools import lru_cache

import numpy as np
import pytest
import torch

from golden import random_folder
from npsiglip import Checkpoint, SigLIP, reference
from npsiglip.metrics import relative_l2
from npsiglip.variants import variant
from tests.parity.hf_taps import hf_model, hf_taps

RATIO = 1.0


@lru_cache(maxsize=1)
def our_taps(folder, n_images, n_texts, seed=0):
    """Inputs for the model of a folder, with the float64 reference's taps and the kernels' taps of them."""
    checkpoint = Checkpoint.open(folder)
    image, text = checkpoint.config.image, checkpoint.config.text
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(-1, 1, (n_images, 3, image.image_size, image.image_size)).astype(np.float32)
    ids = rng.integers(0, text.vocab_size, (n_texts, text.seq_len))
    truth = {}
    params = {name: np.asarray(value, np.float64) for name, value in checkpoint.items()}
    reference.siglip(params, checkpoint.config, pixels, ids, truth)
    return pixels, ids, truth, SigLIP.from_pretrained(folder).trace(pixels, ids)


def error_ratios(folder, n_images, n_texts, attn):
    """Tap name -> our error over transformers', both in float32 against the float64 reference."""
    pixels, ids, truth, ours = our_taps(folder, n_images, n_texts)
    theirs = hf_taps(hf_model(folder, torch.float32, attn), pixels, ids)
    assert set(ours) == set(theirs) == set(truth)
    ratios = {}
    for name, tap in truth.items():
        our_error, their_error = relative_l2(ours[name], tap), relative_l2(theirs[name], tap)
        ratios[name] = our_error / their_error if their_error else float(our_error > 0)
    print(
        f"\n{folder.name} {attn}: median ratio {np.median(list(ratios.values())):.2f}, "
        f"largest {max(ratios.values()):.2f} ({max(ratios, key=ratios.get)})"
    )
    return ratios


@pytest.fixture(scope="module", params=[1.0, 100.0], ids=["plain", "outliers"])
def b16_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / f"b16-outlier{request.param:.0f}"
    random_folder.write(folder, variant("siglip-base-patch16-224"), outlier=request.param)
    return folder


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_base_patch16_224(b16_folder, attn):
    folder = b16_folder
    ratios = error_ratios(folder, 2, 4, attn)
    assert {name: ratio for name, ratio in ratios.items() if not ratio <= RATIO} == {}


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_tiny_golden_model(tiny_folder, attn):
    ratios = error_ratios(tiny_folder, 32, 64, attn)
    assert {name: ratio for name, ratio in ratios.items() if not ratio <= RATIO} == {}


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_given_model(given_folder, attn):
    ratios = error_ratios(given_folder, 2, 4, attn)
    assert {name: ratio for name, ratio in ratios.items() if not ratio <= RATIO} == {}
