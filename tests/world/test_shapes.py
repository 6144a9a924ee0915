"""Outlines stay within their reach."""

import math

import numpy as np
import pytest

from npsiglip.world import (
    SHAPES,
)
from npsiglip.world.sampling import REACH
from npsiglip.world.shapes import TURNS, outline


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_stay_within_their_reach(shape):
    points = outline(shape).outer.astype(np.float64)
    turns = np.radians(np.linspace(-TURNS[shape], TURNS[shape], 41))
    corners = [
        points @ np.array([[1, 0], [shear, 1]]) @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
        for a in turns
        for shear in (-0.06, 0.06)
    ]
    farthest = max(np.abs(corner).max() for corner in corners)
    assert farthest <= REACH[shape] * 1.04  # stretched by up to 7 %, which the margin takes
    assert farthest > 0.85 * REACH[shape] / 1.07
