"""English captions: what is said of a scene, and in which words.

Every caption names colour and shape, or colour and letter; but for `colourless` ones, for the start of training. About
two in five of single objects say no more, as a class name does; the others add size, texture, place or background.
`UNSEEN` wordings are for tests alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple

from npsiglip.world.claims import (
    BITS,
    COUNT,
    DARK,
    LIGHT,
    PATTERN,
    RELATIONS,
    TONE,
    Claims,
    ordered,
    position,
    position_bits,
    relation,
    thing_key,
)
from npsiglip.world.palette import luma
from npsiglip.world.sampling import pick
from npsiglip.world.scene import Background, Scene, Thing

LONGEST: Final = 16  # words

# the first is the name of the class; plurals beside them
NOUNS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "circle": (("circle", "circles"), ("disc", "discs"), ("disk", "disks")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"), ("five-pointed star", "five-pointed stars")),
    "heart": (("heart", "hearts"), ("heart shape", "heart shapes")),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
    "moon": (("moon", "moons"), ("crescent", "crescents"), ("crescent moon", "crescent moons")),
}
COLOUR_WORDS: Final = {"purple": ("purple", "purple", "violet")}
SIZE_WORDS: Final = {
    "small": ("small", "small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "large", "big", "huge"),
}
TEXTURE_WORDS: Final = {
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted", "polka-dot"),
    "checkered": ("checkered", "checked"),
    "outlined": ("outlined", "hollow"),
}
TEXTURE_AFTER: Final = {
    "striped": ("with stripes",),
    "dotted": ("with dots", "with spots"),
    "checkered": ("with checks",),
}
PLACES: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("left", "level"): ("on the left", "at the left", "on the left side"),
    ("right", "level"): ("on the right", "at the right", "on the right side"),
    ("middle", "top"): ("at the top", "near the top"),
    ("middle", "bottom"): ("at the bottom", "near the bottom"),
    ("middle", "level"): ("in the middle", "in the center", "in the centre"),
    ("left", "top"): ("in the top left corner", "at the top left", "at the upper left"),
    ("right", "top"): ("in the top right corner", "at the top right", "at the upper right"),
    ("left", "bottom"): ("in the bottom left corner", "at the bottom left", "at the lower left"),
    ("right", "bottom"): ("in the bottom right corner", "at the bottom right", "at the lower right"),
}
PATTERN_WORDS: Final = {
    "gradient": ("a gradient background", "a shaded background"),
    "horizon": ("a two-tone background", "a background with a horizon"),
    "striped": ("a striped background", "a background with stripes"),
    "speckled": ("a speckled background", "a background with specks"),
    "cloudy": ("a cloudy background", "a blotchy background"),
}
RELATION_WORDS: Final = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "under", "beneath"),
}
NUMBERS: Final = {2: "two", 3: "three", 4: "four", 5: "five"}

PLAIN: Final = (
    *("a {}",) * 8,
    *("{}",) * 3,
    *("this is a photo of a {}",) * 3,
    "the {}",
    "one {}",
    "a photo of a {}",
    "a picture of a {}",
    "an image of a {}",
    "a drawing of a {}",
)
FRAMES: Final = (
    *("{}",) * 8,
    "a picture of {}",
    "an image of {}",
    "a drawing of {}",
    "a photo of {}",
    "this is a photo of {}",
    "there is {}",
    "here is {}",
)
MANY_FRAMES: Final = (
    *("{}",) * 6,
    "a picture of {}",
    "an image of {}",
    "a photo of {}",
    "this is a photo of {}",
    "there are {}",
    "a group of {}",
)
GLYPH_WORDS: Final = ("the {k} {g} in {c}", "{c} {k} {g}", "a {c} {k} {g}", "a {c} {g}", "the {c} {k} {g}")
UNSEEN: Final = ("look at {}", "we can see {}", "somebody drew {}", "{} and nothing else", "what a nice picture: {}")


def with_article(words: str) -> str:
    """Behind "a" or "an"."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _framed(rng: Random, frames: Sequence[str], words: str) -> str:
    """In a frame, or in the shortest if that would be too long."""
    framed = pick(rng, frames).replace("{}", words)
    return framed if framed.count(" ") < LONGEST else frames[0].replace("{}", words)


