"""The gradient of MAP pooling (map_pool.py): of keys, values and the one query. A task is one head of one image.

dp_j = d_mix . v_j       ds_j = p_j (dp_j - sum_i p_i dp_i) / sqrt(Dh)       dk_j = ds_j q    dv_j = p_j d_mix
dq = sum_j ds_j k_j, of each image; whoever calls adds those up
"""

import functools
from typing import NamedTuple

import numpy as np

from npsiglip.element_types import LANES
from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.map_pool import Sizes, dot
from npsiglip.kernels.rows import read
from npsiglip.kernels.tasks import array_at, launch, take, worker_address
from npsiglip.kernels.vector import fma, load_n, splat, store_n, to_f32, to_f64


@inline
def gradient_head(q, kv, d_mix, sizes, image, column, probs, probs_start, ds, d_kv, dq):
    """One head of one image: d_kv [L, 2 Dh] and dq [Dh]; `column` is the head's first, ds [L] is worked in."""
    width, length, head_dim = sizes.width, sizes.length, sizes.head_dim
    stride, scale = 2 * width, 1.0 / np.sqrt(head_dim)
    mean = 0.0
    for j in range(length):
        ds[j] = dot(d_mix, image * width + column, kv, (image * length + j) * stride + width + column, head_dim)
        mean += ds[j] * probs[probs_start + j]
    for j in range(length):
        ds[j] = probs[probs_start + j] * (ds[j] - mean) * scale
    for d in range(0, head_dim, LANES):
        left, total = head_dim - d, splat(0.0)
        query, mix = to_f64(load_n(q, column + d, left)), to_f64(load_n(d_mix, image * width + column + d, left))
        for j in range(length):
            place = (image * length + j) * stride + column + d
            total = fma(to_f64(load_n(kv, place, left)), ds[j], total)
            store_n(d_kv, place, to_f32(query * ds[j]), left)
            store_n(d_kv, place + width, to_f32(mix * np.float64(probs[probs_start + j])), left)
        store_n(dq, image * width + column + d, total, left)


class Row(NamedTuple):
    """What `map_pool_gradient` is told; arrays by their addresses."""

    n: int
    length: int
    num_heads: int
    width: int
    q: int
    d_mix: int
    kv: int
    probs: int
    d_kv: int
    dq: int


@callback
def worker(address, threads):
    """Tasks of `map_pool_gradient`, until none is left."""
    row = read(address, Row)
    n, length, num_heads, width = row.n, row.length, row.num_heads, row.width
    q, d_mix = array_at(row.q, width, np.float32(0)), array_at(row.d_mix, n * width, np.float32(0))
    kv = array_at(row.kv, n * length * 2 * width, np.float32(0))
    probs = array_at(row.probs, n * num_heads * length, np.float32(0))
    d_kv = array_at(row.d_kv, n * length * 2 * width, np.float32(0))
    dq = array_at(row.dq, n * width, np.float64(0))
    sizes, ds = Sizes(width, length, width // num_heads), np.empty(length, np.float64)
    task = take(address)
    while task < n * num_heads:
        image, column = task // num_heads, task % num_heads * sizes.head_dim
        gradient_head(q, kv, d_mix, sizes, image, column, probs, task * length, ds, d_kv, dq)
        task = take(address)


@functools.cache
def _worker():
    return worker_address(worker)


def map_pool_gradient(q, d_mix, kv, num_heads, probs, d_kv, dq):
    """Gradients of `map_pool`: d_mix [N, D] of its result; probs [N, H, 1, L] it filled, kv [N * L, 2 D], q [D].

    Fills d_kv [N * L, 2 D] float32 and dq [N, D] float64, for each image. In float64 inside.
    """
    n, width = d_mix.shape
    row = Row(
        n=n, length=len(kv) // n, num_heads=num_heads, width=width, q=q.ctypes.data, d_mix=d_mix.ctypes.data,
        kv=kv.ctypes.data, probs=probs.ctypes.data, d_kv=d_kv.ctypes.data, dq=dq.ctypes.data,
    )  # fmt: skip
    launch(_worker(), n * num_heads, row, (q, d_mix, kv, probs, d_kv, dq))
