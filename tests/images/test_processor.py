"""The image processor: goldens from transformers, properties, steps that are switched off, pixels that are checked.

Covers images/processor.py and reference/resize.py.
"""

import hashlib
import subprocess
import sys

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from golden import make_pixels
from golden.pictures import MODES, arrays, picture, pil_image, pil_images
from npsiglip.images.processor import ImageProcessor, check_pixels
from npsiglip.reference.resize import cubic, resize, triangle
from tests.helpers.golden_data import ROOT
from tests.helpers.images import GOLDEN, NAMES, SMALL, refusal, sides

U8 = np.uint8

RESIZE = Image.Image.resize


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*grey picture of 16 bits"),  # once in a process: tests/images/test_files.py
    pytest.mark.filterwarnings("ignore:.*picture of floats"),
]


def golden_processor(kind):
    options = dict(make_pixels.PROCESSORS[kind])
    size = options.pop("size")
    return ImageProcessor(**size, **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


# goldens


@pytest.fixture(scope="module")
def golden_inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    inputs = dict(pil_images(make_pixels.SEED, make_pixels.HEIGHT, make_pixels.WIDTH))
    inputs |= dict(arrays(make_pixels.SEED, make_pixels.HEIGHT, make_pixels.WIDTH))
    for name in NAMES:
        if name.startswith("file-"):  # the stored bytes: another version of Pillow would encode others
            inputs[name] = folder / name.removeprefix("file-")
            inputs[name].write_bytes(GOLDEN[name].tobytes())
    return inputs


def vertically_first(image, size, resample):
    """Image.resize in the order of passes that Pillow 13 takes for tall pictures, on a Pillow that never does."""
    width, height = size
    return RESIZE(RESIZE(image, (image.width, height), resample), (width, height), resample)


def both_orders(call, monkeypatch):
    """What `call` gives with this Pillow; and, older than the goldens' Pillow, what it would give with its order."""
    yield call()
    if int(PIL.__version__.split(".")[0]) < 13:
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "resize", vertically_first)
            yield call()


def horizontally_first(image, size, resample):
    width, height = size
    return RESIZE(RESIZE(image, (width, image.height), resample), (width, height), resample)


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize(("height", "width", "tall"), [(900, 400, True), (400, 900, False), (600, 600, False)])
def test_the_order_of_passes_is_that_of_this_pillow(height, width, tall, resample):
    """Only tall pictures have other bits since 13.0, which the docs say; older releases are taken as well."""
    image, size = Image.fromarray(picture(1, height, width)), (384, 384)
    resized = ImageProcessor(384, 384, resample=resample).resize(image)
    first = vertically_first if tall and int(PIL.__version__.split(".")[0]) >= 13 else horizontally_first
    np.testing.assert_array_equal(resized, np.array(first(image, size, resample)))
    assert (
        vertically_first(image, size, resample).tobytes() != horizontally_first(image, size, resample).tobytes()
    ) or not tall


@pytest.mark.filterwarnings("ignore:.*ambiguous shape")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", make_pixels.PROCESSORS)
def test_pixels_are_those_of_transformers(kind, name, golden_inputs, monkeypatch):
    processor = golden_processor(kind)
    image = golden_inputs[name]
    if getattr(image, "dtype", None) == np.uint16:  # refused by its type; the golden tells what its values would be
        assert "uint16" in refusal(processor, image)
        image = image.astype(np.uint8)
    about = f"goldens: {', '.join(GOLDEN['versions'])}; here: pillow {PIL.__version__}, numpy {np.__version__}"
    if kind in make_pixels.STORED_UINT8:
        expected = GOLDEN[f"uint8/{kind}/{name}"].transpose(0, 2, 3, 1)
        items = image if getattr(image, "ndim", 3) == 4 else [image]
        for item, want in zip(items, expected, strict=True):
            resized = list(both_orders(lambda item=item: processor.resize(item), monkeypatch))
            if not any(np.array_equal(each, want) for each in resized):
                np.testing.assert_array_equal(resized[0], want, err_msg=about)
    pixels = list(both_orders(lambda: processor(image), monkeypatch))
    assert pixels[0].dtype == np.float32
    assert pixels[0].flags.c_contiguous
    expected = GOLDEN[f"sha256/{kind}"][NAMES.index(name)].tobytes()
    assert expected in [hashlib.sha256(each.tobytes()).digest() for each in pixels], about


def test_goldens_hold_every_mode_and_the_inputs_that_can_be_generated():
    generated = dict(pil_images(0, 5, 6)) | dict(arrays(0, 5, 6))
    assert set(generated) == {name for name in NAMES if not name.startswith("file-")}
    assert {f"pil-{mode}" for mode in MODES} <= set(NAMES)
    assert sum(name.startswith("file-") for name in NAMES) >= 40


