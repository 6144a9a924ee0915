"""What is measured on taps: against sums that are written out, and finite differences."""

import numpy as np
import pytest

from npsiglip.explain import measures
from npsiglip.reference.model import siglip
from npsiglip.verify.operations import IDS, PIXELS
from tests.helpers.explain import golden, model


def test_entropy_is_nothing_on_one_token_and_one_on_all():
    one, even = np.eye(5), np.full((5, 5), 0.2)
    assert measures.entropy(one) == 0.0
    np.testing.assert_allclose(measures.entropy(np.stack([one, even])), [0.0, 1.0])


def test_reach():
    away = np.zeros((6, 6))
    away[:, 5] = 1.0  # everybody looks at the last patch of 2 x 3
    expected = np.mean([np.hypot(1 - i // 3, 2 - i % 3) for i in range(6)])
    np.testing.assert_allclose(measures.reach(away, 2, 3), expected)


@pytest.mark.parametrize(("side", "count", "first"), [(4, 16, 1), (6, 36, 1), (14, 25, 3), (27, 36, 5)])
def test_windows_cover_every_patch_once(side, count, first):
    found = measures.windows(side, side)
    assert (found.number, len(found.of)) == (count, side * side)
    assert set(found.of) == set(range(count))
    assert (found.of == 0).sum() == first * first
    shares = np.arange(side * side, dtype=np.float64)[None]
    sums = measures.by_window(shares, found)
    np.testing.assert_array_equal(sums[0], [shares[0, found.of == w].sum() for w in range(count)])


def test_gradients_say_what_a_small_change_does():
    truth, config = golden(), model().config.image
    t = float(np.exp(truth.params["t_prime"].item()))
    pixels, params = np.float64(truth.inputs[PIXELS]), measures.Wide(truth.params)
    found = measures.gradient_shares(truth.params, config, pixels, truth, t)
    size, patch, step = config.patch_size, 6, 1e-4
    y, x = patch // config.grid_size * size, patch % config.grid_size * size
    sides = []
    for sign in (1, -1):
        moved = pixels.copy()
        moved[..., y : y + size, x : x + size] *= 1 + sign * step
        sides.append(siglip(params, model().config, moved, truth.inputs[IDS])[0])
    # central differences: an error of step^2 times the third derivative
    np.testing.assert_allclose(found[:, patch], (sides[0] - sides[1]) / (2 * step), rtol=1e-5)


def test_grey_patches():
    truth, config = golden(), model().config.image
    t, bias = float(np.exp(truth.params["t_prime"].item())), truth.params["bias"].item()
    pixels = np.float64(truth.inputs[PIXELS])
    found = measures.occlusion_shares(model(), config, pixels, truth["ztxt"], truth["logits"][0], t, bias)
    grey, side, across = pixels.copy(), config.patch_size, config.image_size // config.patch_size
    grey[..., side : 2 * side, 2 * side : 3 * side] = 0  # the second row, the third column
    expected = truth["logits"][0] - siglip(measures.Wide(truth.params), model().config, grey, truth.inputs[IDS])[0]
    np.testing.assert_allclose(found[:, across + 2], expected, atol=2e-5)  # float32 against float64: measured 1.6e-6


def test_agreement():
    x = np.array([1.0, 2.0, 4.0])
    assert measures.agreement(x, 3 * x + 1) == pytest.approx(1)
    assert measures.agreement(x, -x) == pytest.approx(-1)
    assert measures.agreement(x, np.ones(3)) == 0


def test_outliers():
    stream = np.ones((3, 6))
    stream[:, 4] = -8.0
    channels, times = measures.outliers(stream, 2)
    assert (channels, times) == ([4, 0], [8.0, 1.0])


def test_words_left_out():
    assert measures.without_words("a red  ring") == [("a", "red ring"), ("red", "a ring"), ("ring", "a red")]
    assert measures.without_words("ring") == []
