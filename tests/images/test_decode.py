"""decode.py: paths and what is in them, arrays and images, and what is refused with which words."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from golden.pictures import ORIENTATION, noise, picture, pil_image, write_files
from npsiglip.errors import InputError
from npsiglip.images.decode import to_rgb
from npsiglip.images.processor import load_image
from tests.helpers.images import GOLDEN, NAMES, SMALL, refusal, sides

U8 = np.uint8

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*grey picture of 16 bits"),  # once in a process: tests/images/test_files.py
    pytest.mark.filterwarnings("ignore:.*picture of floats"),
]


# paths


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


# bad input


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


# generated files


def test_the_generated_files_can_all_be_read(tmp_path):
    """With this Pillow's own encoders, whatever its version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = [path for _, path in write_files(tmp_path, 3, 9, 14)]
    for path in paths:
        assert to_rgb(path, "the image").mode == "RGB"
