"""image.py and image_decode.py: goldens from transformers, properties, refusals and the truth table of the docs."""

import hashlib
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from golden import make_pixels
from golden.pictures import MODES, ORIENTATION, arrays, noise, picture, pil_image, pil_images, write_files
from npsiglip.errors import CheckpointError, InputError
from npsiglip.images.decode import flatten_images, to_rgb
from npsiglip.images.processor import ImageProcessor, check_pixels, load_image

ROOT = Path(__file__).parents[2]
TINY = ROOT / "golden" / "tiny"
GOLDEN = dict(np.load(ROOT / "golden" / "pixels.npz"))
NAMES = [str(name) for name in GOLDEN["names"]]
SMALL = ImageProcessor(10, 7)
RESIZE = Image.Image.resize

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*grey picture of 16 bits"),  # once in a process: tests/images/test_files.py
    pytest.mark.filterwarnings("ignore:.*picture of floats"),
]


def folder_with(path, config, name="preprocessor_config.json"):
    (path / name).write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return path


def golden_processor(kind):
    options = dict(make_pixels.PROCESSORS[kind])
    size = options.pop("size")
    return ImageProcessor(**size, **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


# ------------------------------------------------------------------------------------------------ goldens


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


# --------------------------------------------------------------------------------------------- properties

sides = st.integers(1, 40)
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


def filtered(size, target, kernel):
    """Weights [target, size]: a kernel about each output, as wide as outputs are where the picture shrinks."""
    centres = (np.arange(target)[:, None] + 0.5) * (size / target)
    weights = kernel((np.arange(size) + 0.5 - centres) / max(size / target, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


def triangle(x):
    return np.maximum(1 - np.abs(x), 0)


def cubic(x):
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))


@pytest.mark.parametrize(("resample", "kernel"), [(2, triangle), (3, cubic)])
@pytest.mark.parametrize(("height", "width"), [(150, 190), (310, 33), (8, 9)])
def test_large_pictures_are_filtered_over_all_their_pixels(height, width, resample, kernel):
    """By the filters in float64: nothing is reduced beforehand, as Pillow can, which is 2 to 10 levels off here."""
    image = picture(0, height, width)
    rows, columns = filtered(height, 10, kernel), filtered(width, 7, kernel)
    expected = np.einsum("ry,cx,yxk->rck", rows, columns, image.astype(np.float64))
    found = ImageProcessor(10, 7, resample=resample).resize(image)
    # Whole numbers after each of two passes, of which the second has weights whose magnitudes sum to 1.3 at most: half
    # a level and 1.3 halves. Measured: 0.7.
    assert np.abs(found - np.clip(expected, 0, 255)).max() < 1.15


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


# -------------------------------------------------------------------------------------------------- paths


def turned(image, orientation):
    """Upright, for a picture stored with this EXIF orientation: the table of the EXIF standard, on arrays."""
    flip_rows, flip_columns, transpose = {
        1: (False, False, False),
        2: (False, True, False),
        3: (True, True, False),
        4: (True, False, False),
        5: (False, False, True),
        6: (False, True, True),
        7: (True, True, True),
        8: (True, False, True),
    }[orientation]
    image = image.transpose(1, 0, 2) if transpose else image
    return image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_paths_are_turned_upright_and_images_are_not(tmp_path, orientation, suffix):
    pixels = picture(5, 6, 9)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, lossless=True)
    upright = turned(pixels, orientation)
    np.testing.assert_array_equal(np.array(load_image(path)), upright)
    np.testing.assert_array_equal(SMALL(path), SMALL(Image.fromarray(upright)))
    if suffix != "tiff":  # Pillow itself turns TIFF when it decodes
        with Image.open(path) as image:
            np.testing.assert_array_equal(SMALL(image), SMALL(pixels))


