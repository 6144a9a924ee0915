"""Names and shapes in an npz that are refused, and with which words."""

from dataclasses import replace

import numpy as np
import pytest

from npsiglip.params import random_params
from npsiglip.save import save_folder
from tests.helpers import big_vision_npz
from tests.helpers.model_folders import message
from tests.helpers.npz_models import BOTH, TEXT, of_folder, write_folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def without(name):
    return lambda arrays: {key: value for key, value in arrays.items() if name not in key}


def changed(name, change):
    return lambda arrays: {key: change(value) if key.endswith(name) else value for key, value in arrays.items()}


def renamed(old, new):
    return lambda arrays: {key.replace(old, new): value for key, value in arrays.items()}


BAD = {
    "no block": (without("img/Transformer/encoderblock_0"), "has no img/Transformer/encoderblock_0/MultiHead"),
    "no bias": (without("encoderblock_1/MlpBlock_0/Dense_0/bias"), "- params/img/Transformer/encoderblock_1/MlpBlock"),
    "no head": (without("MAPHead_0"), "params/img/MAPHead_0/probe (image.map_head.probe)"),
    "half a head": (without("txt/head/bias"), "- params/txt/head/bias (text.head.b)"),
    "no texts": (without("txt/"), "has a temperature t, but nothing of txt/"),
    "no images": (without("img/"), "has a temperature t, but nothing of img/"),
    "no temperature": (lambda arrays: {k: v for k, v in arrays.items() if k != "params/t"}, "- params/t (t_prime)"),
    "no positions": (
        without("img/pos_embedding"),
        "has no img/pos_embedding: if it was trained with posemb='sincos2d'",
    ),
    "positions of 2020": (
        renamed("img/pos_embedding", "img/Transformer/posembed_input/pos_embedding"),
        "has no img/pos_embedding: its positions are img/Transformer/posembed_input/pos_embedding, where big_vision",
    ),
    "positions of 2021": (
        renamed("img/pos_embedding", "img/Transformer/pos_embedding"),
        "has no img/pos_embedding: its positions are img/Transformer/pos_embedding, where big_vision had",
    ),
    "projected images": (
        lambda a: a | {"params/img/head/kernel": np.ones((12, 64)), "params/txt/head/kernel": np.ones((8, 64))},
        "has img/head/..., a projection of images to 64 dimensions (big_vision's out_dim=(64, 64))",
    ),
    "projected texts": (
        lambda a: a | {"params/txt/head/kernel": np.ones((8, 64)), "params/txt/head/bias": np.ones(64)},
        "txt/head/kernel takes texts to 64 dimensions, but the image tower has 12",
    ),
    "more": (lambda arrays: arrays | {"params/img/cls": np.zeros(3)}, "+ params/img/cls"),
    "another's": (lambda arrays: {"layer/kernel": np.zeros(3)}, "is no SigLIP model of big_vision"),
    "empty": (lambda arrays: {}, "is no SigLIP model of big_vision"),
    "whole numbers": (changed("/t", lambda x: x.astype(int)), "params/t (t_prime): int64"),
    "big endian": (changed("/t", lambda x: x.astype(">f4")), "params/t (t_prime): >f4"),
    "a shape": (
        changed("encoderblock_1/LayerNorm_0/scale", lambda x: x[:-1]),
        "(image.blocks.01.ln1.scale): [11] stored, [12] by the other tensors",
    ),
    "dimensions": (
        changed("query/kernel", lambda x: x.reshape(12, 12)),
        "must have 3 dimensions, got the shape [12, 1",
    ),
    "17 positions": (
        changed("img/pos_embedding", lambda x: np.zeros((1, 17, 12))),
        "has 17 positions, expected the sq",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(folder, case):
    change, expected = BAD[case]
    assert expected in message(big_vision_npz.write(folder / "x.npz", change(of_folder(folder))))


def test_no_head_of_texts_and_another_width(tmp_path):
    config = replace(BOTH, text=replace(TEXT, width=16))
    save_folder(tmp_path, config, random_params(config, seed=1))
    arrays = without("txt/head")(of_folder(tmp_path))
    text = message(big_vision_npz.write(tmp_path / "x.npz", arrays))
    assert "has no txt/head/kernel, which takes texts of width 16 to images of 12" in text
