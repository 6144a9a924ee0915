"""LayerNorm over rows."""

import functools

import numpy as np

from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.tasks import array_at, bits, launch, number, real_number, take, worker_address
from npsiglip.kernels.vector import LANES, fma, load, load_n, splat, store, store_n, sum_lanes, to_f32, to_f64

ROWS_EACH = 8  # of a task


@inline
def normalize_row(x, d, start, scale, b, eps, out):
    """One row of `layer_norm`."""
    whole = d - d % LANES
    total = splat(0.0)
    squares = splat(0.0)
    for i in range(0, whole, LANES):
        v = to_f64(load(x, start + i))
        total = total + v
        squares = fma(v, v, squares)
    if whole < d:
        v = to_f64(load_n(x, start + whole, d - whole))
        total = total + v
        squares = fma(v, v, squares)
    mean = sum_lanes(total) / d
    variance = max(sum_lanes(squares) / d - mean * mean, 0.0)
    factor = 1.0 / (variance + eps) ** 0.5
    for i in range(0, whole, LANES):
        v = (to_f64(load(x, start + i)) - mean) * factor
        store(out, start + i, to_f32(fma(v, to_f64(load(scale, i)), to_f64(load(b, i)))))
    if whole < d:
        left = d - whole
        v = (to_f64(load_n(x, start + whole, left)) - mean) * factor
        v = fma(v, to_f64(load_n(scale, whole, left)), to_f64(load_n(b, whole, left)))
        store_n(out, start + whole, to_f32(v), left)


@inline
def normalize(row, like):
    """Tasks of `layer_norm`, until none is left; `like` has the type of `out`."""
    m, d, eps = number(row, 0), number(row, 1), real_number(row, 2)
    x = array_at(number(row, 3), m * d, np.float32(0))
    scale, b = array_at(number(row, 4), d, np.float32(0)), array_at(number(row, 5), d, np.float32(0))
    out = array_at(number(row, 6), m * d, like)
    first = take(row) * ROWS_EACH
    while first < m:
        for i in range(first, min(first + ROWS_EACH, m)):
            normalize_row(x, d, i * d, scale, b, eps, out)
        first = take(row) * ROWS_EACH


@callback
def worker_f32(row, threads):
    """To float32."""
    normalize(row, np.float32(0))


@callback
def worker_bf16(row, threads):
    """To bfloat16."""
    normalize(row, np.uint16(0))


@functools.cache
def _worker(out):
    return worker_address({"f": worker_f32, "H": worker_bf16}[out])


def layer_norm(x, scale, b, eps, out):
    """Out = (x - mean) / sqrt(var + eps) * scale + b; x [M, D], scale and b [D] float32, out float32 or bfloat16.

    All in float64, rounded once at the end. The variance is E[x^2] - mean^2: squares of float32 are exact in float64,
    so what cancellation leaves is typically good to 2^-52 (1 + mean^2 / var), far below float32 for any mean up to
    1e4 times the deviation; docs/numerics.md has the worst case.
    """
    m, d = x.shape
    arrays = x, scale, b, out
    numbers = m, d, bits(eps), *(a.ctypes.data for a in arrays)
    launch(_worker(out.dtype.char), -(-m // ROWS_EACH), numbers, arrays)