# properties


colours = st.tuples(*[st.integers(0, 255)] * 3)


@given(height=sides, width=sides, seed=st.integers(0, 2**32), resample=st.sampled_from(range(6)))
@settings(deadline=None)
def test_shape_range_and_bits_do_not_depend_on_the_batch(height, width, seed, resample):
    processor = ImageProcessor(9, 6, resample=resample)
    images = [Image.fromarray(picture(seed, height, width)), pil_image(seed, "RGB", width, height)]
    batch = processor(images)
    assert batch.shape == (2, 3, 9, 6)
    assert batch.dtype == np.float32
    assert batch.min() >= -1
    assert batch.max() <= 1
    for n, image in enumerate(images):
        np.testing.assert_array_equal(processor(image)[0], batch[n])
    np.testing.assert_array_equal(processor(images[::-1]), batch[::-1])


@given(colour=colours, height=sides, width=sides, resample=st.sampled_from(range(6)))
@settings(deadline=None)
def test_one_colour_stays_one_colour(colour, height, width, resample):
    processor = ImageProcessor(11, 8, resample=resample)
    image = Image.new("RGB", (width, height), colour)
    np.testing.assert_array_equal(processor.resize(image), np.full((11, 8, 3), colour))
    expected = [(np.float32(c * (1 / 255)) - np.float32(0.5)) / np.float32(0.5) for c in colour]
    np.testing.assert_array_equal(processor(image)[0], np.broadcast_to(np.reshape(expected, (3, 1, 1)), (3, 11, 8)))


@given(seed=st.integers(0, 2**32), mode=st.sampled_from(MODES), height=sides, width=sides)
@settings(deadline=None)
def test_every_mode_gives_pixels_and_leaves_the_image_alone(seed, mode, height, width):
    image = pil_image(seed, mode, height, width)
    before = image.tobytes()
    pixels = SMALL([image, image])
    assert pixels.shape == (2, 3, 10, 7)
    assert np.abs(pixels).max() <= 1
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert image.tobytes() == before
    assert image.mode == mode


@given(seed=st.integers(0, 2**32), height=sides, width=sides, resample=st.sampled_from(range(6)))
@settings(deadline=None)
def test_an_image_of_the_right_size_is_not_resampled(seed, height, width, resample):
    image = picture(seed, height, width)
    processor = ImageProcessor(height, width, resample=resample)
    np.testing.assert_array_equal(processor.resize(Image.fromarray(image)), image)


@pytest.mark.parametrize(("resample", "kernel"), [(2, triangle), (3, cubic)])
@pytest.mark.parametrize(("height", "width"), [(150, 190), (310, 33), (8, 9)])
def test_large_pictures_are_filtered_over_all_their_pixels(height, width, resample, kernel):
    """By the filters in float64: nothing is reduced beforehand, as Pillow can, which is 2 to 10 levels off here."""
    image = picture(0, height, width)
    expected = resize(image.astype(np.float64), 10, 7, kernel)
    found = ImageProcessor(10, 7, resample=resample).resize(image)
    # Whole numbers after each of two passes, of which the second has weights whose magnitudes sum to 1.3 at most: half
    # a level and 1.3 halves. Measured: 0.7.
    assert np.abs(found - expected).max() < 1.15


@given(
    seed=st.integers(0, 2**32), height=st.integers(5, 40), width=st.integers(5, 40), channels=st.sampled_from((1, 3, 4))
)
@settings(deadline=None)
def test_array_layouts_agree(seed, height, width, channels):
    last = picture(seed, height, width, channels)
    first = np.ascontiguousarray(np.moveaxis(last, -1, 0))
    image = Image.fromarray(last[..., 0] if channels == 1 else last)
    expected = SMALL(image)
    np.testing.assert_array_equal(SMALL(last), expected)
    np.testing.assert_array_equal(SMALL(first), expected)
    np.testing.assert_array_equal(SMALL(last[None]), expected)
    np.testing.assert_array_equal(SMALL([first[None], [last]]), np.concatenate([expected] * 2))
    np.testing.assert_array_equal(SMALL(last.astype(np.int32)), expected)


def test_height_and_width_are_not_swapped():
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:4] = 255  # white above, black below
    resized = ImageProcessor(6, 4, resample=0).resize(halves)
    assert resized.shape == (6, 4, 3)
    assert (resized[:3] == 255).all()
    assert (resized[3:] == 0).all()


