"""LayerNorm over rows."""

from numba import prange

from npsiglip.kernels.jit import parallel_kernel
from npsiglip.kernels.vector import LANES, fma, load, load_n, splat, store, store_n, sum_lanes, to_f32, to_f64


@parallel_kernel
def layer_norm(x, scale, b, eps, out):
    """Out = (x - mean) / sqrt(var + eps) * scale + b; x and out [M, D], scale and b [D], float32.

    All in float64, rounded once at the end. The variance is E[x^2] - mean^2: squares of float32 are exact in float64,
    so what cancellation leaves is typically good to 2^-52 (1 + mean^2 / var), far below float32 for any mean up to
    1e4 times the deviation; docs/numerics.md has the worst case.
    """
    m, d = x.shape
    whole = d - d % LANES
    for row in prange(m):
        start = row * d
        total = splat(0.0)
        squares = splat(0.0)
        for i in range(0, whole, LANES):
            v = to_f64(load(x, start + i))
            total = total + v
            squares = fma(v, v, squares)
        if whole < d:
            v = to_f64(load_n(x, start + whole, d - whole))
            total = total + v
            squares = fma(v, v, squares)
        mean = sum_lanes(total) / d
        variance = max(sum_lanes(squares) / d - mean * mean, 0.0)
        factor = 1.0 / (variance + eps) ** 0.5
        for i in range(0, whole, LANES):
            v = (to_f64(load(x, start + i)) - mean) * factor
            store(out, start + i, to_f32(fma(v, to_f64(load(scale, i)), to_f64(load(b, i)))))
        if whole < d:
            left = d - whole
            v = (to_f64(load_n(x, start + whole, left)) - mean) * factor
            v = fma(v, to_f64(load_n(scale, whole, left)), to_f64(load_n(b, whole, left)))
            store_n(out, start + whole, to_f32(v), left)
