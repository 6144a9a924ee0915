"""What is held out: never shown nor named in training, and all there is in its test."""

import re

import pytest

from npsiglip.world import (
    CLASSES,
    COLOURS,
    HELD_OUT,
    SHAPES,
    Thing,
    World,
)
from npsiglip.world.captions import (
    COLOUR_WORDS,
    NOUNS,
)
from npsiglip.world.languages import LANGUAGES, phrase
from npsiglip.world.vocabulary import HELD_OUT_STYLES, KINDS, STYLES
from tests.helpers.worlds import described, is_unseen


def test_held_out_has_every_colour_and_every_shape_once():
    assert len(CLASSES) == 64
    assert sorted(colour for colour, _ in HELD_OUT) == sorted(COLOURS)
    assert sorted(shape for _, shape in HELD_OUT) == sorted(SHAPES)


def forbidden_words():
    """How captions would name a held-out combination, in every language."""
    for colour, shape in HELD_OUT:
        for word in COLOUR_WORDS.get(colour, (colour,)):
            for nouns in NOUNS[shape]:
                yield from (f"{word} {noun}" for noun in nouns)
        thing = Thing(colour, shape, "small", "plain", "flat", 0.5, 0.5, 0.3, 0.0, (0, 0, 0))
        for language in LANGUAGES.values():
            for number in (1, 2):
                yield phrase(language, thing, number=number).split(" ", 1)[1]
            yield phrase(language, thing, oblique=True).split(" ", 1)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_training_never_shows_or_names_what_is_held_out(kind):
    words = re.compile("|".join(rf"\b{re.escape(w)}\b" for w in forbidden_words()))
    world = World(11, mix={kind: 1.0}, languages=0.4)
    samples = described(world, 3000)
    if kind != "glyph":
        samples += world._distinct(0, 200)
    for sample in samples:
        assert not {(thing.colour, thing.shape) for thing in sample.scene.things} & HELD_OUT
        assert not {thing.style for thing in sample.scene.things} & {*HELD_OUT_STYLES}
        assert not words.search(sample.caption), sample.caption
        assert not is_unseen(sample.caption), sample.caption
    if kind == "single":
        seen = {(thing.colour, thing.shape) for sample in samples for thing in sample.scene.things}
        assert seen == {*CLASSES} - HELD_OUT
        assert {thing.style for sample in samples for thing in sample.scene.things} == {*STYLES}


def test_forbidden_words_are_found_where_they_may_be():
    words = re.compile("|".join(rf"\b{re.escape(w)}\b" for w in forbidden_words()))
    world = World(
        1, split="test", mix={"single": 1.0, "pair": 1.0, "count": 1.0}, languages=0.5, unseen=["combinations"]
    )
    found = [sample for sample in described(world, 300) if words.search(sample.caption)]
    assert len(found) > 150  # all but those with a word in between, as in "a small red and ..."


def test_unseen_is_all_there_is():
    world = World(1, split="test", unseen=["combinations", "styles", "wordings"])
    for sample in described(world, 3000):
        assert is_unseen(sample.caption), sample.caption
        for thing in sample.scene.things:
            assert thing.is_glyph or (thing.colour, thing.shape) in HELD_OUT
            assert thing.style in HELD_OUT_STYLES
