"""exp, both forms of GELU, softplus and the logistic function against NumPy's float64, in units of the last place."""

import math

import numpy as np
import pytest
from numba import njit

from npsiglip.element_types import LANES
from npsiglip.kernels import vector_math
from npsiglip.kernels.vector import load, store, to_f64
from npsiglip.metrics import max_ulp, relative_l2
from npsiglip.reference import backward, loss, model
from tests.helpers.arrays import UNIT

# The derivation is in docs/numerics.md; benchmarks/exp_ulp.py measures all float32 inputs.
EXP_F32_ULP = 1.04
EXP2_F32_ULP = 0.82
# Reduction, Taylor polynomial and two scalings, each at most half a unit; NumPy's own exp adds one.
EXP_F64_ULP = 3.0
# 1 + exp(y), the division and exp itself: 1.04 + 0.5 + 0.5; the argument's two products amplify by |2u| <= 9 below
# -3, where the function is below 0.004, so that is bounded absolutely.
GELU_RELATIVE, GELU_ABSOLUTE = 2.0**-20, 2.0**-24 * 0.2
SOFTPLUS_RELATIVE = 2.0**-41


@njit
def apply_exp(x, out):
    for i in range(0, x.size, LANES):
        store(out, i, vector_math.exp(load(x, i)))


@njit
def apply_exp2(x, out):
    for i in range(0, x.size, LANES):
        store(out, i, vector_math.exp2(load(x, i)))


@njit
def apply_gelu(x, out):
    for i in range(0, x.size, LANES):
        store(out, i, vector_math.gelu_tanh(load(x, i)))


@njit
def apply_gelu_erf(x, out):
    for i in range(0, x.size, LANES):
        store(out, i, vector_math.gelu_erf(load(x, i)))


@njit
def apply_softplus_and_sigmoid(x, softplus, sigmoid):
    for i in range(0, x.size, LANES):
        a, b = vector_math.softplus_and_sigmoid(load(x, i))
        store(softplus, i, a)
        store(sigmoid, i, b)


@njit
def apply_widen(x, out):
    for i in range(0, x.size, LANES):
        store(out, i, to_f64(load(x, i)))


def applied(function, x):
    out = np.full_like(x, np.nan)
    function(x, out)
    return out


def test_exp_float32_within_its_bound():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.linspace(-87.3, 88.7, 1 << 20), rng.normal(0, 1, 1 << 20), rng.normal(0, 1e-3, 1 << 16)])
    x = x.astype(np.float32)
    assert max_ulp(applied(apply_exp, x), np.exp(x.astype(np.float64))) <= EXP_F32_ULP


def test_exp_float32_subnormal_results_are_rounded_once():
    x = np.linspace(-103.9, -87.4, 1 << 16).astype(np.float32)
    error = np.abs(applied(apply_exp, x) - np.exp(x.astype(np.float64)))
    smallest = 2.0**-149
    assert error.max() / smallest <= EXP_F32_ULP


def test_exp_special_values():
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 88.8], np.float32)
    x = np.resize(special, LANES)
    expected = np.resize([np.nan, np.inf, 0.0, 1.0, 1.0, np.inf, 0.0, np.inf], LANES)
    np.testing.assert_array_equal(applied(apply_exp, x), expected)
    x[7::8] = 1e4
    np.testing.assert_array_equal(applied(apply_exp, x.astype(np.float64)), expected)


def test_exp2_within_its_bound():
    """In what attention and GELU are made of. A subnormal result is rounded once more: half a unit."""
    rng = np.random.default_rng(0)
    x = np.concatenate([np.linspace(-125.9, 127.9, 1 << 20), rng.normal(0, 1, 1 << 20), rng.normal(0, 1e-3, 1 << 16)])
    x = x.astype(np.float32)
    assert max_ulp(applied(apply_exp2, x), np.exp2(x.astype(np.float64))) <= EXP2_F32_ULP
    x = np.linspace(-150.9, -126.0, 1 << 16).astype(np.float32)
    error = np.abs(applied(apply_exp2, x) - np.exp2(x.astype(np.float64)))
    assert error.max() / 2.0**-149 <= EXP2_F32_ULP + 0.5


