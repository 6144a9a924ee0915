"""Linear layers: a packed matrix product whose tiles finish with bias, GELU and residual before they leave the cache.

One product for three element types, by the type of x: float32, bfloat16 (the bits in uint16), int8 (uint8, see
quantize.py). Weights are packed into panels of 16 columns (pack.py); a task is 48 columns (on AVX-512) times a block of
rows. Within it, steps go in blocks of at most `STEP_BLOCK`, so that the panels' part stays in the second-level cache
while all rows pass by, and meanwhile the next part is brought there. Within a block, tiles of 8 rows run over the
steps (tile.py).

The sums are chains of so many steps, added up in order. Short chains bound the growth of the rounding error: its random
part goes with the square root of the chain's length instead of that of K (docs/numerics.md).
"""

import functools

import numpy as np
from numba import types
from numba.extending import overload

from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.tasks import array_at, launch, number, scratch, take, worker_address
from npsiglip.kernels.tile import PANEL, ROWS, UNITS, add_product, product
from npsiglip.kernels.vector import LANES, load, load_n, store_n, to_f32
from npsiglip.kernels.vector_math import gelu_erf, gelu_tanh, gelu_tanh_gradient

CHAIN = 64  # steps of float32; those of bfloat16 round so much that longer chains add nothing, whole numbers not at all
CHAINS = {"float32": CHAIN, "bfloat16": 2 * CHAIN, "int8": 1 << 30}
STEP_BLOCK = 768  # a multiple of the chains; 48 columns of it are 147 KB
MAX_ROW_BLOCK = 256
STEP_ALIGNMENT = 2 * CHAIN
TASKS_PER_THREAD = 4
ROWS_AT_ONCE = 8
STEP_SIZE = 4  # bytes
PANEL_STEP = STEP_SIZE * LANES

NO_ACTIVATION, GELU_TANH, GELU_TANH_GRADIENT, GELU_ERF = 0, 1, 2, 3
NO_SCALES = tuple(np.empty(0, dtype) for dtype in (np.float32, np.int32, np.float32, np.int32))
DTYPES = {"f": "float32", "H": "bfloat16", "B": "int8"}  # by the character of the array's dtype


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


