"""Probabilities from logits, against float64; and labels in their order.

Covers zero_shot.py as well.
"""

import numpy as np
import pytest

from npsiglip.outputs import SigLIPOutput, sigmoid, softmax
from npsiglip.reference import model
from npsiglip.zero_shot import rank

SPREAD = [1.0, 10.0, 100.0, 1e4]


def logits(spread, shape=(50, 40)):
    return (spread * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("spread", SPREAD)
def test_sigmoid_is_rounded_once(spread):
    x = logits(spread)
    expected = model.sigmoid(x.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(sigmoid(x), expected)


@pytest.mark.parametrize("spread", SPREAD)
def test_softmax_is_rounded_once_and_each_row_is_its_own(spread):
    x = logits(spread)
    x += np.linspace(-1e5, 1e5, len(x), dtype=np.float32)[:, None]  # no row's largest is near another's
    found = softmax(x)
    expected = model.softmax(x.astype(np.float64))
    # Rounded once; before that, two values of float64 that are added up in different orders.
    np.testing.assert_allclose(found, expected, rtol=2.0**-24 * (1 + 1e-6), atol=2.0**-150)
    assert np.isfinite(found).all()
    for row in (0, 20, 49):
        np.testing.assert_array_equal(softmax(x[row : row + 1])[0], found[row])


def test_sigmoid_and_softmax_of_what_exp_cannot_take():
    x = np.array([[-3e38, 0.0, 3e38]], np.float32)
    np.testing.assert_array_equal(sigmoid(x), [[0.0, 0.5, 1.0]])
    np.testing.assert_array_equal(softmax(x), [[0.0, 0.0, 1.0]])


def test_labels_of_equal_probability_stay_in_their_order():
    ranked = rank(["a", "b", "c", "d", "e"], np.array([0.25, 0.5, 0.25, 0.5, 0.25], np.float32))
    assert [score["label"] for score in ranked] == ["b", "d", "a", "c", "e"]


def test_calibrated():
    """Of cosines in float64, each the same in any batch; without a calibration the model's own."""

    class Halves:
        def probabilities(self, cosines):
            assert cosines.dtype == np.float64
            return cosines / 2

    rng = np.random.default_rng(0)
    zimg, ztxt = (rng.standard_normal((n, 33)).astype(np.float32) for n in (5, 3))
    output = SigLIPOutput(np.zeros((5, 3), np.float32), zimg, ztxt)
    expected = zimg.astype(np.float64) @ ztxt.T.astype(np.float64) / 2
    np.testing.assert_allclose(output.calibrated(Halves()), expected, rtol=0, atol=1e-13)  # 33 sums of float64
    alone = SigLIPOutput(np.zeros((1, 1), np.float32), zimg[2:3], ztxt[1:2])
    assert alone.calibrated(Halves())[0, 0] == output.calibrated(Halves())[2, 1]
    assert (output.calibrated(None) == 0.5).all()
