"""The gradient of LayerNorm against the reference in float64, on awkward sizes.

It is computed in float64 and rounded once: the bound is that rounding and what cancellation may leave of float64.
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.kernels import layer_norm_gradient
from npsiglip.reference import backward
from tests.helpers.arrays import UNIT, UNIT_F64, guarded, normal, on_threads, wide

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 200), st.integers(2, 200), st.sampled_from([0.0, 100.0]), seeds)
def test_layer_norm_gradient(m, d, offset, seed):
    """dx is added to; the sums over rows are those of 64 rows each."""
    eps = 1e-6
    x, dy, scale = normal(seed, m, d) + np.float32(offset), normal(seed + 1, m, d), normal(seed + 2, d)
    start = normal(seed + 3, m, d)

    def run():
        dx, check = guarded(m, d)
        parts, check_parts = guarded(*layer_norm_gradient.sums_shape(m, d), dtype=np.float64)
        dx[:] = start
        layer_norm_gradient.layer_norm_gradient(x, dy, scale, eps, dx, parts)
        check()
        check_parts()
        return dx, parts

    dx, parts = on_threads(run)
    x, dy, scale, start = wide(x, dy, scale, start)
    # What float64 leaves of a normalised number: the variance loses 2^-53 (1 + mean^2 / var) (docs/numerics.md), and
    # of few numbers it may be small. 16 of that for the sums, and |n|, |g n| at most sqrt(d).
    variance = x.var(axis=1, keepdims=True)
    lost = 16 * UNIT_F64 * (1 + (x**2).mean(axis=1, keepdims=True) / (variance + eps)) * np.sqrt(d)
    expected = start + backward.layer_norm(x, scale, eps, dy)[0]
    terms = np.abs(dy * scale).max(axis=1, keepdims=True) / np.sqrt(variance + eps)
    assert np.all(np.abs(dx - expected) <= UNIT * np.abs(expected) * (1 + 1e-6) + d * lost * terms)
    for part, first in zip(parts, range(0, m, 64), strict=True):
        rows = slice(first, first + 64)
        _, d_scale, d_b = backward.layer_norm(x[rows], scale, eps, dy[rows])
        assert np.all(np.abs(part[0] - d_scale) <= (lost[rows] * np.abs(dy[rows])).sum(axis=0))
        np.testing.assert_allclose(part[1], d_b, rtol=0, atol=64 * UNIT_F64 * np.abs(dy).max() * 64)