@inline
def finish_rows(sums, start, first_row, rows, column, left, n, scales, bias, activation, residual, before, out):
    """The last steps of `linear` on 16 columns of a few rows."""
    columns = of_columns(sums, scales, column, left)
    repeated = max(residual.size // n, 1)
    for r in range(rows):
        row = first_row + r
        place = row * n + column
        v = product_lanes(sums, start + r * PANEL, scales, row, columns) + bias
        if activation == GELU_TANH_GRADIENT:
            v = v * gelu_tanh_gradient(load_n(before, place, left))
        else:
            if before.size > 0:
                store_n(before, place, v, left)
            v = activate(v, activation)
        if residual.size > 0:
            v = load_n(residual, row % repeated * n + column, left) + v
        store_n(out, place, v, left)


@inline
def finish(sums, first_row, rows, column, n, scales, b, activation, residual, before, out):
    """The last steps of `linear` on 48 columns of some rows; a few rows at a time, as they lie near each other."""
    for r in range(0, rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows - r)
        for c in range(0, min(PANEL, n - column), LANES):
            left = n - column - c
            bias = load_n(b, column + c, left)
            start, row = r * PANEL + c, first_row + r
            finish_rows(sums, start, row, count, column + c, left, n, scales, bias, activation, residual, before, out)


@inline
def row_block(m, tasks_each, threads):
    """Rows of a task: blocks of equal size, none larger than `MAX_ROW_BLOCK`, and enough tasks for all threads."""
    blocks = max(-(-m // MAX_ROW_BLOCK), min(-(-TASKS_PER_THREAD * threads // tasks_each), m // (4 * ROWS)))
    return -(-m // (blocks * ROWS)) * ROWS


@inline
def linear_tasks(op, threads, x_type, out_type):
    """Tasks of `linear`, until none is left; two numbers have the types of `x` and `out`."""
    product, chain = number(op, 0), number(op, 1)
    m, n, n_panels, n_steps = number(op, 2), number(op, 3), number(op, 4), number(op, 5)
    x_start, x_stride, panels_start = number(op, 6), number(op, 7), number(op, 8)
    scales = (
        array_at(number(op, 9), m, np.float32(0)), array_at(number(op, 10), m, np.int32(0)),
        array_at(number(op, 11), n, np.float32(0)), array_at(number(op, 12), n, np.int32(0)),
    )  # fmt: skip
    b, activation = array_at(number(op, 13), n, np.float32(0)), number(op, 14)
    residual = array_at(number(op, 15), number(op, 16), np.float32(0))
    before = array_at(number(op, 17), number(op, 18), np.float32(0))
    out = array_at(number(op, 19), m * n, out_type)
    x_row, x_step = number(op, 20), number(op, 21)
    groups = -(-n_panels // UNITS)
    rows_each = row_block(m, groups, threads)
    tasks = groups * -(-m // rows_each)
    unit_size = PANEL_STEP * n_steps
    blocks = -(-n_steps // STEP_BLOCK)
    steps_each = -(-n_steps // (blocks * STEP_ALIGNMENT)) * STEP_ALIGNMENT
    sums = as_sums(x_type, scratch(rows_each * PANEL))
    task = take(op)
    while task < tasks:
        following = take(op)
        group, first_row = task % groups, task // groups * rows_each
        rows, units = min(rows_each, m - first_row), min(UNITS, n_panels - group * UNITS)
        for step in range(0, n_steps, steps_each):
            here = panels_start + group * UNITS * unit_size + step * PANEL_STEP
            count = min(steps_each, n_steps - step)
            ahead, ahead_count = here + count * PANEL_STEP, min(steps_each, n_steps - step - count)
            if ahead_count == 0 and following < tasks:
                ahead = panels_start + following % groups * UNITS * unit_size
                ahead_count = min(steps_each, n_steps)
            add_product(
                product, rows, units, x_start + first_row * x_row + step * x_step, x_stride,
                here, unit_size, count, chain, step == 0, sums.ctypes.data, STEP_SIZE * PANEL,
                ahead, ahead_count * PANEL_STEP,
            )  # fmt: skip
        finish(sums, first_row, rows, group * PANEL, n, scales, b, activation, residual, before, out)
        task = following


@callback
def worker_f32(op, threads):
    """Float32 to float32."""
    linear_tasks(op, threads, np.float32(0), np.float32(0))


@callback
def worker_f32_bf16(op, threads):
    """Float32 to bfloat16."""
    linear_tasks(op, threads, np.float32(0), np.uint16(0))


@callback
def worker_bf16_f32(op, threads):
    """Bfloat16 to float32."""
    linear_tasks(op, threads, np.uint16(0), np.float32(0))


@callback
def worker_bf16(op, threads):
    """Bfloat16 to bfloat16."""
    linear_tasks(op, threads, np.uint16(0), np.uint16(0))


@callback
def worker_int8_f32(op, threads):
    """Int8 to float32."""
    linear_tasks(op, threads, np.uint8(0), np.float32(0))


@callback
def worker_int8_bf16(op, threads):
    """Int8 to bfloat16."""
    linear_tasks(op, threads, np.uint8(0), np.uint16(0))


WORKERS = {  # by the characters of the dtypes of x and out
    "ff": worker_f32,
    "fH": worker_f32_bf16,
    "Hf": worker_bf16_f32,
    "HH": worker_bf16,
    "Bf": worker_int8_f32,
    "BH": worker_int8_bf16,
}


@functools.cache
def _worker(x, out, transposed):
    dtype = DTYPES[x]
    return worker_address(WORKERS[x + out]), product(dtype, transposed), CHAINS[dtype]


def linear(x, panels, scales, b, activation, residual, before, out, transposed=False):
    """Out = residual + activation(x w + b); accumulated in float32, or in int32 for int8.

    `x` [M, K] float32; or bfloat16 (uint16) or uint8, both with whole steps in a row. `panels`: see pack.py.
    `scales`: for uint8, of x and of w, (x_scale [M] float32, x_zero [M] int32, w_scale [N] float32, w_sum [N] int32),
    see quantize.py; else `NO_SCALES`. `out` [M, N] float32 or bfloat16; b [N], `residual` and `before` float32.
    `residual` [R, N] is repeated every R rows (R = M, or L for position embeddings); it may be `out` itself. Without
    elements there is none. `before` [M, N] takes x w + b for traces, or has no elements.

    For gradients: with the activation `GELU_TANH_GRADIENT`, out = residual + (x w + b) gelu'(before), which is read;
    with `transposed`, out = x^T w, x [steps, M] of whole steps (for bfloat16, two rows in a lane): of a row of x,
    lanes up to the next multiple of `ROWS` are read, whatever they hold.
    """
    m, n = out.shape
    worker, tile_product, chain = _worker(x.dtype.char, out.dtype.char, transposed)
    row_stride, step_stride = (STEP_SIZE, x.strides[0]) if transposed else (x.strides[0], STEP_SIZE)
    numbers = (
        tile_product, chain, m, n, panels.shape[0], panels.shape[1], x.ctypes.data, x.strides[0], panels.ctypes.data,
        *(scale.ctypes.data for scale in scales), b.ctypes.data, activation, residual.ctypes.data, residual.size,
        before.ctypes.data, before.size, out.ctypes.data, row_stride, step_stride,
    )  # fmt: skip
    launch(worker, -(-panels.shape[0] // UNITS), numbers, (x, panels, scales, b, residual, before, out))
