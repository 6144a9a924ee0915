"""8-bit whole numbers for a matrix product, in float64: activations by row, weights by output.

Rounding is to nearest, halves to even. A product of them is

    x w^T = x_scale w_scale (sum q_x q_w - zero sum q_w)

Dimensions: M rows, K terms of a sum, N outputs.

Left out: that a row of numbers below what float32 can invert is stored as zeros.
"""

import numpy as np


def quantize_rows(x):
    """x = scale (q - zero) [M, K], q in 0 .. 255 -> q [M, K], scale [M], zero [M]; each row has its own.

    The range of a row includes 0, which is a whole number of steps away from q = 0: zero stays zero.
    """
    low, high = np.minimum(x.min(axis=1), 0.0), np.maximum(x.max(axis=1), 0.0)
    scale = (high - low) / 255.0
    step = np.where(scale > 0, scale, 1.0)
    zero = np.rint(-low / step)
    q = np.clip(np.rint(x / step[:, None]) + zero[:, None], 0.0, 255.0)
    return q, scale, zero


def quantize_weights(w):
    """w = q scale [N, K], the weights of each output, q in -127 .. 127 -> q [N, K], scale [N], total [N] = sum of q."""
    scale = np.abs(w).max(axis=1) / 127.0
    q = np.rint(w / np.where(scale > 0, scale, 1.0)[:, None])
    return q, scale, q.sum(axis=1)