@given(seed=st.integers(0, 2**32), height=sides, width=sides, suffix=st.sampled_from(("png", "bmp", "tiff")))
@settings(deadline=None)
def test_a_plain_rgb_path_equals_its_image(seed, height, width, suffix, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"plain.{suffix}"
    image = Image.fromarray(picture(seed, height, width))
    image.save(path)
    expected = SMALL(image)
    np.testing.assert_array_equal(SMALL(path), expected)
    np.testing.assert_array_equal(SMALL([str(path)]), expected)


def test_load_image_gives_rgb_and_closes_the_file(tmp_path):
    path = tmp_path / "x.png"
    pil_image(1, "RGBA", 5, 6).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a ResourceWarning would be an error
        image = load_image(str(path))
        path.unlink()
    assert image.mode == "RGB"
    assert image.size == (6, 5)
    np.testing.assert_array_equal(np.array(image), picture(1, 5, 6, 4)[..., :3])


# ----------------------------------------------------------------------------------------------- bad input


def refusal(call, *arguments):
    with pytest.raises(InputError) as info:
        call(*arguments)
    return str(info.value)


@pytest.fixture
def broken(tmp_path):
    """Named things that are no readable image."""
    good = io.BytesIO()
    Image.fromarray(noise(1, 64, 64, 3)).save(good, "PNG")
    paths = {
        name: tmp_path / f"{name}.png" for name in ("truncated", "empty", "text", "folder", "missing", "loop", "pipe")
    }
    paths["truncated"].write_bytes(good.getvalue()[:1000])
    paths["empty"].write_bytes(b"")
    paths["text"].write_text("not an image")
    paths["folder"].mkdir()
    paths["loop"].symlink_to(paths["loop"])
    os.mkfifo(paths["pipe"])
    return paths


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated", "truncated or damaged"),
        ("empty", r"empty (0 bytes)"),
        ("text", "not an image that Pillow can identify"),
        ("folder", "is a folder"),
        ("missing", "does not exist"),
        ("loop", "cannot be opened"),
        ("pipe", "not a regular file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(broken, name, reason):
    path = broken[name]
    good = np.zeros((5, 5, 3), np.uint8)
    for message in (refusal(load_image, path), refusal(SMALL, [good, str(path)])):
        assert str(path) in message
        assert reason in message


def test_no_permission(tmp_path, monkeypatch):
    """Root may read anything, so the refusal of the system is played."""
    path = tmp_path / "x.png"
    path.write_bytes(b"x")

    def open_refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", open_refused)
    message = refusal(load_image, path)
    assert "Permission denied" in message
    assert str(path) in message


def test_strange_paths():
    assert "empty string" in refusal(SMALL, "")  # pathlib would read it as the working directory
    assert "cannot be opened" in refusal(SMALL, "a\0b")
    assert "URL" in refusal(SMALL, "https://example.org/x.png")
    assert "URL" in refusal(SMALL, "data:image/png;base64,AAAA")
    assert len(refusal(SMALL, "A" * 100_000)) < 500


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_files_give_an_image_or_an_input_error(seed, data, tmp_path_factory):
    name = data.draw(st.sampled_from([name for name in NAMES if name.startswith("file-")]))
    content = bytearray(GOLDEN[name].tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own about odd metadata
        try:
            image = load_image(path)
        except InputError as error:
            assert "damaged" in str(error)
        else:
            assume(image.width * image.height < 10_000_000)
            assert SMALL(image).shape == (1, 3, 10, 7)


@pytest.mark.parametrize(("limit", "size"), [(100, "11 x 10"), (10, "110")])
def test_too_many_pixels_are_refused_before_decoding(tmp_path, monkeypatch, limit, size):
    """Pillow warns above the limit and raises above twice the limit; both are one error here."""
    path = tmp_path / "huge.png"
    content = io.BytesIO()
    Image.new("RGB", (11, 10)).save(content, "PNG")
    path.write_bytes(content.getvalue()[:60])  # the header is all there is to decode
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    message = refusal(SMALL, path)
    for part in (str(path), f"{size} pixels", f"more than the {limit} ", "max_megapixels=1", "--max-megapixels 1"):
        assert part in message
    path.write_bytes(content.getvalue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 110)
    assert SMALL(path).shape == (1, 3, 10, 7)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert SMALL(path).shape == (1, 3, 10, 7)


def lazy_truncated(tmp_path):
    path = tmp_path / "t.png"
    Image.fromarray(noise(1, 64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    return Image.open(path)


U8 = np.uint8


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        (np.zeros((5, 6), U8), ["[5, 6]", "array[..., None]"]),
        (np.zeros((5, 6, 2), U8), ["[5, 6, 2]", "1, 3 or 4 channels"]),
        (np.zeros((5, 6, 7), U8), ["[5, 6, 7]", "1, 3 or 4 channels"]),
        (np.zeros((1, 1, 5, 6, 3), U8), ["5 dimensions"]),
        (U8(3), ["0 dimensions"]),
        (np.zeros((0, 6, 3), U8), ["no pixels", "[0, 6, 3]"]),
        (np.zeros((5, 0, 3), U8), ["no pixels", "[5, 0, 3]"]),
        (np.zeros((5, 6, 3), np.float32), ["float32", "second time", "model.encode_image"]),
        (np.zeros((5, 6, 3), np.float16), ["float16", "second time"]),
        (np.zeros((5, 6, 3), bool), ["bool", "uint8"]),
        (np.zeros((5, 6, 3), complex), ["complex128", "uint8"]),
        (np.full((5, 6, 3), "a"), ["<U1", "uint8"]),
        (np.full((5, 6, 3), 256), ["256..256", "0..255"]),
        (np.full((5, 6, 3), -1), ["-1..-1", "0..255"]),
        (Image.new("RGB", (0, 5)), ["no pixels", "0 x 5"]),
        (np.full((5, 6, 3), 9, np.uint16), ["uint16", "sixteen_bit", "astype('uint8')"]),
        (np.full((5, 6, 3), 9, ">u2"), ["uint16", "sixteen_bit"]),
        (np.full((5, 6, 3), 9, np.int16), ["int16", "astype('uint8')"]),
        (Image.new("La", (4, 5)), ["La", "cannot turn its mode into RGB"]),
        (None, ["NoneType", "a path, a PIL image, a uint8 array"]),
        (3, ["int"]),
        (b"bytes", ["not an image that Pillow can identify"]),
        (b"", ["empty (0 bytes)"]),
        (io.BytesIO(), ["not an image that Pillow can identify"]),
        (io.StringIO("x"), ["opened as text", "open(path, 'rb')"]),
        ({"image": 1}, ["dict"]),
        ({"a.png", "b.png"}, ["set"]),
    ],
    ids=str,
)
def test_what_is_no_image_is_refused_with_the_reason(image, parts):
    good = Image.new("RGB", (3, 3))
    for message in (refusal(SMALL, image), refusal(SMALL, [good, good, image]), refusal(SMALL.resize, image)):
        for part in parts:
            assert part in message
    assert "images[2]" in refusal(SMALL, [good, good, image])


def test_index_of_a_bad_image_and_empty_lists(tmp_path):
    for empty in ([], (), [[], []], np.zeros((0, 5, 5, 3), U8)):
        assert "empty" in refusal(SMALL, empty)
    with lazy_truncated(tmp_path) as image:
        assert "images[1]" in refusal(SMALL, [np.zeros((5, 5, 3), U8), image])
    assert "images[1]" in refusal(SMALL, [[np.zeros((5, 5, 3), U8)], np.zeros((1, 5, 5, 3))])


class Refusing:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("on another device")


class Wrapped:
    """Like a torch tensor: no array, but NumPy can read it."""

    def __init__(self, array):
        self.array, self.ndim = array, array.ndim

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_what_numpy_can_read_is_an_array():
    array = picture(3, 8, 9)
    np.testing.assert_array_equal(SMALL(Wrapped(array)), SMALL(array))
    assert "another device" in refusal(SMALL, Refusing())


@pytest.mark.parametrize("shape", [(3, 9, 3), (4, 9, 3), (1, 9, 4), (1, 1, 3)])
def test_ambiguous_axes_are_channels_first_with_a_warning(shape):
    array = picture(1, *shape)
    with pytest.warns(UserWarning, match="ambiguous shape"):
        ambiguous = SMALL(array)
    image = np.moveaxis(array, 0, -1)
    image = Image.fromarray(image[..., 0] if shape[0] == 1 else np.ascontiguousarray(image))
    np.testing.assert_array_equal(ambiguous, SMALL(image))


# ---------------------------------------------------------------------------------- preprocessor_config.json


def test_the_tiny_folder():
    assert ImageProcessor.from_folder(TINY, 38) == ImageProcessor(38, 38)


def test_a_folder_without_the_file_gets_the_defaults(tmp_path):
    assert ImageProcessor.from_folder(tmp_path, 224) == ImageProcessor(
        224,
        224,
        resample=3,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        rescale_factor=1 / 255,
        do_resize=True,
        do_rescale=True,
        do_normalize=True,
        do_convert_rgb=True,
    )
    folder_with(tmp_path, {})
    assert ImageProcessor.from_folder(str(tmp_path), 224) == ImageProcessor(224, 224)
    folder_with(tmp_path, dict.fromkeys(("size", "resample", "image_mean", "do_convert_rgb", "do_center_crop")))
    assert ImageProcessor.from_folder(tmp_path, 224) == ImageProcessor(224, 224)


def test_every_setting_is_read(tmp_path):
    config = {
        "size": {"height": 9, "width": 9},
        "resample": 2,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": 0.25,
        "rescale_factor": 1 / 128,
        "do_resize": False,
        "do_rescale": False,
        "do_normalize": False,
        "do_convert_rgb": False,
        "image_processor_type": "SiglipImageProcessorFast",
        "do_center_crop": False,
        "processor_class": "SiglipProcessor",
    }
    expected = ImageProcessor(
        9,
        9,
        resample=2,
        image_mean=(0.1, 0.2, 0.3),
        image_std=(0.25, 0.25, 0.25),
        rescale_factor=1 / 128,
        do_resize=False,
        do_rescale=False,
        do_normalize=False,
        do_convert_rgb=False,
    )
    assert ImageProcessor.from_folder(folder_with(tmp_path, config), 9) == expected


def test_null_stands_for_the_default(tmp_path):
    keys = ("size", "resample", "image_mean", "image_std", "rescale_factor", "image_processor_type", "do_pad")
    switches = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
    folder = folder_with(tmp_path, dict.fromkeys((*keys, *switches)))
    assert ImageProcessor.from_folder(folder, 9) == ImageProcessor(9, 9)


def test_a_nested_processor_config_goes_first(tmp_path):
    folder_with(tmp_path, {"resample": 2})
    folder_with(tmp_path, {"processor_class": "SiglipProcessor"}, "processor_config.json")
    assert ImageProcessor.from_folder(tmp_path, 5).resample == 2
    folder_with(tmp_path, {"image_processor": {"resample": 1}}, "processor_config.json")
    assert ImageProcessor.from_folder(tmp_path, 5).resample == 1


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"size": {"height": 256, "width": 256}}, ["256", "image_size 224"]),
        ({"size": {"height": 224, "width": 256}}, ["256", "image_size 224"]),
        ({"size": {"shortest_edge": 224}}, ["shortest_edge", '"height": 224']),
        ({"size": 224}, ["size is 224", '"height": 224']),
        ({"resample": 6}, ["resample 6", "3 (bicubic)"]),
        ({"resample": "bicubic"}, ["'bicubic'", "3 (bicubic)"]),
        ({"resample": True}, ["True", "3 (bicubic)"]),
        ({"do_center_crop": True}, ["do_center_crop", "CLIP"]),
        ({"do_pad": True}, ["do_pad"]),
        ({"input_data_format": "channels_last"}, ["input_data_format"]),
        ({"image_processor_type": "CLIPImageProcessor"}, ["CLIPImageProcessor", "SiglipImageProcessor"]),
        ({"image_processor_type": "Siglip2ImageProcessor"}, ["Siglip2ImageProcessor"]),
        ({"image_mean": [0.5, 0.5]}, ["image_mean", "(0.5, 0.5)"]),
        ({"image_std": "0.5"}, ["image_std", "'0.5'"]),
        ({"image_std": [0.5, 0.5, True]}, ["image_std"]),
        ({"image_std": [0.5, 0, 0.5]}, ["image_std", "not finite"]),
        ({"image_std": [1e-300, 1, 1]}, ["image_std", "not finite"]),
        ({"rescale_factor": "1/255"}, ["rescale_factor"]),
        ('{"rescale_factor": NaN}', ["rescale_factor"]),
        ('{"image_mean": 1' + "0" * 400 + "}", ["image_mean"]),
        ({"do_rescale": 1}, ["do_rescale", "true or false"]),
        ("{", ["JSON"]),
        ("", ["JSON"]),
        ("[]", ["JSON object", "list"]),
        (b"\xff\xfe".decode("latin1"), ["JSON"]),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_followed_is_named(tmp_path, config, parts):
    folder_with(tmp_path, config)
    with pytest.raises(CheckpointError) as info:
        ImageProcessor.from_folder(tmp_path, 224)
    for part in (str(tmp_path / "preprocessor_config.json"), *parts):
        assert part in str(info.value)


def test_folders_and_sizes_that_do_not_exist(tmp_path):
    with pytest.raises(CheckpointError, match="not a folder"):
        ImageProcessor.from_folder(tmp_path / "nothing", 224)
    (tmp_path / "preprocessor_config.json").write_bytes(b"\xff\xff")
    with pytest.raises(CheckpointError, match="JSON"):
        ImageProcessor.from_folder(tmp_path, 224)
    folder_with(tmp_path, {"image_processor": []}, "processor_config.json")
    with pytest.raises(CheckpointError, match=r"processor_config\.json.* object"):
        ImageProcessor.from_folder(tmp_path, 224)
    for height, width in ((0, 5), (5, -1), (2.5, 5), (True, 5)):
        with pytest.raises(CheckpointError, match="image size"):
            ImageProcessor(height, width)


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


# --------------------------------------------------------------------------------------------- check_pixels


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


# ----------------------------------------------------------------------------------------------- lazy import


def test_importing_the_module_loads_neither_pillow_nor_numba():
    code = "import sys, npsiglip.images.processor; print([m for m in ('PIL', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------- truth table of the docs


def table_of_the_docs():
    """{input: what npsiglip does}, from the section "## Images" of the docs."""
    sections = [
        section
        for page in sorted((ROOT / "docs").glob("*.md"))
        for section in page.read_text(encoding="utf-8").split("\n## ")
        if section.removeprefix("## ").startswith("Images\n")
    ]
    assert len(sections) == 1, "expected one section '## Images' in docs/*.md"
    rows = [line.strip("|").split("|") for line in sections[0].splitlines() if line.startswith("|")]
    assert rows[0][-1].strip() == "npsiglip"
    return {row[0].strip(): row[-1].strip() for row in rows[2:]}


RED, BLACK, WHITE, GREY = (200, 0, 0), (0, 0, 0), (255, 255, 255), (90, 90, 90)
HALVES = np.zeros((4, 6, 3), U8)
HALVES[:, :3] = 255  # the left half is white: the upper half once turned by orientation 6


def saved(folder, image, name="x.png", **options):
    image.save(folder / name, **options)
    return folder / name


def exif6():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return exif


def red(mode, transparency=None, alpha=0):
    """A red picture, all of it transparent in one way or another."""
    if mode == "PA":
        image = Image.frombytes("PA", (4, 4), bytes([5, alpha]) * 16)
        image.putpalette(bytes(RED) * 256)
        return image
    if mode == "P":
        image = Image.new("P", (4, 4), 5)
        image.putpalette(bytes(RED) * 256)
        image.info["transparency"] = transparency
        return image
    return Image.new("RGBA", (4, 4), (*RED, alpha)).convert(mode)


def colour_of(image):
    """The one colour that an image becomes."""
    resized = ImageProcessor(2, 3).resize(image).reshape(-1, 3)
    assert (resized == resized[0]).all()
    return tuple(int(c) for c in resized[0])


def outcome(image, **names):
    """The name of the colour that an image becomes, or "refused"."""
    try:
        colour = colour_of(image)
    except InputError:
        return "refused"
    return {colour: name.replace("_", " ") for name, colour in names.items()}.get(colour, str(colour))


def half_turned(image):
    resized = ImageProcessor(4, 4, resample=0).resize(image)[..., 0]
    above, left = np.zeros((4, 4)), np.zeros((4, 4))
    above[:2], left[:, :2] = 255, 255
    return "upright" if (resized == above).all() else "as stored" if (resized == left).all() else "?"


def one(outcomes):
    """What all of several variants come out as."""
    (only,) = set(outcomes)
    return only


def transparent(images):
    return one(outcome(image, on_white=WHITE, alpha_dropped=RED) for image in images)


def exif_image(folder):
    with Image.open(saved(folder, Image.fromarray(HALVES), exif=exif6())) as image:
        return half_turned(image)


def grey_path_with_alpha(folder):
    return outcome(saved(folder, Image.new("LA", (4, 4), (90, 0))), alpha_dropped=GREY, on_white=WHITE)


def one_transparent_colour(folder):
    yield saved(folder, red("P", 5), "a.png", transparency=5)
    yield saved(folder, Image.new("RGB", (4, 4), RED), "b.png", transparency=RED)
    yield saved(folder, red("P", 5), "c.gif", transparency=5)


def converted():
    brown = Image.new("RGB", (4, 4), (204, 102, 51))  # in the web palette, which convert("P") takes
    for mode in ("P", "CMYK", "YCbCr", "HSV", "LAB"):
        near = np.abs(np.subtract(colour_of(brown.convert(mode)), (204, 102, 51))).max() <= 3
        yield "converted" if near else mode
    yield outcome(Image.new("L", (4, 4), 90), converted=GREY)
    yield outcome(Image.new("1", (4, 4), 1), converted=WHITE)


def as_is(images):
    expected = ImageProcessor(8, 8).resize(Image.fromarray(picture(1, 6, 7)))
    return one("as is" if np.array_equal(ImageProcessor(8, 8).resize(image), expected) else "?" for image in images)


def channels_first(folder):
    array = np.zeros((3, 5, 3), U8)
    array[0] = 200
    with pytest.warns(UserWarning, match="ambiguous"):
        return outcome(array, channels_first=RED)


def with_limit(folder):
    path = saved(folder, Image.new("RGB", (4, 4), RED))
    before = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = 10
        return outcome(path, read=RED)
    finally:
        Image.MAX_IMAGE_PIXELS = before


def grey_array(dtype, value=90):
    return np.full((5, 6, 3), value, dtype)


def empty_list(folder):
    with pytest.raises(InputError):
        SMALL([])
    return "refused"


def nested(folder):
    a = picture(1, 5, 6)
    return (
        "flattened" if SMALL([[a], [a, a]]).shape == SMALL([a[None], np.stack([a, a])]).shape == (3, 3, 10, 7) else "?"
    )


def animation(folder):
    frames = Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), GREY)
    paths = [saved(folder, frames[0], f"x.{kind}", save_all=True, append_images=frames[1:]) for kind in ("png", "gif")]
    return one(outcome(path, first_frame=RED) for path in paths)


