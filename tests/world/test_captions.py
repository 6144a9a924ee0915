"""Captions are true of their picture, short, and grammatical."""

import re
from collections import Counter
from random import Random

import pytest

from npsiglip.world import (
    COLOURS,
    Background,
    Scene,
    Thing,
    World,
)
from npsiglip.world.captions import (
    COLOUR_WORDS,
    LONGEST,
    NOUNS,
    Wording,
    english,
)
from npsiglip.world.claims import shown
from tests.helpers.worlds import SINGLE, described, is_plain, is_unseen, says


def test_captions_are_true_of_their_scene():
    for sample in described(World(5, languages=0.0), 3000):
        assert says(sample.caption, sample.scene), (sample.caption, sample.scene)
        assert sample.claims.true_of(shown(sample.scene)), (sample.caption, sample.scene)


def test_captions_are_short_and_articles_fit():
    world = World(5)
    captions = [sample.caption for sample in described(world, 3000)]
    captions += [sample.caption for sample in World(6)._distinct(0, 1000)]
    captions += [sample.caption for sample in described(World(5, split="test", unseen=["wordings"]), 3000)]
    assert max(len(caption.split()) for caption in captions) <= LONGEST
    for caption in captions:
        assert not re.search(r"\ba [aeio]|\ba un|\ban [^aeiou]|  |[{}]|^ | $", caption), caption


@pytest.mark.parametrize("tone", ["light yellow", "white"])
def test_longest_caption_is_not_too_long(tone):
    background = Background(tone, "plain" if tone == "light yellow" else "horizon", (250, 250, 250), (200, 200, 200))
    thing = Thing("orange", "star", "medium", "dotted", "flat", 0.2, 0.2, 0.4, 0.0, (0, 0, 0))
    scene = Scene("single", (thing,), background, 0.0, 0)
    for unseen in (False, True):
        captions = [english(Random(i), scene, Wording(0.0, unseen, full=True))[0] for i in range(1000)]
        assert 14 <= max(len(caption.split()) for caption in captions) <= LONGEST + 2 * unseen
        assert all(is_unseen(caption) == unseen for caption in captions)


def test_names_of_what_is_there_are_in_every_english_caption():
    for sample in described(World(7, languages=0.0), 2000):
        for thing in sample.scene.things:
            assert any(word in sample.caption for word in COLOUR_WORDS.get(thing.colour, (thing.colour,)))
            nouns = (thing.shape,) if thing.is_glyph else [noun for pair in NOUNS[thing.shape] for noun in pair]
            assert any(noun in sample.caption for noun in nouns)


def test_colourless_captions_name_the_shape_alone():
    world, colours = World(3, mix=SINGLE, distinct=False, colourless=0.5, languages=0.0), {*COLOURS, "violet"}
    without = 0
    for sample in described(world, 1000):
        if not colours & {*sample.caption.split()}:
            without += 1
            nouns = [noun for noun, _ in NOUNS[sample.scene.things[0].shape]]
            assert re.fullmatch(rf".*\b({'|'.join(nouns)})", sample.caption), sample.caption
            assert not re.search(r"[{}]|\ba [aeio]|\ban [^aeiou]|  ", sample.caption)
    assert abs(without / 1000 - 0.5) < 0.07


def test_shares_of_kinds_plain_captions_and_languages():
    samples = described(World(8, languages=0.0), 4000)
    kinds = Counter(sample.scene.kind for sample in samples)
    for kind, share in {"single": 0.5, "pair": 0.22, "count": 0.16, "glyph": 0.12}.items():
        assert abs(kinds[kind] / 4000 - share) < 0.03  # four standard deviations
    assert abs(sum(map(is_plain, samples)) / kinds["single"] - 0.4) < 0.045
    most = Counter(sample.caption for sample in samples).most_common(20)
    assert sum(bool(re.fullmatch(r"an? \w+ \w+", caption)) for caption, _ in most) >= 15  # class names
    foreign = [s for s in described(World(8), 4000) if not says(s.caption, s.scene)]
    assert abs(len(foreign) / 4000 - 0.11) < 0.02
    assert not [s for s in described(World(8, languages=1.0), 300) if s.scene.kind != "glyph" and says(*s[:3:2])]
