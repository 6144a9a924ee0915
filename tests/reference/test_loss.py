"""The reference's losses against their definitions, finite differences, symmetries, and where logits are far apart."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.reference import sigmoid_loss
from tests.helpers.arrays import close
from tests.helpers.embeddings import pairs
from tests.helpers.gradients import assert_gradients_of_a_loss

seeds = st.integers(0, 2**32 - 1)


losses = given(
    size=st.integers(1, 6), width=st.integers(1, 8), t=st.floats(0.1, 50), bias=st.floats(-20, 20), seed=seeds
)


@losses
def test_loss_is_its_definition(size, width, t, bias, seed):
    zimg, ztxt = pairs(size, width, seed)
    terms = []
    for i in range(size):
        for j in range(size):
            z = t * sum(a * b for a, b in zip(zimg[i], ztxt[j], strict=True)) + bias
            terms.append(math.log1p(math.exp(-z if i == j else z)))  # -log sigmoid(y z)
    assert sigmoid_loss(zimg, ztxt, math.log(t), bias).loss == pytest.approx(math.fsum(terms) / size, rel=1e-11)


@losses
def test_gradients_are_finite_differences(size, width, t, bias, seed):
    zimg, ztxt = pairs(size, width, seed)
    at = {"zimg": zimg, "ztxt": ztxt, "t_prime": np.array(math.log(t)), "bias": np.array(bias)}
    assert_gradients_of_a_loss(sigmoid_loss, at, t)


@losses
def test_loss_does_not_care_which_tower_is_which(size, width, t, bias, seed):
    zimg, ztxt = pairs(size, width, seed)
    a, b = sigmoid_loss(zimg, ztxt, math.log(t), bias), sigmoid_loss(ztxt, zimg, math.log(t), bias)
    assert a.loss == pytest.approx(b.loss, rel=1e-12)
    close(a.d_zimg, b.d_ztxt)
    close(a.d_ztxt, b.d_zimg)
    assert a.d_t_prime == pytest.approx(b.d_t_prime, rel=1e-9, abs=1e-12)
    assert a.d_bias == pytest.approx(b.d_bias, rel=1e-9, abs=1e-12)


@losses
def test_loss_does_not_care_about_the_order_of_pairs(size, width, t, bias, seed):
    zimg, ztxt = pairs(size, width, seed)
    order = np.random.default_rng(seed).permutation(size)
    a, b = (
        sigmoid_loss(zimg, ztxt, math.log(t), bias),
        sigmoid_loss(zimg[order], ztxt[order], math.log(t), bias),
    )
    assert a.loss == pytest.approx(b.loss, rel=1e-12)
    cancelling = 1e-14 * t  # a gradient is a sum of B terms of up to t / B, which may cancel, in another order
    close(a.d_zimg[order], b.d_zimg, atol=cancelling)
    close(a.d_ztxt[order], b.d_ztxt, atol=cancelling)


def test_initial_loss_of_the_paper():
    """At t = 10, b = -10, unrelated embeddings: log(1 + e^10) for the pair itself, about e^-10 for each other one."""
    size, width = 256, 4096
    loss = sigmoid_loss(*pairs(size, width, 0, alike=0), math.log(10), -10.0).loss
    # E exp(10 c) = exp(50 / D) for a cosine c ~ N(0, 1/D); the mean of B pairs' 10 c has a deviation of 0.01
    assert loss == pytest.approx(10 + (size - 1) * math.exp(-10 + 50 / width), abs=0.04)
    # without that bias, as Hugging Face initialises, every one of B negatives costs log 2
    assert sigmoid_loss(*pairs(size, width, 0, alike=0), 0.0, 0.0).loss == pytest.approx(size * math.log(2), rel=1e-3)


@pytest.mark.parametrize("size", [2, 3, 100])
def test_best_bias_of_embeddings_that_say_nothing(size):
    # t = 0: all logits are b, and B sigmoid(b) = 1 is best
    best = sigmoid_loss(*pairs(size, 4, 0), -700.0, -math.log(size - 1))
    assert best.d_bias == pytest.approx(0, abs=1e-14)
    assert abs(sigmoid_loss(*pairs(size, 4, 0), -700.0, -math.log(size - 1) + 0.1).d_bias) > 0.01


def test_loss_of_saturated_logits():
    z = np.eye(3)
    right = sigmoid_loss(z, z, math.log(2000.0), -1000.0)
    assert right.loss == 0
    assert not right.d_zimg.any()
    wrong = sigmoid_loss(z, z[[1, 2, 0]], math.log(2000.0), -1000.0)  # every pair with its neighbour's text
    assert wrong.loss == pytest.approx(2000)  # 1000 for the missed pair, 1000 for the false one
    assert wrong.d_bias == pytest.approx(0)
    close(np.abs(wrong.d_zimg).sum(axis=-1), np.full(3, 2 * 2000 / 3))


def test_gradients_of_pairs_that_match_well_keep_their_digits():
    """sigmoid(z) - 1 is 0 in float64 from z = 37 on, and what a training does to its best pairs hangs on it."""
    z = np.eye(1)
    for logit in (1.0, 20.0, 40.0, 600.0):
        result = sigmoid_loss(z, z, math.log(logit + 5.0), -5.0)
        expected = math.exp(-logit) / (1.0 + math.exp(-logit))  # 1 - sigmoid
        assert result.loss == pytest.approx(math.log1p(math.exp(-logit)), rel=1e-12, abs=0)
        assert result.d_bias == pytest.approx(-expected, rel=1e-12, abs=0)
        assert result.d_zimg[0, 0] == pytest.approx(-(logit + 5.0) * expected, rel=1e-12, abs=0)


def test_loss_of_one_pair():
    result = sigmoid_loss(np.array([[0.6, 0.8]]), np.array([[0.8, 0.6]]), 0.0, -0.96)  # z = 0
    assert result.loss == pytest.approx(math.log(2))
    assert result.d_bias == pytest.approx(-0.5)
    assert result.d_t_prime == pytest.approx(-0.48)
    close(result.d_zimg, np.array([[-0.4, -0.3]]))
    close(result.d_ztxt, np.array([[-0.3, -0.4]]))
