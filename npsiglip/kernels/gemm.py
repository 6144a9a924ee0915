"""Linear layers: a packed matrix product whose tiles finish with bias, GELU and residual before they leave the cache.

One product for three element types, by the type of x: float32, bfloat16 (the bits in uint16), int8 (uint8, see
quantize.py). Weights are packed into panels of 16 columns (pack.py); a task is 48 columns (on AVX-512) times a block of
rows. Within it, steps go in blocks of at most `STEP_BLOCK`, so that the panels' part stays in the second-level cache
while all rows pass by, and meanwhile the next part is brought there. Within a block, tiles of 8 rows run over the
steps (tile.py).

The sums are chains of `chain` steps, added up in order. Short chains bound the growth of the rounding error: its random
part goes with the square root of the chain's length instead of that of K (docs/numerics.md).
"""

import numpy as np
from numba import get_num_threads, prange, types
from numba.extending import overload

from npsiglip.kernels.jit import inline, parallel_kernel
from npsiglip.kernels.tasks import take
from npsiglip.kernels.tile import PANEL, ROWS, UNITS, add_product, product
from npsiglip.kernels.vector import LANES, load_n, store_n, to_f32
from npsiglip.kernels.vector_math import gelu_tanh

CHAIN = 64  # steps
STEP_BLOCK = 768  # a multiple of CHAIN; 48 columns of it are 147 KB
MAX_ROW_BLOCK = 256
TASKS_PER_THREAD = 4
STEP_SIZE = 4  # bytes
PANEL_STEP = STEP_SIZE * LANES

NO_ACTIVATION, GELU_TANH = 0, 1
NO_SCALES = tuple(np.empty(0, dtype) for dtype in (np.float32, np.int32, np.float32, np.int32))
DTYPES = {"f": "float32", "H": "bfloat16", "B": "int8"}  # by the character of the array's dtype


@inline
def activate(v, activation):
    """The activation of a linear layer, on lanes."""
    if activation == GELU_TANH:
        return gelu_tanh(v)
    return v


@inline
def sums_of_floats(size):
    """Memory for tiles of float32."""
    return np.empty(size, np.float32)


@inline
def sums_of_integers(size):
    """Memory for tiles of int32."""
    return np.empty(size, np.int32)


def make_sums(x, size):
    """Memory for the tiles of a product with x."""
    raise NotImplementedError("only inside compiled code")


@overload(make_sums)
def _overload_make_sums(x, size):
    if x.dtype == types.uint8:
        return lambda x, size: sums_of_integers(size)
    return lambda x, size: sums_of_floats(size)


@inline
def unscaled(sums, place, scales, row, column, left):
    """Lanes of a product of floats."""
    return load_n(sums, place, left)


@inline
def rescaled(sums, place, scales, row, column, left):
    """Lanes of a product of whole numbers: s_x s_w (sum q_x q_w - zero_x sum q_w)."""
    x_scale, x_zero, w_scale, w_sum = scales
    whole = load_n(sums, place, left) - load_n(w_sum, column, left) * x_zero[row]
    return to_f32(whole) * (load_n(w_scale, column, left) * x_scale[row])


def product_lanes(sums, place, scales, row, column, left):
    """x w, from what the tiles hold."""
    raise NotImplementedError("only inside compiled code")


@overload(product_lanes)
def _overload_product_lanes(sums, place, scales, row, column, left):
    function = rescaled if sums.dtype == types.int32 else unscaled
    return lambda sums, place, scales, row, column, left: function(sums, place, scales, row, column, left)


@inline
def finish(sums, first_row, rows, column, scales, b, activation, residual, before, out):
    """The last steps of `linear` on 48 columns of some rows."""
    n = out.shape[1]
    columns = min(PANEL, n - column)
    for r in range(rows):
        row = first_row + r
        place, other = row * n + column, row % max(residual.shape[0], 1) * n + column
        for c in range(0, columns, LANES):
            left = columns - c
            v = product_lanes(sums, r * PANEL + c, scales, row, column + c, left) + load_n(b, column + c, left)
            if before.size > 0:
                store_n(before, place + c, v, left)
            v = activate(v, activation)
            if residual.size > 0:
                v = load_n(residual, other + c, left) + v
            store_n(out, place + c, v, left)


@inline
def row_block(m, tasks_each, threads):
    """Rows of a task: blocks of equal size, none larger than `MAX_ROW_BLOCK`, and enough tasks for all threads."""
    blocks = max(-(-m // MAX_ROW_BLOCK), min(-(-TASKS_PER_THREAD * threads // tasks_each), m // (4 * ROWS)))
    return -(-m // (blocks * ROWS)) * ROWS


@inline
def linear_worker(counter, threads, product, x, panels, scales, b, activation, residual, before, out):
    """Tasks of `linear`, until none is left."""
    (m, n), n_steps = out.shape, panels.shape[1]
    groups = -(-panels.shape[0] // UNITS)
    rows_each = row_block(m, groups, threads)
    tasks = groups * -(-m // rows_each)
    unit_size = PANEL_STEP * n_steps
    steps_each = -(-n_steps // (-(-n_steps // STEP_BLOCK) * CHAIN)) * CHAIN
    sums = make_sums(x, rows_each * PANEL)
    task = take(counter)
    while task < tasks:
        following = take(counter)
        group, first_row = task % groups, task // groups * rows_each
        rows, units = min(rows_each, m - first_row), min(UNITS, panels.shape[0] - group * UNITS)
        for step in range(0, n_steps, steps_each):
            here = panels.ctypes.data + group * UNITS * unit_size + step * PANEL_STEP
            count = min(steps_each, n_steps - step)
            ahead, ahead_count = here + count * PANEL_STEP, min(steps_each, n_steps - step - count)
            if ahead_count == 0 and following < tasks:
                ahead = panels.ctypes.data + following % groups * UNITS * unit_size
                ahead_count = min(steps_each, n_steps)
            add_product(
                product, rows, units, x.ctypes.data + first_row * x.strides[0] + step * STEP_SIZE, x.strides[0],
                here, unit_size, count, CHAIN, step == 0, sums.ctypes.data, STEP_SIZE * PANEL,
                ahead, ahead_count * PANEL_STEP,
            )  # fmt: skip
        finish(sums, first_row, rows, group * PANEL, scales, b, activation, residual, before, out)
        task = following


@parallel_kernel
def _linear(threads, product, x, panels, scales, b, activation, residual, before, out):
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        linear_worker(counter, threads, product, x, panels, scales, b, activation, residual, before, out)


def linear(x, panels, scales, b, activation, residual, before, out):
    """Out = residual + activation(x w + b); accumulated in float32, or in int32 for int8.

    `x` [M, K] float32; or bfloat16 (uint16) or uint8, both with whole steps in a row. `panels`: see pack.py, read-only.
    `scales`: for uint8, of x and of w, (x_scale [M] float32, x_zero [M] int32, w_scale [N] float32, w_sum [N] int32),
    see quantize.py; else `NO_SCALES`. `out` [M, N] float32 or bfloat16; b [N], `residual` and `before` float32.
    `residual` [R, N] is repeated every R rows (R = M, or L for position embeddings); it may be `out` itself. Without
    elements there is none. `before` [M, N] takes x w + b for traces, or has no elements.
    """
    threads = get_num_threads()
    _linear(threads, product(DTYPES[x.dtype.char]), x, panels, scales, b, activation, residual, before, out)
