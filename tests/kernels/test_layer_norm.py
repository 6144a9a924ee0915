"""LayerNorm against the reference in float64, on awkward sizes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.kernels import layer_norm
from npsiglip.reference import model
from tests.helpers.arrays import UNIT, guarded, normal, to_bits

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 40), st.integers(2, 300), seeds, st.sampled_from([0.0, 100.0]))
def test_layer_norm(m, d, seed, offset):
    x, scale, b = normal(seed, m, d) + np.float32(offset), normal(seed + 1, d), normal(seed + 2, d)
    out, check = guarded(m, d)
    layer_norm.layer_norm(x, scale, b, 1e-6, out)
    check()
    reference = model.layer_norm(x.astype(np.float64), scale.astype(np.float64), b.astype(np.float64), 1e-6)
    # One rounding at the end; the variance loses 2^-52 (1 + mean^2 / var), and var of few values may be small.
    np.testing.assert_allclose(out, reference, rtol=2 * UNIT, atol=1e-5 * UNIT * offset**2 + 1e-30)
    narrow, check = guarded(m, d, dtype=np.uint16)
    layer_norm.layer_norm(x, scale, b, 1e-6, narrow)
    check()
    np.testing.assert_array_equal(narrow, to_bits(out))
