"""Weights in the order in which the innermost loop reads them (tile.py): panels of 16 columns, the same on every CPU.

A panel holds 16 columns of a [K, N] matrix, step by step; a step is one 32-bit lane of each column: one float32, two
bfloat16 or four int8, one after the other in K. So panels are uint32 [ceil(N / 16), steps, 16], whatever they hold.
Columns beyond N are zeros, and so are what K lacks to whole steps.
"""

import functools

import numpy as np
from numba import prange

from npsiglip.kernels.jit import callback, inline, parallel_kernel
from npsiglip.kernels.tasks import array_at, launch, number, take, worker_address
from npsiglip.kernels.vector import LANES, load_n, store_n, transpose_block

ROWS_EACH = 16  # of a task
PER_STEP = {"float32": 1, "bfloat16": 2, "int8": 4}  # numbers in a lane


def steps(k: int, dtype: str) -> int:
    """The steps of K numbers."""
    return -(-k // PER_STEP[dtype])


def panels_shape(k: int, n: int, dtype: str) -> tuple[int, int, int]:
    """The shape of the packed form of a [K, N] matrix."""
    return -(-n // LANES), steps(k, dtype), LANES


@inline
def transpose(source, source_start, source_stride, rows, columns, target, target_start, target_stride):
    """target[j, i] = source[i, j] for i < rows, j < columns; uint32, flat, strides in elements."""
    for i0 in range(0, rows, LANES):
        for j0 in range(0, columns, LANES):
            first, begin = source_start + i0 * source_stride + j0, target_start + j0 * target_stride + i0
            if rows - i0 >= LANES and columns - j0 >= LANES:
                transpose_block(
                    source.ctypes.data + 4 * first, 4 * source_stride,
                    target.ctypes.data + 4 * begin, 4 * target_stride,
                )  # fmt: skip
            else:
                for i in range(min(LANES, rows - i0)):
                    for j in range(min(LANES, columns - j0)):
                        target[begin + j * target_stride + i] = source[first + i * source_stride + j]


@parallel_kernel
def pack(lanes, first, panels):
    """Columns [first, first + J) of panels from lanes [J, steps] uint32, what a column holds in a row; both uint32.

    Layers beside each other are packed one after the other, in order.
    """
    rows, n_steps = lanes.shape
    source, target = lanes.reshape(-1), panels.reshape(-1)
    for panel in prange(first // LANES, -(-(first + rows) // LANES)):
        begin, end = max(first, panel * LANES), min(first + rows, (panel + 1) * LANES)
        start, lane = panel * LANES * n_steps, begin - panel * LANES
        transpose(source, (begin - first) * n_steps, n_steps, end - begin, n_steps, target, start + lane, LANES)
        for i in range(n_steps):
            for j in range(lane + end - begin, LANES):
                target[start + i * LANES + j] = 0


@callback
def bf16_worker(op, threads):
    """Tasks of `to_bf16`, until none is left."""
    rows, k, width = number(op, 0), number(op, 1), number(op, 2)
    x, out = array_at(number(op, 3), rows * k, np.float32(0)), array_at(number(op, 4), rows * width, np.uint16(0))
    first = take(op) * ROWS_EACH
    while first < rows:
        for row in range(first, min(first + ROWS_EACH, rows)):
            for i in range(0, width, LANES):
                store_n(out, row * width + i, load_n(x, row * k + i, max(k - i, 0)), width - i)
        first = take(op) * ROWS_EACH


@callback
def rows_worker(op, threads):
    """The only task of `take_rows`."""
    n, k, every, first = number(op, 0), number(op, 1), number(op, 2), number(op, 3)
    x, out = array_at(number(op, 4), n * every * k, np.float32(0)), array_at(number(op, 5), n * k, np.float32(0))
    for row in range(n):
        for i in range(0, k, LANES):
            store_n(out, row * k + i, load_n(x, (row * every + first) * k + i, k - i), k - i)


@functools.cache
def _bf16_worker():
    return worker_address(bf16_worker)


@functools.cache
def _rows_worker():
    return worker_address(rows_worker)


def to_bf16(x, out):
    """Out [J, K + K % 2] = x [J, K] float32 rounded to the bits of bfloat16, padded with zeros."""
    numbers = *x.shape, out.shape[1], x.ctypes.data, out.ctypes.data
    launch(_bf16_worker(), -(-len(x) // ROWS_EACH), numbers, (x, out))


def take_rows(x, every, first, out):
    """Out [N, K] = rows first, first + every, ... of x [N * every, K]; float32."""
    launch(_rows_worker(), 1, (*out.shape, every, first, x.ctypes.data, out.ctypes.data), (x, out))
