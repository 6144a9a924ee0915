"""Colours are apart from each other and from the background."""

from npsiglip.world import (
    COLOURS,
    World,
)
from npsiglip.world.palette import ANCHORS, DARKER, LIGHTER, distance
from tests.helpers.worlds import described


def test_colours_stand_out_from_the_background():
    for sample in described(World(9), 2000):
        behind = sample.scene.background
        for thing in sample.scene.things[: 1 if sample.scene.kind == "count" else 2]:
            fine = thing.size == "small" or thing.style == "outline" or thing.is_glyph
            least = 130 if fine and sample.scene.kind != "pair" else 105
            assert min(distance(thing.rgb, behind.rgb), distance(thing.rgb, behind.second)) >= least


def test_palette_keeps_names_apart():
    for a in COLOURS:
        for b in COLOURS[: COLOURS.index(a)]:
            assert min(distance(x, y) for x in ANCHORS[a] for y in ANCHORS[b]) > 70
            ends = [*ANCHORS[b], LIGHTER[b], DARKER[b]]
            assert min(distance(x, y) for x in (LIGHTER[a], DARKER[a]) for y in ends) > 55
