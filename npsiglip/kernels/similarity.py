"""The end of the forward pass: unit vectors and the logits of every image against every text."""

import numpy as np
from numba import prange

from npsiglip.kernels.jit import parallel_kernel, short_kernel
from npsiglip.kernels.map_pool import dot


@short_kernel
def l2_normalize(x, out):
    """out = x / |x| for each row of x [N, D]; float32, |x| in float64. A row of zeros gives NaN, as in Hugging Face."""
    n, d = x.shape
    for row in range(n):
        norm = np.sqrt(dot(x, row * d, x, row * d, d))
        for i in range(d):
            out[row, i] = x[row, i] / norm


@parallel_kernel
def logits(zimg, ztxt, t_prime, bias, out):
    """out = exp(t_prime) zimg ztxt^T + bias; zimg [N, D], ztxt [K, D], out [N, K], float32; all in float64 inside."""
    n, d = zimg.shape
    k = ztxt.shape[0]
    t = np.exp(t_prime)
    for task in prange(n * k):
        i, j = task // k, task % k
        out[i, j] = t * dot(zimg, i * d, ztxt, j * d, d) + bias
