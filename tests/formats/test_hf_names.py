"""Names and axes of Hugging Face's tensors, and the forms in which their names come."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import SigLIPConfig
from npsiglip.formats.hf_names import layout
from npsiglip.params import random_params
from tests.helpers.model_folders import BOTH, FC1, IMAGE, PARAMS, TEXT, assert_same, rewrite, write

ALONE = {"vision_model.": SigLIPConfig(IMAGE, None), "text_model.": SigLIPConfig(None, TEXT)}


# Axes


def test_axes_of_the_stored_tensors(tmp_path):
    """By index, because a transposition done twice would survive the round trip."""
    stored = load_file(write(tmp_path) / "model.safetensors")
    conv, rows = stored["vision_model.embeddings.patch_embedding.weight"], PARAMS["image.patch_embed.w"]
    assert conv.shape == (12, 3, 4, 4)
    for row, column, channel in [(0, 1, 2), (3, 0, 1), (2, 3, 0)]:
        np.testing.assert_array_equal(conv[:, channel, row, column], rows[(row * 4 + column) * 3 + channel])
    np.testing.assert_array_equal(stored[FC1][3], PARAMS["image.blocks.01.mlp.fc1.w"][:, 3])
    for i, part in enumerate("qkv"):
        in_proj = stored["vision_model.head.attention.in_proj_weight"]
        np.testing.assert_array_equal(in_proj[12 * i + 5], PARAMS[f"image.map_head.attn.{part}.w"][:, 5])
        in_proj = stored["vision_model.head.attention.in_proj_bias"]
        np.testing.assert_array_equal(in_proj[12 * i : 12 * i + 12], PARAMS[f"image.map_head.attn.{part}.b"])
    assert stored["vision_model.head.probe"].shape == (1, 1, 12)
    assert stored["logit_scale"].shape == stored["logit_bias"].shape == (1,)
    assert stored["logit_bias"] == PARAMS["bias"]
    assert stored["text_model.head.weight"].shape == (12, 8)


@pytest.mark.parametrize("side", [14, 16, 32])
def test_patches_of_every_released_size(side):
    conv = np.random.default_rng(0).standard_normal((2, 3, side, side), np.float32)  # [D, 3, P, P]
    place = layout("image.patch_embed.w", (3 * side**2, 2))
    assert place.shape == conv.shape
    found = place.view(conv).reshape(3 * side**2, 2)
    places = [(row, column, channel) for row in range(side) for column in range(side) for channel in range(3)]
    np.testing.assert_array_equal(found, [conv[:, channel, row, column] for row, column, channel in places])


# Forms of the keys


@pytest.mark.parametrize("wrapper", ["", "siglip.", "model.", "module."])
@pytest.mark.parametrize("prefix", ["", *ALONE])
def test_key_forms(tmp_path, wrapper, prefix):
    """Full (both towers), and each tower alone as bare and with its name; all of them behind a wrapper's name."""
    config = ALONE.get(prefix, BOTH)
    for form in {"", prefix}:
        folder = rewrite(tmp_path / f"_{form}", lambda t, p=wrapper + form: {p + k: v for k, v in t.items()}, config)
        assert_same(Checkpoint.open(folder), random_params(config, seed=1))


def test_a_stand_alone_tower_is_saved_bare(tmp_path):
    assert "post_layernorm.weight" in load_file(write(tmp_path, ALONE["vision_model."]) / "model.safetensors")


@pytest.mark.parametrize("prefix", ["", *ALONE])
def test_position_ids_are_ignored(tmp_path, prefix):
    ids = {f"{tower}_model.embeddings.position_ids": np.arange(5)[None] for tower in ("text", "vision")}
    ids = {key.removeprefix(prefix): value for key, value in ids.items() if key.startswith(prefix)}
    config = ALONE.get(prefix, BOTH)
    folder = rewrite(tmp_path, lambda tensors: tensors | ids, config)
    assert_same(Checkpoint.open(folder), random_params(config, seed=1))


def test_scalars_without_an_axis(tmp_path):
    folder = rewrite(tmp_path, lambda t: t | {k: t[k].reshape(()) for k in ("logit_scale", "logit_bias")})
    assert_same(Checkpoint.open(folder), PARAMS)
