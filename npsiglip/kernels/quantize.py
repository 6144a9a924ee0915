"""8-bit whole numbers for a matrix product, and back.

Weights, one scale for each column (output channel), symmetric:

    w = w_scale q_w,   q_w in -127 .. 127 (int8),   w_scale = max |w| / 127

Activations, one scale and one zero point for each row (token), since they are not symmetric behind GELU:

    x = x_scale (q_x - x_zero),   q_x in 0 .. 255 (uint8),   x_scale = (max(x, 0) - min(x, 0)) / 255

so that the product needs one correction for each column, known beforehand (gemm.py):

    sum x w = x_scale w_scale (sum q_x q_w - x_zero sum q_w)

All sums of whole numbers are exact in int32 for K up to 66,000. Rounding is to nearest, halves to even.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import prange

from npsiglip.element_types import LANES
from npsiglip.kernels.jit import callback, inline, parallel_kernel
from npsiglip.kernels.rows import read
from npsiglip.kernels.tasks import array_at, launch, take, worker_address
from npsiglip.kernels.vector import (
    absolute,
    fma,
    load,
    load_n,
    max_lanes,
    maximum,
    min_lanes,
    minimum,
    rint,
    splat,
    store,
    store_n,
    sum_lanes,
    to_i32,
)

ROWS_EACH = 8  # of a task
MAX_K = (2**31 - 1) // (255 * 127)
LEAST_W = np.float32(1e-36)  # rows of smaller numbers are rounded to zeros: 127 / x is no number for them
LEAST_X = np.float32(1e-38)  # and so are those whose scale is smaller
MOST_W, MOST_X = np.float32(127), np.float32(255)
MOST_SCALE = np.finfo(np.float32).max


@parallel_kernel
def quantize_weights(w, q, scale, total):
    """One row of w [N, K] float32 after the other: q [N, K'] int8 (uint8 bits), scale [N], total [N] int32 = sum of q.

    K' >= K; what is beyond K is zero. A row of zeros has the scale 0.
    """
    n, k = w.shape
    width = q.shape[1]
    for row in prange(n):
        top = splat(np.float32(0))
        for i in range(0, k, LANES):
            top = maximum(top, absolute(load_n(w, row * k + i, k - i)))
        largest = max_lanes(top)
        if largest <= LEAST_W:
            largest = np.float32(0)
        inverse = MOST_W / largest if largest > 0 else np.float32(0)
        sums = splat(np.int32(0))
        for i in range(0, width, LANES):
            v = to_i32(rint(load_n(w, row * k + i, max(k - i, 0)) * inverse))
            sums = sums + v
            store_n(q, row * width + i, v, width - i)
        scale[row] = largest / MOST_W
        lanes = np.empty(LANES, np.int32)
        store(lanes, 0, sums)
        total[row] = lanes.sum()


@inline
def to_byte(v, inverse, zero):
    """Lanes as 0 .. 255."""
    return to_i32(minimum(maximum(rint(v * inverse) + zero, np.float32(0)), MOST_X))


@inline
def quantize_row(x, start, k, q, q_start):
    """A row x.flat[start : start + k] float32 as q.flat[q_start :] uint8; its scale and zero point.

    Minimum and maximum do not tell of a NaN, and a byte cannot be one: what v times zero adds up to does, and goes
    into the scale. So a row that is not finite gives NaN, as in other types.
    """
    low, high, strange = splat(np.float32(0)), splat(np.float32(0)), splat(np.float32(0))
    whole = k - k % LANES
    for i in range(0, whole, LANES):
        v = load(x, start + i)
        low, high, strange = minimum(low, v), maximum(high, v), fma(v, np.float32(0), strange)
    v = load_n(x, start + whole, k - whole)
    strange = fma(v, np.float32(0), strange)
    least, most = min_lanes(minimum(low, v)), max_lanes(maximum(high, v))
    scale = (most - least) / MOST_X
    if scale > MOST_SCALE:  # the difference is beyond float32
        scale = most / MOST_X - least / MOST_X
    scale += sum_lanes(strange)
    if scale != scale:
        for i in range(0, k, LANES):
            store_n(q, q_start + i, splat(np.int32(0)), k - i)
        return scale, np.int32(0)
    if scale < LEAST_X:
        scale = np.float32(0)
    inverse = np.float32(1) / scale if scale > 0 else np.float32(0)
    zero = np.float32(np.rint(-least * inverse))
    for i in range(0, whole, LANES):
        store(q, q_start + i, to_byte(load(x, start + i), inverse, zero))
    store_n(q, q_start + whole, to_byte(load_n(x, start + whole, k - whole), inverse, zero), k - whole)
    return scale, np.int32(zero)


class Row(NamedTuple):
    """What `quantize_rows` is told; arrays by their addresses."""

    m: int
    k: int
    width: int  # K, rounded up to whole steps
    x: int
    q: int
    scale: int
    zero: int


@callback
def rows_worker(address, threads):
    """Tasks of `quantize_rows`, until none is left."""
    row = read(address, Row)
    m, k, width = row.m, row.k, row.width
    x, q = array_at(row.x, m * k, np.float32(0)), array_at(row.q, m * width, np.uint8(0))
    scale, zero = array_at(row.scale, m, np.float32(0)), array_at(row.zero, m, np.int32(0))
    first = take(address) * ROWS_EACH
    while first < m:
        for i in range(first, min(first + ROWS_EACH, m)):
            scale[i], zero[i] = quantize_row(x, i * k, k, q, i * width)
        first = take(address) * ROWS_EACH


@functools.cache
def _rows_worker():
    return worker_address(rows_worker)


def quantize_rows(x, q, scale, zero):
    """Rows of x [M, K] float32: q [M, K'] uint8, K' >= K, what is beyond K left as it is; scale [M], zero [M] int32."""
    m, k = x.shape
    row = Row(
        m=m, k=k, width=q.shape[1], x=x.ctypes.data, q=q.ctypes.data, scale=scale.ctypes.data, zero=zero.ctypes.data,
    )  # fmt: skip
    launch(_rows_worker(), -(-m // ROWS_EACH), row, (x, q, scale, zero))
