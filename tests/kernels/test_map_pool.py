"""MAP pooling against the reference in float64, on awkward sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.kernels import map_pool
from npsiglip.reference import model
from tests.helpers.arrays import UNIT, guarded, normal, to_bits

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 4), st.integers(1, 40), seeds)
def test_map_pool(n, length, num_heads, head_dim, seed):
    width = num_heads * head_dim
    q, kv = 2 * normal(seed, width), normal(seed + 1, n * length, 2 * width)
    probs, check_probs = guarded(n, num_heads, 1, length)
    out, check = guarded(n, width)
    map_pool.map_pool(q, kv, length, num_heads, probs, out)
    check()
    check_probs()
    k, v = (
        model.split_heads(part.reshape(n, length, width), num_heads)
        for part in np.split(kv.astype(np.float64), 2, axis=1)
    )
    queries = model.split_heads(np.broadcast_to(q.astype(np.float64), (n, 1, width)), num_heads)
    reference = model.softmax(queries @ k.transpose(0, 1, 3, 2) / np.sqrt(head_dim))
    np.testing.assert_allclose(probs, reference, rtol=2 * UNIT, atol=1e-30)
    # Rounded once, but for cancellation in the weighted sum.
    assert np.abs(out - model.merge_heads(reference @ v)[:, 0]).max() <= 2 * UNIT * np.abs(v).max()
    narrow, check = guarded(n, width, dtype=np.uint16)
    map_pool.map_pool(q, kv, length, num_heads, probs, narrow)
    check()
    np.testing.assert_array_equal(narrow, to_bits(out))


@pytest.mark.parametrize("largest", [0, 7, 19])
def test_map_pool_of_scores_that_exp_cannot_take(largest):
    """From -1e5 to 1e5, the largest first, in the middle and last: it is the one that others are shifted by."""
    length, width = 20, 8
    q, kv = np.full(width, 100.0, np.float32), normal(0, length, 2 * width)
    kv[:, :width] = np.roll(np.linspace(300, -300, length), largest)[:, None]
    probs, out = np.empty((1, 1, 1, length), np.float32), np.empty((1, width), np.float32)
    map_pool.map_pool(q, kv, length, 1, probs, out)
    np.testing.assert_array_equal(probs[0, 0, 0], np.arange(length) == largest)
    np.testing.assert_array_equal(out[0], kv[largest, width:])
