"""From random numbers to a scene: which objects, where, how large, in front of what.

What decides that a person can name what is there is here: sizes, how far a shape may turn, the least contrast between
an object and everything behind it, the room between objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

from npsiglip.world.palette import distance, luma, shade, shifted
from npsiglip.world.scene import RGB, Background, Scene, Thing
from npsiglip.world.shapes import TURNS
from npsiglip.world.vocabulary import GLYPHS, HELD_OUT_STYLES, SEEN, TEXTURES, TONES

DIAMETERS: Final = {"small": (0.235, 0.285), "medium": (0.34, 0.44), "large": (0.56, 0.68)}
CROWDED: Final = {"small": (0.235, 0.275), "medium": (0.33, 0.365)}  # where there are several objects
# how far a shape reaches from its centre, of its diameter, turned and stretched as far as it may be
REACH: Final = {
    "circle": 0.54,
    "square": 0.6,
    "triangle": 0.64,
    "star": 0.64,
    "heart": 0.6,
    "cross": 0.61,
    "ring": 0.58,
    "moon": 0.66,
}
MARGIN: Final = 0.025
GAP: Final = 0.02  # between two objects
CONTRAST: Final = 105.0  # the least, in palette.distance
FINE_CONTRAST: Final = 130.0  # of strokes and of small objects

TONE_RGB: Final[dict[str, RGB]] = {
    "white": (250, 250, 250),
    "light grey": (208, 208, 210),
    "grey": (136, 136, 140),
    "dark grey": (66, 66, 70),
    "black": (12, 12, 14),
    "light blue": (178, 208, 242),
    "light green": (190, 232, 190),
    "light yellow": (252, 244, 190),
    "light pink": (252, 212, 222),
    "dark blue": (18, 28, 72),
    "dark green": (14, 52, 30),
}
_TONE_WEIGHTS: Final = (5, 4, 2, 3, 4, 2, 2, 2, 2, 2, 2)
_TONE_TABLE: Final = tuple(tone for tone, n in zip(TONES, _TONE_WEIGHTS, strict=True) for _ in range(n))

T = TypeVar("T")


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of them, each as likely. `Random.choice` is slower, and its sequence is not promised to stay."""
    return options[int(rng.random() * len(options))]


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    """All of them, in any order."""
    mixed = list(items)
    for i in range(len(mixed) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        mixed[i], mixed[j] = mixed[j], mixed[i]
    return mixed


def weighted(rng: Random, weights: Mapping[str, float]) -> str:
    """One of the names, as likely as its weight says."""
    at, chosen = rng.random() * sum(weights.values()), ""
    for name, weight in weights.items():
        if weight > 0:
            chosen = name
            at -= weight
            if at < 0:
                break
    return chosen


@dataclass(frozen=True)
class Settings:
    """What scenes may contain; see `World`."""

    difficulty: float = 1.0
    classes: Sequence[tuple[str, str]] = SEEN
    unseen_styles: bool = False


def _style(rng: Random, settings: Settings, shape: str, size: str) -> str:
    """Strokes alone are kept from circles, which they would make rings, and from what is too small for them."""
    if settings.unseen_styles:
        return pick(rng, HELD_OUT_STYLES)
    if rng.random() >= 0.8 * settings.difficulty:
        return "flat"
    if size == "small" or shape in ("circle", "ring"):
        return pick(rng, ("gradient", "shadow", "sketch", "soft"))
    return pick(rng, ("gradient", "shadow", "sketch", "soft", "outline"))


def _between(rng: Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _contrast(thing: Thing) -> float:
    fine = thing.size == "small" or thing.style == "outline" or thing.is_glyph
    return FINE_CONTRAST if fine else CONTRAST


def _background(rng: Random, settings: Settings, things: Sequence[Thing]) -> Background:
    """One that all these stand out from, also from its pattern; a little less where nothing else is left for a pair."""
    wanted = [(thing.rgb, _contrast(thing)) for thing in things]
    tries = 0
    while True:
        tries += 1
        if tries > 40:
            wanted = [(rgb, 0.995 * least) for rgb, least in wanted]
        tone = pick(rng, _TONE_TABLE)
        red, green, blue = TONE_RGB[tone]
        rgb = shifted((red, green, blue), _between(rng, -8, 8))
        pattern, second = "plain", rgb
        if rng.random() < 0.65 * settings.difficulty:
            pattern = pick(rng, ("gradient", "horizon", "striped", "speckled", "cloudy"))
            step = _between(rng, 16, 30) if pattern == "striped" else _between(rng, 28, 62)
            light = luma(rgb)
            up = light < 60 or (light < 190 and rng.random() < 0.5)
            second = shifted(rgb, step if up else -step)
        if all(distance(own, rgb) >= least and distance(own, second) >= least for own, least in wanted):
            return Background(tone, pattern, rgb, second)


def _thing(rng: Random, settings: Settings, pair: tuple[str, str], size: str, diameter: float) -> Thing:
    """An object in the middle."""
    colour, shape = pair
    style = _style(rng, settings, shape, size)
    texture = "plain"
    if size != "small" and style != "outline" and rng.random() < 0.4 * settings.difficulty:
        texture = pick(rng, TEXTURES[1:])
    turn = TURNS[shape] * (0.25 + 0.75 * settings.difficulty)
    angle = _between(rng, -turn, turn)
    return Thing(colour, shape, size, texture, style, 0.5, 0.5, diameter, angle, shade(colour, rng))


def moved(thing: Thing, x: float, y: float) -> Thing:
    """The same thing elsewhere. `dataclasses.replace` takes ten times as long."""
    return Thing(
        thing.colour,
        thing.shape,
        thing.size,
        thing.texture,
        thing.style,
        x,
        y,
        thing.diameter,
        thing.angle,
        thing.rgb,
    )


def _size(rng: Random, settings: Settings, sizes: Sequence[str]) -> str:
    """Each as likely, but small ones only as often as the difficulty says."""
    if sizes[0] == "small" and rng.random() >= settings.difficulty:
        sizes = sizes[1:]
    return pick(rng, sizes)


def _placed(rng: Random, thing: Thing, reach: float) -> Thing:
    """Somewhere where all of it is seen; a third of them near the middle."""
    room = 0.5 - MARGIN - reach * thing.diameter
    spread = min(room, 0.05) if rng.random() < 0.33 else room
    return moved(thing, 0.5 + _between(rng, -spread, spread), 0.5 + _between(rng, -spread, spread))


def _single(rng: Random, settings: Settings) -> tuple[Thing, ...]:
    pair = pick(rng, settings.classes)
    size = _size(rng, settings, ("small", "medium", "large"))
    thing = _thing(rng, settings, pair, size, _between(rng, *DIAMETERS[size]))
    return (_placed(rng, thing, REACH[pair[1]]),)


def _glyph(rng: Random, settings: Settings) -> tuple[Thing, ...]:
    size = pick(rng, ("medium", "large"))
    colour = pick(rng, settings.classes)[0]
    style = "flat"
    if settings.unseen_styles:
        style = "glow"
    elif rng.random() < 0.6 * settings.difficulty:
        style = pick(rng, ("gradient", "shadow", "soft"))
    turn = 14 * settings.difficulty
    diameter, angle = _between(rng, *DIAMETERS[size]), _between(rng, -turn, turn)
    thing = Thing(colour, pick(rng, GLYPHS), size, "plain", style, 0.5, 0.5, diameter, angle, shade(colour, rng))
    return (_placed(rng, thing, 0.62),)


def _other_pair(rng: Random, settings: Settings, pair: tuple[str, str]) -> tuple[str, str]:
    """Another class; often one that shares the colour or the shape, so that both words are needed."""
    share = int(rng.random() * 4)  # 0: the colour, 1: the shape
    others = [other for other in settings.classes if other != pair]
    akin = [other for other in others if other[share] == pair[share]] if share < 2 else []
    return pick(rng, akin or others)


def _pair(rng: Random, settings: Settings) -> tuple[Thing, ...]:
    """Two objects, apart along one axis and nearly level along the other."""
    first = pick(rng, settings.classes)
    pairs = (first, _other_pair(rng, settings, first))
    sizes = [_size(rng, settings, ("small", "medium")) for _ in pairs]
    diameters = [_between(rng, *CROWDED[size]) for size in sizes]
    a, b = (REACH[shape] * diameter for (_, shape), diameter in zip(pairs, diameters, strict=True))
    fit = min(1.0, (0.5 - MARGIN - GAP / 2) / (a + b))
    a, b = a * fit, b * fit
    things = [_thing(rng, settings, *what) for what in zip(pairs, sizes, [d * fit for d in diameters], strict=True)]
    low, high = MARGIN + a, 1 - MARGIN - b  # the outermost places of both
    apart = _between(rng, a + b + GAP, high - low)
    start = _between(rng, low, high - apart)
    level = 0.5 + _between(rng, -0.2, 0.2)
    sway = [min(max(level + _between(rng, -0.07, 0.07), MARGIN + reach), 1 - MARGIN - reach) for reach in (a, b)]
    places = [(start, sway[0]), (start + apart, sway[1])]
    if rng.random() < 0.5:
        places = [(y, x) for x, y in places]
    return tuple(moved(thing, x, y) for thing, (x, y) in zip(things, places, strict=True))


def _apart(rng: Random, n: int, low: float, high: float, least: float) -> list[tuple[float, float]]:
    """Places at least so far from each other: anywhere, then pushed apart until they are."""
    random, span = rng.random, high - low
    while True:
        places = [(low + span * random(), low + span * random()) for _ in range(n)]
        for _ in range(20):
            done = True
            for i in range(1, n):
                for j in range(i):
                    (x, y), (u, v) = places[i], places[j]
                    dx, dy = x - u, y - v
                    away = math.sqrt(dx * dx + dy * dy)
                    if away < least:
                        done = False
                        push = (0.505 * least / away - 0.5) if away > 1e-6 else 0.0
                        dx, dy = dx * push, dy * push
                        places[i] = min(max(x + dx, low), high), min(max(y + dy, low), high)
                        places[j] = min(max(u - dx, low), high), min(max(v - dy, low), high)
            if done:
                return places


def _count(rng: Random, settings: Settings) -> tuple[Thing, ...]:
    """Two to five alike."""
    n = 2 + int(rng.random() * 4)
    size = "small" if n > 3 else _size(rng, settings, ("small", "medium"))
    pair = pick(rng, settings.classes)
    low, high = CROWDED[size]
    thing = _thing(rng, settings, pair, size, _between(rng, low, high if n == 2 else (low + high) / 2))
    reach = REACH[pair[1]] * thing.diameter
    places = _apart(rng, n, MARGIN + reach, 1 - MARGIN - reach, 2 * reach)
    return tuple(moved(thing, x, y) for x, y in places)


_KINDS: Final = {"single": _single, "glyph": _glyph, "pair": _pair, "count": _count}


def sample_scene(rng: Random, settings: Settings, kind: str) -> Scene:
    """A scene of this kind, of classes that the settings allow."""
    things = _KINDS[kind](rng, settings)
    background = _background(rng, settings, things[: 1 if kind == "count" else 2])
    noise = _between(rng, 0, 14) * settings.difficulty
    brightness = round(_between(rng, -14, 14) * settings.difficulty)
    return Scene(kind, things, background, noise, brightness)
