"""Sums over rows, for gradients: of biases (all rows), and of embeddings (the rows of each token or position); and the
same rows in the order in which products that sum over rows read them.

One task has some columns of all rows, so that every sum is made by one task in the order of the rows.
"""

import functools

import numpy as np

from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.tasks import array_at, launch, number, take, worker_address
from npsiglip.kernels.vector import (
    LANES,
    load_bits_n,
    load_n,
    splat,
    store,
    store_bits,
    store_n,
    store_pairs,
    to_f32,
    to_f64,
)

ROWS_EACH = 16  # summed in float32 before they are added to the sum in float64: see docs/numerics.md
PAIRS_EACH = 16  # of a task of `pair_rows`


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


@inline
def pack_pairs(x, rows, stride, column, left, panels, start, sums):
    """16 columns of x as a panel of pairs of rows in bfloat16, and their sums before they are rounded."""
    total = splat(0.0)
    for first in range(0, rows, ROWS_EACH):
        part = splat(np.float32(0))
        for i in range(first, min(first + ROWS_EACH, rows), 2):
            v, w = load_n(x, i * stride + column, left), splat(np.float32(0))
            if i + 1 < rows:
                w = load_n(x, (i + 1) * stride + column, left)
            store_pairs(panels, start + i // 2 * LANES, v, w)
            part = part + (v + w)
        total = total + to_f64(part)
    store_n(sums, column, to_f32(to_f64(load_n(sums, column, left)) + total), left)


@inline
def pack_pairs_tasks(row, like):
    """Tasks of `pack_pairs_and_sum`, until none is left; `like` has the type of x."""
    m, n = number(row, 0), number(row, 1)
    pairs = -(-m // 2)
    x = array_at(number(row, 2), m * n, like)
    panels = array_at(number(row, 3), -(-n // LANES) * pairs * LANES, np.uint32(0))
    sums = array_at(number(row, 4), n, np.float32(0))
    task = take(row)
    while task < -(-n // LANES):
        pack_pairs(x, m, n, task * LANES, n - task * LANES, panels, task * pairs * LANES, sums)
        task = take(row)


@callback
def pairs_worker_f32(row, threads):
    """Of float32."""
    pack_pairs_tasks(row, np.float32(0))


@callback
def pairs_worker_bf16(row, threads):
    """Of bfloat16."""
    pack_pairs_tasks(row, np.uint16(0))


@callback
def pair_rows_worker(row, threads):
    """Tasks of `pair_rows`, until none is left."""
    m, k = number(row, 0), number(row, 1)
    pairs = -(-m // 2)
    x, out = array_at(number(row, 2), m * k, np.uint16(0)), array_at(number(row, 3), pairs * k, np.uint32(0))
    first = take(row) * PAIRS_EACH
    while first < pairs:
        for pair in range(first, min(first + PAIRS_EACH, pairs)):
            place = 2 * pair * k
            for i in range(0, k, LANES):
                left = k - i
                low, high = load_bits_n(x, place + i, left), splat(np.int32(0))
                if 2 * pair + 1 < m:
                    high = load_bits_n(x, place + k + i, left)
                lanes = low + high * np.int32(1 << 16)
                if left >= LANES:
                    store_bits(out, pair * k + i, lanes)
                else:
                    for j in range(i, k):
                        high_bits = np.uint32(x[place + k + j]) if 2 * pair + 1 < m else np.uint32(0)
                        out[pair * k + j] = np.uint32(x[place + j]) | (high_bits << np.uint32(16))
        first = take(row) * PAIRS_EACH


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
def _pairs_worker(kind):
    return worker_address({"f": pairs_worker_f32, "H": pairs_worker_bf16}[kind])


@functools.cache
def _pair_rows_worker():
    return worker_address(pair_rows_worker)


@functools.cache
def _scatter_worker():
    return worker_address(scatter_worker)


def pack_and_sum(x, panels, sums):
    """Panels [ceil(N / 16), M, 16] of x [M, N] as it lies (see pack.py), and sums [N] += its rows; float32."""
    arrays = x, panels, sums
    launch(_pack_worker(), -(-x.shape[1] // LANES), (*x.shape, *(a.ctypes.data for a in arrays)), arrays)


def pack_pairs_and_sum(x, panels, sums):
    """Panels [ceil(N / 16), ceil(M / 2), 16] uint32 of x [M, N]: two rows in a lane, in bfloat16; sums [N] += its rows.

    x float32 or bfloat16 (uint16); what M lacks to whole pairs is zero.
    """
    arrays = x, panels, sums
    numbers = *x.shape, *(a.ctypes.data for a in arrays)
    launch(_pairs_worker(x.dtype.char), -(-x.shape[1] // LANES), numbers, arrays)


def pair_rows(x, out):
    """Out [ceil(M / 2), K] uint32: two rows of x [M, K] bfloat16 (uint16) in a lane; the last may be alone."""
    numbers = *x.shape, x.ctypes.data, out.ctypes.data
    launch(_pair_rows_worker(), -(-len(out) // PAIRS_EACH), numbers, (x, out))


def add_rows(x, index, out):
    """out[index[i]] += x[i], in the order of i; x [M, D], out [V, D] float32, index [M] int32 below V."""
    arrays = x, index, out
    launch(_scatter_worker(), -(-x.shape[1] // LANES), (*x.shape, len(out), *(a.ctypes.data for a in arrays)), arrays)
