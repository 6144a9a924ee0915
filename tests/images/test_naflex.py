"""NaFlex: sizes, patches, batches from outside; tests/parity compares with transformers bit for bit."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from npsiglip.errors import CheckpointError, InputError
from npsiglip.images.naflex import NaflexProcessor, PatchBatch, check_patches, naflex_size

# Of transformers 5.23, for patches of 16 and at most 256.
SIZES = {
    (224, 224): (256, 256),
    (480, 640): (224, 288),
    (224, 1024): (112, 512),
    (1600, 400): (512, 128),
    (1, 1): (112, 112),
    (3, 1000): (16, 4096),
    # where a bisection that ends at 1e-4, 5e-5, 2e-5 or 1e-6 instead of 1e-5 finds another
    (1999, 869): (384, 160),
    (3440, 1801): (352, 176),
    (987, 3455): (128, 464),
    (2841, 3030): (256, 256),
    (1069, 560): (336, 192),
    (2515, 3483): (208, 304),
    (3202, 3002): (256, 256),
    (3998, 3292): (288, 224),
    (1603, 2538): (208, 304),
    (1655, 1363): (272, 240),
    (1825, 1711): (256, 240),
    (2703, 2534): (256, 240),
    (1891, 2994): (192, 304),
}
sides = st.integers(1, 3000)


def test_published_sizes():
    assert {size: naflex_size(*size, 16, 256) for size in SIZES} == SIZES


@given(sides, sides, st.integers(1, 32), st.integers(1, 1024))
def test_sizes(height, width, patch, most):
    rows, columns = (side / patch for side in naflex_size(height, width, patch, most))
    assert rows == int(rows) >= 1 and columns == int(columns) >= 1
    assert rows * columns <= most
    # rounding up adds less than a patch to either side, unless a side is one patch
    assert (rows - 1) / columns < height / width * 1.0001 or rows == 1
    assert (columns - 1) / rows < width / height * 1.0001 or columns == 1


@given(sides, sides, st.integers(1, 500), st.integers(1, 500))
def test_more_patches_are_never_less(height, width, one, more):
    small, large = (np.prod(naflex_size(height, width, 16, most)) for most in sorted((one, more)))
    assert small <= large


def test_sizes_must_be_positive():
    with pytest.raises(InputError, match="positive whole numbers, got height 0"):
        naflex_size(0, 5, 16, 256)


def test_patches_are_in_order():
    """Row by row; within a patch row, column, channel."""
    image = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    batch = NaflexProcessor(2, 8, do_resize=False, do_rescale=False, do_normalize=False)(image)
    assert batch.shapes.tolist() == [[3, 2]]
    assert batch.mask.tolist() == [[True] * 6 + [False] * 2]
    np.testing.assert_array_equal(batch.patches[0, 1], image[:2, 2:4].ravel())
    np.testing.assert_array_equal(batch.patches[0, 2], image[2:4, :2].ravel())
    assert not batch.patches[0, 6:].any()


def test_values():
    image = Image.new("RGB", (32, 32), (0, 255, 51))
    batch = NaflexProcessor(16, 4)(image)
    np.testing.assert_allclose(batch.patches[0, 0, :3], [-1, 1, -0.6], atol=1e-7)
    assert batch.patches.shape == (1, 4, 768)


def test_each_channel_has_its_own_mean_and_deviation():
    image = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    mean, std = (0.1, 0.45, 0.7), (0.2, 0.5, 0.9)
    batch = NaflexProcessor(2, 6, do_resize=False, image_mean=mean, image_std=std)(image)
    expected = (image / 255.0 - mean) / std
    found = batch.patches.reshape(3, 2, 2, 2, 3).transpose(0, 2, 1, 3, 4).reshape(6, 4, 3)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_image_does_not_depend_on_others():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((20, 50), (64, 3), (33, 33))]
    processor = NaflexProcessor(8, 30)
    batch = processor(images)
    for i, image in enumerate(images):
        alone = processor(image)
        for whole, one in zip(vars(batch).values(), vars(alone).values(), strict=True):
            np.testing.assert_array_equal(whole[i], one[0])


def test_fewer_patches_on_demand():
    image = np.zeros((50, 50, 3), np.uint8)
    assert NaflexProcessor()(image, max_num_patches=9).patches.shape == (1, 9, 768)
    with pytest.raises(InputError, match="max_num_patches must be a positive whole number, got 0"):
        NaflexProcessor()(image, max_num_patches=0)


def test_bad_images_are_named(tmp_path):
    good = np.zeros((50, 50, 3), np.uint8)
    with pytest.raises(InputError, match=r"images\[1\]"):
        NaflexProcessor()([good, np.zeros((2, 2, 7), np.uint8)])
    with pytest.raises(InputError, match="`images` is empty"):
        NaflexProcessor()([])
    with pytest.raises(InputError, match=r"is 50 x 50 .* expected whole patches of 16 x 16"):
        NaflexProcessor(do_resize=False)(good)


def folder(tmp_path, **settings):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": "Siglip2ImageProcessor", "patch_size": 16} | settings))
    return tmp_path


def test_settings(tmp_path):
    found = NaflexProcessor.from_folder(folder(tmp_path, max_num_patches=49, resample=3), 16)
    assert found == NaflexProcessor(16, 49, resample=3)
    (tmp_path / "preprocessor_config.json").unlink()
    assert NaflexProcessor.from_folder(tmp_path, 14) == NaflexProcessor(14)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"patch_size": 14}, "patch_size is 14, but the model's config.json says 16"),
        ({"image_processor_type": "SiglipImageProcessor"}, "expected 'Siglip2ImageProcessor'"),
        ({"max_num_patches": "many"}, "max_num_patches must be a positive whole number; got 'many'"),
        ({"resample": 9}, "unknown resample 9"),
    ],
)
def test_bad_settings(tmp_path, settings, expected):
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        NaflexProcessor.from_folder(folder(tmp_path, **settings), 16)


def batch(**changes):
    values = {
        "pixel_values": np.zeros((2, 6, 27), np.float32),
        "pixel_attention_mask": np.array([[1] * 6, [1, 1, 1, 1, 0, 0]]),
        "spatial_shapes": np.array([[2, 3], [4, 1]]),
    }
    return values | changes


def test_batches_from_outside():
    checked = check_patches(batch(), 3)
    assert isinstance(checked, PatchBatch) and checked.mask.dtype == bool
    assert check_patches(checked, 3).shapes.tolist() == [[2, 3], [4, 1]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pixel_values": np.zeros((2, 6, 48), np.float32)}, "must be float32 [N, M, 27] (patches of 3 x 3)"),
        ({"pixel_values": np.zeros((2, 6, 27))}, "got float64 [2, 6, 27]"),
        ({"pixel_values": np.full((2, 6, 27), np.nan, np.float32)}, "pixel_values[0] must be finite"),
        ({"pixel_attention_mask": np.ones((2, 6), int)}, "pixel_attention_mask[1] must be 1 for the first 4 patches"),
        ({"pixel_attention_mask": np.ones((2, 5), int)}, "pixel_attention_mask must be [2, 6], got [2, 5]"),
        ({"spatial_shapes": np.array([[2, 3], [4, 2]])}, "spatial_shapes[1] is [4, 2]"),
        ({"spatial_shapes": np.array([[0, 3], [4, 1]])}, "spatial_shapes[0] is [0, 3]"),
        ({"spatial_shapes": np.array([2, 3])}, "spatial_shapes must be whole numbers [2, 2]"),
    ],
)
def test_bad_batches(changes, expected):
    with pytest.raises(InputError, match=re.escape(expected)):
        check_patches(batch(**changes), 3)


def test_missing_keys():
    with pytest.raises(InputError, match="missing: \\['spatial_shapes'\\]"):
        check_patches({k: v for k, v in batch().items() if k != "spatial_shapes"}, 3)
