"""What a caption claims, what a picture shows, and whether the one is true of the other.

Captions of a batch are compared with all its pictures, so both are a few whole numbers: for every object its class and
a set of bits, and a set of bits of the whole scene. A caption claims what it names. A picture shows all that a person
might still grant it, which is more: an object between the middle and the left shows both. So a caption that is found
untrue of a picture is untrue beyond doubt, and it is only in doubt that two that could stand together are kept apart.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from npsiglip.world.palette import distance, luma
from npsiglip.world.sampling import TONE_RGB
from npsiglip.world.scene import RGB, Background, Scene, Thing
from npsiglip.world.vocabulary import COLOURS, GLYPHS, PATTERNS, SHAPES, SIZES, TEXTURES, TONES

_COLOUR: Final = {name: 64 * i for i, name in enumerate(COLOURS)}
_SHAPE: Final = {name: i for i, name in enumerate((*SHAPES, *GLYPHS))}

# bits of an object
BITS: Final = {
    name: 1 << i
    for i, name in enumerate((*SIZES, *TEXTURES[1:], "outlined", "left", "middle", "right", "top", "level", "bottom"))
}
# bits of a scene
COUNT: Final = {n: 1 << n for n in range(2, 6)}
TONE: Final = {name: 1 << (8 + i) for i, name in enumerate(TONES)}
PATTERN: Final = {name: 1 << (24 + i) for i, name in enumerate(PATTERNS)}
LIGHT: Final = 1 << 30
DARK: Final = 1 << 31
# bits of how the first of two objects lies to the second
LEFT, RIGHT, ABOVE, BELOW = 1, 2, 4, 8
RELATIONS: Final = {"left": LEFT, "right": RIGHT, "above": ABOVE, "below": BELOW}


def thing_key(thing: Thing) -> int:
    """A number for its colour and shape."""
    return _COLOUR[thing.colour] + _SHAPE[thing.shape]


class Claims(NamedTuple):
    """Objects as (key, bits), the lower key first; how the first lies to the second; bits of the scene."""

    things: tuple[tuple[int, int], ...]
    relation: int = 0
    scene: int = 0

    def true_of(self, shown: Claims) -> bool:
        """Whether a picture that shows this is one that these claims fit."""
        if self.scene & ~shown.scene:
            return False
        if len(self.things) == 2:
            (key, bits), (other_key, other_bits) = self.things
            if len(shown.things) != 2 or self.relation & ~shown.relation:
                return False
            (a, has), (b, other_has) = shown.things
            return key == a and other_key == b and not bits & ~has and not other_bits & ~other_has
        key, bits = self.things[0]
        return any(key == a and not bits & ~has for a, has in shown.things)


def ordered(first: tuple[int, int], second: tuple[int, int], relation: int, scene: int) -> Claims:
    """Claims of two objects: exchanged, with the relation turned round, if the lower key is not the first."""
    if first[0] <= second[0]:
        return Claims((first, second), relation, scene)
    turned = (relation & 5) << 1 | (relation & 10) >> 1
    return Claims((second, first), turned, scene)


def _shown_bits(thing: Thing) -> int:
    bits = BITS[thing.size]
    if thing.texture != "plain":
        bits |= BITS[thing.texture]
    if thing.style == "outline":
        bits |= BITS["outlined"]
    for at, low, mid, high in ((thing.x, "left", "middle", "right"), (thing.y, "top", "level", "bottom")):
        if at < 0.48:
            bits |= BITS[low]
        if at > 0.52:
            bits |= BITS[high]
        if 0.36 < at < 0.64:
            bits |= BITS[mid]
    return bits


def _shown_relation(a: Thing, b: Thing) -> int:
    """A little to the left is to the left."""
    near = 0.03
    return (
        (LEFT if a.x < b.x - near else 0)
        | (RIGHT if a.x > b.x + near else 0)
        | (ABOVE if a.y < b.y - near else 0)
        | (BELOW if a.y > b.y + near else 0)
    )


def _tone_bits(rgb: RGB) -> int:
    """Every tone that comes near."""
    bits = 0
    for tone, other in TONE_RGB.items():
        if distance(rgb, other) < 100:
            bits |= TONE[tone]
    return bits


_NEAR: Final = {tone: _tone_bits(rgb) | TONE[tone] for tone, rgb in TONE_RGB.items()}


def _shown_background(background: Background) -> int:
    bits = _NEAR[background.tone] | PATTERN[background.pattern]
    if background.pattern != "plain":
        bits |= _tone_bits(background.second)
    for rgb in (background.rgb, background.second):
        light = luma(rgb)
        bits |= (LIGHT if light > 110 else 0) | (DARK if light < 145 else 0)
    return bits


def shown(scene: Scene) -> Claims:
    """All that might be said of a scene."""
    bits = _shown_background(scene.background)
    if scene.noise > 5:
        bits |= PATTERN["speckled"]
    things = [(thing_key(thing), _shown_bits(thing)) for thing in scene.things]
    if scene.kind == "pair":
        return ordered(things[0], things[1], _shown_relation(*scene.things), bits)
    if scene.kind == "count":
        bits |= COUNT[len(things)]
        for _, more in things[1:]:
            things[0] = (things[0][0], things[0][1] | more)
    return Claims((things[0],), 0, bits)


def position(thing: Thing) -> tuple[str, str] | None:
    """Where an object lies, as a person would say it: ("left", "top"); None if it is between two such places."""
    across = "left" if thing.x < 0.36 else "right" if thing.x > 0.64 else "middle" if 0.44 < thing.x < 0.56 else ""
    down = "top" if thing.y < 0.36 else "bottom" if thing.y > 0.64 else "level" if 0.44 < thing.y < 0.56 else ""
    return (across, down) if across and down else None


def position_bits(place: tuple[str, str]) -> int:
    """What a caption claims that names this place; "on the left" says nothing about the height."""
    across, down = place
    if across != "middle" and down == "level":
        return BITS[across]
    if across == "middle" and down != "level":
        return BITS[down]
    return BITS[across] | BITS[down]


def relation(a: Thing, b: Thing) -> str:
    """How a lies to b, by the longer way."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"
