"""The gradient of LayerNorm over rows (layer_norm.py): of its input, its scale and its bias."""

import functools
from typing import NamedTuple

import numpy as np

from npsiglip.element_types import LANES
from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.rows import read
from npsiglip.kernels.tasks import array_at, launch, take, worker_address
from npsiglip.kernels.vector import fma, load_n, splat, store_n, sum_lanes, to_f32, to_f64

ROWS_EACH = 64  # of a task, whatever the number of threads: the sums over rows are added up task by task


@inline
def gradient_row(x, dy, d, start, scale, eps, dx, sums, sums_start):
    """One row of `layer_norm_gradient`: x.flat[start : start + d]; its part of the sums [2, D] from `sums_start` on."""
    total, squares = splat(0.0), splat(0.0)
    for i in range(0, d, LANES):
        v = to_f64(load_n(x, start + i, d - i))
        total = total + v
        squares = fma(v, v, squares)
    mean = sum_lanes(total) / d
    variance = max(sum_lanes(squares) / d - mean * mean, 0.0)
    factor = 1.0 / (variance + eps) ** 0.5
    along, across = splat(0.0), splat(0.0)  # of scale * dy: its sum, and its sum along the normalised row
    for i in range(0, d, LANES):
        left = d - i
        # what load_n puts beyond the row is taken out again by dy, which is zero there
        normal = (to_f64(load_n(x, start + i, left)) - mean) * factor
        g = to_f64(load_n(dy, start + i, left))
        place = sums_start + i
        store_n(sums, place, fma(g, normal, load_n(sums, place, left)), left)
        store_n(sums, place + d, load_n(sums, place + d, left) + g, left)
        g = g * to_f64(load_n(scale, i, left))
        across = across + g
        along = fma(g, normal, along)
    mean_g, mean_along = sum_lanes(across) / d, sum_lanes(along) / d
    for i in range(0, d, LANES):
        left = d - i
        normal = (to_f64(load_n(x, start + i, left)) - mean) * factor
        g = fma(to_f64(load_n(dy, start + i, left)), to_f64(load_n(scale, i, left)), 0.0 - mean_g)
        v = fma(0.0 - normal, splat(mean_along), g) * factor
        store_n(dx, start + i, to_f32(to_f64(load_n(dx, start + i, left)) + v), left)


class Row(NamedTuple):
    """What `layer_norm_gradient` is told; arrays by their addresses."""

    m: int
    d: int
    eps: float
    x: int
    dy: int
    scale: int
    dx: int
    sums: int


@callback
def worker(address, threads):
    """Tasks of `layer_norm_gradient`, until none is left."""
    row = read(address, Row)
    m, d, eps = row.m, row.d, row.eps
    x, dy = array_at(row.x, m * d, np.float32(0)), array_at(row.dy, m * d, np.float32(0))
    scale, dx = array_at(row.scale, d, np.float32(0)), array_at(row.dx, m * d, np.float32(0))
    tasks = -(-m // ROWS_EACH)
    sums = array_at(row.sums, tasks * 2 * d, np.float64(0))
    task = take(address)
    while task < tasks:
        for i in range(2 * task * d, 2 * (task + 1) * d):
            sums[i] = 0.0
        for i in range(task * ROWS_EACH, min((task + 1) * ROWS_EACH, m)):
            gradient_row(x, dy, d, i * d, scale, eps, dx, sums, 2 * task * d)
        task = take(address)


@functools.cache
def _worker():
    return worker_address(worker)


def sums_shape(m: int, d: int) -> tuple[int, int, int]:
    """The shape of `sums` for [M, D] rows."""
    return -(-m // ROWS_EACH), 2, d


def layer_norm_gradient(x, dy, scale, eps, dx, sums):
    """dx += factor (g - mean(g) - normal mean(g normal)), g = dy scale, factor = 1 / sqrt(var + eps).

    normal = factor (x - mean); x, dy, dx [M, D], scale [D] float32; all in float64 inside. `sums` (`sums_shape`)
    float64 takes the gradients of scale (sum of dy normal) and of the bias (sum of dy), `ROWS_EACH` rows in each.
    """
    m, d = x.shape
    row = Row(
        m=m, d=d, eps=eps, x=x.ctypes.data, dy=dy.ctypes.data, scale=scale.ctypes.data, dx=dx.ctypes.data,
        sums=sums.ctypes.data,
    )  # fmt: skip
    launch(_worker(), len(sums), row, (x, dy, scale, dx, sums))
