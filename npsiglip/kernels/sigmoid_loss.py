"""The sigmoid loss and its gradients, block by block: a block of images against a block of texts (section 3.3 of
arXiv:2303.15343). Nothing of the size of the whole batch squared exists unless the block is the whole batch.

Per block: logits z, tile by tile in float64 and never stored; the loss, and g = d loss / d z, kept as float32; then
two products of g with the embeddings for the gradients.

Why float64 for z: g is nearly exp(z) for most pairs, which turns an absolute error of z into a relative error of g.
At t = 117 a float32 product is off by 1e-6 in z for unrelated pairs, by up to 2e-5 for alike ones, and so would be g.
"""

import numpy as np
from numba import prange

from npsiglip.kernels.gemm import K_BLOCK
from npsiglip.kernels.jit import inline, parallel_kernel
from npsiglip.kernels.tile import PANEL_F32, PANEL_F64, ROWS_F32, add_product
from npsiglip.kernels.vector import (
    LANES,
    first_lanes,
    fma,
    load,
    load_n,
    splat,
    store,
    store_n,
    sum_lanes,
    to_f32,
)
from npsiglip.kernels.vector_math import softplus_and_sigmoid

ROWS_EACH = 8  # images of one task, whatever the CPU's tile is: the scalars are summed task by task


@inline
def gradient_rows(task, flat, d, panels, n_images, n_texts, diagonal, t, bias, batch, g, sums):
    """One tile of images against all texts of the block, see `block_gradient`."""
    first = task * ROWS_EACH
    rows = min(ROWS_EACH, n_images - first)
    tile = np.empty(ROWS_EACH * PANEL_F64, np.float64)
    target = np.empty(LANES, np.float64)
    loss, sum_g, sum_gs = splat(0.0), splat(0.0), splat(0.0)
    for column in range(0, n_texts, PANEL_F64):
        columns = min(PANEL_F64, n_texts - column)
        tile[:] = 0.0
        add_product(rows, 1, flat, first * d, d, 1, panels, column * d, d, d, tile, 0, PANEL_F64)
        for r in range(rows):
            s = load(tile, r * PANEL_F64)
            z = fma(s, t, bias)
            softplus, q = softplus_and_sigmoid(z)
            match = first + r + diagonal - column
            if 0 <= match < columns:
                # -log sigmoid(z) = softplus(-z) and g = -sigmoid(-z), both without cancellation
                opposite, q_opposite = softplus_and_sigmoid(0.0 - z)
                target[:] = 0.0
                target[match] = 1.0
                y = load(target, 0)
                softplus = fma(y, opposite, (1.0 - y) * softplus)
                q = fma(y, 0.0 - q_opposite, (1.0 - y) * q)
            if columns < LANES:
                softplus = first_lanes(softplus, columns, 0.0)
                q = first_lanes(q, columns, 0.0)
            loss = loss + softplus
            sum_g = sum_g + q
            sum_gs = fma(q, s, sum_gs)
            place = (first + r) * n_texts + column
            if columns < LANES:
                store_n(g, place, to_f32(q / batch), columns)
            else:
                store(g, place, to_f32(q / batch))
    sums[task, 0] = sum_lanes(loss)
    sums[task, 1] = sum_lanes(sum_g)
    sums[task, 2] = sum_lanes(sum_gs)


@parallel_kernel
def block_gradient(zimg, panels, n_texts, diagonal, t, bias, batch, g, sums):
    """g = d loss / d z of a block of pairs; zimg [I, D] float64, panels of ztxt^T (`pack_f64`), g [I, J] float32.

    Image i and text j match where i + diagonal = j. `sums` [row tiles, 3] float64 takes the parts of the loss, of
    sum g and of sum g s (s the cosine), one row for each row tile, so that they are added up in a fixed order.
    """
    n, d = zimg.shape
    flat = zimg.reshape(-1)
    for task in prange(-(-n // ROWS_EACH)):
        gradient_rows(task, flat, d, panels, n, n_texts, diagonal, t, bias, batch, g, sums)


@parallel_kernel
def pack_f64(x, out):
    """Panels [D, 16 rows] of x^T for x [J, D] float64, into out [round_up(J, 16) * D], padded with zeros."""
    n, d = x.shape
    for panel in prange(-(-n // PANEL_F64)):
        for i in range(d):
            for j in range(PANEL_F64):
                row = panel * PANEL_F64 + j
                out[panel * PANEL_F64 * d + i * PANEL_F64 + j] = x[row, i] if row < n else 0.0


@parallel_kernel
def pack_rows(x, out):
    """Panels [J, 48 columns] of x [J, D] float32 as it lies, into out [J * round_up(D, 16)] (see gemm.py)."""
    n, d = x.shape
    for panel in prange(-(-d // PANEL_F32)):
        first = panel * PANEL_F32
        columns = min(PANEL_F32, d - first)
        width = -(-columns // LANES) * LANES
        for i in range(n):
            for j in range(width):
                out[first * n + i * width + j] = x[i, first + j] if j < columns else np.float32(0)


@inline
def product_rows(task, flat, m, k, row_stride, k_stride, panels, factor, out):
    """One tile of rows of `add_gradient`."""
    d, row = out.shape[1], task * ROWS_F32
    rows = min(ROWS_F32, m - row)
    tile = np.empty(ROWS_F32 * PANEL_F32, np.float32)
    for column in range(0, d, PANEL_F32):
        columns = min(PANEL_F32, d - column)
        units = -(-columns // LANES)
        tile[:] = np.float32(0)
        add_product(
            rows, units, flat, row * row_stride, row_stride, k_stride, panels, column * k, k, K_BLOCK,
            tile, 0, units * LANES,
        )  # fmt: skip
        for r in range(rows):
            for c in range(0, columns, LANES):
                left, place = columns - c, (row + r) * d + column + c
                v = load(tile, r * units * LANES + c)
                if left >= LANES:
                    store(out, place, fma(v, factor, load(out, place)))
                else:
                    store_n(out, place, fma(v, factor, load_n(out, place, left)), left)


@parallel_kernel
def add_gradient(g, transpose, panels, factor, out):
    """out += factor * g x, or g^T x with `transpose`; g [I, J] and out [.., D] float32, panels of x by `pack_rows`."""
    flat = g.reshape(-1)
    m, k = g.shape
    row_stride, k_stride = k, 1
    if transpose:
        m, k = k, m
        row_stride, k_stride = 1, g.shape[1]
    for task in prange(-(-m // ROWS_F32)):
        product_rows(task, flat, m, k, row_stride, k_stride, panels, factor, out)
