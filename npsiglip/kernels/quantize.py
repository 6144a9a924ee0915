"""8-bit whole numbers for a matrix product, and back.

Weights, one scale for each column (output channel), symmetric:

    w = w_scale q_w,   q_w in -127 .. 127 (int8),   w_scale = max |w| / 127

Activations, one scale and one zero point for each row (token), since they are not symmetric behind GELU:

    x = x_scale (q_x - x_zero),   q_x in 0 .. 255 (uint8),   x_scale = (max(x, 0) - min(x, 0)) / 255

so that the product needs one correction for each column, known beforehand (gemm.py):

    sum x w = x_scale w_scale (sum q_x q_w - x_zero sum q_w)

All sums of whole numbers are exact in int32 for K up to 66,000. Rounding is to nearest, halves to even.
"""

import numpy as np
from numba import prange

from npsiglip.kernels.jit import inline, parallel_kernel
from npsiglip.kernels.vector import (
    LANES,
    absolute,
    load_n,
    max_lanes,
    maximum,
    min_lanes,
    minimum,
    rint,
    splat,
    store,
    store_n,
    to_i32,
)

MOST_W, MOST_X = np.float32(127), np.float32(255)
MAX_K = (2**31 - 1) // (255 * 127)


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
def quantize_row(x, start, k, q, q_start):
    """A row x.flat[start : start + k] float32 as q.flat[q_start :] uint8; its scale and zero point."""
    low, high = splat(np.float32(0)), splat(np.float32(0))
    for i in range(0, k, LANES):
        v = load_n(x, start + i, k - i)
        low, high = minimum(low, v), maximum(high, v)
    least = min_lanes(low)
    scale = (max_lanes(high) - least) / MOST_X
    inverse = np.float32(1) / scale if scale > 0 else np.float32(0)
    zero = np.float32(np.rint(-least * inverse))
    for i in range(0, k, LANES):
        v = minimum(maximum(rint(load_n(x, start + i, k - i) * inverse) + zero, np.float32(0)), MOST_X)
        store_n(q, q_start + i, to_i32(v), k - i)
    return scale, np.int32(zero)


@parallel_kernel
def quantize_rows(x, q, scale, zero):
    """Rows of x [M, K] float32: q [M, K'] uint8, K' >= K, what is beyond K left as it is; scale [M], zero [M] int32."""
    m, k = x.shape
    for row in prange(m):
        scale[row], zero[row] = quantize_row(x, row * k, k, q, row * q.shape[1])
