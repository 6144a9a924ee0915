"""Logistic regression: optima that are known in closed form, gradients that are zero there, numbers beyond exp's."""

import numpy as np
import pytest

from npsiglip.evaluation.logistic import LOSSES, Linear, fit, losses, minimize


def bisect(f, low, high):
    """Where an increasing function is zero."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) < 0 else (low, middle)
    return low


def problem(n=60, d=7, count=4, seed=0):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, count, n)
    return rng.standard_normal((n, d)) + rng.standard_normal((count, d))[classes], classes


def objective(x, classes, model, strength, loss):
    return losses(x @ model.w + model.b, classes, loss)[0].mean() + strength / 2 * (model.w**2).sum()


# -- the losses -------------------------------------------------------------------------------------------------------


def test_losses_by_hand():
    logits, classes = np.array([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]]), np.array([1, 2])
    e = np.exp(logits)
    assert losses(logits, classes, "softmax")[0] == pytest.approx(-np.log(e[[0, 1], classes] / e.sum(axis=1)))
    signs = np.array([[-1, 1, -1], [-1, -1, 1]])
    assert losses(logits, classes, "sigmoid")[0] == pytest.approx(np.log1p(np.exp(-signs * logits)).sum(axis=1))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_differences(loss):
    rng = np.random.default_rng(0)
    logits, classes, step = 3 * rng.standard_normal((5, 4)), rng.integers(0, 4, 5), 1e-6
    _, gradient = losses(logits, classes, loss)
    for place in np.ndindex(logits.shape):
        moved = [logits.copy(), logits.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (losses(m, classes, loss)[0].sum() for m in moved)
        # losses of up to 20, rounded to 2e-15 each, over 2e-6: 2e-9; the third derivative, below 1, times step^2: 1e-12
        assert (up - down) / (2 * step) == pytest.approx(gradient[place], abs=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_large_logits(loss):
    logits = np.array([[1e4, -1e4], [1e4, -1e4]])
    value, gradient = losses(logits, np.array([0, 1]), loss)
    assert value == pytest.approx([0.0, 2e4])
    assert np.isfinite(gradient).all()


# -- the optimum ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 40])
def test_a_quadratic(size):
    """Against the solution of the linear equations; harder ones than any feature gives: a condition of 1e4."""
    rng = np.random.default_rng(size)
    q = np.linalg.qr(rng.standard_normal((size, size)))[0]
    a, b = q @ np.diag(np.logspace(0, 4, size)) @ q.T, rng.standard_normal(size)
    found, left = minimize(lambda x: (x @ a @ x / 2 - b @ x, a @ x - b), np.zeros(size), 1e-8, 2000)
    assert left <= 1e-8
    # the distance to the optimum is the gradient left, in norm sqrt(40) * 1e-8, over the least curvature, 1
    np.testing.assert_allclose(found, np.linalg.solve(a, b), atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-5])
def test_the_gradient_is_zero_and_nothing_beside_is_lower(loss, strength):
    x, classes = problem()
    model = fit(x, classes, 4, strength, loss)
    slope = losses(x @ model.w + model.b, classes, loss)[1] / len(x)
    assert np.abs(x.T @ slope + strength * model.w).max() <= 1e-8
    assert np.abs(slope.sum(axis=0)).max() <= 1e-8
    least, rng = objective(x, classes, model, strength, loss), np.random.default_rng(1)
    for _ in range(20):
        other = Linear(model.w + 0.01 * rng.standard_normal(model.w.shape), model.b + 0.01 * rng.standard_normal(4))
        assert objective(x, classes, other, strength, loss) > least


@pytest.mark.parametrize("strength", [10.0, 0.1, 1e-4])
def test_two_pictures_on_a_line(strength):
    """At x = 1 and -1 the optimum is the root of an equation: strength u = 1 / (1 + exp(m u)), m = 2 or 1."""
    x, classes = np.array([[1.0], [-1.0]]), np.array([0, 1])
    for loss, m in (("softmax", 2), ("sigmoid", 1)):
        u = bisect(lambda u, m=m: strength * u - 1 / (1 + np.exp(m * u)), 0.0, 100.0)
        model = fit(x, classes, 2, strength, loss, tolerance=1e-12)
        # the gradient left, 1e-12, over the least curvature, `strength`: 1e-8 at most, of weights above 0.01
        np.testing.assert_allclose(model.w, [[u, -u]], rtol=1e-6)
        np.testing.assert_allclose(model.b, 0, atol=1e-8)


def test_without_features_the_frequencies_are_left():
    classes = np.repeat([0, 1, 2], [5, 3, 2])
    expected = np.array([0.5, 0.3, 0.2])
    b = fit(np.zeros((10, 2)), classes, 3, 1.0, "softmax").b
    # the gradient of a bias is frequency minus expected frequency, and 1e-8 of it may be left
    np.testing.assert_allclose(np.exp(b) / np.exp(b).sum(), expected, atol=1e-7)
    b = fit(np.zeros((10, 2)), classes, 3, 1.0, "sigmoid").b
    np.testing.assert_allclose(1 / (1 + np.exp(-b)), expected, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_where_it_begins_does_not_matter(loss):
    x, classes = problem(seed=3)
    first = fit(x, classes, 4, 0.03, loss)
    far = Linear(10 * np.random.default_rng(0).standard_normal(first.w.shape), np.zeros(4))
    # gradients of up to 1e-8 are left, over the least curvature, 0.03: 3e-7 in each direction, some tens of them
    np.testing.assert_allclose(fit(x, classes, 4, 0.03, loss, far).w, first.w, atol=1e-5)
    again = fit(x, classes, 4, 0.03, loss)
    np.testing.assert_array_equal(again.w, first.w)
