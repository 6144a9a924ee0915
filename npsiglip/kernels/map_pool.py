"""MAP pooling: one learned query, the probe, attends to all tokens of an image (big_vision's `MAPHead`).

With one query there is no matrix to tile: a task is one head of one image, which streams over its keys twice (scores,
then exp) and once over its values. The linear layers, LayerNorm and MLP around it are the same as everywhere.
"""

import functools

import numpy as np

from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.tasks import array_at, launch, number, take, worker_address
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


@inline
def pool_head(q, kv, width, length, head_dim, image, column, probs, probs_start, out):
    """One head of one image; `column` is the head's first."""
    stride, scale = 2 * width, 1.0 / np.sqrt(head_dim)
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
        probs[probs_start + i] = scores[i]
    for d in range(0, head_dim, LANES):
        left = head_dim - d
        mix = splat(0.0)
        for i in range(length):
            v = load_n(kv, (image * length + i) * stride + width + column + d, left)
            mix = fma(to_f64(v), scores[i], mix)
        store_n(out, image * width + column + d, to_f32(mix), left)


@inline
def pool(op, like):
    """Tasks of `map_pool`, until none is left; `like` has the type of `out`."""
    n, length, num_heads, width = number(op, 0), number(op, 1), number(op, 2), number(op, 3)
    q, kv = (
        array_at(number(op, 4), width, np.float32(0)),
        array_at(number(op, 5), n * length * 2 * width, np.float32(0)),
    )
    probs, out = (
        array_at(number(op, 6), n * num_heads * length, np.float32(0)),
        array_at(number(op, 7), n * width, like),
    )
    head_dim = width // num_heads
    task = take(op)
    while task < n * num_heads:
        image, column = task // num_heads, task % num_heads * head_dim
        pool_head(q, kv, width, length, head_dim, image, column, probs, task * length, out)
        task = take(op)


@callback
def worker_f32(op, threads):
    """To float32."""
    pool(op, np.float32(0))


@callback
def worker_bf16(op, threads):
    """To bfloat16."""
    pool(op, np.uint16(0))


@functools.cache
def _worker(out):
    return worker_address({"f": worker_f32, "H": worker_bf16}[out])


def map_pool(q, kv, length, num_heads, probs, out):
    """softmax(q k^T / sqrt(Dh)) v for one q [D]; kv [N * L, 2 D] holds keys and values, float32.

    `out` [N, D] float32 or bfloat16. Scores and sums are accumulated in float64. `probs` [N, H, 1, L] is filled.
    """
    n, width = out.shape
    arrays = q, kv, probs, out
    numbers = n, length, num_heads, width, *(a.ctypes.data for a in arrays)
    launch(_worker(out.dtype.char), n * num_heads, numbers, arrays)
