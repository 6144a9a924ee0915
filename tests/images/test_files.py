"""image_files.py and image_formats.py: limits of size, 16 bits, content instead of paths, and what is refused.

Covers images/kinds.py as well.
"""

import errno
import io
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from PIL.PngImagePlugin import PngInfo

from golden.pictures import picture
from npsiglip import SigLIP
from npsiglip.errors import InputWarning
from npsiglip.images import files as image_files
from npsiglip.images.decode import flatten_images
from npsiglip.images.files import Decoding
from npsiglip.images.kinds import COMMON_SUFFIXES, SUFFIXES, is_picture_name
from npsiglip.images.naflex import NaflexProcessor
from npsiglip.images.processor import ImageProcessor, load_image
from tests.helpers.golden_data import TINY
from tests.helpers.images import SMALL, refusal


@pytest.fixture(autouse=True)
def nothing_was_warned_of(monkeypatch):
    monkeypatch.setattr(image_files, "_warned", set())


def png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


# what is said of files that are not read


def text_bomb(count):
    info = PngInfo()
    for i in range(count):
        info.add_text(f"k{i}", "x" * (2_000_000 if count == 1 else 1_000_000), zip=True)
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "PNG", pnginfo=info)
    return content.getvalue()


@pytest.mark.parametrize("count", [1, 70], ids=["one large", "many"])
def test_a_png_with_much_text_is_not_called_damaged(count):
    message = refusal(SMALL, text_bomb(count))
    assert "more text than Pillow reads" in message
    assert "MAX_TEXT_CHUNK" in message
    assert "damaged" not in message


def test_an_eps_asks_for_ghostscript(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", False)  # as where it is not installed
    Image.new("RGB", (20, 20)).save(tmp_path / "a.eps")
    message = refusal(load_image, tmp_path / "a.eps")
    assert "Ghostscript, which is not installed" in message
    assert "damaged" not in message


@pytest.mark.parametrize(
    ("error", "phrase"),
    [
        (MemoryError(), "memory does not suffice"),
        (OSError(errno.EIO, "Input/output error"), "reading it failed (Input/output error)"),
        (OSError("decoder jpeg2k not available"), "nothing here that decodes its format"),
        (OSError("cannot find loader for this WMF file"), "nothing here that decodes its format"),
        (OSError("image file is truncated"), "truncated or damaged"),
        (OSError(errno.EINVAL, "Invalid argument"), "truncated or damaged"),  # an offset in the file leads before it
    ],
)
def test_the_reason_is_the_reason(tmp_path, monkeypatch, error, phrase):
    def load(self):
        raise error

    path = tmp_path / "x.png"
    path.write_bytes(png(Image.new("L", (3, 3))))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: load(None))
    message = refusal(load_image, path)
    assert phrase in message
    assert str(path) in message


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50)


