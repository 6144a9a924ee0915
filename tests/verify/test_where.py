"""Which part of a tensor is wrong, in words."""

import numpy as np

from npsiglip.verify.operations import Op
from npsiglip.verify.where import best_fit, where
from tests.helpers.golden_data import TINY
from tests.helpers.planted import truth_of


def said(shape, place, tap="image.blocks.00.attn.q", kind="linear"):
    truth, _ = truth_of(TINY)
    error = np.full(shape, 1e-9)
    error[place] = 1.0
    return where(error, Op(tap, kind, (), tap), truth.config, truth.inputs)


def test_parts_that_have_names():
    assert said((2, 25, 36), np.s_[:]) == "everywhere"
    assert said((2, 25, 36), np.s_[:, :, 9:18]) == "head 1"
    assert said((2, 25, 36), np.s_[:, :, 3:5]) == "head 0"
    assert said((2, 25, 36), np.s_[:, :, 3:5], "image.blocks.00.ln1", "layer_norm") == "channel 3 to 4"
    assert said((2, 25, 36), np.s_[1]) == "image 1"
    assert said((2, 25, 36), np.s_[:, 20:25], "image.embed", "image_embed") == "only the last row of patches"
    assert said((2, 25, 36), np.s_[:, 4::5], "image.embed", "image_embed") == "only the last column of patches"
    assert said((2, 25, 36), np.s_[:, 7], "image.embed", "image_embed") == "token 7"
    assert said((3, 24, 40), np.s_[:, 9:], "text.embed", "text_embed") == "only padding"
    assert said((2, 4, 25, 25), np.s_[:, 2], "image.blocks.00.attn.probs", "probs") == "head 2"


def test_the_best_fit_of_a_scale_and_an_offset():
    x = np.random.default_rng(0).normal(size=(30, 7))
    fit = best_fit(3 * x - 2, x)
    np.testing.assert_allclose(fit, (3, -2, 0), atol=1e-12)
    assert best_fit(np.full((2, 2), np.nan), np.ones((2, 2))).left == np.inf
