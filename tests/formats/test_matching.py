"""Tensors that are missing, left over, of another shape or type, and with which words that is said."""

import numpy as np
import pytest

from tests.helpers.model_folders import FC1, edit_json, message, rewrite, write


def test_missing_and_unexpected_tensors_are_listed(tmp_path):
    text = message(rewrite(tmp_path, lambda t: {k.replace("head.probe", "head.prob"): v for k, v in t.items()}))
    assert "1 missing (-), 1 unexpected (+)" in text
    assert "- vision_model.head.probe (image.map_head.probe)\n" in text
    assert "+ vision_model.head.prob\n" in text


def test_what_shares_a_missing_tensor_is_named(tmp_path):
    def drop(tensors):
        del tensors["vision_model.head.attention.in_proj_bias"]

    text = message(rewrite(tmp_path, drop))
    assert "(image.map_head.attn.q.b, image.map_head.attn.k.b, image.map_head.attn.v.b)" in text


def test_long_lists_are_cut(tmp_path):
    folder = rewrite(tmp_path, lambda t: {k: v for k, v in t.items() if "vision_model.encoder" not in k})
    text = message(folder)
    assert "32 missing (-), 0 unexpected (+)" in text and "... and 24 more" in text
    assert len(text.splitlines()) < 15


def test_deeper_or_shallower_than_the_config(tmp_path):
    write(tmp_path)
    edit_json(tmp_path / "config.json", lambda c: c["vision_config"].update(num_hidden_layers=1))
    assert "+ vision_model.encoder.layers.1.layer_norm1.bias" in message(tmp_path)
    edit_json(tmp_path / "config.json", lambda c: c["vision_config"].update(num_hidden_layers=3))
    assert "- vision_model.encoder.layers.2.layer_norm1.weight (image.blocks.02.ln1.scale)" in message(tmp_path)


def test_one_tower_of_a_pair(tmp_path):
    write(tmp_path)
    edit_json(tmp_path / "config.json", lambda c: c.update(c.pop("vision_config")))
    assert "+ logit_bias" in message(tmp_path)


def test_wrong_shapes_show_both_shapes_and_names(tmp_path):
    folder = rewrite(tmp_path, lambda t: t | {FC1: t[FC1][:19].copy()})
    assert f"{FC1} (image.blocks.01.mlp.fc1.w): [19, 12] stored, [20, 12] by config.json" in message(folder)


def test_a_transposed_tensor_is_refused(tmp_path):
    assert "[12, 20] stored" in message(rewrite(tmp_path, lambda t: t | {FC1: t[FC1].T.copy()}))


def test_image_size_of_another_variant(tmp_path):
    write(tmp_path)
    edit_json(tmp_path / "config.json", lambda c: c["vision_config"].update(image_size=24))
    text = message(tmp_path)
    assert "position_embedding.weight (image.pos_embed): [16, 12] stored, [36, 12] by config.json" in text


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, bool, np.complex64])
def test_types_other_than_floats(tmp_path, dtype):
    text = message(rewrite(tmp_path, lambda t: t | {FC1: t[FC1].astype(dtype)}))
    assert f"{FC1} (image.blocks.01.mlp.fc1.w): " in text and "not of a float type" in text
