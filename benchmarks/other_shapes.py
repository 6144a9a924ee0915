"""Outlines of 8 shapes as another hand draws them, for `benchmarks/other_hand.py`: paths within -1 and 1."""

import numpy as np
from matplotlib.path import Path as Outline


def around(centre, radius, start, end):
    """An arc of a circle as Bezier curves, counter-clockwise in degrees; clockwise if `end` is before `start`."""
    arc = Outline.arc(min(start, end), max(start, end))
    points = arc.vertices if start <= end else arc.vertices[::-1]
    return Outline(np.asarray(centre) + radius * points, arc.codes)


def joined(first, second):
    """One closed outline: `first`, then a line to `second` and along it."""
    codes = np.concatenate([first.codes, second.codes, [Outline.CLOSEPOLY]])
    codes[len(first.codes)] = Outline.LINETO
    return Outline(np.concatenate([first.vertices, second.vertices, first.vertices[:1]]), codes)


def polygon(corners, rounding=0.0):
    """Straight lines between `corners` [K, 2]; `rounding` is what a corner loses of each of its sides."""
    corners = np.asarray(corners, float)
    before, after = (corners + rounding * (np.roll(corners, step, 0) - corners) for step in (1, -1))
    points = np.stack([before, corners, after], 1).reshape(-1, 2)
    codes = [Outline.LINETO, Outline.CURVE3, Outline.CURVE3] * len(corners) + [Outline.CLOSEPOLY]
    codes[0] = Outline.MOVETO
    return Outline(np.concatenate([points, points[:1]]), codes)


def on_circle(degrees, radius):
    """Points [K, 2] at angles `degrees`, at distances `radius`."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.broadcast_to(radius, angles.shape)[:, None]


def some_rounding(rng, most):
    """None at all, or up to `most`."""
    return float(rng.choice([0.0, rng.uniform(0.3, 1.0) * most]))


def circle(rng):
    return Outline.unit_circle()


def square(rng):
    return polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], some_rounding(rng, 0.16))


def triangle(rng):
    """Equilateral, or with a higher or lower tip, seldom with a right angle."""
    tip = -1 if rng.random() < 0.15 else 0
    return polygon([(-1, 0), (1, 0), (tip, rng.uniform(1.45, 2.1))], some_rounding(rng, 0.15))


def star(rng):
    """Five points; 0.382 is the pentagram's inner radius."""
    inner = rng.choice([0.382, rng.uniform(0.36, 0.55)])
    return polygon(on_circle(90 + 36 * np.arange(10), np.where(np.arange(10) % 2, inner, 1)), some_rounding(rng, 0.2))


def heart(rng):
    """Two Bezier curves a side, or the curve of sines that everybody finds first."""
    if rng.random() < 0.4:
        t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return polygon(np.stack([16 * np.sin(t) ** 3, y], 1) / 16)
    dip, tip, full = rng.uniform(0.4, 0.6), rng.uniform(-1.15, -0.95), rng.uniform(0.9, 1.1)
    right = [(0.12, 0.95), (0.95, 1.1), (1.0, 0.35), (1.0, -0.15), (0.45 * full, -0.5 * full), (0, tip)]
    left = [(-x, y) for x, y in right[-2::-1]]
    points = np.array([(0, dip), *right, *left, (0, dip)])
    return Outline(points, [Outline.MOVETO] + [Outline.CURVE4] * 12)


def cross(rng):
    """A plus sign, its arms of equal length."""
    a, b = rng.uniform(0.25, 0.42), 1.0
    quarter = np.array([(a, a), (b, a), (b, -a)])
    turns = [quarter @ np.array([(np.cos(t), np.sin(t)), (-np.sin(t), np.cos(t))]) for t in -np.pi / 2 * np.arange(4)]
    return polygon(np.concatenate(turns), some_rounding(rng, 0.18))


def ring(rng):
    """Two circles, the inner one clockwise and so a hole."""
    arcs = around((0, 0), 1, 0, 360), around((0, 0), rng.uniform(0.48, 0.72), 360, 0)
    points = [point for arc in arcs for point in (*arc.vertices, arc.vertices[0])]
    return Outline(points, [code for arc in arcs for code in (*arc.codes, Outline.CLOSEPOLY)])


def moon(rng):
    """A crescent: a disc without the part that another disc covers."""
    away, radius = rng.uniform(0.38, 0.6), rng.uniform(0.78, 0.92)
    x = (1 + away**2 - radius**2) / (2 * away)  # where the circles meet
    outer, inner = np.degrees(np.arccos(x)), np.degrees(np.arccos((x - away) / radius))
    return joined(around((0, 0), 1, outer, 360 - outer), around((away, 0), radius, 360 - inner, inner))


MAKERS = {  # and how many degrees each may lean to a side and still be itself
    "circle": (circle, 0),
    "square": (square, 9),
    "triangle": (triangle, 14),
    "star": (star, 16),
    "heart": (heart, 14),
    "cross": (cross, 9),
    "ring": (ring, 0),
    "moon": (moon, 35),
}
SHAPES = tuple(MAKERS)
