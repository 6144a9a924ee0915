"""Sums over rows, for gradients: of biases (all rows), and of embeddings (the rows of each token or position).

One task has some columns of all rows, so that every sum is made by one task in the order of the rows.
"""

import functools

import numpy as np

from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.tasks import array_at, launch, number, take, worker_address
from npsiglip.kernels.vector import LANES, load_n, splat, store, store_n, to_f32, to_f64

ROWS_EACH = 256  # summed in float32 before they are added to the sum in float64


@inline
def pack_panel(x, rows, stride, column, left, panels, start, sums):
    """16 columns of x as a panel, and their sums."""
    total = splat(0.0)
    for first in range(0, rows, ROWS_EACH):
        part = splat(np.float32(0))
        for i in range(first, min(first + ROWS_EACH, rows)):
            v = load_n(x, i * stride + column, left)
            store(panels, start + i * LANES, v)
            part = part + v
        total = total + to_f64(part)
    store_n(sums, column, to_f32(to_f64(load_n(sums, column, left)) + total), left)


@callback
def pack_worker(row, threads):
    """Tasks of `pack_and_sum`, until none is left."""
    m, n = number(row, 0), number(row, 1)
    x, panels = (
        array_at(number(row, 2), m * n, np.float32(0)),
        array_at(number(row, 3), -(-n // LANES) * m * LANES, np.float32(0)),
    )
    sums = array_at(number(row, 4), n, np.float32(0))
    task = take(row)
    while task < -(-n // LANES):
        pack_panel(x, m, n, task * LANES, n - task * LANES, panels, task * m * LANES, sums)
        task = take(row)


@callback
def scatter_worker(row, threads):
    """Tasks of `add_rows`, until none is left."""
    m, d, size = number(row, 0), number(row, 1), number(row, 2)
    x, index = array_at(number(row, 3), m * d, np.float32(0)), array_at(number(row, 4), m, np.int32(0))
    out = array_at(number(row, 5), size * d, np.float32(0))
    column = take(row) * LANES
    while column < d:
        left = d - column
        for i in range(m):
            place = index[i] * d + column
            store_n(out, place, load_n(out, place, left) + load_n(x, i * d + column, left), left)
        column = take(row) * LANES


@functools.cache
def _pack_worker():
    return worker_address(pack_worker)


@functools.cache
def _scatter_worker():
    return worker_address(scatter_worker)


def pack_and_sum(x, panels, sums):
    """Panels [ceil(N / 16), M, 16] of x [M, N] as it lies (see pack.py), and sums [N] += its rows; float32."""
    arrays = x, panels, sums
    launch(_pack_worker(), -(-x.shape[1] // LANES), (*x.shape, *(a.ctypes.data for a in arrays)), arrays)


def add_rows(x, index, out):
    """out[index[i]] += x[i], in the order of i; x [M, D], out [V, D] float32, index [M] int32 below V."""
    arrays = x, index, out
    launch(_scatter_worker(), -(-x.shape[1] // LANES), (*x.shape, len(out), *(a.ctypes.data for a in arrays)), arrays)
