"""Configurations of open_clip and timm: what has to be told, and what is refused.

Covers formats/told.py as well.
"""

import pytest

from npsiglip.checkpoint import Checkpoint
from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats.told import Told
from tests.helpers.openclip_golden import CONFIG, change_json, copy_folder


def test_what_cannot_be_known_is_asked_for(tmp_path):
    folder = copy_folder(tmp_path, "siglip")
    known = Checkpoint.open(folder).config
    change_json(folder / CONFIG, "model_cfg", "vision_cfg", timm_model_name="vit_mine_patch8_siglip_32")
    with pytest.raises(
        CheckpointError, match=r"heads and its form of GELU: give --image-heads N and --gelu tanh or erf"
    ):
        Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match="no file tells its form of GELU: give --gelu"):
        Checkpoint.open(folder, told=Told(image_heads=12))
    with pytest.raises(CheckpointError, match="no file tells its heads: give --image-heads"):
        Checkpoint.open(folder, told=Told("erf"))
    assert Checkpoint.open(folder, told=Told("erf", 12)).config == known
    with pytest.raises(InputError, match="has 12 heads: leave it out"):
        Checkpoint.open(copy_folder(tmp_path / "other", "siglip"), told=Told(image_heads=6))
    with pytest.raises(InputError, match="image_heads must be a positive whole number"):
        Told(image_heads=True)


def test_timm_says_more_than_a_name(tmp_path):
    folder = copy_folder(tmp_path, "gap")
    known = Checkpoint.open(folder).config
    change_json(folder / "config.json", architecture="vit_mine_siglip_gap_32")
    change_json(folder / "config.json", "model_args", num_heads=16, act_layer="gelu_tanh", img_size=32)
    assert Checkpoint.open(folder).config == known


REFUSED = [
    ("text_cfg", {"no_causal_mask": False}, "no_causal_mask is false, expected true"),
    ("text_cfg", {"no_causal_mask": None}, "no_causal_mask is null, expected true"),
    ("text_cfg", {"pool_type": "argmax"}, 'pool_type is "argmax", expected "last"'),
    ("text_cfg", {"ls_init_value": 0.1}, "ls_init_value is 0.1"),
    ("text_cfg", {"qk_norm": True}, "qk_norm is true"),
    ("text_cfg", {"embed_cls": True}, "embed_cls is true"),
    ("text_cfg", {"scale_fc": True}, "scale_fc is true"),
    ("text_cfg", {"scaled_cosine_attn": True}, "scaled_cosine_attn is true"),
    ("text_cfg", {"hf_model_name": "roberta-base"}, "hf_model_name is"),
    ("text_cfg", {"context_length": 64}, "context_length is 64, but the weights have 16"),
    ("text_cfg", {"vocab_size": 32000}, "vocab_size is 32000, but the weights have 609"),
    ("text_cfg", {"act_kwargs": {"approximate": "quick"}}, "act_kwargs must be"),
    ("text_cfg", {"norm_kwargs": {"bias": False}}, "norm_kwargs must be an object with eps alone"),
    ("text_cfg", {"proj_type": "none"}, "proj_type is 'none', the weights say otherwise"),
    ("text_cfg", {"heads": 7}, "width 20 is not a multiple of its 7 heads"),
    ("vision_cfg", {"timm_pool": "avg"}, 'timm_pool is "avg", expected "map"'),
    ("vision_cfg", {"timm_proj": "linear"}, 'timm_proj is "linear", expected "none"'),
    (
        "vision_cfg",
        {"timm_model_name": None},
        "no timm_model_name, as SigLIP's have: this is another model, such as CLIP",
    ),
    (
        "vision_cfg",
        {"image_size": 48},
        "16 positions (4 x 4 patches of 8), but the configuration says an image size of 48",
    ),
    (None, {"custom_text": False}, "custom_text is false"),
    (None, {"quick_gelu": True}, "quick_gelu is true"),
    (None, {"text_cfg": 3}, "text_cfg must be an object"),
    (None, {"embed_dim": 25}, "the text projection ends in 25 dimensions but the image tower in 24"),
]


@pytest.mark.parametrize(("section", "change", "expected"), REFUSED)
def test_settings_that_are_not_computed_are_refused(tmp_path, section, change, expected):
    folder = copy_folder(tmp_path, "siglip")
    change_json(folder / CONFIG, "model_cfg", *([section] if section else []), **change)
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(folder)
    assert expected in str(error.value)


def test_torchs_epsilon_is_taken_where_none_is_said(tmp_path):
    folder = copy_folder(tmp_path, "siglip")
    change_json(folder / CONFIG, "model_cfg", "text_cfg", norm_kwargs=None)
    config = Checkpoint.open(folder).config
    assert (config.text.layer_norm_eps, config.image.layer_norm_eps) == (1e-5, 1e-6)


@pytest.mark.parametrize(
    ("keys", "change", "expected"),
    [
        ([], {"architecture": "resnet50"}, "that is no SigLIP's image tower"),
        ([], {"global_pool": "map"}, "global_pool is 'avg', expected"),
        (["model_args"], {"class_token": True}, "class_token is true"),
        (["model_args"], {"init_values": 1e-5}, "init_values is 1e-05"),
        (["model_args"], {"act_layer": "relu"}, "act_layer must be gelu or gelu_tanh"),
        (["model_args"], {"rope": 3}, "model_args has rope"),
        (["model_args"], {"img_size": 64}, "image size of 64"),
    ],
)
def test_settings_of_timm_that_are_not_computed_are_refused(tmp_path, keys, change, expected):
    folder = copy_folder(tmp_path, "gap")
    change_json(folder / "config.json", *keys, **change)
    if "global_pool" in change:  # that of the model's arguments goes first
        Checkpoint.open(folder)
        change_json(folder / "config.json", "model_args", global_pool="map")
        expected = "global_pool is 'map', expected 'avg'"
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(folder)
    assert expected in str(error.value)
