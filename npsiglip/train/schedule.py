"""The learning rate: linear warm-up to the peak, then half a cosine to the floor.

Source: `create_learning_rate_schedule` of big_vision's `utils.py`. There the first step has the rate 0 and changes
nothing; here the warm-up begins with 1 / warmup.
"""

from __future__ import annotations

from math import cos, pi


def schedule(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """The part of the peak rate that step 0 ... steps - 1 is made with.

    Args:
        step: the number of the step, from 0.
        steps: how many there are.
        warmup: the step from which on the rate is that of the cosine; before, it is min(1, (step + 1) / warmup) of it.
        floor: what the cosine ends at, as a part of the peak.
    """
    progress = min(max((step - warmup) / (steps - warmup), 0.0), 1.0)
    rate = floor + (1.0 - floor) * 0.5 * (1.0 + cos(pi * progress))
    return rate * min(1.0, (step + 1) / warmup) if warmup else rate