def test_exp2_special_values():
    """NaN too: a token that is NaN shows, and does not pass for one that nobody attends to."""
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 128.0], np.float32)
    expected = np.resize([np.nan, np.inf, 0.0, 1.0, 1.0, np.inf, 0.0, np.inf], LANES)
    np.testing.assert_array_equal(applied(apply_exp2, np.resize(special, LANES)), expected)


def test_exp_float64_within_its_bound():
    x = np.concatenate([np.linspace(-708.0, 709.0, 1 << 18), np.linspace(-1, 1, 1 << 18)])
    reference = np.exp(x)
    assert np.max(np.abs(applied(apply_exp, x) - reference) / np.spacing(reference)) <= EXP_F64_ULP


def test_gelu_tanh_against_the_reference():
    x = np.concatenate([np.linspace(-30, 30, 1 << 18), np.linspace(-1e-3, 1e-3, 1 << 12), [1e30] * LANES])
    x = x.astype(np.float32)
    reference = model.gelu_tanh(x.astype(np.float64))
    error = np.abs(applied(apply_gelu, x) - reference)
    assert np.all(error <= GELU_RELATIVE * np.abs(reference) + GELU_ABSOLUTE)
    usual = np.abs(x) < 8
    assert relative_l2(applied(apply_gelu, x)[usual], reference[usual]) < 2.0**-25


def test_gelu_tanh_keeps_the_digits_that_one_plus_tanh_loses():
    x = np.linspace(-4.5, -3.0, 1 << 12).astype(np.float32)
    reference = model.gelu_tanh(x.astype(np.float64))
    root, cubic, half, one = (np.float32(c) for c in (np.sqrt(2 / np.pi), 0.044715, 0.5, 1))
    naive = half * x * (one + np.tanh(root * (x + cubic * x * x * x)))
    assert naive.dtype == np.float32
    assert relative_l2(applied(apply_gelu, x), reference) < 0.1 * relative_l2(naive, reference)


def test_gelu_erf_within_its_bound():
    """(16 + 1.25 x^2) u relative for x < 0, see docs/numerics.md; for x > 0 its share in x (1 - tail), and 3 u."""
    u = 2.0**-24
    x = np.concatenate([np.linspace(-12, 12, 1 << 18), np.linspace(-1e-3, 1e-3, 1 << 12)]).astype(np.float32)
    reference = model.gelu_erf(x.astype(np.float64))
    square = x.astype(np.float64) ** 2
    tail = 0.5 * model.erfc(np.sqrt(0.5 * square))
    bound = np.where(x < 0, 1.0, tail / (1 - tail)) * (16 + 1.25 * square) * u + 3 * u
    found = applied(apply_gelu_erf, x)
    assert np.all(np.abs(found - reference) <= bound * np.abs(reference))
    usual = np.abs(x) < 8
    assert relative_l2(found[usual], reference[usual]) < 2.0**-25
    near = (np.abs(x) <= 1) & (x != 0)
    assert np.abs(found[near] / reference[near] - 1).max() < 8 * u  # measured 7.4 u: a wrong digit of p shows
    # where the tail is subnormal or 0 in float32
    far = np.linspace(-40, -12, 1 << 12).astype(np.float32)
    assert np.abs(applied(apply_gelu_erf, far) - model.gelu_erf(far.astype(np.float64))).max() < 1e-36


def test_gelu_erf_of_special_values():
    x = np.resize(np.array([0.0, -0.0, np.inf, np.nan, 1e30, -1e30, 3e38, -3e38], np.float32), LANES)
    expected = np.resize(np.array([0, 0, np.inf, np.nan, 1e30, 0, 3e38, 0], np.float32), LANES)
    np.testing.assert_array_equal(applied(apply_gelu_erf, x), expected)
    assert np.isnan(applied(apply_gelu_erf, np.full(LANES, -np.inf, np.float32))).all()  # -inf times 0, as in torch


