"""How far an array is from what it should be. Everything is computed in float64.

A tolerance means nothing without the measure it belongs to; these are the ones that the tests, the docs and the
benchmarks of this project speak of.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def relative_l2(x: ArrayLike, reference: ArrayLike) -> float:
    """|x - reference| / |reference|, Euclidean norms over all elements.

    0 where both are zero, infinite where only the reference is; NaN where anything is NaN beside other numbers.

    Raises:
        ValueError: shapes that differ.
    """
    a, b = np.asarray(x, np.float64), np.asarray(reference, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    scale = float(np.max(np.abs(b), initial=0.0))
    if scale == 0.0:
        return float(np.max(np.abs(a), initial=0.0)) and float("inf")
    # Scaled first: the squares of what is below 1e-154 would vanish.
    return float(np.linalg.norm((a - b) / scale) / np.linalg.norm(b / scale))


def max_ulp(x: ArrayLike, reference: ArrayLike) -> float:
    """The largest |x - reference| in units of the last place of float32 at the reference, for x of float32.

    Plain ULP explodes near zero: use it for single functions such as exp, not for sums.
    """
    b = np.asarray(reference, np.float64)
    with np.errstate(over="ignore", under="ignore"):
        unit = np.spacing(np.abs(b).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(np.asarray(x, np.float64) - b) / unit))
