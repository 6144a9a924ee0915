"""The sigmoid loss on kernels against the reference: value, gradients, blocks, memory.

Covers kernels/sigmoid_loss.py as well.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip import InputError, sigmoid_loss
from npsiglip.element_types import LANES
from npsiglip.kernels import sigmoid_loss as kernels
from npsiglip.kernels.jit import thread_count
from npsiglip.metrics import relative_l2
from npsiglip.reference import sigmoid_loss as reference_loss
from npsiglip.reference.loss import softplus
from npsiglip.reference.model import sigmoid
from tests.helpers.golden_data import group

FIELDS = ("loss", "d_zimg", "d_ztxt", "d_t_prime", "d_bias")
# The bar is 1e-6 of torch's float64; gradients measured 2e-7 at most, the scalars, summed in float64, 1e-14.
GRADIENT, SCALAR = 5e-7, 1e-12


def pairs(seed, batch, width, likeness=0.5):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, batch, width))
    y = likeness * x + (1 - likeness) * y
    return tuple((z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32) for z in (x, y))


def assert_close(result, reference):
    for field in FIELDS:
        value, truth = getattr(result, field), getattr(reference, field)
        bound = GRADIENT if field in ("d_zimg", "d_ztxt") else SCALAR
        assert relative_l2(value, truth) <= bound, field


@given(
    st.integers(1, 70),
    st.integers(1, 60),
    st.floats(0.0, 5.0),
    st.floats(-15.0, 5.0),
    st.one_of(st.none(), st.integers(1, 80)),
    st.integers(0, 2**32 - 1),
)
def test_against_the_reference(batch, width, t_prime, bias, chunk, seed):
    zimg, ztxt = pairs(seed, batch, width)
    result, reference = sigmoid_loss(zimg, ztxt, t_prime, bias, chunk), reference_loss(zimg, ztxt, t_prime, bias)
    # Few terms may cancel: errors are measured against the sum of their magnitudes, that of a product against |g| |z|.
    z = np.exp(t_prime) * zimg.astype(np.float64) @ ztxt.T + bias
    g = np.abs(sigmoid(z) - np.eye(batch)) / batch
    t = np.exp(t_prime)
    assert abs(result.loss - reference.loss) <= SCALAR * reference.loss
    assert abs(result.d_bias - reference.d_bias) <= SCALAR * g.sum()
    assert abs(result.d_t_prime - reference.d_t_prime) <= SCALAR * t * g.sum()
    assert np.linalg.norm(result.d_zimg - reference.d_zimg) <= GRADIENT * t * np.linalg.norm(g @ np.abs(ztxt))
    assert np.linalg.norm(result.d_ztxt - reference.d_ztxt) <= GRADIENT * t * np.linalg.norm(g.T @ np.abs(zimg))


@pytest.mark.parametrize("diagonal", [-20, -7, 0, 3, 20, 40])
def test_a_block_beside_the_diagonal(diagonal):
    """Image i and text i + diagonal match, where there are both; `sigmoid_loss` only has blocks with all or none.

    Those on the diagonal have logits near 40, where sigmoid(z) - 1 would be zero.
    """
    zimg, ztxt = (z.astype(np.float64) for z in pairs(3, 40, 20, 0.9))
    zimg, n, t, bias, batch = zimg[:19].copy(), len(ztxt), 50.0, -7.0, 100.0
    panels = np.empty(-(-n // LANES) * LANES * 20)
    kernels.pack_f64(ztxt, panels)
    g, sums = np.empty((19, n), np.float32), np.empty((-(-19 // kernels.ROWS_EACH), 3))
    kernels.block_gradient(zimg, panels, n, diagonal, t, bias, batch, g, sums)
    similarity = zimg @ ztxt.T
    y = 2.0 * np.eye(19, n, diagonal) - 1.0
    z = y * (t * similarity + bias)
    expected = -y * sigmoid(-z) / batch
    np.testing.assert_allclose(g, expected, rtol=2.0**-24 * (1 + 1e-6))
    truth = [softplus(-z).sum(), batch * expected.sum(), batch * (expected * similarity).sum()]
    np.testing.assert_allclose(sums.sum(axis=0), truth, rtol=SCALAR)


@pytest.mark.parametrize("likeness", [0.0, 0.3, 0.9])
def test_wide_and_sharp(likeness):
    """The width of B/16, the temperature and bias that training ends at."""
    zimg, ztxt = pairs(7, 200, 768, likeness)
    reference = reference_loss(zimg, ztxt, np.log(117.0), -12.9)
    for chunk in (None, 64, 77):
        assert_close(sigmoid_loss(zimg, ztxt, np.log(117.0), -12.9, chunk), reference)


@pytest.mark.parametrize("case", ["0", "1", "2", "3", "4", "5", "model"])
def test_golden_embeddings(golden, case):
    truth = group(golden, f"loss.{case}")
    zimg, ztxt = (truth[name].astype(np.float32) for name in ("zimg", "ztxt"))
    arguments = zimg, ztxt, float(truth["t_prime"]), float(truth["bias"])
    assert_close(sigmoid_loss(*arguments), reference_loss(*arguments))


def test_at_initialisation_the_loss_is_about_ten():
    zimg, ztxt = pairs(0, 300, 64, likeness=0.0)
    assert abs(sigmoid_loss(zimg, ztxt, np.log(10.0), -10.0).loss - 10.0) < 0.3


def test_same_bits_on_any_threads():
    zimg, ztxt = pairs(1, 150, 70)
    results = []
    for threads in (1, 2):
        with thread_count(threads):
            results.append(sigmoid_loss(zimg, ztxt, 2.3, -10.0, 64))
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(results[0], field), getattr(results[1], field))


def test_takes_float64_and_any_layout():
    zimg, ztxt = pairs(2, 20, 30)
    expected = sigmoid_loss(zimg, ztxt, 2.3, -10.0)
    result = sigmoid_loss(np.asfortranarray(zimg.astype(np.float64)), ztxt.tolist(), 2.3, -10.0)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(result, field), getattr(expected, field))
    assert result.d_zimg.dtype == np.float32
    assert isinstance(result.loss, float)


@pytest.mark.parametrize(
    ("zimg", "ztxt", "t_prime", "chunk", "message"),
    [
        (np.ones((2, 3)), np.ones((3, 3)), 0.0, None, "one shape"),
        (np.ones(3), np.ones(3), 0.0, None, r"must be \[B, D\]"),
        (np.ones((0, 3)), np.ones((0, 3)), 0.0, None, r"must be \[B, D\]"),
        (np.array([[1.0], [np.nan]]), np.ones((2, 1)), 0.0, None, "zimg has a value .* in row 1"),
        (np.ones((2, 3)), np.ones((2, 3)), np.inf, None, "finite numbers"),
        (np.ones((2, 3)), np.ones((2, 3)), 1000.0, None, "t_prime at most"),
        (np.ones((2, 3)), np.ones((2, 3)), 0.0, 0, "at least 1"),
        (np.ones((2, 3)), np.ones((2, 3)), 0.0, 2.5, "whole number"),
    ],
)
def test_refuses(zimg, ztxt, t_prime, chunk, message):
    with pytest.raises(InputError, match=message):
        sigmoid_loss(zimg, ztxt, t_prime, 0.0, chunk)
