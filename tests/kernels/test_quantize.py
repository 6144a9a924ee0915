"""8-bit whole numbers for products: every number within half a step, zero exact, and sums of what was stored.

Against reference/quantize.py, which it covers as well.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npsiglip.formats.quantized import gather_rows, quantize_table
from npsiglip.kernels import quantize
from npsiglip.reference import quantize as reference
from tests.helpers.arrays import UNIT, guarded, normal, read_only

# x / scale is off by the roundings of the scale, of its inverse and of the product, of up to 255 steps.
HALF_A_STEP = 0.5 + 255 * 4 * UNIT
SPARE = 7  # columns behind K

seeds = st.integers(0, 2**32 - 1)
ROWS = {
    "normal": lambda x: x,
    "zeros": lambda x: 0 * x,
    "constant": lambda x: 0 * x + x[0],
    "positive": np.abs,
    "negative": lambda x: -np.abs(x),
    "far above zero": lambda x: x + 1000,
    "far below zero": lambda x: x - 1000,
    "outlier": lambda x: np.where(np.arange(len(x)) == len(x) // 2, -1e4, x),
    "small": lambda x: 1e-30 * x,
    "large": lambda x: 1e30 * x,
    "halves": lambda x: np.rint(8 * x) / 2,
}


def matrix(seed, rows, k):
    """Rows of all kinds."""
    kinds = list(ROWS.values())
    return np.stack([kinds[i % len(kinds)](normal(seed + i, k)) for i in range(rows)]).astype(np.float32)


def quantized_weights(w):
    (n, k), steps = w.shape, w.shape[1] + SPARE
    q, check = guarded(n, steps, dtype=np.uint8)
    scale, check_scale = guarded(n)
    total, check_total = guarded(n, dtype=np.int32)
    quantize.quantize_weights(read_only(w), q, scale, total)
    for one in (check, check_scale, check_total):
        one()
    assert np.all(q[:, k:] == 0)  # what fills up the last step
    return q[:, :k].view(np.int8), scale, total


def quantized_rows(x):
    (m, k), steps = x.shape, x.shape[1] + SPARE
    q, check = guarded(m, steps, dtype=np.uint8)
    scale, check_scale = guarded(m)
    zero, check_zero = guarded(m, dtype=np.int32)
    before = q[:, k:].copy()
    quantize.quantize_rows(x, q, scale, zero)
    for one in (check, check_scale, check_zero):
        one()
    np.testing.assert_array_equal(q[:, k:], before)  # left as it is
    return q[:, :k], scale, zero


@settings(max_examples=50)
@given(st.integers(1, 2 * len(ROWS)), st.integers(1, 100), seeds)
def test_weights(n, k, seed):
    w = matrix(seed, n, k)
    q, scale, total = quantized_weights(w)
    largest = np.abs(w).max(1)
    np.testing.assert_array_equal(scale, largest / np.float32(127))
    np.testing.assert_array_equal(total, q.sum(1, dtype=np.int64))
    expected, expected_scale, _ = reference.quantize_weights(w.astype(np.float64))
    np.testing.assert_allclose(scale, expected_scale, rtol=2 * UNIT, atol=0)
    steps = w / np.where(expected_scale > 0, expected_scale, 1.0)[:, None]
    # the same whole numbers, but where float32's roundings move what lies near a half
    assert np.all((q == expected) | (np.abs(np.abs(steps % 1) - 0.5) <= 2 * (HALF_A_STEP - 0.5)))
    assert np.all(np.abs(w - q * scale[:, None].astype(np.float64)) <= HALF_A_STEP * scale[:, None])
    assert np.all(np.abs(q.astype(int)).max(1)[largest > 0] == 127)  # the range is used, and -128 is not in it
    assert np.all(q[w == 0] == 0)
    assert q.min() >= -127


@settings(max_examples=50)
@given(st.integers(1, 2 * len(ROWS)), st.integers(1, 100), seeds)
def test_rows(m, k, seed):
    x = matrix(seed, m, k)
    q, scale, zero = quantized_rows(x)
    low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
    np.testing.assert_allclose(scale, (high - low) / 255, rtol=2 * UNIT, atol=0)
    assert zero.min() >= 0
    assert zero.max() <= 255
    expected_q, expected_scale, expected_zero = reference.quantize_rows(x.astype(np.float64))
    np.testing.assert_allclose(scale, expected_scale, rtol=2 * UNIT, atol=0)
    # the same whole numbers, but where float32's roundings move what lies near a half: HALF_A_STEP says how near
    near = 2 * (HALF_A_STEP - 0.5)
    step = np.where(expected_scale > 0, expected_scale, 1.0)
    half_way = np.abs(np.abs(-np.minimum(x.min(1), 0) / step % 1) - 0.5) <= near
    assert np.all((zero == expected_zero) | half_way & (np.abs(zero - expected_zero) <= 1))
    apart = (q - zero[:, None].astype(int)) - (expected_q - expected_zero[:, None])
    halves = np.abs(np.abs(x / step[:, None] % 1) - 0.5) <= near
    clipped = (q == 0) | (q == 255)
    assert np.all((apart == 0) | ((halves | (half_way[:, None] & clipped)) & (np.abs(apart) <= 1)))
    back = (q.astype(np.int64) - zero[:, None]) * scale[:, None].astype(np.float64)
    assert np.all(np.abs(x - back) <= HALF_A_STEP * scale[:, None])
    assert np.all((q == zero[:, None])[x == 0])
    used = q.max(1).astype(int) - q.min(1)
    assert np.all(used[(x.min(1) < 0) & (x.max(1) > 0)] >= 254)  # the range is used


def test_rows_of_one_sign_have_zero_at_the_end():
    x = np.abs(normal(0, 3, 50)) + 1
    q, _, zero = quantized_rows(x)
    assert np.all(zero == 0)
    assert np.all(q.max(1) == 255)
    q, _, zero = quantized_rows(-x)
    assert np.all(zero == 255)
    assert np.all(q.min(1) == 0)


def test_halves_are_rounded_to_even():
    w = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5]], np.float32)
    np.testing.assert_array_equal(quantized_weights(w)[0], [[127, 0, 2, 2, 0, -2, 126]])
    x = np.array([[255.0, 0.5, 1.5, 2.5, 254.5]], np.float32)
    np.testing.assert_array_equal(quantized_rows(x)[0], [[255, 0, 2, 2, 254]])


def test_zeros():
    q, scale, total = quantized_weights(np.zeros((2, 5), np.float32))
    assert not (q.any() or scale.any() or total.any())
    q, scale, zero = quantized_rows(np.zeros((2, 5), np.float32))
    assert not (scale.any() or (q != zero[:, None]).any())


def test_rows_too_small_for_a_scale():
    """Whatever becomes of the numbers, the zero point is a byte."""
    _, _, zero = quantized_rows(np.float32(1e-37) * normal(0, 2, 20).clip(-1, 1))
    assert np.all((zero >= 0) & (zero <= 255))


@pytest.mark.parametrize("k", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("strange", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_so(strange, k):
    """In a scale, since a byte cannot be NaN; the rows beside it are as ever."""
    x = matrix(1, 5, k)
    expected = quantized_rows(x)
    for place in {0, k // 2, k - 1}:
        y = x.copy()
        y[2, place] = strange
        q, scale, zero = quantized_rows(y)
        assert np.isnan(scale[2])
        for found, rest in zip((q, scale, zero), expected, strict=True):
            np.testing.assert_array_equal(np.delete(found, 2, 0), np.delete(rest, 2, 0))


def test_rows_that_span_more_than_float32():
    x = np.array([[3e38, -3e38, 1e38, 0], [3e38, 1e38, 0, 0]], np.float32)
    q, scale, zero = quantized_rows(x)
    back = (q.astype(np.int64) - zero[:, None]) * scale[:, None].astype(np.float64)
    assert np.all(np.abs(x - back) <= HALF_A_STEP * scale[:, None])


@pytest.mark.parametrize("function", [quantized_weights, quantized_rows])
def test_a_row_does_not_see_the_others(function):
    x = matrix(3, 2 * len(ROWS), 45)
    whole = function(x)
    for i in range(len(x)):
        for all_rows, row in zip(whole, function(x[i : i + 1]), strict=True):
            np.testing.assert_array_equal(row[0], all_rows[i])


def test_tables_are_quantised_as_weights_are():
    """Embeddings, by NumPy: the numbers of `quantize_weights`, row by row, before or after rows are chosen."""
    table = matrix(1, 2 * len(ROWS), 40)
    q, scale = quantize_table(table)
    expected_q, expected_scale, _ = quantized_weights(table)
    np.testing.assert_array_equal(q, expected_q)
    np.testing.assert_array_equal(scale, expected_scale)
    ids = np.array([[3, 0], [21, 3]])
    rows = gather_rows({"table.q": q, "table.scale": scale}, "table", ids, "int8")
    np.testing.assert_array_equal(rows, gather_rows({"table": table}, "table", ids, "int8"))
    np.testing.assert_array_equal(rows, q[ids] * scale[ids][..., None])
    np.testing.assert_array_equal(gather_rows({"table": table}, "table", ids, "bfloat16"), table[ids])