def test_gelu_erf_keeps_the_digits_that_one_plus_erf_loses():
    x = np.linspace(-5.0, -3.0, 1 << 12).astype(np.float32)
    reference = model.gelu_erf(x.astype(np.float64))
    erf = np.array([math.erf(v / math.sqrt(2)) for v in x], np.float32)
    naive = np.float32(0.5) * x * (np.float32(1) + erf)
    assert relative_l2(applied(apply_gelu_erf, x), reference) < 0.1 * relative_l2(naive, reference)


def test_softplus_and_sigmoid_against_the_reference():
    x = np.concatenate([np.linspace(-700, 700, 1 << 16), np.linspace(-20, 20, 1 << 16)])
    softplus, sigmoid = np.empty_like(x), np.empty_like(x)
    apply_softplus_and_sigmoid(x, softplus, sigmoid)
    np.testing.assert_allclose(softplus, loss.softplus(x), rtol=SOFTPLUS_RELATIVE, atol=0)
    np.testing.assert_allclose(sigmoid, model.sigmoid(x), rtol=1e-15 * 8, atol=0)


@pytest.mark.parametrize("value", [0.1, -3.0e-39, 1.5e38])
def test_widening_is_exact(value):
    x = np.full(LANES, value, np.float32)
    out = np.empty(LANES)
    apply_widen(x, out)
    np.testing.assert_array_equal(out, x.astype(np.float64))


# -- the derivative of GELU -------------------------------------------------------------------------------------------

# Measured over a million of floats: 4.4 u, near x = 1.37 where s, x, slope and the sum are rounded after each other
# and the derivative is 1.13.
GELU_GRADIENT = 6 * UNIT


@njit
def apply_gelu_gradient(x, out):
    for i in range(0, x.size, LANES):
        store(out, i, vector_math.gelu_tanh_gradient(load(x, i)))


def gelu_gradient(x):
    """gelu' as the kernels compute it."""
    padded = np.resize(x.reshape(-1), -(-x.size // LANES) * LANES)
    out = np.full_like(padded, np.nan)
    apply_gelu_gradient(padded, out)
    return out[: x.size].reshape(x.shape)


def test_gelu_gradient_over_all_floats():
    """A dense grid where it bends, and bits at random: every exponent, subnormal numbers, 1e38."""
    bits = np.random.default_rng(0).integers(0, 2**32, 1 << 18, np.uint32).view(np.float32)
    x = np.concatenate([np.linspace(-20, 20, 1 << 18), np.linspace(-1e-3, 1e-3, 1 << 12), bits[np.isfinite(bits)]])
    x = x.astype(np.float32)
    error = np.abs(gelu_gradient(x) - backward.gelu_tanh(x.astype(np.float64), 1.0))
    assert error.max() <= GELU_GRADIENT


def test_gelu_gradient_of_special_values():
    tiny, huge = np.float32(1e-45), np.finfo(np.float32).max
    x = np.array([0.0, -0.0, tiny, -tiny, 16.0, huge, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(gelu_gradient(x), np.array([0.5, 0.5, 0.5, 0.5, 1, 1, 1, np.nan], np.float32))
    assert np.all(np.abs(gelu_gradient(np.array([-10.5, -1e13, -1e20, -huge, -np.inf], np.float32))) < 1e-35)


def test_gelu_gradient_keeps_the_digits_that_one_minus_s_loses():
    """Where s is near 1, x 2 u' makes much of the error of s - s^2. Measured 0.9 u, and 13 u for the naive form."""
    x = np.linspace(3.0, 5.0, 1 << 12).astype(np.float32)
    truth = backward.gelu_tanh(x.astype(np.float64), 1.0)
    one, root, cubic, three = (np.float32(c) for c in (1, np.sqrt(8 / np.pi), 0.044715, 3))
    s = one / (one + np.exp(-root * (x + cubic * x * x * x)))
    naive = s + x * (s - s * s) * root * (one + three * cubic * x * x)
    assert naive.dtype == np.float32
    assert relative_l2(gelu_gradient(x), truth) < 1.3 * UNIT
    assert relative_l2(gelu_gradient(x), truth) < 0.2 * relative_l2(naive, truth)
