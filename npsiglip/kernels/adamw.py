"""AdamW's step over all parameters in one pass, and the norm of all gradients.

Parameters, gradients and both moments are flat vectors, cut into blocks of at most `BLOCK` numbers, none of which has
parts of two parameters; so a block decays or it does not. Blocks are spread over the threads. The step works element
by element, and the norm's sums are one for each block, in a fixed order: no result depends on the number of threads.

Everything is float32, as in big_vision (whose first moment may be bfloat16), but for the sums of squares, float64.
"""

from math import fsum, sqrt

import numpy as np
from numba import prange

from npsiglip.element_types import LANES
from npsiglip.kernels.jit import inline, parallel_kernel
from npsiglip.kernels.vector import fma, load, load_n, splat, sum_lanes, to_f64

BLOCK = 8192  # numbers: 128 kB of the four vectors, which the second-level cache holds


def blocks(spans):
    """Starts and ends [blocks, 2] int64 of the blocks of (start, end) spans, in their order."""
    cuts = [(i, min(i + BLOCK, end)) for start, end in spans for i in range(start, end, BLOCK)]
    return np.array(cuts, np.int64).reshape(-1, 2)


@inline
def sum_of_squares(x, start, end):
    """In float64, whose product of two float32 numbers is exact."""
    total = splat(0.0)
    for i in range(start, end, LANES):
        v = to_f64(load(x, i) if i + LANES <= end else load_n(x, i, end - i))
        total = fma(v, v, total)
    return sum_lanes(total)


@parallel_kernel
def _block_squares(x, cuts, sums):
    for k in prange(cuts.shape[0]):
        sums[k] = sum_of_squares(x, cuts[k, 0], cuts[k, 1])


def norm(x, cuts):
    """The Euclidean norm of the blocks of x, float32; a NaN or an infinity in x comes through."""
    sums = np.empty(len(cuts), np.float64)
    _block_squares(x, cuts, sums)
    return sqrt(fsum(sums)) if np.isfinite(sums).all() else float(sums.sum())


@inline
def step_block(x, g, m, v, scale, beta1, beta2, correct1, correct2, rate, eps, decay):
    """One block of `step`; slices, whose indices begin at 0, so that LLVM makes vectors of the loop."""
    one = np.float32(1.0)
    for i in range(x.size):
        gradient = g[i] * scale
        first = beta1 * m[i] + (one - beta1) * gradient
        second = beta2 * v[i] + (one - beta2) * (gradient * gradient)
        m[i] = first
        v[i] = second
        x[i] -= rate * (first * correct1) / (np.sqrt(second * correct2) + eps) + decay * x[i]


@parallel_kernel
def _step(x, g, m, v, cuts, decays, numbers):
    scale, beta1, beta2, correct1 = numbers[0], numbers[1], numbers[2], numbers[3]
    correct2, rate, eps, decay = numbers[4], numbers[5], numbers[6], numbers[7]
    for k in prange(cuts.shape[0]):
        start, end = cuts[k, 0], cuts[k, 1]
        step_block(
            x[start:end], g[start:end], m[start:end], v[start:end],
            scale, beta1, beta2, correct1, correct2, rate, eps, decay * decays[k],
        )  # fmt: skip


def step(x, g, m, v, cuts, decays, count, scale, beta1, beta2, rate, eps, decay):
    """x -= rate * m' / (sqrt(v') + eps) + decay * x; m' and v' the moments of scale * g, corrected for their start.

    x, g, m, v [total] float32, of which g stays as it is; cuts from `blocks`; decays [blocks] float32, 0 for blocks
    that do not decay and 1 for the others; count, from 1, is the number of this step.
    """
    correct1, correct2 = 1.0 / (1.0 - beta1**count), 1.0 / (1.0 - beta2**count)
    numbers = np.array([scale, beta1, beta2, correct1, correct2, rate, eps, decay], np.float32)
    _step(x, g, m, v, cuts, decays, numbers)
