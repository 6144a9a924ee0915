"""Scenes without their pictures, and what a caption says, read in another way than the world's own."""

import hashlib
import re
from itertools import permutations

from npsiglip.world import COLOURS, Background, Scene, Thing, World
from npsiglip.world import claims as claims_module
from npsiglip.world.captions import (
    COLOUR_WORDS,
    NOUNS,
    NUMBERS,
    PATTERN_WORDS,
    PLACES,
    RELATION_WORDS,
    SIZE_WORDS,
    TEXTURE_AFTER,
    TEXTURE_WORDS,
    UNSEEN,
)

SINGLE = {"single": 1.0}


def described(world, count, first=0):
    """Captions and scenes without their pictures, which take most of the time."""
    return [world._describe(i) for i in range(first, first + count)]


BACKGROUND = Background("white", "plain", (250, 250, 250), (250, 250, 250))


def scene_of(*things, kind="single"):
    return Scene(kind, things, BACKGROUND, 0.0, 0)


def at(colour, shape, x, y, size="small"):
    return Thing(colour, shape, size, "plain", "flat", x, y, 0.25, 0.0, (0, 0, 0))


def digest(world: World):
    sha = hashlib.sha256()
    for i in (0, 1, 2, 50, 10**30):
        image, caption, scene = world.sample(i)
        sha.update(image.tobytes() + caption.encode() + repr(scene).encode())
    pixels, captions = world.batch(3, 12)
    sha.update(pixels.tobytes() + repr(captions).encode())
    return sha.hexdigest()


def is_unseen(caption):
    """Whether a caption is in one of the wordings that training never uses."""
    return any(re.fullmatch(frame.replace("{}", ".*"), caption) for frame in UNSEEN)


def words_of(table, value):
    return "|".join(re.escape(word) for word in table[value])


def says(caption, scene):
    """Whether an English caption is true of a scene, by reading its words: another way than the world's own.

    Only what is beyond doubt is granted: a place or a tone that the world would not name is taken for untrue.
    """
    things = list(scene.things)
    colours = {colour: "|".join({*COLOUR_WORDS.get(colour, ()), colour}) for colour in COLOURS}

    def noun(thing):
        if thing.is_glyph:
            return rf"({colours[thing.colour]}) (letter |digit |number )?{thing.shape}\b"
        nouns = "|".join(one for pair in NOUNS[thing.shape] for one in pair)
        return rf"({colours[thing.colour]}) ({nouns})\b"

    def phrase_of(thing):
        size = rf"(({words_of(SIZE_WORDS, thing.size)}) )?"
        texture = "outlined" if thing.style == "outline" else thing.texture
        before = rf"(({words_of(TEXTURE_WORDS, texture)}) )?" if texture in TEXTURE_WORDS else ""
        after = rf"( ({words_of(TEXTURE_AFTER, texture)}))?" if texture in TEXTURE_AFTER else ""
        return rf"{size}{before}{noun(thing)}{after}"

    frame = r"(this is |there is |there are |here is |a group of |(a|an) (picture|image|drawing|photo) of |the |one )*"
    place = claims_module.position(things[0])
    where = rf"( ({words_of(PLACES, place)}))?" if place else ""
    background = scene.background
    light = 0.299 * background.rgb[0] + 0.587 * background.rgb[1] + 0.114 * background.rgb[2]
    lightness = "|light" if light > 150 else "|dark" if light < 100 else ""
    if background.pattern == "plain":
        tones = rf"a ({background.tone}|{background.tone.replace('grey', 'gray')}{lightness}) background"
    else:
        tones = words_of(PATTERN_WORDS, background.pattern)
    where += rf"( on ({tones}))?"
    if scene.kind == "count":
        return re.fullmatch(rf"{frame}(({len(things)}|{NUMBERS[len(things)]}) ){phrase_of(things[0])}{where}", caption)
    if scene.kind == "glyph":
        thing = things[0]
        other = rf"the (letter|digit|number) {thing.shape} in ({colours[thing.colour]})"
        return re.fullmatch(rf"((a |an |the )?{noun(thing)}|{other}){where}", caption)
    if scene.kind == "pair":
        for a, b in permutations(things):
            relation = words_of(RELATION_WORDS, claims_module.relation(a, b)) + "|and|next to|beside|with"
            if re.fullmatch(rf"{frame}an? {phrase_of(a)} ({relation}) an? {phrase_of(b)}", caption):
                return True
        return False
    return re.fullmatch(rf"{frame}(an? )?{phrase_of(things[0])}{where}", caption)


def is_plain(sample):
    return sample.scene.kind == "single" and not sample.claims.things[0][1] and not sample.claims.scene
