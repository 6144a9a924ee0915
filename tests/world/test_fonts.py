"""Glyphs of every font are different, and what is missing without matplotlib."""

import pytest

from npsiglip.errors import InputError
from npsiglip.world import (
    World,
)
from npsiglip.world.fonts import FONTS, fonts_of, glyph_mask
from npsiglip.world.vocabulary import GLYPHS
from tests.helpers.worlds import SINGLE


def test_glyphs_are_all_different_and_o_is_not_0():
    for font in FONTS:
        masks = [glyph_mask(font, glyph, 24) for glyph in GLYPHS]
        assert len({mask.tobytes() for mask in masks}) == len(GLYPHS)
        assert all(20 <= mask.height <= 36 and mask.getextrema()[1] > 200 for mask in masks)
    assert not {*fonts_of("O")} & {*fonts_of("0")}


def test_without_matplotlib(monkeypatch):
    monkeypatch.setattr("npsiglip.world.fonts.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"npsiglip\[train\]"):
        World()
    World(mix=SINGLE).sample(0)
