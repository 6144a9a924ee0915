"""Positions of other grids, as towers compute them, against the reference (and in tests/parity against PyTorch)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.reference import interpolate_antialias, interpolate_bicubic
from npsiglip.towers.positions import cubic_windows, interpolated, triangle_windows

sizes = st.integers(1, 40)
both = pytest.mark.parametrize("make", [cubic_windows, triangle_windows])
kinds = pytest.mark.parametrize("antialias", [False, True])


def table_of(side, width, seed=0):
    return np.random.default_rng(seed).standard_normal((side * side, width)).astype(np.float32)


@kinds
@given(side=st.integers(1, 20), rows=sizes, columns=sizes, width=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_against_the_reference(antialias, side, rows, columns, width, seed):
    """Off by one rounding to float32, and by those of float64 before it.

    The latter are at most 10 for each of two sums of at most 40 terms whose weights' magnitudes add up to less than 2.
    """
    table = table_of(side, width, seed)
    found = interpolated(table, rows, columns, antialias)
    expected = (interpolate_antialias if antialias else interpolate_bicubic)(table, rows, columns)
    assert found.dtype == np.float32
    assert found.shape == (rows * columns, width)
    bound = 2.0**-24 * np.abs(expected) + 2 * 50 * 4 * 2.0**-53 * np.abs(table).max()
    assert np.all(np.abs(found - expected) <= bound)


@kinds
@pytest.mark.parametrize(("rows", "columns"), [(16, 12), (11, 23), (32, 32), (1, 64)])
def test_bits_of_the_reference(antialias, rows, columns):
    """Both add up in one order; where this fails, NumPy's `einsum` has got another, and `test_against...` must hold."""
    table = table_of(16, 64)
    expected = (interpolate_antialias if antialias else interpolate_bicubic)(table, rows, columns)
    np.testing.assert_array_equal(interpolated(table, rows, columns, antialias), expected.astype(np.float32))


@both
@given(n_in=sizes, n_out=sizes)
def test_windows_lie_in_the_grid_and_weigh_one(make, n_in, n_out):
    first, weight = make(n_in, n_out)
    assert len(first) == len(weight) == n_out
    assert first.min() >= 0
    assert (first + weight.shape[1]).max() <= n_in
    np.testing.assert_allclose(weight.sum(axis=1), 1, rtol=1e-12)


@kinds
@given(side=st.integers(1, 20))
def test_the_same_grid_changes_nothing(antialias, side):
    table = table_of(side, 3)
    np.testing.assert_array_equal(interpolated(table, side, side, antialias), table)


def test_windows_are_no_wider_than_need_be():
    """Four inputs of cubic convolution whatever the sizes; two of a triangle that need not be widened."""
    assert cubic_windows(16, 32).weight.shape == (32, 4)
    assert cubic_windows(32, 4).weight.shape == (4, 4)
    assert triangle_windows(16, 32).weight.shape == (32, 2)
    assert triangle_windows(32, 4).weight.shape == (4, 16)


@kinds
def test_rows_and_columns_are_not_mixed_up(antialias):
    """A table that changes along its rows alone still does."""
    table = np.repeat(np.arange(4, dtype=np.float32), 4)[:, None]
    grid = interpolated(table, 8, 3, antialias).reshape(8, 3)
    np.testing.assert_array_equal(grid, grid[:, :1] * np.ones(3))
    assert np.ptp(grid) > 2
