"""What is counted: hits among the best k, calibration, known against unknown. Arrays in, numbers out.

N pictures, C classes or texts. Every share comes with the interval of 95 % that Wilson's score gives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Right = NDArray[np.bool_]

BINS = 15
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """A part of n, and the interval that its true value lies in with 95 %."""

    value: float
    low: float
    high: float
    n: int


def share(hits: Right) -> Share:
    """The part of `hits` [n] that are true, with Wilson's interval.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    n, p = len(hits), float(np.mean(hits))
    centre, half = p + Z95**2 / (2 * n), Z95 * sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    scale = 1 + Z95**2 / n
    return Share(p, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale), n)


def in_best(scores: Floats, right: Right, k: int) -> Right:
    """For each row of `scores` [N, C], whether one of its k highest is `right` [N, C]; of equal ones, the first."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.asarray(np.take_along_axis(right, best, axis=1).any(axis=1))


def balanced(hits: Right, classes: NDArray[np.integer]) -> float:
    """The mean over classes of the part of their pictures that is hit: [N], [N]."""
    return float(np.mean([hits[classes == c].mean() for c in np.unique(classes)]))


@dataclass(frozen=True)
class Calibration:
    """Probabilities against what happened, in bins of equal width; empty bins are left out."""

    ece: float
    """sum over bins of count / n * |mean probability - part that matched| (arXiv:1706.04599)."""
    probability: list[float]
    """Of each bin, the mean."""
    matched: list[float]
    """Of each bin, the part of the pairs that match."""
    count: list[int]


def calibration(probs: Floats, matched: Right, bins: int = BINS) -> Calibration:
    """Compare probabilities [n] with whether the pairs match [n]."""
    p, y = np.asarray(probs, np.float64).ravel(), np.asarray(matched, np.float64).ravel()
    place = np.minimum((p * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    used = count > 0
    mean = np.bincount(place, p, bins)[used] / count[used]
    part = np.bincount(place, y, bins)[used] / count[used]
    ece = float((count[used] / len(p) * np.abs(mean - part)).sum())
    return Calibration(ece, mean.tolist(), part.tolist(), count[used].tolist())


def auroc(positive: Floats, negative: Floats) -> float:
    """How often a positive [m] scores above a negative [n]; equal ones count half.

    The area under the receiver operating characteristic, as Mann and Whitney's U over m n.
    """
    values = np.concatenate([positive, negative]).astype(np.float64)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]  # the mean rank of those that are equal
    m, n = len(positive), len(negative)
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
