"""Scenes: nothing is cut off, sizes are apart, difficulty, and random numbers that stay."""

import math
import re
from itertools import permutations
from random import Random

import pytest

from npsiglip.world import (
    World,
)
from npsiglip.world.sampling import DIAMETERS, MARGIN, REACH
from npsiglip.world.shapes import TURNS
from tests.helpers.golden_data import ROOT
from tests.helpers.worlds import described

# -- pictures ---------------------------------------------------------------------------------------------------------


def test_nothing_is_cut_off_and_nothing_overlaps():
    for sample in described(World(6), 4000):
        things = sample.scene.things
        for thing in things:
            reach = (0.62 if thing.is_glyph else REACH[thing.shape]) * thing.diameter
            assert all(reach + MARGIN - 1e-9 <= at <= 1 - reach - MARGIN + 1e-9 for at in (thing.x, thing.y))
        for a, b in permutations(things, 2):
            apart = REACH[a.shape] * a.diameter + REACH[b.shape] * b.diameter
            assert math.hypot(a.x - b.x, a.y - b.y) >= apart - 1e-9
        if sample.scene.kind == "count":
            assert 2 <= len(things) <= 5
            assert len({(thing.colour, thing.shape, thing.size) for thing in things}) == 1


@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_sizes_do_not_touch(size):
    low, high = DIAMETERS[size]
    for sample in described(World(6), 2000):
        for thing in sample.scene.things:
            if thing.size == size and not thing.is_glyph:
                assert low - 0.025 <= thing.diameter <= high
    assert low * 64 >= 15
    others = [DIAMETERS[other] for other in DIAMETERS if other != size]
    assert all(high + 0.025 < other[0] or other[1] + 0.025 < low for other in others)


def test_difficulty_0_is_plain_and_large():
    world = World(2, difficulty=0.0)
    for sample in described(world, 500):
        scene = sample.scene
        assert (scene.noise, scene.brightness, scene.background.pattern) == (0.0, 0, "plain")
        for thing in scene.things:
            assert (thing.texture, thing.style) == ("plain", "flat")
            assert scene.kind == "count" or thing.size != "small"
            assert thing.is_glyph or abs(thing.angle) <= TURNS[thing.shape] / 4
    assert World(2, difficulty=0.0).sample(0) != World(2).sample(0)


# -- files ------------------------------------------------------------------------------------------------------------


def test_random_numbers_are_those_that_stay():
    """Python promises that `random()` keeps its sequence for a seed, whatever the version; nothing else is used."""
    assert Random(1 << 100 | 7).random() == Random((1 << 100) + 7).random()
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "npsiglip" / "world").glob("*.py"))
    assert not re.search(r"\brng\.(choice|randint|randrange|shuffle|sample|gauss|uniform|choices)\b", source)
