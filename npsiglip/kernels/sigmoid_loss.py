"""The sigmoid loss and its gradients, block by block: a block of images against a block of texts (section 3.3 of
arXiv:2303.15343). Nothing of the size of the whole batch squared exists unless the block is the whole batch.

Per block: logits z, tile by tile in float64 and never stored; the loss, and g = d loss / d z, kept as float32; then
two products of g with the embeddings for the gradients.

Why float64 for z: g is nearly exp(z) for most pairs, which turns an absolute error of z into a relative error of g.
At t = 117 a float32 product is off by 1e-6 in z for unrelated pairs, by up to 2e-5 for alike ones, and so would be g.

Dimensions: I images and J texts of a block, D width.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from npsiglip.element_types import LANES
from npsiglip.kernels.gemm import CHAIN
from npsiglip.kernels.jit import inline, parallel_kernel
from npsiglip.kernels.steps import PANEL, ROWS, ROWS_F64, UNITS
from npsiglip.kernels.tile import add_product, product
from npsiglip.kernels.vector import first_lanes, fma, load, load_n, splat, store, store_n, sum_lanes, to_f32
from npsiglip.kernels.vector_math import softplus_and_sigmoid

F32_SIZE, F64_SIZE = 4, 8
ROWS_EACH = 8  # images of one task, whatever the CPU's tile is: the scalars are summed task by task


class Block(NamedTuple):
    """Images against texts."""

    zimg: object  # float64 [I D]
    panels: object  # of the texts, see `pack_f64`
    d: int
    n_images: int
    n_texts: int
    diagonal: int  # image i and text j match where i + diagonal = j


class Scalars(NamedTuple):
    """The temperature, the bias, and the number of all pairs that match."""

    t: float
    bias: float
    batch: float


@inline
def gradient_rows(task, product, block, scalars, g, sums):
    """One tile of images against all texts of the block, see `block_gradient`: rows of g [I, J], sums[task]."""
    d, n_texts, diagonal = block.d, block.n_texts, block.diagonal
    t, bias, batch = scalars.t, scalars.bias, scalars.batch
    first = task * ROWS_EACH
    rows = min(ROWS_EACH, block.n_images - first)
    tile = np.empty((ROWS_EACH + ROWS_F64) * LANES, np.float64)
    target = np.empty(LANES, np.float64)
    loss, sum_g, sum_gs = splat(0.0), splat(0.0), splat(0.0)
    for column in range(0, n_texts, LANES):
        columns = min(LANES, n_texts - column)
        # cosines s of the tile with 16 texts
        add_product(
            product, rows, 1, block.zimg.ctypes.data + F64_SIZE * first * d, F64_SIZE * d,
            block.panels.ctypes.data + F64_SIZE * column * d, 0, d, d, True, tile.ctypes.data, F64_SIZE * LANES, 0, 0,
        )  # fmt: skip
        for r in range(rows):
            # for pairs that do not match: the loss is softplus(z), and g = sigmoid(z)
            s = load(tile, r * LANES)
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
            store_n(g, place, to_f32(q / batch), columns)
    sums[task, 0] = sum_lanes(loss)
    sums[task, 1] = sum_lanes(sum_g)
    sums[task, 2] = sum_lanes(sum_gs)


@parallel_kernel
def _block_gradient(product, zimg, panels, n_texts, diagonal, t, bias, batch, g, sums):
    n, d = zimg.shape
    flat = zimg.reshape(-1)
    for task in prange(-(-n // ROWS_EACH)):
        block, scalars = Block(flat, panels, d, n, n_texts, diagonal), Scalars(t, bias, batch)
        gradient_rows(task, product, block, scalars, g, sums)


def block_gradient(zimg, panels, n_texts, diagonal, t, bias, batch, g, sums):
    """g = d loss / d z of a block of pairs; zimg [I, D] float64, panels of ztxt^T (`pack_f64`), g [I, J] float32.

    Image i and text j match where i + diagonal = j. `sums` [row tiles, 3] float64 takes the parts of the loss, of
    sum g and of sum g s (s the cosine), one row for each row tile, so that they are added up in a fixed order.
    """
    _block_gradient(product("float64"), zimg, panels, n_texts, diagonal, t, bias, batch, g, sums)


@parallel_kernel
def pack_f64(x, out):
    """panels [D, 16 rows] of x^T for x [J, D] float64, into out [round_up(J, 16) * D], padded with zeros."""
    n, d = x.shape
    for panel in prange(-(-n // LANES)):
        for i in range(d):
            for j in range(LANES):
                row = panel * LANES + j
                out[panel * LANES * d + i * LANES + j] = x[row, i] if row < n else 0.0


@parallel_kernel
def pack_rows(x, out):
    """panels [J, 16 columns] of x [J, D] float32 as it lies, into out [J * round_up(D, 16)]."""
    n, d = x.shape
    for panel in prange(-(-d // LANES)):
        first = panel * LANES
        for i in range(n):
            store(out, first * n + i * LANES, load_n(x, i * d + first, d - first))


class Rows(NamedTuple):
    """The left side of a product as `add_product` reads it: M rows of K numbers."""

    start: int  # address
    stride: int  # bytes from row to row, or from step to step if it is transposed
    m: int
    k: int


@inline
def product_rows(task, product, left_side, panels, factor, out):
    """One tile of rows of `add_gradient`, out [M, D] float32; the left side begins with these rows."""
    k, d, row = left_side.k, out.shape[1], task * ROWS
    rows, unit_size = min(ROWS, left_side.m - row), F32_SIZE * LANES * k
    tile = np.empty(ROWS * PANEL, np.float32)
    for column in range(0, d, PANEL):
        columns = min(PANEL, d - column)
        add_product(
            product, rows, min(UNITS, -(-columns // LANES)), left_side.start, left_side.stride,
            panels.ctypes.data + column // LANES * unit_size, unit_size, k, CHAIN, True,
            tile.ctypes.data, F32_SIZE * PANEL, 0, 0,
        )  # fmt: skip
        for r in range(rows):
            for c in range(0, columns, LANES):
                left, place = columns - c, (row + r) * d + column + c
                store_n(out, place, fma(load(tile, r * PANEL + c), factor, load_n(out, place, left)), left)


@parallel_kernel
def _add_gradient(product, g, transpose, panels, factor, out):
    m, k = g.shape
    row_size = F32_SIZE * k
    stride, task_size = row_size, ROWS * row_size
    if transpose:
        m, k, task_size = k, m, ROWS * F32_SIZE
    for task in prange(-(-m // ROWS)):
        product_rows(task, product, Rows(g.ctypes.data + task * task_size, stride, m, k), panels, factor, out)


def add_gradient(g, transpose, panels, factor, out):
    """out += factor * g x, or g^T x with `transpose`; g [I, J] and out [.., D] float32, panels of x by `pack_rows`.

    With `transpose`, memory behind g is read: `ROWS` numbers, whatever they are.
    """
    _add_gradient(product("float32", transpose), g, transpose, panels, factor, out)