class Wording(NamedTuple):
    """How captions are worded."""

    plain: float  # share of single objects of which colour and shape alone are named
    unseen: bool = False  # in frames that training never uses
    full: bool = False  # with all that there is to say

    def framed(self, rng: Random, frames: Sequence[str], words: str) -> str:
        """In one of the frames, or in an unseen one."""
        return _framed(rng, UNSEEN if self.unseen else frames, words)


def _noun(rng: Random, shape: str, plural: bool = False, synonyms: float = 0.25) -> str:
    nouns = NOUNS[shape]
    chosen = nouns[0] if rng.random() >= synonyms else pick(rng, nouns)
    return chosen[plural]


def _colour(rng: Random, colour: str) -> str:
    return pick(rng, COLOUR_WORDS[colour]) if colour in COLOUR_WORDS else colour


def _texture(thing: Thing) -> str:
    """The texture as captions know it, or ""."""
    return "outlined" if thing.style == "outline" else "" if thing.texture == "plain" else thing.texture


def _phrase(rng: Random, thing: Thing, details: Sequence[str], plural: bool = False) -> tuple[str, int]:
    """A noun with its adjectives, without an article, and what it claims beyond the class."""
    before, after, bits = "", "", 0
    if "size" in details:
        before, bits = f"{pick(rng, SIZE_WORDS[thing.size])} ", BITS[thing.size]
    if "texture" in details:
        texture = _texture(thing)
        bits |= BITS[texture]
        if texture in TEXTURE_AFTER and not plural and rng.random() < 0.3:
            after = f" {pick(rng, TEXTURE_AFTER[texture])}"
        else:
            before += f"{pick(rng, TEXTURE_WORDS[texture])} "
    return f"{before}{_colour(rng, thing.colour)} {_noun(rng, thing.shape, plural)}{after}", bits


def _place(rng: Random, place: tuple[str, str], short: bool = False) -> str:
    return PLACES[place][1] if short else pick(rng, PLACES[place])


def _background(rng: Random, background: Background, short: bool = False) -> tuple[str, int]:
    """As in " on a white background", and what that claims."""
    if background.pattern != "plain":
        words = PATTERN_WORDS[background.pattern]
        return f" on {words[0] if short else pick(rng, words)}", PATTERN[background.pattern]
    tone, light = background.tone, luma(background.rgb)
    if rng.random() < 0.25 and not 90 < light < 160:
        return f" on a {'light' if light > 125 else 'dark'} background", LIGHT if light > 125 else DARK
    spelt = tone.replace("grey", "gray") if rng.random() < 0.5 else tone
    return f" on a {spelt} background", TONE[tone]


def _details(rng: Random, available: Sequence[str], most: int, full: bool) -> Sequence[str]:
    """Some of them, at least one, in their order; or all."""
    if full:
        return available
    wanted = 1 + int(rng.random() * min(most, len(available)))
    left, chosen = len(available), list[str]()
    for name in available:
        if rng.random() * left < wanted - len(chosen):
            chosen.append(name)
        left -= 1
    return chosen


def _plain(rng: Random, thing: Thing, unseen: bool) -> str:
    """Colour and shape alone."""
    words = f"{_colour(rng, thing.colour)} {_noun(rng, thing.shape, synonyms=0.2)}"
    if unseen:
        return _framed(rng, UNSEEN, with_article(words))
    frame = pick(rng, PLAIN)
    return frame.replace("a {}", with_article(words)) if "a {}" in frame else frame.replace("{}", words)


def colourless(rng: Random, scene: Scene) -> tuple[str, Claims]:
    """The shape alone, of a single object: "a star". What is returned as claimed is the class all the same."""
    thing = scene.things[0]
    words = with_article(_noun(rng, thing.shape, synonyms=0.2))
    caption = pick(rng, PLAIN).replace("a {}", words).replace("{}", words.split(" ", 1)[1])
    return caption, Claims(((thing_key(thing), 0),))


