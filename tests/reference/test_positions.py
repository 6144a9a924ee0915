"""Position embeddings on other grids: what must hold of the weights, whatever PyTorch says (tests/parity compares)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.reference import interpolate_antialias, interpolate_bicubic
from npsiglip.reference.positions import bicubic_weights, keys_cubic, triangle_weights

sizes = st.integers(1, 40)
both = pytest.mark.parametrize("weights", [bicubic_weights, triangle_weights])


@both
@given(n_in=sizes, n_out=sizes)
def test_weights_sum_to_one(weights, n_in, n_out):
    np.testing.assert_allclose(weights(n_in, n_out).sum(axis=1), 1, rtol=1e-12)


@both
@given(n=sizes)
def test_the_same_size_changes_nothing(weights, n):
    np.testing.assert_array_equal(weights(n, n), np.eye(n))


@both
@given(n_in=sizes, n_out=sizes)
def test_flipped_input_gives_flipped_output(weights, n_in, n_out):
    np.testing.assert_allclose(weights(n_in, n_out)[::-1, ::-1], weights(n_in, n_out), atol=1e-12)


@given(n_in=st.integers(5, 30), n_out=st.integers(5, 60))
def test_a_slope_stays_one_away_from_the_borders(n_in, n_out):
    """Of triangles; Keys' kernel keeps slopes for a = -0.5 only, and PyTorch's is -0.75."""
    slope = triangle_weights(n_in, n_out) @ np.arange(n_in)
    x = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    reach = 2 * max(1, n_in / n_out)
    inside = (x >= reach) & (x <= n_in - 1 - reach)
    if n_in > n_out:  # a triangle that is cut by the grid's pixels leans a little
        assert np.abs(slope - x)[inside].max(initial=0) <= 0.15
    else:
        np.testing.assert_allclose(slope[inside], x[inside], atol=1e-12)


def test_antialiasing_sees_every_input():
    """Without it, three of four inputs have no influence when the grid shrinks to a quarter and more."""
    assert (triangle_weights(32, 4) > 0).any(axis=0).all()
    assert not (bicubic_weights(32, 4) != 0).any(axis=0).all()


def test_keys_kernel():
    np.testing.assert_array_equal(keys_cubic(np.array([0.0, 1, -1, 2, 3])), [1, 0, 0, 0, 0])
    assert keys_cubic(np.array([1.5])) == -0.75 * (1.5**3 - 5 * 1.5**2 + 8 * 1.5 - 4)


@pytest.mark.parametrize("interpolate", [interpolate_bicubic, interpolate_antialias])
def test_rows_and_columns_are_not_mixed_up(interpolate):
    """A table that changes along its rows alone still does."""
    table = np.repeat(np.arange(4.0), 4)[:, None]
    grid = interpolate(table, 8, 3).reshape(8, 3)
    np.testing.assert_allclose(grid - grid[:, :1], 0, atol=1e-12)
    assert np.ptp(grid) > 2
