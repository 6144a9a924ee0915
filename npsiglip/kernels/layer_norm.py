"""LayerNorm over rows."""

import functools
from typing import NamedTuple

import numpy as np

from npsiglip.element_types import LANES
from npsiglip.kernels.jit import inline
from npsiglip.kernels.rows import read
from npsiglip.kernels.tasks import array_at, launch, take, worker_address, workers
from npsiglip.kernels.vector import fma, load, load_n, splat, store, store_n, sum_lanes, to_f32, to_f64

ROWS_EACH = 8  # of a task


@inline
def normalize_row(x, d, start, scale, b, eps, out):
    """One row of `layer_norm`: x.flat[start : start + d]; scale and b [D]."""
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


class Row(NamedTuple):
    """What `layer_norm` is told; arrays by their addresses."""

    m: int
    d: int
    eps: float
    x: int
    scale: int
    b: int
    out: int


@inline
def layer_norm_tasks(address, threads, like):
    """Tasks of `layer_norm`, until none is left; `like` has the type of `out`."""
    row = read(address, Row)
    m, d = row.m, row.d
    x, out = array_at(row.x, m * d, np.float32(0)), array_at(row.out, m * d, like)
    scale, b = array_at(row.scale, d, np.float32(0)), array_at(row.b, d, np.float32(0))
    first = take(address) * ROWS_EACH
    while first < m:
        for i in range(first, min(first + ROWS_EACH, m)):
            normalize_row(x, d, i * d, scale, b, row.eps, out)
        first = take(address) * ROWS_EACH


WORKERS = workers(layer_norm_tasks, "f H")  # of out


@functools.cache
def _worker(out):
    return worker_address(WORKERS[out])


def layer_norm(x, scale, b, eps, out):
    """out = (x - mean) / sqrt(var + eps) * scale + b; x [M, D], scale and b [D] float32, out float32 or bfloat16.

    All in float64, rounded once at the end. The variance is E[x^2] - mean^2: squares of float32 are exact in float64,
    so what cancellation leaves is typically good to 2^-52 (1 + mean^2 / var), far below float32 for any mean up to
    1e4 times the deviation; docs/numerics.md has the worst case.
    """
    m, d = x.shape
    row = Row(
        m=m, d=d, eps=eps, x=x.ctypes.data, scale=scale.ctypes.data, b=b.ctypes.data, out=out.ctypes.data,
    )  # fmt: skip
    launch(_worker(out.dtype.char), -(-m // ROWS_EACH), row, (x, scale, b, out))
