"""Captions made of names, templates and tags: how often each comes, and what is never said."""

from collections import Counter
from random import Random

from npsiglip.pairs.base import Words
from npsiglip.pairs.wording import Wording, names_a_side
from tests.helpers.pairs_data import settings

WORDS = Words({"en": ["whole one", "whole two"]}, {"en": ["cat", "kitty"], "de": ["Katze"]}, {"en": ["pet"]})


def said(values, words=WORDS, count=4000):
    wording = Wording(settings(kind="classes", path="x", **values))
    found = Counter(wording.caption(words, Random(f"{i}")) for i in range(count))
    return {caption: number / count for caption, number in found.items()}


def test_captions_names_and_languages_come_as_often_as_they_should():
    shares = said({"languages": {"en": 3, "de": 1}, "plain": 1.0})
    expected = {"Katze": 0.25, "whole one": 0.1875, "whole two": 0.1875, "cat": 0.28125, "kitty": 0.09375}
    assert shares.keys() == expected.keys()
    for caption, share in expected.items():  # four deviations of 4,000 draws
        assert abs(shares[caption] - share) < 4 * (share * (1 - share) / 4000) ** 0.5, caption


def test_templates_and_tags():
    words = Words(names={"en": ["cat"]}, tags={"en": ["pet"]})
    shares = said({"templates": {"en": ["a {}", "one {}"]}, "plain": 0.4, "tags": 0.2}, words)
    expected = {"pet": 0.1, "cat, pet": 0.1, "cat": 0.32, "a cat": 0.24, "one cat": 0.24}
    assert shares.keys() == expected.keys()
    for caption, share in expected.items():
        assert abs(shares[caption] - share) < 4 * (share * (1 - share) / 4000) ** 0.5, caption


def test_a_language_that_nothing_is_said_in_is_no_caption():
    assert said({"languages": {"fr": 1}}, count=10) == {None: 1.0}


def test_captions_that_name_a_side():
    assert names_a_side("a star left of a ring")
    assert names_a_side("backhand index pointing: right")
    assert not names_a_side("a bright leftover")
