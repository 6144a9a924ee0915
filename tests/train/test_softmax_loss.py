"""CLIP's loss for training against the reference, its own definition, and where logits are far apart."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip import reference
from npsiglip.train.softmax_loss import sigmoid, softmax_loss


def pairs(size, width, seed, alike=0.0):
    zimg, ztxt = np.random.default_rng(seed).standard_normal((2, size, width))
    ztxt = alike * zimg + (1.0 - alike) * ztxt
    return tuple(z / np.linalg.norm(z, axis=1, keepdims=True) for z in (zimg, ztxt))


@given(
    size=st.integers(1, 40),
    width=st.integers(1, 70),
    t=st.floats(0.01, 300.0),
    alike=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_against_the_reference(size, width, t, alike, seed):
    """Both compute in float64: a logit is off by 2^-53 t a few times, and all that is made of it by that relatively.

    So is the loss by as much in all, and a gradient by t times that, since its terms are at most t / B each.
    """
    zimg, ztxt = pairs(size, width, seed, alike)
    found = softmax_loss(zimg, ztxt, math.log(t))
    truth = reference.softmax_loss(zimg, ztxt, math.log(t))
    bound = 2.0**-53 * 10 * max(t, 1.0)
    assert found.loss == pytest.approx(truth.loss, rel=bound, abs=bound)
    for name in ("d_zimg", "d_ztxt", "d_t_prime"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(truth, name), rtol=bound, atol=max(t, 1.0) * bound, err_msg=name
        )
    assert found.d_bias == 0


def test_definition():
    """Of three pairs, term by term, with Python's own sums."""
    zimg, ztxt = pairs(3, 4, 1)
    z = [[5.0 * math.fsum(a * b for a, b in zip(x, y, strict=True)) for y in ztxt] for x in zimg]
    terms = []
    for i in range(3):
        for row in (z[i], [z[j][i] for j in range(3)]):
            terms.append(math.log(math.fsum(map(math.exp, row))) - row[i])
    assert softmax_loss(zimg, ztxt, math.log(5.0)).loss == pytest.approx(math.fsum(terms) / 6, rel=1e-13)


def test_saturated_logits():
    """Where the match wins by 1000, e^-1000 is zero; by 40, e^-40 is not, though 1 - e^-40 is 1."""
    z = np.eye(3)
    with np.errstate(all="raise", under="ignore"):
        assert softmax_loss(z, z, math.log(1000.0)).loss == 0
        near = softmax_loss(z, z, math.log(40.0))
        wrong = softmax_loss(z, z[[1, 2, 0]], math.log(1000.0))
    assert near.loss == pytest.approx(2 * math.exp(-40), rel=1e-12, abs=0)
    assert near.d_t_prime == pytest.approx(-2 * 40 * math.exp(-40), rel=1e-12, abs=0)
    assert wrong.loss == pytest.approx(1000)


def test_a_single_pair_is_nothing():
    with np.errstate(all="raise"):
        result = softmax_loss(*pairs(1, 4, 0), 2.3)
    assert [np.abs(x).max() for x in result] == [0, 0, 0, 0, 0]


def test_inputs_stay_as_they_are():
    zimg, ztxt = pairs(5, 4, 2)
    copies = zimg.copy(), ztxt.copy()
    softmax_loss(zimg, ztxt, 1.0)
    np.testing.assert_array_equal((zimg, ztxt), copies)


def test_sigmoid():
    x = np.array([-800.0, -1.5, 0.0, 1.5, 800.0])
    with np.errstate(all="raise", under="ignore"):
        found = sigmoid(x)
    np.testing.assert_allclose(found[1:4], [1 / (1 + math.exp(1.5)), 0.5, 1 / (1 + math.exp(-1.5))], rtol=1e-15)
    np.testing.assert_array_equal(found[[0, -1]], [0, 1])
