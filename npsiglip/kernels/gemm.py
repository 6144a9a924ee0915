"""Linear layers: a packed matrix product whose tiles finish with bias, GELU and residual before they leave the cache.

The weights are packed once into panels, in the order in which the innermost loop reads them: panel p holds columns
[48 p, 48 p + 48) (on AVX-512), all K rows, row by row. The last panel is as narrow as its columns, in units of 16.

Blocking: a task is a panel times a block of rows. Within it, tiles of 8 rows run over K in blocks of `K_BLOCK`: each
block is one chain of fused multiply-adds, and the chains are added up in order. The blocks bound the growth of the
rounding error: its random part goes with sqrt(K_BLOCK) instead of sqrt(K) (docs/numerics.md).
"""

import numpy as np
from numba import prange

from npsiglip.kernels.jit import inline, parallel_kernel
from npsiglip.kernels.tile import PANEL_F32, ROWS_F32, add_product
from npsiglip.kernels.vector import LANES, load, load_n, store, store_n
from npsiglip.kernels.vector_math import gelu_tanh

K_BLOCK = 64
MAX_ROW_BLOCK = 256

NO_ACTIVATION, GELU_TANH = 0, 1


def packed_size(k, n):
    """The number of float32 in the packed form of a [k, n] matrix."""
    return k * -(-n // LANES) * LANES


@parallel_kernel
def pack(w, first, n, out):
    """Columns [first, first + J) of the panels of a [K, n] matrix, from their transpose w [J, K], contiguous float32.

    Layers beside each other are packed one after the other, in order; out has packed_size(K, n) elements.
    """
    rows, k = w.shape
    for panel in prange(first // PANEL_F32, -(-(first + rows) // PANEL_F32)):
        start = panel * PANEL_F32
        width = -(-min(PANEL_F32, n - start) // LANES) * LANES
        begin, end = max(first, start), min(first + rows, start + PANEL_F32)
        block = out[start * k : start * k + k * width].reshape(k, width)
        target, source = block[:, begin - start : end - start], w[begin - first : end - first]  # views: cheap indices
        for i0 in range(0, k, LANES):  # read a cache line of each row of w, write rows of the panel
            for j in range(target.shape[1]):
                for i in range(i0, min(i0 + LANES, k)):
                    target[i, j] = source[j, i]
        if end == n:
            padding = block[:, n - start :]
            for i in range(k):
                for j in range(padding.shape[1]):
                    padding[i, j] = np.float32(0)


@inline
def activate(v, activation):
    """The activation of a linear layer, on lanes."""
    if activation == GELU_TANH:
        return gelu_tanh(v)
    return v


@inline
def finish_tile(tile, units, rows, row, columns, column, b, activation, residual, before, out):
    """The last steps of `linear` on a tile of its result."""
    n = out.shape[1]
    for r in range(rows):
        place = (row + r) * n + column
        other = (row + r) % max(residual.shape[0], 1) * n + column
        for c in range(0, columns, LANES):
            left = columns - c
            v = load(tile, r * units * LANES + c)
            if left >= LANES:
                v = v + load(b, column + c)
                if before.size > 0:
                    store(before, place + c, v)
                v = activate(v, activation)
                if residual.size > 0:
                    v = load(residual, other + c) + v
                store(out, place + c, v)
            else:
                v = v + load_n(b, column + c, left)
                if before.size > 0:
                    store_n(before, place + c, v, left)
                v = activate(v, activation)
                if residual.size > 0:
                    v = load_n(residual, other + c, left) + v
                store_n(out, place + c, v, left)


@inline
def row_block(m):
    """Rows of a task, so that tasks of one product are of equal size and none is larger than `MAX_ROW_BLOCK`."""
    blocks = -(-m // MAX_ROW_BLOCK)
    return -(-m // (blocks * ROWS_F32)) * ROWS_F32


@inline
def linear_task(task, x, panels, b, activation, residual, before, out):
    """One panel of weights with one block of rows."""
    m, k = x.shape
    n = out.shape[1]
    n_panels = -(-n // PANEL_F32)
    column = task % n_panels * PANEL_F32
    columns = min(PANEL_F32, n - column)
    units = -(-columns // LANES)
    rows_each = row_block(m)
    first_row = task // n_panels * rows_each
    tile = np.empty(ROWS_F32 * PANEL_F32, np.float32)
    for row in range(first_row, min(first_row + rows_each, m), ROWS_F32):
        rows = min(ROWS_F32, m - row)
        tile[:] = np.float32(0)
        add_product(rows, units, x, row * k, k, 1, panels, column * k, k, K_BLOCK, tile, 0, units * LANES)
        finish_tile(tile, units, rows, row, columns, column, b, activation, residual, before, out)


@parallel_kernel
def linear(x, panels, b, activation, residual, before, out):
    """Residual + activation(x w + b); x [M, K], out [M, N] float32, panels from `pack`, accumulated in float32.

    `residual` [R, N] is repeated every R rows (R = M, or L for position embeddings); it may be `out` itself. Without
    elements there is none. `before` [M, N] takes x w + b for traces, or has no elements.
    """
    for task in prange(-(-out.shape[1] // PANEL_F32) * -(-x.shape[0] // row_block(x.shape[0]))):
        linear_task(task, x, panels, b, activation, residual, before, out)
