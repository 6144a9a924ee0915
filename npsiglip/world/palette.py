"""Colours as numbers: how red a red may be, what is light beside it, and whether two can be told apart.

A colour's name holds for everything in the triangle or tetrahedron between its anchors, which were chosen by eye so
that none can be taken for another: orange keeps away from brown by its lightness, pink from purple by its hue.
"""

from __future__ import annotations

import math
from random import Random
from typing import Final

from npsiglip.world.scene import RGB

ANCHORS: Final[dict[str, tuple[RGB, ...]]] = {
    "red": ((228, 28, 32), (196, 18, 26), (236, 48, 44), (214, 10, 44)),
    "orange": ((255, 136, 8), (248, 148, 36), (255, 122, 10), (240, 130, 20)),
    "yellow": ((252, 222, 20), (246, 228, 62), (238, 208, 8), (255, 236, 40)),
    "green": ((30, 150, 52), (62, 180, 72), (10, 122, 42), (84, 172, 40)),
    "blue": ((34, 84, 224), (14, 60, 176), (52, 122, 238), (28, 98, 200)),
    "purple": ((124, 40, 176), (142, 62, 204), (104, 24, 146), (112, 44, 196)),
    "pink": ((255, 134, 192), (250, 152, 186), (255, 112, 180), (255, 160, 204)),
    "brown": ((122, 74, 34), (102, 60, 28), (140, 86, 46), (112, 62, 40)),
}

# what a gradient or a texture may go to without leaving the name: the far ends of shades, by eye
LIGHTER: Final[dict[str, RGB]] = {
    "red": (246, 70, 64),
    "orange": (255, 176, 84),
    "yellow": (255, 246, 150),
    "green": (120, 208, 120),
    "blue": (110, 164, 250),
    "purple": (170, 104, 226),
    "pink": (255, 196, 222),
    "brown": (164, 112, 72),
}
DARKER: Final[dict[str, RGB]] = {
    "red": (150, 8, 18),
    "orange": (236, 108, 0),
    "yellow": (226, 188, 0),
    "green": (0, 88, 28),
    "blue": (6, 34, 120),
    "purple": (74, 10, 108),
    "pink": (244, 88, 160),
    "brown": (76, 42, 16),
}


def luma(rgb: RGB) -> float:
    """How light a colour is, 0 to 255."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def distance(a: RGB, b: RGB) -> float:
    """How different two colours look, 0 to 441: Euclid's with the weights of the eye, as "redmean" has them."""
    red, dr, dg, db = (a[0] + b[0]) / 512, a[0] - b[0], a[1] - b[1], a[2] - b[2]
    return math.sqrt(((2 + red) * dr * dr + 4 * dg * dg + (3 - red) * db * db) / 3)


def between(a: RGB, b: RGB, part: float) -> RGB:
    """The colour at `part` of the way from a to b."""
    return (
        round(a[0] + part * (b[0] - a[0])),
        round(a[1] + part * (b[1] - a[1])),
        round(a[2] + part * (b[2] - a[2])),
    )


def shade(name: str, rng: Random) -> RGB:
    """Some colour of this name."""
    random = rng.random
    a, b, c, d = ANCHORS[name]
    return between(between(a, b, random()), between(c, d, random()), random())


def shifted(rgb: RGB, by: float) -> RGB:
    """All channels moved by as much, as far as they go."""
    step = round(by)
    return (
        min(255, max(0, rgb[0] + step)),
        min(255, max(0, rgb[1] + step)),
        min(255, max(0, rgb[2] + step)),
    )
