"""Pictures show what the scene says: places, colours.

Covers world/masks.py and world/scene.py as well.
"""

from collections import Counter

import numpy as np

from npsiglip.world import (
    COLOURS,
    World,
)
from npsiglip.world.palette import ANCHORS, DARKER, LIGHTER
from npsiglip.world.sampling import REACH
from tests.helpers.worlds import SINGLE


def distances(pixels, rgb):
    """`palette.distance` of every pixel."""
    pixels, rgb = pixels.astype(np.float64), np.asarray(rgb, np.float64)
    red, d = (pixels[..., 0] + rgb[0]) / 512, pixels - rgb
    return np.sqrt(((2 + red) * d[..., 0] ** 2 + 4 * d[..., 1] ** 2 + (3 - red) * d[..., 2] ** 2) / 3)


def seen_colour(pixels, scene):
    """The colour that most pixels around the object come nearest to, those left out that the background explains."""
    thing, size = scene.things[0], len(pixels)
    y, x = np.mgrid[:size, :size] + 0.5
    near = pixels[(x - thing.x * size) ** 2 + (y - thing.y * size) ** 2 < (thing.diameter * size / 2) ** 2]
    near = near.astype(np.int64) - scene.brightness
    names = [(c, rgb) for c in COLOURS for rgb in (*ANCHORS[c], LIGHTER[c], DARKER[c])]
    behind = scene.background
    shadows = [tuple(int(v * dark) for v in behind.rgb) for dark in (0.5, 0.25)]
    names += [("", rgb) for rgb in (behind.rgb, behind.second, (250, 250, 246), (18, 18, 22), *shadows)]
    nearest = np.argmin([distances(near, rgb) for _, rgb in names], axis=0)
    votes = Counter(names[i][0] for i in nearest)
    del votes[""]
    return votes.most_common(1)[0][0]


def test_colours_can_be_told():
    world, right = World(9, mix=SINGLE), 0
    for i in range(500):
        image, _, scene = world.sample(i)
        right += seen_colour(np.asarray(image), scene) == scene.things[0].colour
    assert right >= 495  # 99.85 % of 2,000; the others are strokes that enclose more background than they cover


def test_pictures_show_what_the_scene_says():
    """Objects are where they are said to be: outside their reach, nothing but background."""
    world = World(3, mix={"single": 1.0, "count": 1.0, "pair": 1.0}, difficulty=0.0)
    y, x = (np.mgrid[:64, :64] + 0.5) / 64
    for i in range(100):
        image, _, scene = world.sample(i)
        different = distances(np.asarray(image), scene.background.rgb) > 20
        covered = np.zeros((64, 64), bool)
        for thing in scene.things:
            reach = REACH[thing.shape] * thing.diameter + 0.02
            inside = (np.abs(x - thing.x) < reach) & (np.abs(y - thing.y) < reach)
            assert different[inside].mean() > 0.12
            covered |= inside
        assert not different[~covered].any()
