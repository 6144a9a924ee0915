"""Embeddings in pairs, as a loss is given them."""

import numpy as np


def pairs(size, width, seed, alike=0.5):
    """Unit rows [B, D] of float64, matched pairs partly `alike`."""
    zimg, ztxt = np.random.default_rng(seed).standard_normal((2, size, width))
    ztxt = alike * zimg + (1.0 - alike) * ztxt
    return tuple(z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (zimg, ztxt))
