"""Unit vectors and logits against the reference in float64, on awkward sizes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.kernels import similarity
from npsiglip.reference import model
from tests.helpers.arrays import UNIT, normal

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 100), seeds)
def test_unit_vectors_and_logits(n, k, d, seed):
    x, y = normal(seed, n, d), normal(seed + 1, k, d)
    unit_x, unit_y, out = np.empty_like(x), np.empty_like(y), np.empty((n, k), np.float32)
    similarity.l2_normalize(x, unit_x)
    similarity.l2_normalize(y, unit_y)
    np.testing.assert_allclose(unit_x, model.l2_normalize(x.astype(np.float64)), rtol=2 * UNIT)
    similarity.logits(unit_x, unit_y, np.log(117.0), -12.9, out)
    expected = model.logits(unit_x.astype(np.float64), unit_y.astype(np.float64), np.log(117.0), -12.9)
    np.testing.assert_allclose(out, expected, rtol=2 * UNIT, atol=1e-12)
