"""AdamW's step as big_vision has it, in float64: gradients clipped by their common norm, decay apart from them.

Source: arXiv:1711.05101, and big_vision's `optax.scale_by_adam`, `optax.clip_by_global_norm` and decoupled decay, which
the schedule scales.
"""

import numpy as np


def global_norm(gradients):
    """The Euclidean norm of all gradients together."""
    return np.sqrt(sum(np.sum(np.square(g)) for g in gradients))


def adamw_step(x, g, m, v, count, rate, beta1, beta2, eps, decay):
    """x - rate m' / (sqrt(v') + eps) - decay x; m' and v' are the moments of g, corrected for their start at zero.

    Args:
        x, g: a parameter and its gradient, clipped already.
        m, v: the moments before this step; zeros before the first.
        count: the number of this step, from 1.
        rate, decay: of this step.
        beta1, beta2, eps: of the optimiser.

    Returns:
        x, m and v after the step.
    """
    m = beta1 * m + (1.0 - beta1) * g
    v = beta2 * v + (1.0 - beta2) * g * g
    first, second = m / (1.0 - beta1**count), v / (1.0 - beta2**count)
    return x - rate * first / (np.sqrt(second) + eps) - decay * x, m, v
