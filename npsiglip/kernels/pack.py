"""Weights in the order in which the innermost loop reads them (tile.py): panels of 16 columns, the same on every CPU.

A panel holds 16 columns of a [K, N] matrix, step by step; a step is one 32-bit lane of each column: one float32, two
bfloat16 or four int8, one after the other in K. So panels are uint32 [ceil(N / 16), steps, 16], whatever they hold.
Columns beyond N are zeros, and so are what K lacks to whole steps.
"""

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from npsiglip.element_types import ELEMENT_TYPES, LANES
from npsiglip.kernels.jit import callback, inline, parallel_kernel
from npsiglip.kernels.llvm import I32, I64
from npsiglip.kernels.rows import read
from npsiglip.kernels.tasks import array_at, launch, take, worker_address
from npsiglip.kernels.vector import load_n, store_n

ROWS_EACH = 16  # of a task


def panels_shape(k: int, n: int, dtype: str) -> tuple[int, int, int]:
    """The shape of the packed form of a [K, N] matrix."""
    return -(-n // LANES), ELEMENT_TYPES[dtype].steps(k), LANES


@intrinsic
def transpose_block(typingctx, source, source_stride, target, target_stride):
    """target[j, i] = source[i, j] for 16 x 16 lanes of 32 bits at addresses, rows at strides in bytes."""

    def codegen(context, builder, signature, args):
        source, source_stride, target, target_stride = args
        vector = ir.VectorType(I32, LANES)

        def row(address, stride, i):
            return builder.inttoptr(builder.add(address, builder.mul(stride, I64(i))), vector.as_pointer())

        rows = []
        for i in range(LANES):
            rows.append(builder.load(row(source, source_stride, i)))
            rows[-1].align = 4
        for size in (1, 2, 4, 8):  # transpose 2 x 2 blocks of this size: exchange the upper right and the lower left
            low = [j if not j & size else LANES + j - size for j in range(LANES)]
            high = [j + size if not j & size else LANES + j for j in range(LANES)]
            masks = [ir.Constant(ir.VectorType(I32, LANES), mask) for mask in (low, high)]
            for i in range(LANES):
                if not i & size:
                    a, b = rows[i], rows[i + size]
                    rows[i], rows[i + size] = (builder.shuffle_vector(a, b, mask) for mask in masks)
        for i in range(LANES):
            builder.store(rows[i], row(target, target_stride, i)).align = 4
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen


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


class Bf16Row(NamedTuple):
    """What `to_bf16` is told; arrays by their addresses."""

    m: int
    k: int
    width: int  # K, rounded up to whole pairs
    x: int
    out: int


@callback
def bf16_worker(address, threads):
    """Tasks of `to_bf16`, until none is left."""
    row = read(address, Bf16Row)
    m, k, width = row.m, row.k, row.width
    x, out = array_at(row.x, m * k, np.float32(0)), array_at(row.out, m * width, np.uint16(0))
    first = take(address) * ROWS_EACH
    while first < m:
        for j in range(first, min(first + ROWS_EACH, m)):
            for i in range(0, width, LANES):
                store_n(out, j * width + i, load_n(x, j * k + i, max(k - i, 0)), width - i)
        first = take(address) * ROWS_EACH


class TakeRow(NamedTuple):
    """What `take_rows` is told; arrays by their addresses."""

    n: int
    k: int
    every: int
    first: int
    x: int
    out: int


@callback
def take_worker(address, threads):
    """The only task of `take_rows`."""
    row = read(address, TakeRow)
    n, k, every, first = row.n, row.k, row.every, row.first
    x, out = array_at(row.x, n * every * k, np.float32(0)), array_at(row.out, n * k, np.float32(0))
    for j in range(n):
        for i in range(0, k, LANES):
            store_n(out, j * k + i, load_n(x, (j * every + first) * k + i, k - i), k - i)


@functools.cache
def _bf16_worker():
    return worker_address(bf16_worker)


@functools.cache
def _take_worker():
    return worker_address(take_worker)


def to_bf16(x, out):
    """out [M, K + K % 2] = x [M, K] float32 rounded to the bits of bfloat16 (uint16), padded with zeros."""
    m, k = x.shape
    row = Bf16Row(m=m, k=k, width=out.shape[1], x=x.ctypes.data, out=out.ctypes.data)
    launch(_bf16_worker(), -(-m // ROWS_EACH), row, (x, out))


def take_rows(x, every, first, out):
    """out [N, K] = rows first, first + every, ... of x [N * every, K]; float32."""
    n, k = out.shape
    row = TakeRow(n=n, k=k, every=every, first=first, x=x.ctypes.data, out=out.ctypes.data)
    launch(_take_worker(), 1, row, (x, out))
