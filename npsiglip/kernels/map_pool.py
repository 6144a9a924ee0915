"""MAP pooling: one learned query, the probe, attends to all tokens of an image (big_vision's `MAPHead`).

With one query there is no matrix to tile: a task is one head of one image, which streams over its keys twice (scores,
then exp) and once over its values. The linear layers, LayerNorm and MLP around it are the same as everywhere.
"""

import functools
from typing import NamedTuple

import numpy as np

from npsiglip.element_types import LANES
from npsiglip.kernels.jit import inline
from npsiglip.kernels.rows import read
from npsiglip.kernels.tasks import array_at, launch, take, worker_address, workers
from npsiglip.kernels.vector import fma, load, load_n, splat, store, store_n, sum_lanes, to_f32, to_f64
from npsiglip.kernels.vector_math import exp


@inline
def dot(a, a_start, b, b_start, size):
    """The sum of a.flat[a_start + i] b.flat[b_start + i], i < size; float32 numbers, accumulated in float64."""
    total = splat(0.0)
    for i in range(0, size, LANES):
        left = size - i
        if left >= LANES:
            total = fma(to_f64(load(a, a_start + i)), to_f64(load(b, b_start + i)), total)
        else:
            x, y = load_n(a, a_start + i, left), load_n(b, b_start + i, left)
            total = fma(to_f64(x), to_f64(y), total)
    return sum_lanes(total)


class Sizes(NamedTuple):
    """Of all heads of a call."""

    width: int  # D
    length: int  # L
    head_dim: int  # Dh


@inline
def pool_head(q, kv, sizes, image, column, probs, probs_start, out):
    """One head of one image: out [Dh] and probs [L], from `probs_start` on; `column` is the head's first."""
    width, length, head_dim = sizes.width, sizes.length, sizes.head_dim
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


class Row(NamedTuple):
    """What `map_pool` is told; arrays by their addresses."""

    n: int
    length: int
    num_heads: int
    width: int
    q: int
    kv: int
    probs: int
    out: int


@inline
def map_pool_tasks(address, threads, like):
    """Tasks of `map_pool`, until none is left; `like` has the type of `out`."""
    row = read(address, Row)
    n, length, num_heads, width = row.n, row.length, row.num_heads, row.width
    q, kv = array_at(row.q, width, np.float32(0)), array_at(row.kv, n * length * 2 * width, np.float32(0))
    probs, out = array_at(row.probs, n * num_heads * length, np.float32(0)), array_at(row.out, n * width, like)
    sizes = Sizes(width, length, width // num_heads)
    task = take(address)
    while task < n * num_heads:
        image, column = task // num_heads, task % num_heads * sizes.head_dim
        pool_head(q, kv, sizes, image, column, probs, task * length, out)
        task = take(address)


WORKERS = workers(map_pool_tasks, "f H")  # of out


@functools.cache
def _worker(out):
    return worker_address(WORKERS[out])


def map_pool(q, kv, length, num_heads, probs, out):
    """softmax(q k^T / sqrt(Dh)) v for one q [D]; kv [N * L, 2 D] holds keys and values, float32.

    `out` [N, D] float32 or bfloat16. Scores and sums are accumulated in float64. `probs` [N, H, 1, L] is filled.
    """
    n, width = out.shape
    row = Row(
        n=n, length=length, num_heads=num_heads, width=width, q=q.ctypes.data, kv=kv.ctypes.data,
        probs=probs.ctypes.data, out=out.ctypes.data,
    )  # fmt: skip
    launch(_worker(out.dtype.char), n * num_heads, row, (q, kv, probs, out))