def _single(rng: Random, scene: Scene, style: Wording) -> tuple[str, Claims]:
    thing, key = scene.things[0], thing_key(scene.things[0])
    if rng.random() < style.plain:
        return _plain(rng, thing, style.unseen), Claims(((key, 0),))
    place = position(thing)
    available = ["size"] + ["texture"] * bool(_texture(thing)) + ["place"] * (place is not None) + ["background"]
    details = _details(rng, available, 2 if style.unseen else 3, style.full)
    words, bits = _phrase(rng, thing, details)
    words, behind, scene_bits = with_article(words), "", 0
    if "background" in details:
        behind, scene_bits = _background(rng, scene.background, style.unseen or words.count(" ") > 4)
    if place and "place" in details:
        short = style.unseen or words.count(" ") + behind.count(" ") > LONGEST - 7
        words, bits = f"{words} {_place(rng, place, short)}", bits | position_bits(place)
    return style.framed(rng, FRAMES, words + behind), Claims(((key, bits),), 0, scene_bits)


def _count(rng: Random, scene: Scene, style: Wording) -> tuple[str, Claims]:
    thing, n = scene.things[0], len(scene.things)
    details: Sequence[str] = []
    if style.full or rng.random() >= style.plain + 0.2:
        details = _details(rng, ["size"] + ["texture"] * bool(_texture(thing)), 2, style.full)
    words, bits = _phrase(rng, thing, details, plural=True)
    words, scene_bits = f"{n if rng.random() < 0.1 else NUMBERS[n]} {words}", COUNT[n]
    if style.full or rng.random() < 0.15:
        behind, more = _background(rng, scene.background, style.unseen)
        words, scene_bits = words + behind, scene_bits | more
    return style.framed(rng, MANY_FRAMES, words), Claims(((thing_key(thing), bits),), 0, scene_bits)


def _pair(rng: Random, scene: Scene, style: Wording) -> tuple[str, Claims]:
    first, second = scene.things if rng.random() < 0.5 else scene.things[::-1]
    phrases = []
    for thing in (first, second):
        details: Sequence[str] = []
        if style.full or rng.random() < 0.3:
            details = _details(rng, ["size"] + ["texture"] * bool(_texture(thing)), 1, False)
        phrases.append(_phrase(rng, thing, details))
    (a, a_bits), (b, b_bits) = phrases
    how, bits = relation(first, second), 0
    if style.full or rng.random() < 0.62:
        joined, bits = pick(rng, RELATION_WORDS[how]), RELATIONS[how]
    else:
        joined = pick(rng, ("and", "and", "and", "next to", "beside", "with"))
    words = f"{with_article(a)} {joined} {with_article(b)}"
    claims = ordered((thing_key(first), a_bits), (thing_key(second), b_bits), bits, 0)
    return style.framed(rng, FRAMES, words), claims


def _glyph(rng: Random, scene: Scene, style: Wording) -> tuple[str, Claims]:
    thing = scene.things[0]
    kind = pick(rng, ("digit", "number")) if thing.shape.isdigit() else "letter"
    colour = _colour(rng, thing.colour)
    words = pick(rng, GLYPH_WORDS).replace("a {c}", with_article(colour)).replace("{c}", colour)
    words = words.replace("{k}", kind).replace("{g}", thing.shape)
    bits = scene_bits = 0
    place = position(thing)
    if place and (style.full or rng.random() < 0.2):
        words, bits = f"{words} {_place(rng, place, style.unseen)}", position_bits(place)
    if style.full or rng.random() < 0.2:
        behind, scene_bits = _background(rng, scene.background, style.unseen)
        words += behind
    claims = Claims(((thing_key(thing), bits),), 0, scene_bits)
    return (_framed(rng, UNSEEN, words) if style.unseen else words), claims


_KINDS: Final[dict[str, Callable[[Random, Scene, Wording], tuple[str, Claims]]]] = {
    "single": _single,
    "count": _count,
    "pair": _pair,
    "glyph": _glyph,
}


def english(rng: Random, scene: Scene, style: Wording) -> tuple[str, Claims]:
    """A caption and what it claims; the words are chosen by `rng`."""
    return _KINDS[scene.kind](rng, scene, style)
