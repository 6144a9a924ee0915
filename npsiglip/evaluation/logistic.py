"""Linear classifiers by regularised logistic regression, in float64 NumPy: L-BFGS on a convex loss.

With features x [N, D], classes y [N] and logits x W + b [N, K]:

    softmax   mean over N of  log sum_k exp(logit_k) - logit_y            one of the classes is right
    sigmoid   mean over N of  sum_k log(1 + exp(-s_k logit_k))            each class against all others, s = 1 or -1
    both      + strength / 2 |W|^2                                        biases are free

Source: D. C. Liu and J. Nocedal, On the limited memory BFGS method for large scale optimization, Mathematical
Programming 45 (1989). The line search is that of A. S. Lewis and M. L. Overton, Mathematical Programming 141 (2013),
with the approximate condition of W. W. Hager and H. Zhang, SIAM Journal on Optimization 16 (2005).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LOSSES = ("softmax", "sigmoid")
MEMORY = 12  # pairs of steps and changes of the gradient that curvature is told from
DECREASE, CURVATURE = 1e-4, 0.9  # of the line search: how much a step must gain, and flatten
NEAR = 1e-9  # of a value: close to the end a step gains less than rounding hides, and slopes tell in place of values
SMALLEST_STEP = 1e-12


class Linear(NamedTuple):
    """logits = x w + b."""

    w: Array
    """[D, K]."""
    b: Array
    """[K]."""


def losses(logits: Array, classes: NDArray[np.integer], loss: str) -> tuple[Array, Array]:
    """The loss of each row of logits [N, K], as [N], and its gradient [N, K]."""
    rows = np.arange(len(logits))
    if loss == "softmax":
        top = logits.max(axis=1, keepdims=True)
        e = np.exp(logits - top)
        total = e.sum(axis=1, keepdims=True)
        value = (np.log(total) + top)[:, 0] - logits[rows, classes]
        gradient = e / total
        gradient[rows, classes] -= 1.0
        return value, gradient
    e = np.exp(-np.abs(logits))
    value = (np.maximum(logits, 0.0) + np.log1p(e)).sum(axis=1) - logits[rows, classes]
    gradient = np.where(logits >= 0, 1.0, e) / (1.0 + e)
    gradient[rows, classes] -= 1.0
    return value, gradient


def _direction(gradient: Array, pairs: deque[tuple[Array, Array]]) -> Array:
    """Downhill, by the two loops of L-BFGS over steps s and changes y of the gradient."""
    q, parts = -gradient, []
    for s, y in reversed(pairs):
        along = (s @ q) / (s @ y)
        parts.append(along)
        q = q - along * y
    if pairs:
        s, y = pairs[-1]
        q = q * ((s @ y) / (y @ y))
    for (s, y), along in zip(pairs, reversed(parts), strict=True):
        q = q + s * (along - (y @ q) / (s @ y))
    return q


def minimize(
    function: Callable[[Array], tuple[float, Array]], x: Array, tolerance: float, steps: int
) -> tuple[Array, float]:
    """Where a smooth convex function is least, and the largest number of its gradient there.

    Args:
        function: value and gradient [n] at x [n].
        x: where to begin [n].
        tolerance: no number of the gradient is above it at the end, unless `steps` or float64 run out before.
        steps: at most.
    """
    value, gradient = function(x)
    pairs: deque[tuple[Array, Array]] = deque(maxlen=MEMORY)
    for _ in range(steps):
        if np.abs(gradient).max(initial=0.0) <= tolerance:
            break
        direction = _direction(gradient, pairs)
        slope = float(direction @ gradient)
        if slope >= 0:  # rounding has spoiled what was remembered
            pairs.clear()
            direction, slope = -gradient, -float(gradient @ gradient)
        length = 1.0 if pairs else min(1.0, 1.0 / float(np.linalg.norm(gradient)))
        low, high = 0.0, np.inf
        while True:  # halve what gains too little, double what is still steep
            new = x + length * direction
            new_value, new_gradient = function(new)
            new_slope = float(direction @ new_gradient)
            gains = new_value <= value + DECREASE * length * slope
            gains |= new_value <= value + NEAR * abs(value) and new_slope <= (2 * DECREASE - 1) * slope
            if not gains:
                high = length
            elif new_slope < CURVATURE * slope:
                low = length
            else:
                break
            length = 2.0 * low if high == np.inf else (low + high) / 2.0
            if high - low < SMALLEST_STEP * max(high, 1.0) or length < SMALLEST_STEP:
                return x, float(np.abs(gradient).max())
        s, y = new - x, new_gradient - gradient
        if s @ y > 0:
            pairs.append((s, y))
        x, value, gradient = new, new_value, new_gradient
    return x, float(np.abs(gradient).max(initial=0.0))


def fit(
    x: Array,
    classes: NDArray[np.integer],
    count: int,
    strength: float,
    loss: str = "softmax",
    start: Linear | None = None,
    tolerance: float = 1e-8,
    steps: int = 2000,
) -> Linear:
    """The linear classifier of the least loss.

    Args:
        x: features [N, D], finite.
        classes: [N], from 0 to `count` - 1.
        count: K.
        strength: of the regularisation, above 0, without which classes that can be told apart have no least loss.
        loss: "softmax" or "sigmoid".
        start: where to begin; None: zeros.
        tolerance: of the gradient's numbers.
        steps: of L-BFGS, at most.
    """
    n, d = x.shape

    def function(packed: Array) -> tuple[float, Array]:
        w, b = packed[: d * count].reshape(d, count), packed[d * count :]
        value, slope = losses(x @ w + b, classes, loss)
        slope /= n
        gradient = np.concatenate([(x.T @ slope + strength * w).ravel(), slope.sum(axis=0)])
        return float(value.mean() + 0.5 * strength * (w * w).sum()), gradient

    first = np.zeros((d + 1) * count) if start is None else np.concatenate([start.w.ravel(), start.b])
    packed, _ = minimize(function, first, tolerance, steps)
    return Linear(packed[: d * count].reshape(d, count).copy(), packed[d * count :].copy())
