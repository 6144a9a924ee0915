"""The gradient of MAP pooling against the reference in float64, on awkward sizes.

It is computed in float64 and rounded once: the bound is that rounding and what cancellation may leave of float64.
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.kernels import map_pool, map_pool_gradient
from tests.helpers.arrays import UNIT, UNIT_F64, attention_gradients, guarded, normal, on_threads, wide

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 4), st.integers(1, 40), seeds)
def test_map_pool_gradient(n, length, heads, head_dim, seed):
    """With the forward kernel's probabilities. In float64 inside: d_kv is rounded once, dq not at all."""
    width = heads * head_dim
    q, kv, d_mix = 2 * normal(seed, width), normal(seed + 1, n * length, 2 * width), normal(seed + 2, n, width)
    probs = np.empty((n, heads, 1, length), np.float32)
    map_pool.map_pool(q, kv, length, heads, probs, np.empty((n, width), np.float32))

    def run():
        d_kv, check = guarded(n * length, 2 * width)
        dq, check_dq = guarded(n, width, dtype=np.float64)
        map_pool_gradient.map_pool_gradient(q, d_mix, kv, heads, probs, d_kv, dq)
        check()
        check_dq()
        return d_kv, dq

    d_kv, dq = on_threads(run)
    q, kv, d_mix, probs = wide(q, kv, d_mix, probs)
    k, v = np.split(kv.reshape(n, length, -1), 2, axis=2)
    queries = np.broadcast_to(q, (n, 1, width))
    d_q, d_k, d_v = attention_gradients(queries, k, v, probs, d_mix[:, None], heads)
    expected = np.concatenate([d_k, d_v], -1).reshape(n * length, -1)
    # what cancels in dP - mean is of the size of dP: 16 roundings of float64 of the largest that there can be
    largest = np.abs(d_mix).max() * np.abs(v).max() * np.sqrt(head_dim) * (head_dim + length)
    lost = 16 * UNIT_F64 * largest * max(np.abs(q).max(), np.abs(k).max(), 1.0)
    assert np.all(np.abs(d_kv - expected) <= UNIT * (1 + 1e-6) * np.abs(expected) + lost)
    assert np.all(np.abs(dq - d_q[:, 0]) <= length * lost)
