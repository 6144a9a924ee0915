"""The gradient of MAP pooling (map_pool.py): of keys, values and the one query. A task is one head of one image.

dp_j = d_mix . v_j       ds_j = p_j (dp_j - sum_i p_i dp_i) / sqrt(Dh)       dk_j = ds_j q    dv_j = p_j d_mix
dq = sum_j ds_j k_j, of each image; whoever calls adds those up
"""

import functools

import numpy as np

from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.map_pool import dot
from npsiglip.kernels.tasks import array_at, launch, number, take, worker_address
from npsiglip.kernels.vector import LANES, fma, load_n, splat, store_n, to_f32, to_f64


@inline
def gradient_head(q, kv, d_mix, width, length, head_dim, image, column, probs, probs_start, ds, d_kv, dq):
    """One head of one image; `column` is the head's first."""
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


@callback
def worker(op, threads):
    """Tasks of `map_pool_gradient`, until none is left."""
    n, length, num_heads, width = number(op, 0), number(op, 1), number(op, 2), number(op, 3)
    q, d_mix = array_at(number(op, 4), width, np.float32(0)), array_at(number(op, 5), n * width, np.float32(0))
    kv = array_at(number(op, 6), n * length * 2 * width, np.float32(0))
    probs = array_at(number(op, 7), n * num_heads * length, np.float32(0))
    d_kv = array_at(number(op, 8), n * length * 2 * width, np.float32(0))
    dq = array_at(number(op, 9), n * width, np.float64(0))
    head_dim, ds = width // num_heads, np.empty(length, np.float64)
    task = take(op)
    while task < n * num_heads:
        image, column = task // num_heads, task % num_heads * head_dim
        gradient_head(q, kv, d_mix, width, length, head_dim, image, column, probs, task * length, ds, d_kv, dq)
        task = take(op)


@functools.cache
def _worker():
    return worker_address(worker)


def map_pool_gradient(q, d_mix, kv, num_heads, probs, d_kv, dq):
    """Gradients of `map_pool`: d_mix [N, D] of its result; probs [N, H, 1, L] it filled, kv [N * L, 2 D], q [D].

    Fills d_kv [N * L, 2 D] float32 and dq [N, D] float64, for each image. In float64 inside.
    """
    n, width = d_mix.shape
    arrays = q, d_mix, kv, probs, d_kv, dq
    numbers = n, len(kv) // n, num_heads, width, *(a.ctypes.data for a in arrays)
    launch(_worker(), n * num_heads, numbers, arrays)
