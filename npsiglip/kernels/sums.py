"""Sums over rows, for gradients: of biases (all rows), and of embeddings (the rows of each token or position); and the
same rows in the order in which products that sum over rows read them.

One task has some columns of all rows, so that every sum is made by one task in the order of the rows.
"""

import functools
from typing import NamedTuple

import numpy as np

from npsiglip.element_types import LANES
from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.rows import read
from npsiglip.kernels.tasks import array_at, launch, take, worker_address, workers
from npsiglip.kernels.vector import load_bits_n, load_n, splat, store, store_bits, store_n, store_pairs, to_f32, to_f64

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


class PackRow(NamedTuple):
    """What `pack_and_sum` and `pack_pairs_and_sum` are told; arrays by their addresses."""

    m: int
    n: int
    x: int
    panels: int
    sums: int


@callback
def pack_worker(address, threads):
    """Tasks of `pack_and_sum`, until none is left."""
    row = read(address, PackRow)
    m, n = row.m, row.n
    x, sums = array_at(row.x, m * n, np.float32(0)), array_at(row.sums, n, np.float32(0))
    panels = array_at(row.panels, -(-n // LANES) * m * LANES, np.float32(0))
    task = take(address)
    while task < -(-n // LANES):
        pack_panel(x, m, n, task * LANES, n - task * LANES, panels, task * m * LANES, sums)
        task = take(address)


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
def pack_pairs_tasks(address, threads, like):
    """Tasks of `pack_pairs_and_sum`, until none is left; `like` has the type of x."""
    row = read(address, PackRow)
    m, n = row.m, row.n
    pairs = -(-m // 2)
    x, sums = array_at(row.x, m * n, like), array_at(row.sums, n, np.float32(0))
    panels = array_at(row.panels, -(-n // LANES) * pairs * LANES, np.uint32(0))
    task = take(address)
    while task < -(-n // LANES):
        pack_pairs(x, m, n, task * LANES, n - task * LANES, panels, task * pairs * LANES, sums)
        task = take(address)


PAIRS_WORKERS = workers(pack_pairs_tasks, "f H")  # of x


class PairRow(NamedTuple):
    """What `pair_rows` is told; arrays by their addresses."""

    m: int
    k: int
    x: int
    out: int


@callback
def pair_rows_worker(address, threads):
    """Tasks of `pair_rows`, until none is left."""
    row = read(address, PairRow)
    m, k = row.m, row.k
    pairs = -(-m // 2)
    x, out = array_at(row.x, m * k, np.uint16(0)), array_at(row.out, pairs * k, np.uint32(0))
    first = take(address) * PAIRS_EACH
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
        first = take(address) * PAIRS_EACH


class AddRow(NamedTuple):
    """What `add_rows` is told; arrays by their addresses."""

    m: int
    d: int
    size: int  # rows of out
    x: int
    indices: int  # the row of out for each row of x
    out: int


@callback
def scatter_worker(address, threads):
    """Tasks of `add_rows`, until none is left."""
    row = read(address, AddRow)
    m, d = row.m, row.d
    x, index = array_at(row.x, m * d, np.float32(0)), array_at(row.indices, m, np.int32(0))
    out = array_at(row.out, row.size * d, np.float32(0))
    column = take(address) * LANES
    while column < d:
        left = d - column
        for i in range(m):
            place = index[i] * d + column
            store_n(out, place, load_n(out, place, left) + load_n(x, i * d + column, left), left)
        column = take(address) * LANES


@functools.cache
def _pack_worker():
    return worker_address(pack_worker)


@functools.cache
def _pairs_worker(kind):
    return worker_address(PAIRS_WORKERS[kind])


@functools.cache
def _pair_rows_worker():
    return worker_address(pair_rows_worker)


@functools.cache
def _scatter_worker():
    return worker_address(scatter_worker)


def pack_and_sum(x, panels, sums):
    """panels [ceil(N / 16), M, 16] of x [M, N] as it lies (see pack.py), and sums [N] += its rows; float32."""
    m, n = x.shape
    row = PackRow(m=m, n=n, x=x.ctypes.data, panels=panels.ctypes.data, sums=sums.ctypes.data)
    launch(_pack_worker(), -(-n // LANES), row, (x, panels, sums))


def pack_pairs_and_sum(x, panels, sums):
    """panels [ceil(N / 16), ceil(M / 2), 16] uint32 of x [M, N]: two rows in a lane, in bfloat16; sums [N] += its rows.

    x float32 or bfloat16 (uint16); what M lacks to whole pairs is zero. Sums are float32, of numbers not yet rounded.
    """
    m, n = x.shape
    row = PackRow(m=m, n=n, x=x.ctypes.data, panels=panels.ctypes.data, sums=sums.ctypes.data)
    launch(_pairs_worker(x.dtype.char), -(-n // LANES), row, (x, panels, sums))


def pair_rows(x, out):
    """out [ceil(M / 2), K] uint32: two rows of x [M, K] bfloat16 (uint16) in a lane; the last may be alone."""
    m, k = x.shape
    row = PairRow(m=m, k=k, x=x.ctypes.data, out=out.ctypes.data)
    launch(_pair_rows_worker(), -(-len(out) // PAIRS_EACH), row, (x, out))


def add_rows(x, index, out):
    """out[index[i]] += x[i], in the order of i; x [M, D], out [V, D] float32, index [M] int32 below V."""
    m, d = x.shape
    row = AddRow(m=m, d=d, size=len(out), x=x.ctypes.data, indices=index.ctypes.data, out=out.ctypes.data)
    launch(_scatter_worker(), -(-d // LANES), row, (x, index, out))
