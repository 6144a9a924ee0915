"""The order of a patch's numbers: of small sizes drawn at random, as the reference has them; and by index, for the
sizes that released models have, where three places must agree. More small sizes are in towers/test_layers.py.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.kernels import patch_embed
from npsiglip.reference import model
from npsiglip.towers.image import by_channel
from npsiglip.towers.layers import Layers
from tests.helpers.arrays import guarded, normal

seeds = st.integers(0, 2**32 - 1)

sizes = pytest.mark.parametrize("size", [14, 16, 32])


def places(size):
    """(channel, row, column) of a patch's numbers as kernels have them."""
    return [(channel, row, column) for channel in range(3) for row in range(size) for column in range(size)]


@sizes
def test_extracted_patches(size):
    height, width = 2 * size + 3, 3 * size + 1
    pixels = np.arange(2.0 * 3 * height * width, dtype=np.float32).reshape(2, 3, height, width)
    out = np.empty((2 * 2 * 3, 3 * size**2), np.float32)
    patch_embed.patches_by_channel(pixels, size, out)
    corners = [(image, row * size, column * size) for image in range(2) for row in range(2) for column in range(3)]
    for found, (image, top, left) in zip(out, corners, strict=True):
        expected = [pixels[image, channel, top + row, left + column] for channel, row, column in places(size)]
        np.testing.assert_array_equal(found, expected)


@sizes
def test_packed_weights(size):
    """A parameter's rows are ordered (row, column, channel)."""
    w = np.random.default_rng(0).standard_normal((3 * size**2, 5)).astype(np.float32)
    params = {"image.patch_embed.w": w, "image.patch_embed.b": np.zeros(5, np.float32)}
    layer = Layers(params, "float32").linear("image.patch_embed", "float32", order=by_channel)
    panels = layer.packed(keep=True).panels
    expected = [w[(row * size + column) * 3 + channel] for channel, row, column in places(size)]
    np.testing.assert_array_equal(panels[0, :, :5].view(np.float32), expected)


@sizes
def test_the_references_patches(size):
    pixels = np.arange(3.0 * size * size).reshape(1, 3, size, size)
    expected = [
        pixels[0, channel, row, column] for row in range(size) for column in range(size) for channel in range(3)
    ]
    np.testing.assert_array_equal(model.extract_patches(pixels, size)[0, 0], expected)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 8), st.integers(1, 3), seeds)
def test_patches_by_channel(n, patch_size, rest, grid, seed):
    """The reference's patches, (channel, row, column) instead of (row, column, channel)."""
    side = patch_size * grid + min(rest, patch_size - 1)
    pixels = normal(seed, n, 3, side, side)
    out, check = guarded(n * grid * grid, patch_size * patch_size * 3)
    patch_embed.patches_by_channel(pixels, patch_size, out)
    check()
    expected = model.extract_patches(pixels, patch_size).reshape(-1, patch_size, patch_size, 3)
    np.testing.assert_array_equal(out, expected.transpose(0, 3, 1, 2).reshape(out.shape))