def test_blending_is_the_same_for_arrays_and_images():
    """Every pair of a value and an alpha: float64 as Hugging Face does for arrays, and what Pillow does."""
    alpha, value = np.mgrid[:256, :256]
    rgba = np.stack([value, value, value, alpha], -1).astype(np.uint8)
    a = rgba[..., 3:] / 255
    expected = np.round(a * rgba[..., :3] + (1 - a) * 255).astype(np.uint8)
    processor = ImageProcessor(256, 256)
    np.testing.assert_array_equal(processor.resize(rgba), expected)
    np.testing.assert_array_equal(processor.resize(Image.fromarray(rgba)), expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 17), (17, 3000), (2, 1)])
def test_extreme_sizes(height, width):
    assert SMALL(Image.fromarray(picture(1, height, width))).shape == (1, 3, 10, 7)


# steps that are switched off


def test_switched_off_steps():
    image = picture(2, 10, 7)
    np.testing.assert_array_equal(
        ImageProcessor(10, 7, do_rescale=False, do_normalize=False)(image)[0], image.transpose(2, 0, 1)
    )
    np.testing.assert_array_equal(
        ImageProcessor(10, 7, do_normalize=False)(image)[0], (image * (1 / 255)).astype(np.float32).transpose(2, 0, 1)
    )
    np.testing.assert_array_equal(
        ImageProcessor(10, 7, do_rescale=False)(image)[0],
        (image.astype(np.float32) - np.float32(0.5)).transpose(2, 0, 1) / np.float32(0.5),
    )
    fixed = ImageProcessor(10, 7, do_resize=False)
    np.testing.assert_array_equal(fixed.resize(image), image)
    assert "7 x 10 (height x width), expected 10 x 7" in refusal(fixed, picture(2, 7, 10))


def test_conversion_to_rgb_switched_off():
    processor = ImageProcessor(10, 7, do_convert_rgb=False)
    hsv = pil_image(1, "HSV", 10, 7)
    np.testing.assert_array_equal(processor.resize(hsv), np.array(hsv))
    for mode, channels in (("L", 1), ("RGBA", 4), ("P", 1)):
        assert f"{channels} channel(s)" in refusal(processor, pil_image(1, mode, 10, 7))
    assert "4 channel(s)" in refusal(processor, picture(1, 10, 7, 4))
    assert "1 channel(s)" in refusal(processor, picture(1, 10, 7, 1))


# check_pixels


def test_good_pixels_pass():
    pixels = np.zeros((2, 3, 4, 6), np.float32)
    assert check_pixels(pixels, (4, 6)) is pixels
    strided = np.zeros((2, 4, 4, 3), np.float32).transpose(0, 3, 1, 2)
    assert check_pixels(strided, 4).flags.c_contiguous
    assert check_pixels(ImageProcessor(4, 4)(picture(1, 9, 9)), 4).shape == (1, 3, 4, 4)


def bad_value(value, *index):
    pixels = np.zeros((2, 3, 4, 4), np.float32)
    pixels[index] = value
    return pixels


@pytest.mark.parametrize(
    ("pixels", "parts"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), ["[2, 4, 4, 3]", "channels-last", "`.transpose(0, 3, 1, 2)`"]),
        (np.zeros((4, 4, 3), np.float32), ["`.transpose(2, 0, 1)[None]`"]),
        (np.zeros((3, 4, 4), np.float32), ["`[None]`"]),
        (np.zeros((2, 3, 5, 4), np.float32), ["[2, 3, 5, 4]", "another size"]),
        (np.zeros((2, 1, 4, 4), np.float32), ["[2, 1, 4, 4]"]),
        (np.zeros((4,), np.float32), ["[4]"]),
        (np.zeros((2, 3, 4, 4)), ["float64", "`.astype(np.float32)`"]),
        (np.zeros((2, 3, 4, 4), np.float16), ["float16", "`.astype(np.float32)`"]),
        (np.zeros((2, 3, 4, 4), U8), ["uint8", "ImageProcessor"]),
        (np.zeros((0, 3, 4, 4), np.float32), ["no image"]),
        (bad_value(np.nan, 1, 2, 3, 0), ["nan", "[1, 2, 3, 0]", "one of 1"]),
        (bad_value(-np.inf, 0, 1), ["-inf", "[0, 1, 0, 0]", "one of 16"]),
    ],
    ids=lambda value: str(getattr(value, "shape", value)),
)
def test_bad_pixels_are_refused_with_a_hint(pixels, parts):
    message = refusal(check_pixels, pixels, 4)
    for part in ("`pixels` must be float32 [N, 3, 4, 4]", *parts):
        assert part in message


# lazy import


def test_importing_the_module_loads_neither_pillow_nor_numba():
    code = "import sys, npsiglip.images.processor; print([m for m in ('PIL', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
