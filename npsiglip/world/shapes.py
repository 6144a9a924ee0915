"""The outlines of the shapes: closed polygons [n, 2] around the origin, y down, at the angle that they are named at.

Diameters are made to look alike, not to measure alike: a star of the circle's radius would look smaller. An outline is
one polygon, or an outer one and a hole. `inset` is the same shape with its border moved inwards by a part of the
diameter, which leaves the border to be drawn as the difference.
"""

from __future__ import annotations

import functools
import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float32]

STEPS: Final = 48  # corners of a circle: smooth at any size that is drawn here

# how far each shape may turn, in degrees, and stay what its name says
TURNS: Final = {
    "circle": 0.0,
    "square": 16.0,
    "triangle": 180.0,
    "star": 36.0,
    "heart": 32.0,
    "cross": 18.0,
    "ring": 0.0,
    "moon": 180.0,
}


class Outline(NamedTuple):
    """A shape of diameter 1."""

    outer: Polygon
    hole: Polygon | None = None


def _polygon(points: list[tuple[float, float]]) -> Polygon:
    return np.array(points, np.float32)


def arc(x: float, y: float, radius: float, start: float, end: float, steps: int) -> list[tuple[float, float]]:
    """Points of an arc, both ends included; angles in radians."""
    angles = [start + (end - start) * i / steps for i in range(steps + 1)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def regular(corners: int, radius: float, start: float = -math.pi / 2) -> list[tuple[float, float]]:
    """A regular polygon."""
    return arc(0, 0, radius, start, start + 2 * math.pi * (1 - 1 / corners), corners - 1)


def _circle(radius: float) -> Polygon:
    return _polygon(regular(STEPS, radius))


def _square(t: float) -> Polygon:
    half = 0.44 - t
    return _polygon([(-half, -half), (half, -half), (half, half), (-half, half)])


def _triangle(t: float) -> Polygon:
    return _polygon(regular(3, 0.6 - 2 * t))  # a border of t takes 2 t off the circumradius


def _star(t: float) -> Polygon:
    radius, waist = 0.6, 0.44
    a, b = radius, radius * waist  # the triangle of centre, tip and notch, 36 degrees at the centre
    height = a * b * math.sin(math.pi / 5) / math.sqrt(a * a + b * b - 2 * a * b * math.cos(math.pi / 5))
    scale = 1 - t / height
    outer, inner = regular(5, a * scale), regular(5, b * scale, -math.pi / 2 + math.pi / 5)
    return _polygon([point for pair in zip(outer, inner, strict=True) for point in pair])


def _cross(t: float) -> Polygon:
    arm, half = 0.53 - t, 0.18 - t
    quarter = [(half, -arm), (half, -half), (arm, -half)]
    points = []
    for _ in range(4):
        points += quarter
        quarter = [(-y, x) for x, y in quarter]
    return _polygon(points)


def _heart(t: float) -> Polygon:
    points = []
    for i in range(STEPS):
        a = 2 * math.pi * (i + 0.5) / STEPS
        x = 16 * math.sin(a) ** 3
        y = 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)
        points.append((x / 31, -(y + 2) / 31))
    scale = 1 - t / 0.4
    return _polygon([(x * scale, y * scale) for x, y in points])


def _moon(t: float) -> Polygon:
    """The part of a disc that a second disc, moved to the right, leaves."""
    radius, cut, away = 0.56 - t, 0.45 + t, 0.28
    x = (radius * radius - cut * cut + away * away) / (2 * away)  # where the circles meet
    y = math.sqrt(radius * radius - x * x)
    outer, inner = math.atan2(y, x), math.atan2(y, x - away)
    points = arc(0, 0, radius, outer, 2 * math.pi - outer, 28) + arc(away, 0, cut, 2 * math.pi - inner, inner, 20)
    return _polygon([(px + 0.11, py) for px, py in points])  # its middle, not the disc's, is its centre


def _solid(shape: str, t: float) -> Polygon:
    make = {"square": _square, "triangle": _triangle, "star": _star, "cross": _cross, "heart": _heart, "moon": _moon}
    return make[shape](t) if shape in make else _circle((0.5 if shape == "circle" else 0.54) - t)


@functools.cache
def outline(shape: str) -> Outline:
    """The shape, filled."""
    return Outline(_solid(shape, 0.0), _circle(0.3) if shape == "ring" else None)


@functools.cache
def inset(shape: str, border: float) -> Polygon:
    """The outer outline, `border` further in."""
    return _solid(shape, border)


@functools.cache
def strokes(shape: str, border: float) -> Polygon:
    """The outer outline, `border` further in, of about as many strokes as a hand would take."""
    polygon = _solid(shape, border)
    if len(polygon) >= STEPS // 2:
        return polygon[::2]
    ends = np.roll(polygon, -1, axis=0)
    return np.stack([polygon + (ends - polygon) * np.float32(k / 4) for k in range(4)], axis=1).reshape(-1, 2)
