"""Scale and bias of a collection: the most likely ones, honest intervals, and probabilities that hold."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npsiglip.collection.calibrate import BIAS, Calibration, by_share, estimate, fit, loss, separation
from npsiglip.errors import InputError
from npsiglip.evaluation.scores import calibration

TRUE = Calibration(60.0, -5.0)  # of a collection whose probabilities are off:
MODEL = Calibration(117.0, -13.0)


def drawn(seed, n, truth=TRUE):
    """Cosines of pairs, and whether they match, with the probabilities that the truth says."""
    rng = np.random.default_rng(seed)
    cosines = rng.normal(0.07, 0.04, n)
    return cosines, rng.random(n) < truth.probabilities(cosines)


def gradient(found, cosines, matched):
    """By differences; relative to what one pair may change."""
    h = 1e-5
    by_scale = loss(found.scale + h, found.bias, cosines, matched) - loss(found.scale - h, found.bias, cosines, matched)
    by_bias = loss(found.scale, found.bias + h, cosines, matched) - loss(found.scale, found.bias - h, cosines, matched)
    return by_scale / (2 * h), by_bias / (2 * h)


@settings(max_examples=30)
@given(st.integers(40, 2000), st.integers(0, 2**32 - 1))
def test_no_other_numbers_are_likelier(n, seed):
    cosines, matched = drawn(seed, n)
    if matched.all() or not matched.any() or separation(cosines, matched):
        return
    found = fit(cosines, matched)
    # a sum of n terms of order 1, rounded to 2^-53 each, divided by 2e-5
    assert np.abs(gradient(found, cosines, matched)).max() < n * 2.0**-53 / 1e-5 + 1e-6
    alone = fit(cosines, matched, scale=117.0)
    assert (alone.scale, alone.how, alone.scale_interval) == (117.0, BIAS, None)
    assert abs(gradient(alone, cosines, matched)[1]) < n * 2.0**-53 / 1e-5 + 1e-6


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([5.0, 117.0, 1000.0]),
    st.sampled_from([0.001, 0.1, 0.5]),
    st.floats(0.001, 0.999),
)
def test_a_bias_alone_holds_wherever_cosines_lie(seed, scale, spread, share):
    """Also where the scale makes nearly every probability 0 or 1: they add up to the pairs that match."""
    rng = np.random.default_rng(seed)
    cosines = rng.choice([-spread, spread], 200) + rng.normal(0, 0.01 * spread, 200)
    matched = rng.random(200) < share
    if matched.all() or not matched.any():
        return
    found = fit(cosines, matched, scale=scale)
    assert found.bias_interval[0] <= found.bias <= found.bias_interval[1]
    # float64: sums of 200 numbers at most 1, of logits at most 1,001 whose bias is rounded; float32 probabilities
    exact = np.exp(-np.logaddexp(0.0, -(scale * cosines + found.bias)))
    assert abs(exact.sum() - matched.sum()) < 200 * 1001 * 2.0**-52
    assert np.abs(found.probabilities(cosines) - exact).max() < 1e-7


@pytest.mark.parametrize(("scale", "half"), [(117.0, 0.1), (117.0, 0.35), (117.0, 1.0), (1000.0, 0.5), (-1000.0, 1.0)])
def test_a_bias_alone_lies_in_the_middle_of_a_gap(scale, half):
    """By symmetry, also where every probability is 0 or 1 but for far less than a rounding."""
    cosines = np.repeat([-half, half], 100) * np.sign(scale)
    found = fit(cosines, cosines * scale > 0, scale=scale)
    assert abs(found.bias) < 1e-9
    assert abs(by_share(cosines, scale, 0.5).bias) < 0.5  # its mean is rounded: 0.25, of a gap of up to 2,000


def test_a_gap_with_more_pairs_on_one_side():
    """n1 too much at others, n2 missing at matches: n1 exp(b - s h) = n2 exp(-b - s h), so b = log(n2 / n1) / 2."""
    cosines = np.repeat([-0.5, 0.5], [1000, 10])
    assert fit(cosines, cosines > 0, scale=117.0).bias == pytest.approx(np.log(10 / 1000) / 2, abs=1e-9)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_scale_and_bias_of_pairs_that_hardly_overlap(gap):
    """The loss is nearly flat there."""
    rng = np.random.default_rng(0)
    others, matches = rng.uniform(-0.2, 0.1, 150), rng.uniform(0.1 + gap, 0.4, 50)
    cosines = np.concatenate([others, matches, [0.1 + 2 * gap, 0.1]])
    matched = np.concatenate([np.zeros(150, bool), np.ones(50, bool), [False, True]])
    found = fit(cosines, matched)
    assert np.isfinite([found.scale, found.bias]).all()
    # the gradient by differences, of a sum of 202 terms, as above
    assert np.abs(gradient(found, cosines, matched)).max() < 202 * 2.0**-53 / 1e-5 + 1e-6


def test_intervals_hold_the_truth_as_often_as_they_say():
    hits = np.zeros(2)
    for seed in range(400):
        found = fit(*drawn(seed, 400))
        for i, (value, interval) in enumerate(((60.0, found.scale_interval), (-5.0, found.bias_interval))):
            hits[i] += interval[0] <= value <= interval[1]
    # 95 % of 400, and three standard deviations of sqrt(400 * 0.95 * 0.05) = 4.4
    assert np.all(np.abs(hits - 380) <= 13)


def test_probabilities_hold_on_pairs_that_were_not_fitted():
    cosines, matched = drawn(1, 20_000)
    assert calibration(MODEL.probabilities(cosines), matched).ece > 0.15
    for seed in range(2, 7):
        assert calibration(fit(*drawn(seed, 1000)).probabilities(cosines), matched).ece <= 0.03


def test_labels_of_which_half_match():
    """Labelled half and half from a collection where one pair of 30 matches."""
    rare = Calibration(60.0, -9.0)
    cosines, matched = drawn(0, 60_000, rare)
    yes, no = np.flatnonzero(matched)[:400], np.flatnonzero(~matched)[:400]
    some = np.concatenate([yes, no])
    held_out = np.setdiff1d(np.arange(60_000), some)
    found = fit(cosines[some], matched[some], share=matched.mean())
    truth = calibration(found.probabilities(cosines[held_out]), matched[held_out]).ece
    assert truth <= 0.03
    assert calibration(fit(cosines[some], matched[some]).probabilities(cosines[held_out]), matched[held_out]).ece > 0.1
    assert found.bias_interval[0] < found.bias < found.bias_interval[1]


def test_pairs_that_a_cosine_separates_are_told():
    cosines, matched = np.array([0.01, 0.02, 0.1, 0.12]), np.array([0, 0, 1, 1])
    assert separation(cosines, matched) == (0.02, 0.1)
    with pytest.raises(InputError, match=r"0\.1 at least, the others of 0\.02 at most"):
        fit(cosines, matched)
    with pytest.raises(InputError, match="exchanged"):
        fit(cosines, 1 - matched)
    found = fit(cosines, matched, scale=100.0)
    assert found.probabilities(cosines).sum() == pytest.approx(2, abs=1e-6)  # as many as match


@pytest.mark.parametrize("contaminated", [0, 0.01])
def test_without_labels(contaminated):
    """Unrelated pairs and matches as normal distributions that one scale joins: the truth is known."""
    rng, sigma, scale, number, matches = np.random.default_rng(0), 0.03, 90.0, 2000, 4
    match = rng.random(200_000) < matches / number
    cosines = rng.normal(-0.01 + match * scale * sigma**2, sigma)
    sample = rng.normal(-0.01, sigma, 5000)
    sample[: int(contaminated * 5000)] += scale * sigma**2
    found = estimate(sample, scale, number, matches)
    probabilities = found.probabilities(cosines)
    assert calibration(probabilities, match).ece < 0.001
    assert probabilities.sum() == pytest.approx(match.sum(), rel=0.2)
    assert calibration(MODEL.probabilities(cosines), match).ece > 3 * calibration(probabilities, match).ece


def test_by_the_share_that_matches():
    """The bias that made the labels comes back; also where some pairs stand for many."""
    cosines, matched = drawn(5, 40_000)
    found = by_share(cosines, 60.0, matched.mean())
    assert found.bias == pytest.approx(-5.0, abs=0.05)  # the share is that of a draw: off by 1 / sqrt(40,000 p q)
    assert found.probabilities(cosines).mean() == pytest.approx(matched.mean(), rel=1e-6)
    order = np.argsort(-cosines)
    some = np.concatenate([order[:8000], order[8000::8]])
    weights = np.concatenate([np.ones(8000), np.full(len(order[8000::8]), 8.0)])
    assert by_share(cosines[some], 60.0, matched.mean(), weights).bias == pytest.approx(found.bias, abs=0.01)
    assert by_share([0.3, -0.2], 100.0, 1e-9).bias < -45


def test_unrelated_pairs_that_spread_too_far_for_a_scale():
    with pytest.raises(InputError, match="spread too far"):
        estimate(np.random.default_rng(0).normal(0, 0.2, 500), 75.0, 100)


def test_through_json():
    found = fit(*drawn(0, 300))
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert Calibration.from_dict({"scale": 1, "bias": 2, "later": 3}) == Calibration(1.0, 2.0)
    for wrong in ({"scale": 1}, None, {"scale": "x", "bias": 1}, {"scale": float("nan"), "bias": 0}):
        with pytest.raises(InputError, match=r"a scale and a bias|finite"):
            Calibration.from_dict(wrong)
    assert Calibration(1.0, 0.0).probabilities([-np.inf, 0.0]).tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit([0.1, 0.2], [1, 1]), "all match"),
        (lambda: fit([0.1, 0.2], [0, 0]), "none match"),
        (lambda: fit([], []), "none match"),
        (lambda: fit([0.1, 0.2], [0, 2]), "0 or 1"),
        (lambda: fit([0.1], [0, 1]), "labelled pairs are"),
        (lambda: fit([0.1, np.nan], [0, 1]), "not finite"),
        (lambda: fit([0.1, 0.1, 0.1], [0, 1, 1]), "all labelled pairs are equal"),
        (lambda: fit([0.1, 0.1 + 1e-170, 0.0], [0, 1, 1]), "lower cosines"),
        (lambda: fit([0.0, 1e-170, 1e-171], [0, 0, 1]), "are equal"),
        (lambda: fit([0.1, 0.3, 0.2], [0, 0, 1], scale=np.nan), "scale to keep"),
        (lambda: fit([0.1, 0.3, 0.2], [0, 0, 1], scale=np.inf), "scale to keep"),
        (lambda: fit([0.1, 0.3, 0.2], [0, 0, 1], share=1.0), "between 0 and 1"),
        (lambda: by_share([], 100.0, 0.5), "finite cosines"),
        (lambda: by_share([0.1, np.nan], 100.0, 0.5), "finite cosines"),
        (lambda: by_share([0.1], 100.0, 1.0), "between 0 and 1"),
        (lambda: by_share([0.1], np.inf, 0.5), "scale to keep"),
        (lambda: estimate([0.1] * 50, np.nan, 10), "scale to keep"),
        (lambda: estimate([0.1] * 29, 100.0, 10), "30 cosines"),
        (lambda: estimate([0.1] * 50, 100.0, 10), "same cosine"),
        (lambda: estimate(np.arange(50), 100.0, 10, 10), "less than 10"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
