"""MAP pooling: one learned query, the probe, attends to all tokens of an image (big_vision's `MAPHead`).

With one query there is no matrix to tile: a task is one head of one image, which streams over its keys twice (scores,
then exp) and once over its values. The linear layers, LayerNorm and MLP around it are the same as everywhere.
"""

import numpy as np
from numba import prange

from npsiglip.kernels.jit import inline, parallel_kernel
from npsiglip.kernels.vector import LANES, fma, load, load_n, splat, store, store_n, sum_lanes, to_f32, to_f64
from npsiglip.kernels.vector_math import exp


@inline
def dot(a, a_start, b, b_start, size):
    """Sum a.flat[a_start + i] b.flat[b_start + i], i < size; float32 numbers, accumulated in float64."""
    total = splat(0.0)
    for i in range(0, size, LANES):
        left = size - i
        if left >= LANES:
            total = fma(to_f64(load(a, a_start + i)), to_f64(load(b, b_start + i)), total)
        else:
            x, y = load_n(a, a_start + i, left), load_n(b, b_start + i, left)
            total = fma(to_f64(x), to_f64(y), total)
    return sum_lanes(total)


@parallel_kernel
def map_pool(q, kv, length, num_heads, probs, out):
    """softmax(q k^T / sqrt(Dh)) v for one q [D]; kv [N * L, 2 D] holds keys and values, out [N, D]; float32.

    Scores and sums are accumulated in float64. `probs` [N, H, 1, L] is filled.
    """
    width = q.size
    n, stride, head_dim = kv.shape[0] // length, 2 * width, width // num_heads
    scale = 1.0 / np.sqrt(head_dim)
    for head in prange(n * num_heads):
        image, column = head // num_heads, head % num_heads * head_dim
        scores = np.zeros(-(-length // LANES) * LANES, np.float64)
        top = -np.inf
        for i in range(length):
            scores[i] = dot(q, column, kv, (image * length + i) * stride + column, head_dim) * scale
            top = max(top, scores[i])
        for i in range(0, length, LANES):
            store(scores, i, exp(load(scores, i) - top))
        total = 0.0
        for i in range(length):
            total += scores[i]
        for i in range(length):
            scores[i] /= total
            probs[image, head % num_heads, 0, i] = scores[i]
        for d in range(0, head_dim, LANES):
            left = head_dim - d
            mix = splat(0.0)
            for i in range(length):
                place = (image * length + i) * stride + width + column + d
                v = load(kv, place) if left >= LANES else load_n(kv, place, left)
                mix = fma(to_f64(v), scores[i], mix)
            if left >= LANES:
                store(out, image * width + column + d, to_f32(mix))
            else:
                store_n(out, image * width + column + d, to_f32(mix), left)
