"""preprocessor_config.json: what is read, what its defaults are, what is refused."""

import json

import pytest

from npsiglip.errors import CheckpointError
from npsiglip.images.processor import ImageProcessor
from tests.helpers.golden_data import TINY


def folder_with(path, config, name="preprocessor_config.json"):
    (path / name).write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return path


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
