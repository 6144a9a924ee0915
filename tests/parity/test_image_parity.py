"""ImageProcessor against the living `SiglipImageProcessorPil` of transformers 5.x: the same bits, or both refuse."""

import contextlib
import warnings

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from golden.pictures import MODES, arrays, noise, picture, pil_image, pil_images, write_files
from npsiglip.errors import InputError
from npsiglip.images.processor import ImageProcessor, load_image

SIZES = [(224, 224), (384, 384), (38, 38), (37, 61)]
FILTERS = [3, 2]
PICTURE_SIZES = [(1, 1), (1, 2), (2, 1), (3, 4), (7, 5), (224, 224), (383, 385), (480, 640), (3000, 17), (17, 3000)]


@pytest.fixture(autouse=True)
def quiet():
    """Both sides warn of ambiguous axes and odd transparency, each in its way."""
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def processors(size, resample, **options):
    height, width = size
    theirs = SiglipImageProcessorPil(size={"height": height, "width": width}, resample=resample, **options)
    return ImageProcessor(height, width, resample=resample, **options), theirs


def assert_same(image, size, resample, **options):
    """Resized bytes and normalised floats of one input (`image` may be a batch) are identical."""
    ours, theirs = processors(size, resample, **options)
    path = str(image) if hasattr(image, "__fspath__") else image
    expected = theirs(path, return_tensors="np")["pixel_values"]
    pixels = ours(image)
    assert pixels.dtype == expected.dtype == np.float32
    assert np.array_equal(pixels, expected)
    expected = theirs(path, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    assert expected.dtype == np.uint8
    singles = image if getattr(image, "ndim", 3) == 4 else [image]
    assert np.array_equal(np.stack([ours.resize(single) for single in singles]), expected.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("picture_size", PICTURE_SIZES, ids=str)
def test_rgb_images_of_many_sizes(picture_size, size, resample):
    assert_same(Image.fromarray(noise(1, *picture_size, 3)), size, resample)
    assert_same(Image.fromarray(picture(2, *picture_size)), size, resample)


@pytest.mark.parametrize("picture_size", PICTURE_SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode, picture_size):
    image = pil_image(3, mode, *picture_size)
    for resample in FILTERS:
        assert_same(image, (38, 38), resample)
    if picture_size == (480, 640):
        assert_same(image, (384, 384), 3)


@pytest.mark.parametrize("resample", range(6))
def test_every_filter(resample):
    for picture_size in ((5, 4), (50, 61)):
        assert_same(Image.fromarray(picture(4, *picture_size)), (21, 13), resample)


@pytest.mark.parametrize("seed", range(5))
def test_transparency_without_alpha_and_orientation(seed):
    for _, image in pil_images(seed, 23 + seed, 31):
        assert_same(image, (38, 38), 3)
        assert_same(image, (37, 61), 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("resample", FILTERS)
def test_arrays(seed, resample):
    for _, array in arrays(seed, 19, 40 + seed):
        if array.dtype == np.uint16:  # transformers judges it by its values, npsiglip by its type
            with pytest.raises(InputError, match="uint16"):
                ImageProcessor(38, 38)(array)
            array = array.astype(np.uint8)
        assert_same(array, (38, 38), resample)


@pytest.mark.parametrize("shape", [(a, b, c) for a in range(1, 6) for b in (1, 3, 5) for c in range(1, 6)], ids=str)
def test_the_axis_of_the_channels(shape):
    """Which shapes are taken, and which axis is the channels'; alpha and grey included."""
    array = noise(7, *shape)
    ours, theirs = processors((6, 5), 3)
    try:
        expected = theirs(array, return_tensors="np")["pixel_values"]
    except ValueError:
        with pytest.raises(InputError):
            ours(array)
    else:
        assert np.array_equal(ours(array), expected)


@pytest.mark.parametrize(("height", "width"), [(33, 47), (200, 130)])
def test_files(tmp_path, height, width):
    paths = dict(write_files(tmp_path, 11, height, width))
    assert {path.suffix for path in paths.values()} == {".png", ".jpg", ".tiff", ".gif", ".webp", ".bmp"}
    for path in paths.values():
        for size, resample in (((38, 38), 3), ((37, 61), 2)):
            assert_same(path, size, resample)
            with Image.open(path) as image:
                assert_same(image, size, resample)
        hf = transformers.image_utils.load_image(str(path))
        assert np.array_equal(np.array(load_image(path)), np.array(hf))


def test_lists_and_tensors(tmp_path):
    path = tmp_path / "x.png"
    pil_image(1, "RGBA", 20, 30).save(path)
    ours, theirs = processors((38, 38), 3)
    array = picture(5, 20, 30)
    inputs = [
        [Image.fromarray(array), array, str(path), pil_image(2, "LA", 5, 6)],
        (array, array[::2]),
        [[array], [array[:7], array[:8]]],
        [np.stack([array, array]), array[None]],
        torch.from_numpy(array),
        [torch.from_numpy(array).permute(2, 0, 1)],
        torch.from_numpy(np.stack([array, array])),
    ]
    for images in inputs:
        assert np.array_equal(ours(images), theirs(images, return_tensors="np")["pixel_values"])


@pytest.mark.parametrize(
    "options",
    [
        {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": 0.0039},
        {"do_normalize": False},
        {"do_rescale": False},
    ],
    ids=str,
)
def test_options(options):
    ours, theirs = processors((16, 9), 3, **options)
    image = Image.fromarray(np.arange(3 * 256, dtype=np.uint8).reshape(16, 16, 3))
    assert np.array_equal(ours(image), theirs(image, return_tensors="np")["pixel_values"])


@pytest.mark.parametrize("mode", MODES)
def test_conversion_to_rgb_switched_off(mode):
    ours, theirs = processors((38, 38), 3, do_convert_rgb=False)
    image = pil_image(3, mode, 21, 34)
    try:
        expected = theirs(image, return_tensors="np")["pixel_values"]
    except (ValueError, TypeError):
        with pytest.raises(InputError):
            ours(image)
    else:
        assert np.array_equal(ours(image), expected)


def test_resizing_switched_off():
    ours, theirs = processors((20, 30), 3, do_resize=False)
    for mode in MODES:
        image = pil_image(3, mode, 20, 30)
        assert np.array_equal(ours(image), theirs(image, return_tensors="np")["pixel_values"])


@pytest.mark.parametrize("nested", [False, True])
def test_saved_folders(tmp_path, nested):
    """What transformers saves is read as it reads it itself; a nested processor_config.json goes first."""
    theirs = SiglipImageProcessorPil(size={"height": 38, "width": 38}, resample=2, image_mean=[0.1, 0.2, 0.3])
    theirs.save_pretrained(tmp_path)
    if nested:
        (tmp_path / "processor_config.json").write_text('{"image_processor": {"size": {"height": 38, "width": 38}}}')
    again = SiglipImageProcessorPil.from_pretrained(tmp_path)
    ours = ImageProcessor.from_folder(tmp_path, 38)
    assert ours.resample == again.resample == (3 if nested else 2)
    image = Image.fromarray(picture(8, 50, 60))
    assert np.array_equal(ours(image), again(image, return_tensors="np")["pixel_values"])


def test_both_refuse(tmp_path):
    """What one refuses the other does, but for the inputs that docs/divergences.md lists."""
    empty, text, cut = (tmp_path / name for name in ("empty.png", "text.png", "cut.png"))
    empty.write_bytes(b"")
    text.write_text("no image")
    Image.fromarray(noise(1, 64, 64, 3)).save(cut)
    cut.write_bytes(cut.read_bytes()[:1000])
    missing, folder = tmp_path / "missing.png", tmp_path
    no_images = [np.zeros((5, 6), np.uint8), np.zeros((5, 6, 2), np.uint8), np.full((5, 6, 3), 256), None, b"x", 3]
    ours, theirs = processors((8, 8), 3)
    for image in [*map(str, (empty, text, cut, missing, folder)), *no_images, Image.new("La", (3, 3)), []]:
        with pytest.raises(InputError):
            ours(image)
        with contextlib.suppress(ValueError, TypeError, OSError):
            theirs(image, return_tensors="np")
            pytest.fail(f"transformers takes {image!r}")
