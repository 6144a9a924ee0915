"""Pixels of open_clip and timm, bit for bit, and settings that are refused."""

import numpy as np
import pytest

from golden.pictures import pil_image
from npsiglip.errors import CheckpointError, InputError
from npsiglip.model import SigLIP
from tests.helpers.openclip_golden import CONFIG, SEED, SIZES, change_json, copy_folder


@pytest.mark.filterwarnings("ignore::npsiglip.errors.InputWarning")  # of 16 bits
@pytest.mark.parametrize("name", ["siglip", "gap", "classes"])
def test_pixels_have_the_bits_of_the_library(openclip_folders, openclip_arrays, name):
    processor = SigLIP.from_pretrained(openclip_folders[name]).processor
    pictures = [key for key in openclip_arrays[name] if key.startswith("picture.")]
    assert len(pictures) == {"siglip": 11, "gap": 5, "classes": 5}[name]
    for key in pictures:
        _, mode, size = key.split(".")
        height, width = map(int, size.split("x"))
        seed = SEED + SIZES.index((height, width))
        np.testing.assert_array_equal(
            processor(pil_image(seed, mode, height, width))[0], openclip_arrays[name][key], err_msg=key
        )


def test_pixels_of_a_file_and_of_an_array(openclip_folders, openclip_arrays, tmp_path):
    processor, truth = SigLIP.from_pretrained(openclip_folders["siglip"]).processor, openclip_arrays["siglip"]
    for mode in ("RGBA", "P", "L"):
        pil_image(SEED, mode, 45, 61).save(tmp_path / "x.png")
        np.testing.assert_array_equal(processor(tmp_path / "x.png")[0], truth[f"picture.{mode}.45x61"])
    array = np.array(pil_image(SEED, "RGB", 45, 61))
    np.testing.assert_array_equal(processor(array)[0], truth["picture.RGB.45x61"])
    with pytest.raises(InputError):
        processor(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("name", "keys", "change", "expected"),
    [
        ("siglip", ["preprocess_cfg"], {"resize_mode": "longest"}, "resize_mode squash or shortest, got 'longest'"),
        ("siglip", ["preprocess_cfg"], {"interpolation": "lanczos"}, "interpolation must be bicubic or bilinear"),
        ("siglip", ["preprocess_cfg"], {"mean": [0.5, 0.5]}, "mean must be one number for each"),
        ("siglip", ["preprocess_cfg"], {"std": [0, 0, 0]}, "pixels that are not finite"),
        ("gap", ["pretrained_cfg"], {"crop_mode": "border"}, "crop_mode must be center or squash"),
        ("gap", ["pretrained_cfg"], {"crop_pct": 1.5}, "crop_pct must be above 0 and at most 1"),
    ],
)
def test_pixels_that_cannot_be_made_are_refused(tmp_path, name, keys, change, expected):
    folder = copy_folder(tmp_path, name)
    change_json(folder / (CONFIG if name == "siglip" else "config.json"), *keys, **change)
    with pytest.raises(CheckpointError, match=expected):
        _ = SigLIP.from_pretrained(folder).processor


def test_what_open_clip_takes_when_nothing_is_said(tmp_path):
    folder = copy_folder(tmp_path, "siglip")
    change_json(folder / CONFIG, "preprocess_cfg", mean=None, std=None, resize_mode=None, interpolation=None)
    processor = SigLIP.from_pretrained(folder).processor
    assert (processor.squash, processor.resample, processor.image_mean[0]) == (False, 3, 0.48145466)