@pytest.mark.parametrize(
    ("start", "phrase"),
    [
        (b"\0\0\0\x18ftypcrx \0\0\0\0", "camera's raw file"),
        (b"FUJIFILMCCD-RAW 0201", "camera's raw file"),
        (b"\xff\x0a\x00\x00", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns', "SVG"),
        (b"<svg xmlns", "SVG"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"hello", "not an image that Pillow can identify"),
    ],
)
def test_what_is_no_picture_for_pillow_is_told_by_its_first_bytes(tmp_path, start, phrase):
    path = tmp_path / "x.png"
    path.write_bytes(start)
    assert phrase in refusal(load_image, path)
    assert phrase in refusal(load_image, start)
    assert phrase in refusal(load_image, io.BytesIO(start))


def test_heic_names_the_package_that_reads_it(tmp_path, monkeypatch):
    path = tmp_path / "x.heic"
    path.write_bytes(HEIC)
    monkeypatch.setattr(image_files, "find_spec", lambda name: None)
    assert "pip install pillow-heif" in refusal(load_image, path)


def test_heic_is_read_where_that_package_is(tmp_path, monkeypatch):
    """A stand-in for pillow-heif: it teaches Pillow to open what begins so, when it is told to."""
    path = tmp_path / "x.heic"
    path.write_bytes(HEIC)
    opened = Image.open

    def register():
        monkeypatch.setattr(Image, "open", lambda file: Image.new("RGB", (4, 5), (1, 2, 3)))

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr(image_files, "find_spec", lambda name: name == "pillow_heif")
    assert load_image(path).getpixel((0, 0)) == (1, 2, 3)
    monkeypatch.setattr(Image, "open", opened)
    monkeypatch.setattr(sys.modules["pillow_heif"], "register_heif_opener", lambda: None)
    message = refusal(load_image, path)
    assert "pip install" not in message
    assert "pillow-heif does not read" in message


# size


def test_max_megapixels(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(png(Image.new("1", (1000, 3000))))
    for limit, size in ((2_000_000, "1000 x 3000"), (1_000_000, "3,000,000")):  # Pillow itself raises above twice it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        message = refusal(SMALL, path)
        for part in (f"{size} pixels", f"{limit:,}", "max_megapixels=3", "--max-megapixels 3"):
            assert part in message
    for limit in (3, 3.0, float("inf")):
        assert ImageProcessor(10, 7, max_megapixels=limit)(path).shape == (1, 3, 10, 7)
        assert Image.MAX_IMAGE_PIXELS == 1_000_000
    assert len(NaflexProcessor(max_megapixels=3)(path).patches) == 1
    assert "2,999,999" in refusal(ImageProcessor(10, 7, max_megapixels=2.999999), path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "2,000,000" in refusal(ImageProcessor(10, 7, max_megapixels=2), path)  # also below Pillow's limit
    assert Image.MAX_IMAGE_PIXELS is None


@pytest.mark.parametrize("limit", [0, -1, float("nan"), True, "3"])
def test_a_limit_that_cannot_be(limit):
    assert "max_megapixels" in refusal(lambda: ImageProcessor(10, 7, max_megapixels=limit))


def test_a_large_frame_in_a_small_file_is_refused_by_the_same_limit(monkeypatch):
    """A GIF whose frame is larger than its header says: Pillow looks at it while it decodes."""
    content = io.BytesIO()
    Image.new("P", (300, 200)).save(content, "GIF")
    small = bytearray(content.getvalue())
    small[6:10] = bytes([1, 0, 1, 0])
    message = refusal(ImageProcessor(10, 7, max_megapixels=0.02), bytes(small))
    assert "max_megapixels=1" in message
    assert ImageProcessor(10, 7, max_megapixels=1)(bytes(small)).shape == (1, 3, 10, 7)


# 16 bits

RAMP = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)


def deep(mode):
    return Image.frombytes(mode, (64, 48), RAMP.astype({"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2")).tobytes())


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bits_are_scaled_if_asked_for_or_cut_off_with_one_warning(mode, tmp_path):
    image = deep(mode)
    path = tmp_path / "x.tiff"
    image.save(path)
    with pytest.warns(InputWarning) as caught:
        clipped = SMALL([image, path, image])
    assert len(caught) == 1
    for part in ("images[0]", "16 bits", "65535", 'sixteen_bit="scale"', "--sixteen-bit scale"):
        assert part in str(caught[0].message)
    assert (clipped.mean(axis=(1, 2, 3)) > 0.98).all()  # white
    scaled = ImageProcessor(48, 64, sixteen_bit="scale")
    expected = np.round(RAMP / 257)
    for each in (image, path):
        resized = scaled.resize(each)
        assert (resized == expected[..., None]).all()
    assert NaflexProcessor(sixteen_bit="scale")(image).patches.mean() < 0.5


def test_dark_pictures_of_sixteen_bits_need_no_warning():
    assert SMALL(Image.frombytes("I;16", (4, 3), (np.arange(12, dtype=np.uint16) * 20).tobytes())).shape[0] == 1


def test_arrays_of_sixteen_bits_are_scaled_if_asked_for():
    scaled = ImageProcessor(48, 64, sixteen_bit="scale")
    for array in (RAMP[..., None], RAMP[None], RAMP.astype(">u2")[..., None]):
        assert (scaled.resize(array) == np.round(RAMP / 257)[..., None]).all()
    assert "int16" in refusal(scaled, np.zeros((5, 6, 3), np.int16))


def test_floats_in_a_picture_are_warned_of():
    with pytest.warns(InputWarning, match="picture of floats"):
        assert (SMALL(Image.new("F", (4, 4), 0.7)) == -1).all()  # black
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SMALL(Image.new("F", (4, 4), 99.0))


def test_a_setting_that_cannot_be():
    assert "clip, scale" in refusal(lambda: ImageProcessor(10, 7, sixteen_bit="stretch"))
    assert "clip, scale" in refusal(lambda: SigLIP.from_pretrained(TINY, sixteen_bit="stretch"))


# content instead of paths


class Stream(io.RawIOBase):
    """What cannot be rewound, like a response of a server."""

    def __init__(self, content):
        self.content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.content.readinto(buffer)


def test_bytes_and_files_are_read_as_paths_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "x.png"
    Image.fromarray(picture(1, 9, 14, 4)).save(path, exif=exif)
    content, expected = path.read_bytes(), SMALL(path)
    with path.open("rb") as file:
        np.testing.assert_array_equal(
            SMALL([file, content, bytearray(content), memoryview(content)]), expected[[0] * 4]
        )
        assert not file.closed
        np.testing.assert_array_equal(SMALL(file), expected)  # once more
    np.testing.assert_array_equal(SMALL(io.BytesIO(content)), expected)
    np.testing.assert_array_equal(SMALL(Stream(content)), expected)
    assert "closed" in refusal(SMALL, file)
    assert "images[1]" in refusal(SMALL, [content, content[:90]])
    with path.open(encoding="latin1") as text:
        assert "opened as text" in refusal(SMALL, text)


def test_generators_and_other_iterables_are_lists():
    array = picture(1, 9, 14)
    expected = SMALL([array, array])
    for several in (
        (array for _ in range(2)),
        iter([array, array]),
        map(np.array, [array, array]),
        [iter([array]), array],
    ):
        np.testing.assert_array_equal(SMALL(several), expected)
    np.testing.assert_array_equal(SMALL({"a": array, "b": array}.values()), expected)
    assert list(flatten_images("abc")) == ["abc"]
    assert list(flatten_images(Path("abc"))) == [Path("abc")]
    assert "empty" in refusal(SMALL, iter(()))


def test_models_take_them_too():
    model, array = SigLIP.from_pretrained(TINY), picture(1, 9, 14)
    expected = model.encode_image([array, array, array])
    content = png(Image.fromarray(array))
    np.testing.assert_array_equal(model.encode_image(content for _ in range(3)), expected)
    np.testing.assert_array_equal(model.encode_image(io.BytesIO(content)), expected[:1])
    scores = model.classify((array for _ in range(2)), ["a", "b"])
    assert scores == model.classify([array, array], ["a", "b"])
    model = SigLIP.from_pretrained(TINY, max_megapixels=1e-4, sixteen_bit="scale")
    assert "more than the 100 " in refusal(model.encode_image, content)
    assert model.processor.decoding == Decoding(1e-4, "scale")
    deep_model = SigLIP.from_pretrained(TINY, sixteen_bit="scale")
    np.testing.assert_array_equal(
        deep_model.encode_image(deep("I;16")), deep_model.encode_image(np.round(RAMP / 257).astype(np.uint8)[..., None])
    )


# names


@pytest.mark.filterwarnings("ignore")
def test_every_ending_that_pillow_knows_is_known():
    Image.init()
    assert {suffix.removeprefix(".") for suffix in Image.registered_extensions()} <= SUFFIXES


@pytest.mark.parametrize(
    "name", ["x.dng", "x.CR2", "x.heic", "x.jxl", "my photo 1.JPG", "photos/x.png", "x.h5", "a.b.tiff", ".png"]
)
def test_names_of_pictures(name):
    assert is_picture_name(name)


@pytest.mark.parametrize(
    "text",
    ["a cat", "black/white cat", "a cat.", "", "-", "a photo, 4 ft.fit", "3 kg.ps or more", "x.txt", "png", "..."],
)
def test_texts_are_no_names_of_pictures(text):
    assert not is_picture_name(text)


def test_common_endings_are_no_words_that_follow_a_dot():
    assert not COMMON_SUFFIXES & {"com", "org", "net", "im", "ps", "fit", "rgb", "it", "at"}
