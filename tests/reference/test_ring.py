"""Losses in blocks and across devices: equal to the dense ones, and books that agree with the formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.reference import (
    chunked_sigmoid_loss,
    gathered_softmax_loss,
    ring_sigmoid_loss,
    sigmoid_loss,
    softmax_loss,
)
from npsiglip.reference.loss import PairLoss, cross_entropy, log_sum_exp, softplus
from npsiglip.reference.model import sigmoid, softmax
from npsiglip.reference.ring import Device, all_gather, exchange, reduce_scatter
from tests.helpers.embeddings import pairs
from tests.helpers.gradients import assert_gradients_of_a_loss

FIELDS = PairLoss._fields
seeds = st.integers(0, 2**32 - 1)


# -- equality ---------------------------------------------------------------------------------------------------------


def bounds(zimg, ztxt, t_prime, bias, softmax=False):
    """Field -> the largest difference there can be between two orders of the same additions; docs/training-loss.md.

    u = 2^-53. A logit is a sum of w products of unit rows, times t, plus bias: off by ((w + 2) t + |bias|) u at most,
    and two of them by twice that, which a probability takes on as a relative error (a softmax twice, its normaliser
    has it too). 40 u for exp, log and divisions. Then sums: of B terms in one or two stages for a gradient, of B^2
    for a scalar.
    """
    u, size, width, t = 2.0**-53, *zimg.shape, np.exp(t_prime)
    z = t * zimg @ ztxt.T + (0.0 if softmax else bias)
    y = 2.0 * np.eye(size) - 1.0
    if softmax:
        loss = (cross_entropy(z)[0] + cross_entropy(z.T)[0]) / (2 * size)
        g = np.abs(cross_entropy(z)[1] + cross_entropy(z.T)[1].T) / (2 * size)
    else:
        loss, g = softplus(-y * z).sum() / size, sigmoid(-y * z) / size
    term = (2 * ((width + 2) * t + abs(bias)) * (2 if softmax else 1) + 40) * u
    gradient, scalar = 1.01 * (term + (3 * size + 8) * u), 1.01 * (term + 2 * size**2 * u)
    return {
        "loss": scalar * loss,
        "d_zimg": gradient * t * g @ np.abs(ztxt),
        "d_ztxt": gradient * t * g.T @ np.abs(zimg),
        "d_t_prime": (scalar + width * u) * t * g.sum(),
        "d_bias": scalar * g.sum(),
    }


def assert_equal(result, dense, bound):
    for field in FIELDS:
        value, truth = getattr(result, field), getattr(dense, field)
        assert np.shape(value) == np.shape(truth), field
        assert np.all(np.abs(value - truth) <= bound[field]), field


cases = given(
    devices=st.integers(1, 8),
    each=st.integers(1, 5),
    width=st.integers(1, 20),
    t=st.floats(0.1, 120),
    bias=st.floats(-20, 10),
    alike=st.floats(0, 1),
    seed=seeds,
)


@cases
def test_ring_is_the_dense_loss(devices, each, width, t, bias, alike, seed):
    zimg, ztxt = pairs(devices * each, width, seed, alike)
    arguments = zimg, ztxt, math.log(t), bias
    assert_equal(ring_sigmoid_loss(*arguments, devices), sigmoid_loss(*arguments), bounds(*arguments))


@cases
def test_gathered_is_the_dense_loss(devices, each, width, t, bias, alike, seed):
    zimg, ztxt = pairs(devices * each, width, seed, alike)
    bound = bounds(zimg, ztxt, math.log(t), 0.0, softmax=True)
    dense = softmax_loss(zimg, ztxt, math.log(t), bias)
    assert_equal(gathered_softmax_loss(zimg, ztxt, math.log(t), devices), dense, bound)
    assert dense.d_bias == 0


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 20), st.floats(0.1, 120), st.floats(-20, 10), seeds)
def test_chunked_is_the_dense_loss(size, chunk, width, t, bias, seed):
    zimg, ztxt = pairs(size, width, seed)
    arguments = zimg, ztxt, math.log(t), bias
    assert_equal(chunked_sigmoid_loss(*arguments, chunk), sigmoid_loss(*arguments), bounds(*arguments))


def test_one_device_is_the_dense_loss_bit_for_bit():
    zimg, ztxt = pairs(12, 5, 0)
    ring, dense = ring_sigmoid_loss(zimg, ztxt, 2.3, -10.0, 1), sigmoid_loss(zimg, ztxt, 2.3, -10.0)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(ring, field), getattr(dense, field))


# -- the softmax loss -------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 8), st.floats(0.1, 50), st.floats(-20, 20), seeds)
def test_softmax_loss_is_its_definition(size, width, t, bias, seed):
    zimg, ztxt = pairs(size, width, seed)
    z = [[t * math.fsum(a * b for a, b in zip(x, y, strict=True)) + bias for y in ztxt] for x in zimg]
    terms = []
    for i in range(size):
        for row in (z[i], [z[j][i] for j in range(size)]):
            others = math.fsum(math.exp(v - row[i]) for j, v in enumerate(row) if j != i)
            terms.append(math.log1p(others))  # -log softmax
    assert softmax_loss(zimg, ztxt, math.log(t), bias).loss == pytest.approx(math.fsum(terms) / (2 * size), rel=1e-11)


@given(st.integers(1, 6), st.integers(1, 8), st.floats(0.1, 50), seeds)
def test_softmax_gradients_are_finite_differences(size, width, t, seed):
    zimg, ztxt = pairs(size, width, seed)
    at = {"zimg": zimg, "ztxt": ztxt, "t_prime": np.array(math.log(t)), "bias": np.array(-3.0)}
    assert_gradients_of_a_loss(softmax_loss, at, t)


@given(st.integers(1, 6), st.integers(0, 3), seeds)
def test_cross_entropy_with_matches_further_to_the_right(rows, first, seed):
    z = np.random.default_rng(seed).standard_normal((rows, rows + first + 2))
    loss, g = cross_entropy(z, first)
    target = np.eye(*z.shape, k=first)
    assert loss == pytest.approx(-(np.log(softmax(z)) * target).sum(), rel=1e-12)
    np.testing.assert_allclose(g, softmax(z) - target, rtol=0, atol=1e-15)
    np.testing.assert_allclose(g.sum(axis=1), 0, atol=1e-15)


def test_softmax_loss_of_saturated_logits():
    """Where the match wins by 1000, e^-1000 is zero; by 40, e^-40 is not, though 1 - e^-40 is 1."""
    z = np.eye(3)
    with np.errstate(all="raise", under="ignore"):
        assert softmax_loss(z, z, math.log(1000.0)).loss == 0
        near = softmax_loss(z, z, math.log(40.0))
    assert near.loss == pytest.approx(2 * math.exp(-40), rel=1e-12, abs=0)
    assert near.d_t_prime == pytest.approx(-2 * 40 * math.exp(-40), rel=1e-12, abs=0)
    wrong = softmax_loss(z, z[[1, 2, 0]], math.log(1000.0))
    assert wrong.loss == pytest.approx(1000)


def test_softmax_loss_of_a_single_pair_is_nothing():
    result = softmax_loss(*pairs(1, 4, 0), 2.3)
    assert [np.abs(x).max() for x in result] == [0, 0, 0, 0, 0]


def test_losses_at_initialisation():
    """Unrelated embeddings: log B for the softmax at any temperature near 1, whatever the bias."""
    zimg, ztxt = pairs(256, 4096, 0, alike=0)
    assert softmax_loss(zimg, ztxt, 0.0, -10.0).loss == pytest.approx(math.log(256), rel=1e-3)


def test_log_sum_exp():
    x = np.array([[0.0, 0.0], [1e300, 1e300], [-1e300, -np.inf], [-np.inf, -np.inf]])
    np.testing.assert_array_equal(log_sum_exp(x), [math.log(2), 1e300, -1e300, -np.inf])


# -- the books --------------------------------------------------------------------------------------------------------

SIZES = [(1, 4, 3), (2, 3, 5), (3, 2, 7), (4, 8, 2), (6, 1, 1), (5, 4, 3)]  # devices, b, w; b^2 above 2 b w, and below


@pytest.mark.parametrize(("devices", "b", "w"), SIZES)
def test_books_of_the_ring(devices, b, w):
    result = ring_sigmoid_loss(*pairs(devices * b, w, 0), 2.3, -10.0, devices)
    assert result.exchanges == devices - 1
    assert result.bytes_sent_per_device == 4 * (devices - 1) * (2 * b * w + 3)
    while_comparing = 4 * b * w + b * b if devices == 1 else 5 * b * w + b * b
    while_passing = {1: 0, 2: 5 * b * w}.get(devices, 7 * b * w)
    assert result.peak_bytes_per_device == 4 * max(while_comparing, while_passing)


@pytest.mark.parametrize(("devices", "b", "w"), SIZES)
def test_books_of_gathering(devices, b, w):
    result = gathered_softmax_loss(*pairs(devices * b, w, 0), 2.3, devices)
    assert result.exchanges == devices - 1
    assert result.bytes_sent_per_device == 4 * (devices - 1) * (4 * b * w + 3)
    assert result.peak_bytes_per_device == 4 * (4 * devices * b * w + b * devices * b)


@pytest.mark.parametrize("loss", [ring_sigmoid_loss, gathered_softmax_loss])
def test_books_in_numbers_of_another_size(loss):
    zimg, ztxt = pairs(12, 5, 0)
    bias = [-10.0] if loss is ring_sigmoid_loss else []
    four, two = (loss(zimg, ztxt, 2.3, *bias, 4, number_bytes=size) for size in (4, 2))
    assert four.bytes_sent_per_device == 2 * two.bytes_sent_per_device
    assert four.peak_bytes_per_device == 2 * two.peak_bytes_per_device


def test_memory_of_the_ring_does_not_grow_with_the_devices():
    peaks = {d: ring_sigmoid_loss(*pairs(4 * d, 5, 0), 2.3, -10.0, d).peak_bytes_per_device for d in (3, 6, 24)}
    assert len(set(peaks.values())) == 1
    peaks = [gathered_softmax_loss(*pairs(4 * d, 5, 0), 2.3, d).peak_bytes_per_device for d in (3, 6, 24)]
    assert peaks[1:] == [2 * peaks[0], 8 * peaks[0]]


def test_device_counts_what_it_holds_at_once():
    device = Device(x=np.zeros(5))
    device["y"] = np.zeros((2, 3))
    device["x"] = np.zeros(1)
    del device["y"]
    device["z"] = np.zeros(4)
    assert (device.peak, device.sent) == (11, 0)
    device["y"] = np.zeros(7)
    assert device.peak == 12


def test_exchange_moves_to_the_neighbour_and_needs_room_for_both():
    ring = [Device(x=np.full(2, float(i)), y=np.zeros(3)) for i in range(3)]
    exchange(ring, "x")
    assert [device["x"][0] for device in ring] == [2, 0, 1]
    assert {(device.sent, device.peak, len(device)) for device in ring} == {(2, 7, 2)}


@given(st.integers(1, 6), seeds)
def test_all_gather_and_reduce_scatter(devices, seed):
    parts = np.random.default_rng(seed).integers(-9, 10, (devices, 2, 3)).astype(np.float64)
    ring = [Device(x=np.where(np.arange(devices)[:, None, None] == i, parts, np.nan)) for i in range(devices)]
    all_gather(ring, "x")
    for device in ring:
        np.testing.assert_array_equal(device["x"], parts)
        assert device.sent == (devices - 1) * 6
    ring = [Device(x=(i + 1) * parts) for i in range(devices)]
    reduce_scatter(ring, "x")
    for i, device in enumerate(ring):
        np.testing.assert_array_equal(device["x"], parts[i] * devices * (devices + 1) / 2)
        assert device.sent == (devices - 1) * 6


def test_inputs_are_left_as_they_are():
    zimg, ztxt = pairs(12, 5, 0)
    zimg.flags.writeable = ztxt.flags.writeable = False
    ring_sigmoid_loss(zimg, ztxt, 2.3, -10.0, 3)
    gathered_softmax_loss(zimg, ztxt, 2.3, 3)
    chunked_sigmoid_loss(zimg, ztxt, 2.3, -10.0, 5)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "devices", "message"),
    [
        (12, 5, "12 pairs cannot be divided evenly among 5 devices.*multiple of the devices"),
        (3, 4, "3 pairs cannot be divided evenly among 4"),
        (0, 1, "0 pairs cannot be divided"),
        (12, 0, "devices must be a whole number of at least 1; got 0"),
        (12, -3, "whole number of at least 1; got -3"),
        (12, 3.0, "whole number of at least 1; got 3.0"),
    ],
)
def test_devices_that_do_not_divide_the_batch(size, devices, message):
    zimg, ztxt = np.ones((2, size, 2))
    with pytest.raises(ValueError, match=message):
        ring_sigmoid_loss(zimg, ztxt, 2.3, -10.0, devices)
    with pytest.raises(ValueError, match=message):
        gathered_softmax_loss(zimg, ztxt, 2.3, devices)


@pytest.mark.parametrize(("zimg", "ztxt"), [((4, 2), (6, 2)), ((4, 2), (4, 3)), ((4,), (4,))])
def test_embeddings_that_do_not_fit(zimg, ztxt):
    calls = [
        lambda x, y: ring_sigmoid_loss(x, y, 2.3, -10.0, 2),
        lambda x, y: gathered_softmax_loss(x, y, 2.3, 2),
        lambda x, y: chunked_sigmoid_loss(x, y, 2.3, -10.0, 2),
        lambda x, y: sigmoid_loss(x, y, 2.3, -10.0),
        lambda x, y: softmax_loss(x, y, 2.3),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="text i belonging to image i; got"):
            call(np.ones(zimg), np.ones(ztxt))


@pytest.mark.parametrize("chunk", [0, -1])
def test_chunks_of_nothing(chunk):
    with pytest.raises(ValueError, match="chunk must be a whole number of at least 1; got"):
        chunked_sigmoid_loss(*pairs(4, 2, 0), 2.3, -10.0, chunk)