PROBES = {
    "PIL image, RGB": lambda folder: as_is([Image.fromarray(picture(1, 6, 7))]),
    "PIL image with an EXIF orientation": exif_image,
    "path, EXIF orientation": lambda folder: half_turned(saved(folder, Image.fromarray(HALVES), exif=exif6())),
    "path, alpha channel (RGBA, LA)": lambda folder: one(
        [transparent([saved(folder, red("RGBA"))]), grey_path_with_alpha(folder)]
    ),
    "path, palette with an alpha per entry": lambda folder: transparent(
        [saved(folder, red("P", bytes(256)), transparency=bytes(256))]
    ),
    "path, one transparent colour (PNG, GIF)": lambda folder: transparent(one_transparent_colour(folder)),
    "PIL image with alpha (RGBA, LA, PA)": lambda folder: transparent([red("RGBA"), red("LA"), red("PA")]),
    "PIL image with a transparent colour or palette": lambda folder: transparent([red("P", 5), red("P", bytes(256))]),
    "PIL image, L, 1, P, CMYK, YCbCr, HSV, LAB": lambda folder: one(converted()),
    "PIL image, I;16, I, F": lambda folder: one(
        outcome(Image.new(mode, (4, 4), 300), **{"cut off at 255": WHITE}) for mode in ("I;16", "I", "F")
    ),
    "path, 16-bit grey PNG": lambda folder: outcome(
        saved(folder, Image.new("I;16", (4, 4), 300)), **{"cut off at 255": WHITE}
    ),
    "uint8 array [H, W, 3] or [3, H, W]": lambda folder: as_is([picture(1, 6, 7), picture(1, 6, 7).transpose(2, 0, 1)]),
    "uint8 array [3, W, 3]": channels_first,
    "uint8 array [H, W, 4] or [4, H, W]": lambda folder: transparent(
        [np.zeros((5, 6, 4), U8) + U8([*RED, 0]), np.zeros((4, 5, 6), U8) + U8([*RED, 0])[:, None, None]]
    ),
    "uint8 array [H, W, 1]": lambda folder: outcome(np.full((5, 6, 1), 90, U8), grey=GREY),
    "uint8 array [H, W]": lambda folder: outcome(np.full((5, 6), 90, U8), grey=GREY),
    "integer array, 0..255": lambda folder: outcome(grey_array(np.int64), as_uint8=GREY),
    "integer array of 16 bits, 0..255": lambda folder: one(
        outcome(grey_array(dtype), as_uint8=GREY) for dtype in (np.uint16, np.int16, ">u2")
    ),
    "integer array, beyond 0..255": lambda folder: outcome(grey_array(np.int64, 300)),
    "bool array": lambda folder: outcome(grey_array(bool, True)),
    "float array, whole numbers 0..255": lambda folder: outcome(grey_array(np.float32), as_uint8=GREY),
    "float array, 0..1": lambda folder: outcome(grey_array(np.float32, 0.4), scaled_twice=BLACK),
    "no pixels (height or width 0)": lambda folder: one(
        outcome(image, black=BLACK) for image in (np.zeros((0, 6, 3), U8), Image.new("RGB", (0, 3)))
    ),
    "empty list": empty_list,
    "nested lists, lists of batches": nested,
    "path, animation": animation,
    "path, more than `PIL.Image.MAX_IMAGE_PIXELS`": with_limit,
    "bytes, file object": lambda folder: one(
        outcome(content, as_a_path=RED)
        for content in (saved(folder, red("RGBA")).read_bytes(), io.BytesIO((folder / "x.png").read_bytes()))
    ),
    "generator": lambda folder: as_is(list(flatten_images(Image.fromarray(picture(1, 6, 7)) for _ in range(2)))),
    "pathlib.Path": lambda folder: outcome(Path(saved(folder, Image.new("RGB", (4, 4), RED))), as_str=RED),
    "URL, base64 string": lambda folder: one(outcome(text) for text in ("https://example.org/x.png", "iVBORw0KGgo=")),
}


def test_the_table_has_the_inputs_that_are_tried():
    assert list(table_of_the_docs()) == list(PROBES)


@pytest.mark.parametrize("name", PROBES)
def test_the_column_npsiglip_of_the_table(name, tmp_path):
    assert PROBES[name](tmp_path) == table_of_the_docs()[name]


def test_the_generated_files_can_all_be_read(tmp_path):
    """With this Pillow's own encoders, whatever its version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = [path for _, path in write_files(tmp_path, 3, 9, 14)]
    for path in paths:
        assert to_rgb(path, "the image").mode == "RGB"
