"""Linear layers: a packed matrix product whose tiles finish with bias, GELU and residual before they leave the cache.

There is a product for each pair of element types of x and w in `PRODUCTS`; x is an array of float32, of uint16 (the
bits of bfloat16) or of uint8 (int8, see quantize.py). Weights are packed into panels of 16 columns (pack.py); a task is
48 columns (on AVX-512) times a block of rows. Within it, steps go in blocks of at most `STEP_BLOCK`, so that this part
of the panels stays in the second-level cache while all rows pass by, and meanwhile the next part is brought there.
Within a block, tiles of 8 rows run over the steps (tile.py).

The sums are chains of so many steps, added up in order. Short chains bound the growth of the rounding error: its random
part goes with the square root of the chain's length instead of that of K (docs/numerics.md).

Dimensions: M rows (tokens), K in, N out.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from npsiglip.element_types import BFLOAT16, FLOAT32, INT8, LANES, STEP_SIZE, of_memory
from npsiglip.kernels.jit import inline
from npsiglip.kernels.rows import read
from npsiglip.kernels.steps import PANEL, ROWS, UNITS
from npsiglip.kernels.tasks import array_at, launch, optional, scratch, take, worker_address, workers
from npsiglip.kernels.tile import add_product, product
from npsiglip.kernels.vector import load, load_n, store_n, to_f32
from npsiglip.kernels.vector_math import gelu_erf, gelu_tanh, gelu_tanh_gradient

CHAIN = FLOAT32.chain
STEP_BLOCK = 768  # a multiple of the chains; 48 columns of it are 147 KB
MAX_ROW_BLOCK = 256
STEP_ALIGNMENT = 2 * CHAIN
TASKS_PER_THREAD = 4
ROWS_AT_ONCE = 8
PANEL_STEP = STEP_SIZE * LANES  # bytes

NO_ACTIVATION, GELU_TANH, GELU_TANH_GRADIENT, GELU_ERF = 0, 1, 2, 3
NO_SCALES = tuple(np.empty(0, dtype) for dtype in (np.float32, np.int32, np.float32, np.int32))
# The element types of x and w that can be multiplied, and the tile (tile.py) that does it.
PRODUCTS = {(kind.name, kind.name): kind for kind in (FLOAT32, BFLOAT16, INT8)}


@inline
def activate(v, activation):
    """The activation of a linear layer, on lanes."""
    if activation == GELU_TANH:
        return gelu_tanh(v)
    if activation == GELU_ERF:
        return gelu_erf(v)
    return v


@inline
def as_floats(lanes):
    """The sums of a product of floats."""
    return lanes.view(np.float32)


@inline
def as_integers(lanes):
    """The sums of a product of whole numbers."""
    return lanes.view(np.int32)


def as_sums(x, lanes):
    """Memory for the tiles of a product with numbers of the type of x; only inside compiled code."""
    raise NotImplementedError


@overload(as_sums)
def _overload_as_sums(x, lanes):
    function = as_integers if x == types.uint8 else as_floats
    return lambda x, lanes: function(lanes)


@inline
def column_floats(scales, column, left):
    """What a product of floats needs of each column: nothing."""
    return 0


@inline
def column_scales(scales, column, left):
    """What a product of whole numbers needs of 16 columns."""
    return load_n(scales[2], column, left), load_n(scales[3], column, left)


@inline
def unscaled(sums, place, scales, row, columns):
    """Lanes of a product of floats."""
    return load(sums, place)


@inline
def rescaled(sums, place, scales, row, columns):
    """Lanes of a product of whole numbers: s_x s_w (sum q_x q_w - zero_x sum q_w)."""
    w_scale, w_sum = columns
    return to_f32(load(sums, place) - w_sum * scales[1][row]) * (w_scale * scales[0][row])


def of_columns(sums, scales, column, left):
    """What `product_lanes` needs of 16 columns; only inside compiled code."""
    raise NotImplementedError


def product_lanes(sums, place, scales, row, columns):
    """x w, from what the tiles hold; only inside compiled code."""
    raise NotImplementedError


@overload(of_columns)
def _overload_of_columns(sums, scales, column, left):
    function = column_scales if sums.dtype == types.int32 else column_floats
    return lambda sums, scales, column, left: function(scales, column, left)


@overload(product_lanes)
def _overload_product_lanes(sums, place, scales, row, columns):
    function = rescaled if sums.dtype == types.int32 else unscaled
    return lambda sums, place, scales, row, columns: function(sums, place, scales, row, columns)


class Ending(NamedTuple):
    """What is fused behind the product; arrays are flat."""

    n: int  # columns
    scales: tuple  # of x and w: x_scale [M], x_zero [M], w_scale [N], w_sum [N]
    b: object  # [N]
    activation: int
    residual: object  # [R N], or none
    before: object  # [M N], or none
    out: object  # [M N]


@inline
def finish(sums, first_row, rows, column, ending):
    """The last steps of `linear` on 48 columns of some rows, whose sums are [rows, PANEL]."""
    n, scales, b, activation = ending.n, ending.scales, ending.b, ending.activation
    residual, before, out = ending.residual, ending.before, ending.out
    repeated = max(residual.size // n, 1)
    # a few rows at a time, as they lie near each other, and 16 columns at a time
    for first in range(0, rows, ROWS_AT_ONCE):
        for c in range(column, min(column + PANEL, n), LANES):
            left = n - c
            # what belongs to columns stays in registers over the rows
            columns, bias = of_columns(sums, scales, c, left), load_n(b, c, left)
            for r in range(first, min(first + ROWS_AT_ONCE, rows)):
                row = first_row + r
                place = row * n + c
                # the sums as numbers, and the bias
                v = product_lanes(sums, r * PANEL + c - column, scales, row, columns) + bias
                # the activation, or its slope for gradients; a trace takes what comes before it
                if activation == GELU_TANH_GRADIENT:
                    v = v * gelu_tanh_gradient(load_n(before, place, left))
                else:
                    if before.size > 0:
                        store_n(before, place, v, left)
                    v = activate(v, activation)
                # the residual, which may be `out` itself: it is read before that is written
                if residual.size > 0:
                    v = load_n(residual, row % repeated * n + c, left) + v
                store_n(out, place, v, left)


@inline
def row_block(m, tasks_each, threads):
    """Rows of a task: blocks of equal size, none larger than `MAX_ROW_BLOCK`, and enough tasks for all threads."""
    blocks = max(-(-m // MAX_ROW_BLOCK), min(-(-TASKS_PER_THREAD * threads // tasks_each), m // (4 * ROWS)))
    return -(-m // (blocks * ROWS)) * ROWS


class Row(NamedTuple):
    """What `linear` is told; arrays by their addresses."""

    product: int  # the machine code of the tile
    chain: int  # steps
    m: int
    n: int
    n_panels: int  # of 16 columns
    n_steps: int
    x: int
    x_stride: int  # bytes from row to row of a tile, or from step to step if x is transposed (`add_product`)
    x_row: int  # bytes from row to row
    x_step: int  # bytes from step to step
    panels: int
    x_scale: int
    x_zero: int
    w_scale: int
    w_sum: int
    b: int
    activation: int
    residual: int
    residual_size: int
    before: int
    before_size: int
    out: int


@inline
def linear_tasks(address, threads, x_like, out_like):
    """Tasks of `linear`, until none is left; two numbers have the types of `x` and `out`."""
    row = read(address, Row)
    m, n, n_steps = row.m, row.n, row.n_steps
    scales = (
        array_at(row.x_scale, m, np.float32(0)), array_at(row.x_zero, m, np.int32(0)),
        array_at(row.w_scale, n, np.float32(0)), array_at(row.w_sum, n, np.int32(0)),
    )  # fmt: skip
    ending = Ending(
        n, scales, array_at(row.b, n, np.float32(0)), row.activation,
        array_at(row.residual, row.residual_size, np.float32(0)), array_at(row.before, row.before_size, np.float32(0)),
        array_at(row.out, m * n, out_like),
    )  # fmt: skip
    # A task is a group of panels, as wide as a tile, times a block of rows.
    groups = -(-row.n_panels // UNITS)
    rows_each = row_block(m, groups, threads)
    tasks = groups * -(-m // rows_each)
    # Blocks of steps are of equal size, in whole chains.
    panel_size = PANEL_STEP * n_steps
    blocks = -(-n_steps // STEP_BLOCK)
    steps_each = -(-n_steps // (blocks * STEP_ALIGNMENT)) * STEP_ALIGNMENT
    sums = as_sums(x_like, scratch(rows_each * PANEL))
    task = take(address)
    while task < tasks:
        # One task ahead is taken, so that it is known which panels come next.
        following = take(address)
        group, first_row = task % groups, task // groups * rows_each
        rows, units = min(rows_each, m - first_row), min(UNITS, row.n_panels - group * UNITS)
        for step in range(0, n_steps, steps_each):
            # This block of the group's panels stays in the second-level cache while all rows pass by,
            here = row.panels + group * UNITS * panel_size + step * PANEL_STEP
            count = min(steps_each, n_steps - step)
            # and meanwhile the next block is brought there, or the first one of the next task.
            ahead, ahead_count = here + count * PANEL_STEP, min(steps_each, n_steps - step - count)
            if ahead_count == 0 and following < tasks:
                ahead = row.panels + following % groups * UNITS * panel_size
                ahead_count = min(steps_each, n_steps)
            # The first block's chains replace what the sums hold, those of later blocks are added.
            add_product(
                row.product, rows, units, row.x + first_row * row.x_row + step * row.x_step, row.x_stride,
                here, panel_size, count, row.chain, step == 0, sums.ctypes.data, STEP_SIZE * PANEL,
                ahead, ahead_count * PANEL_STEP,
            )  # fmt: skip
        # The sums are still in the cache: bias, activation and residual, and out they go.
        finish(sums, first_row, rows, group * PANEL, ending)
        task = following


WORKERS = workers(linear_tasks, "ff fH Hf HH Bf BH")  # of x and out


@functools.cache
def _worker(x, w, out, transposed):
    pair = of_memory(x).name, w
    if pair not in PRODUCTS:
        known = ", ".join(" x ".join(kinds) for kinds in PRODUCTS)
        raise TypeError(f"there is no product of {' x '.join(pair)} weights; there are those of {known}")
    kind = PRODUCTS[pair]
    return worker_address(WORKERS[x + out]), product(kind.name, transposed), kind.chain


def linear(x, panels, dtype, scales, b, activation, residual, before, out, transposed=False):
    """out = residual + activation(x w + b); accumulated in float32, or in int32 for int8.

    `x` [M, K] float32; or bfloat16 (uint16) or uint8, both with whole steps in a row. `panels` uint32 [ceil(N / 16),
    steps, 16]: see pack.py; `dtype` is the name of the weights' element type (`npsiglip.element_types`), and `PRODUCTS`
    has the pairs of it with that of x. `scales`: for uint8, of x and of w, (x_scale [M] float32, x_zero [M] int32,
    w_scale [N] float32, w_sum [N] int32), see quantize.py; else `NO_SCALES`. `out` [M, N] float32 or bfloat16; `b` [N],
    `residual` and `before` float32. `residual` [R, N] is repeated every R rows (R = M, or L for position embeddings);
    it may be `out` itself. Without elements there is none. `before` [M, N] takes x w + b for traces, or has no
    elements.

    For gradients: with the activation `GELU_TANH_GRADIENT`, out = residual + (x w + b) gelu'(before), which is read;
    with `transposed`, out = x^T w, x [steps, M] of whole steps (for bfloat16, two rows in a lane): of a row of x,
    lanes up to the next multiple of `ROWS` are read, whatever they hold.

    Raises:
        TypeError: there is no product for these element types.
    """
    m, n = out.shape
    worker, tile_product, chain = _worker(x.dtype.char, dtype, out.dtype.char, transposed)
    x_stride = x.strides[0]
    x_scale, x_zero, w_scale, w_sum = scales
    row = Row(
        product=tile_product, chain=chain, m=m, n=n, n_panels=panels.shape[0], n_steps=panels.shape[1],
        x=x.ctypes.data, x_stride=x_stride, x_row=STEP_SIZE if transposed else x_stride,
        x_step=x_stride if transposed else STEP_SIZE, panels=panels.ctypes.data,
        x_scale=optional(x_scale), x_zero=optional(x_zero), w_scale=optional(w_scale), w_sum=optional(w_sum),
        b=b.ctypes.data, activation=activation, residual=optional(residual), residual_size=residual.size,
        before=optional(before), before_size=before.size, out=out.ctypes.data,
    )  # fmt: skip
    launch(worker, -(-panels.shape[0] // UNITS), row, (x, panels, scales, b, residual, before, out))
