"""The whitening patch embedding: what comes out of it, and that it is the same bits however it is computed."""

import numpy as np
import pytest

from npsiglip import InputError
from npsiglip.reference.model import extract_patches
from npsiglip.train.data import Pixels
from npsiglip.train.initial import FLOOR, cosines, whitening
from npsiglip.world import World


@pytest.fixture(scope="module")
def pictures():
    return World(seed=3, image_size=40, mix={"single": 1.0}).batch(0, 64)[0]


@pytest.mark.parametrize("size", [1, 2, 8, 16])
def test_cosines_are_orthonormal(size):
    basis = cosines(size)
    np.testing.assert_allclose(basis @ basis.T, np.eye(size), atol=1e-14)  # sums of 16 products below 1
    np.testing.assert_allclose(basis[0], size**-0.5, rtol=1e-15)  # the mean comes first


def embedded(pictures, patch_size, width, scale):
    """What patches become, through the pixels and the order of patches that the model itself uses."""
    made = whitening(pictures, patch_size, width, scale)
    x = extract_patches(Pixels()(pictures).astype(np.float64), patch_size)
    return (x @ made["image.patch_embed.w"] + made["image.patch_embed.b"]).reshape(-1, width)


@pytest.mark.parametrize(("patch_size", "width"), [(8, 48), (8, 192), (4, 48), (16, 24)])
def test_outputs_have_no_mean_and_one_variance(pictures, patch_size, width):
    y = embedded(pictures, patch_size, width, 3.0)
    # an output of variance v is divided by sqrt(v + floor mean(v)): 9 v / (v + floor mean(v)), at most 9
    variance = y.var(axis=0)
    assert np.all(variance < 9.0 * (1 + 1e-4))
    assert variance[0] > 9.0 / (1 + FLOOR)  # the first has more than the mean variance
    assert np.all(np.diff(variance) < 1e-4)  # in the order of their variance
    np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=3e-4)  # float32 weights of up to 100, 192 of them


def test_colours_and_brightness_come_out_apart(pictures):
    """A grey picture differs from its mean in the outputs of brightness alone."""
    made = whitening(pictures, 8, 192, 1.0)
    w = made["image.patch_embed.w"].reshape(8, 8, 3, 192).sum(axis=2)  # the same number in all channels
    grey = np.abs(w).max(axis=(0, 1)) > 1e-3
    assert grey.sum() == 64


def test_width_beyond_the_patch(pictures):
    with pytest.raises(InputError, match="at most 48 outputs with patches of 4, got 64"):
        whitening(pictures, 4, 64, 1.0)
