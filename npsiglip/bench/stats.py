"""Medians and their spread: what others on the machine disturb moves a mean, and hardly a median.

Times are compared in two ways. The ratio of the medians is the result. The ratios within each round, whose two runs
are neighbours in time, tell how far it can be trusted: a slow minute slows both and cancels out.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Of several numbers: the median, the quartiles around it, and both ends."""

    median: float
    q1: float
    q3: float
    min: float
    max: float


def summarize(values: Sequence[float]) -> Summary:
    """Summarise at least one number; quartiles are interpolated between values."""
    if len(values) == 1:
        return Summary(*[values[0]] * 5)
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(median, q1, q3, min(values), max(values))


@dataclass(frozen=True)
class Ratio:
    """Times of ours divided by times of theirs; below 1, ours is faster."""

    of_medians: float
    per_round: Summary


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Compare times taken in the same rounds, in order."""
    per_round = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(ours) / statistics.median(theirs), summarize(per_round))
