"""NaFlex's patches against transformers' own processor, bit for bit."""

import sys

import numpy as np
import pytest
from PIL import Image
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    Siglip2ImageProcessorPil,
    get_image_size_for_max_num_patches,
)

from npsiglip.images.naflex import NaflexProcessor, naflex_size
from tests.helpers.golden_data import GOLDEN

sys.path.insert(0, str(GOLDEN))
from pictures import pil_images


def picture(height, width):
    return Image.fromarray(np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8))


def assert_equal(images, patch_size, most):
    theirs = Siglip2ImageProcessorPil(patch_size=patch_size, max_num_patches=most, do_convert_rgb=True)(
        images, return_tensors="np"
    )
    ours = NaflexProcessor(patch_size, most)(images)
    np.testing.assert_array_equal(ours.shapes, theirs["spatial_shapes"])
    np.testing.assert_array_equal(ours.mask, theirs["pixel_attention_mask"])
    np.testing.assert_array_equal(ours.patches, theirs["pixel_values"])


@pytest.mark.parametrize("most", [1, 2, 60, 256, 1024])
def test_sizes(most):
    sizes = [(1, 1), (3, 1000), (1600, 400), (480, 640), (224, 224), (17, 300), (301, 16), (33, 47)]
    assert_equal([picture(*size) for size in sizes], 16, most)


def test_each_channel_has_its_own_mean_and_deviation():
    settings = {"image_mean": [0.1, 0.45, 0.7], "image_std": [0.2, 0.5, 0.9]}
    images = [picture(50, 90), picture(33, 31)]
    theirs = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=60, **settings)(images, return_tensors="np")
    ours = NaflexProcessor(8, 60, **{name: tuple(values) for name, values in settings.items()})(images)
    np.testing.assert_array_equal(ours.patches, theirs["pixel_values"])


@pytest.mark.parametrize("patch_size", [2, 14, 16])
def test_modes(patch_size):
    for name, image in pil_images(5, 60, 85):
        try:
            assert_equal([image], patch_size, 100)
        except AssertionError as error:
            raise AssertionError(name) from error


def test_the_search_for_sizes():
    rng = np.random.default_rng(8)
    for _ in range(3000):
        height, width = (int(2 ** rng.uniform(0, 12)) for _ in range(2))
        patch, most = int(rng.integers(1, 33)), int(2 ** rng.uniform(0, 11))
        assert naflex_size(height, width, patch, most) == get_image_size_for_max_num_patches(height, width, patch, most)
