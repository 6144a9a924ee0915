"""The rows that are most like each query, in float64: all inner products, and a stable sort.

Dimensions: R rows, Q queries, D width.
"""

import numpy as np


def scores(rows, queries):
    """queries [Q, D] rows [R, D]^T -> [Q, R]; a vector of unit norm times another one is their cosine."""
    return queries.astype(np.float64) @ rows.astype(np.float64).T


def top_k(rows, queries, k, skip=None):
    """-> scores, numbers [Q, k] of the rows with the k highest scores; of equal ones, those with the lower numbers.

    A row that is left out (`skip` [R] bool), or whose score is NaN or -inf, never wins: where there are too few others,
    scores end in -inf and numbers in -1.
    """
    found = scores(rows, queries)
    found = np.where(np.isnan(found) | (False if skip is None else skip), -np.inf, found)
    numbers = np.argsort(-found, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(found, numbers, axis=1)
    numbers = np.where(best > -np.inf, numbers, -1)
    lacking = ((0, 0), (0, k - numbers.shape[1]))
    return np.pad(best, lacking, constant_values=-np.inf), np.pad(numbers, lacking, constant_values=-1)
