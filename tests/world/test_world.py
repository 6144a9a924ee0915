"""The procedural world: the same picture from the same number, captions that are true of their picture alone, nothing
held out in training, grammar, and files that are whole or as they were.
"""

import errno
import hashlib
import io
import json
import math
import re
import subprocess
import sys
import tarfile
from collections import Counter
from itertools import permutations
from random import Random

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from npsiglip.cli import app
from npsiglip.errors import InputError
from npsiglip.world import (
    CLASSES,
    COLOURS,
    HELD_OUT,
    SHAPES,
    Background,
    Scene,
    Thing,
    World,
    class_captions,
    retrieval_pairs,
    zero_shot_pictures,
)
from npsiglip.world import claims as claims_module
from npsiglip.world.captions import (
    COLOUR_WORDS,
    LONGEST,
    NOUNS,
    NUMBERS,
    PATTERN_WORDS,
    PLACES,
    RELATION_WORDS,
    SIZE_WORDS,
    TEXTURE_AFTER,
    TEXTURE_WORDS,
    UNSEEN,
    Wording,
    english,
    with_article,
)
from npsiglip.world.claims import shown
from npsiglip.world.fonts import FONTS, fonts_of, glyph_mask
from npsiglip.world.languages import LANGUAGES, foreign, phrase
from npsiglip.world.palette import ANCHORS, DARKER, LIGHTER, distance
from npsiglip.world.sampling import DIAMETERS, MARGIN, REACH
from npsiglip.world.shapes import TURNS, outline
from npsiglip.world.shards import write_samples
from npsiglip.world.vocabulary import GLYPHS, HELD_OUT_STYLES, KINDS, STYLES
from tests.helpers.golden_data import ROOT

SINGLE = {"single": 1.0}


def described(world, count, first=0):
    """Captions and scenes without their pictures, which take most of the time."""
    return [world._describe(i) for i in range(first, first + count)]


BACKGROUND = Background("white", "plain", (250, 250, 250), (250, 250, 250))


def scene_of(*things, kind="single"):
    return Scene(kind, things, BACKGROUND, 0.0, 0)


def at(colour, shape, x, y, size="small"):
    return Thing(colour, shape, size, "plain", "flat", x, y, 0.25, 0.0, (0, 0, 0))


def digest(world):
    sha = hashlib.sha256()
    for i in (0, 1, 2, 50, 10**30):
        image, caption, scene = world.sample(i)
        sha.update(image.tobytes() + caption.encode() + repr(scene).encode())
    pixels, captions = world.batch(3, 12)
    sha.update(pixels.tobytes() + repr(captions).encode())
    return sha.hexdigest()


# -- a pure function --------------------------------------------------------------------------------------------------


def test_same_bytes_in_any_order_and_object():
    first, second = World(3), World(3)
    backwards = {i: second.sample(i) for i in reversed(range(20))}
    for i in range(20):
        image, caption, scene = first.sample(i)
        assert image.tobytes() == backwards[i].image.tobytes()
        assert (caption, scene) == (backwards[i].caption, backwards[i].scene)
    a, b = first.batch(5, 10), second.batch(5, 10)
    np.testing.assert_array_equal(a[0], b[0])
    assert a[1] == b[1]


def test_same_bytes_in_another_process():
    code = "from test_world import World, digest; print(digest(World(4)), digest(World(4, 48, 'test')))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "12345", "PATH": ""},
    )
    assert found.stdout.split() == [digest(World(4)), digest(World(4, 48, "test"))]


def test_seed_split_and_index_matter():
    def of(world):
        return [world.sample(i).image.tobytes() for i in range(30)]

    pictures = of(World(0)) + of(World(1)) + of(World(0, split="test"))
    assert len(set(pictures)) == 90
    batches = [World(0).batch(step, 6)[0].tobytes() for step in range(4)]
    assert len(set(batches)) == 4


def test_same_scene_at_every_size():
    small, large = World(2, 40), World(2, 128)
    for i in range(20):
        a, b = small.sample(i), large.sample(i)
        assert (a.caption, a.scene) == (b.caption, b.scene)
        assert (a.image.size, b.image.size) == ((40, 40), (128, 128))
        near = np.asarray(a.image.resize((8, 8), Image.Resampling.BOX), np.float64)
        assert np.abs(near - np.asarray(b.image.resize((8, 8), Image.Resampling.BOX), np.float64)).mean() < 14


def test_caption_is_that_of_the_sample():
    world = World(2)
    assert [world.caption(i) for i in range(20)] == [world.sample(i).caption for i in range(20)]


def test_batch_and_sample_are_rgb_uint8():
    pixels, captions = World(0).batch(0, 5)
    assert (pixels.shape, pixels.dtype, len(captions)) == ((5, 64, 64, 3), np.uint8, 5)
    assert (World(0).sample(0).image.mode, World(0).sample(np.int64(7)).caption) == ("RGB", World(0).sample(7).caption)


# -- held out ---------------------------------------------------------------------------------------------------------


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


# -- captions ---------------------------------------------------------------------------------------------------------


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


def is_plain(sample):
    return sample.scene.kind == "single" and not sample.claims.things[0][1] and not sample.claims.scene


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


GRAMMAR = {
    "German": (
        ["ein kleiner roter Kreis", "ein kleines blaues Quadrat", "drei kleine rosafarbene Herzen"],
        ["einem roten Kreis", "einem blauen Quadrat"],
    ),
    "French": (
        ["un petit cercle rouge", "un petit carré bleu", "trois petits cœurs roses", "une petite étoile verte"],
        ["un cercle rouge", "un carré bleu"],
    ),
    "Spanish": (
        ["un círculo rojo pequeño", "un cuadrado azul pequeño", "tres corazones rosa pequeños"],
        ["un círculo rojo", "un cuadrado azul"],
    ),
    "Italian": (
        ["un piccolo cerchio rosso", "un piccolo quadrato blu", "tre piccoli cuori rosa"],
        ["un cerchio rosso", "un quadrato blu"],
    ),
}
MORE_GRAMMAR = [
    ("German", "yellow", "cross", "large", 2, "zwei große gelbe Kreuze"),
    ("German", "orange", "star", "medium", 1, "ein mittelgroßer orangefarbener Stern"),
    ("German", "green", "triangle", "large", 5, "fünf große grüne Dreiecke"),
    ("French", "blue", "star", "large", 3, "trois grandes étoiles bleues"),
    ("French", "purple", "moon", "small", 2, "deux petites lunes violettes"),
    ("French", "brown", "cross", "small", 4, "quatre petites croix marron"),
    ("French", "orange", "ring", "medium", 1, "un anneau orange de taille moyenne"),
    ("Spanish", "brown", "star", "small", 4, "cuatro estrellas marrones pequeñas"),
    ("Spanish", "blue", "cross", "large", 2, "dos cruces azules grandes"),
    ("Spanish", "yellow", "moon", "medium", 1, "una luna amarilla mediana"),
    ("Italian", "red", "star", "large", 1, "una grande stella rossa"),
    ("Italian", "yellow", "cross", "small", 2, "due piccole croci gialle"),
    ("Italian", "green", "moon", "medium", 5, "cinque lune verdi di media grandezza"),
    ("Italian", "orange", "ring", "large", 3, "tre grandi anelli arancioni"),
]


def plain_thing(colour, shape, size="small"):
    return Thing(colour, shape, size, "plain", "flat", 0.5, 0.5, 0.3, 0.0, (0, 0, 0))


@pytest.mark.parametrize("name", GRAMMAR)
def test_grammar(name):
    language, (phrases, oblique) = LANGUAGES[name], GRAMMAR[name]
    things = [("red", "circle", 1), ("blue", "square", 1), ("pink", "heart", 3), ("green", "star", 1)]
    for expected, (colour, shape, number) in zip(phrases, things, strict=False):
        assert phrase(language, plain_thing(colour, shape), True, number) == expected
    for expected, (colour, shape, _) in zip(oblique, things, strict=False):
        assert phrase(language, plain_thing(colour, shape), oblique=True) == expected


@pytest.mark.parametrize(("name", "colour", "shape", "size", "number", "expected"), MORE_GRAMMAR)
def test_more_grammar(name, colour, shape, size, number, expected):
    assert phrase(LANGUAGES[name], plain_thing(colour, shape, size), True, number) == expected


def test_foreign_sentences():
    pair = scene_of(at("red", "circle", 0.2, 0.5), at("blue", "square", 0.8, 0.5), kind="pair")
    letter, digit = (
        scene_of(at("green", "A", 0.5, 0.5), kind="glyph"),
        scene_of(at("pink", "7", 0.5, 0.5), kind="glyph"),
    )
    corner = scene_of(at("purple", "star", 0.2, 0.8))
    said = {foreign(Random(i), scene, 0.4)[0] for scene in (pair, letter, digit, corner) for i in range(300)}
    assert said >= {
        *("ein roter Kreis links von einem blauen Quadrat", "ein blaues Quadrat rechts von einem roten Kreis"),
        *("ein roter Kreis und ein blaues Quadrat", "ein kleiner violetter Stern unten links"),
        *("un cercle rouge à gauche d'un carré bleu", "un cercle rouge et un carré bleu"),
        *("un círculo rojo a la izquierda de un cuadrado azul", "un círculo rojo y un cuadrado azul"),
        *("un cerchio rosso a sinistra di un quadrato blu", "un cerchio rosso e un quadrato blu"),
        *("une étoile violette en bas à gauche", "una estrella morada abajo a la izquierda"),
        *("una stella viola in basso a sinistra", "der Buchstabe A in Grün", "die Ziffer 7 in Rosa"),
        *("la lettre A en vert", "le chiffre 7 en rose", "la letra A en verde", "el número 7 en rosa"),
        *("la lettera A in verde", "il numero 7 in rosa"),
    }


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "mix"), [(128, None), (220, None), (150, SINGLE), (120, {"count": 1.0})])
def test_no_caption_of_a_batch_is_true_of_another_picture(size, mix):
    for step in range(2):
        chosen = World(2, mix=mix, languages=0.0)._distinct(step, size)
        pictures = [shown(sample.scene) for sample in chosen]
        for i, sample in enumerate(chosen):
            assert says(sample.caption, sample.scene)
            true = [j for j, other in enumerate(chosen) if says(sample.caption, other.scene)]
            assert true == [i], (sample.caption, [chosen[j].scene for j in true])
            assert [j for j, picture in enumerate(pictures) if sample.claims.true_of(picture)] == [i]


def test_batches_keep_the_mix_and_plain_captions():
    counts, plain = Counter(), 0
    for step in range(12):
        chosen = World(4)._distinct(step, 128)
        counts.update(sample.scene.kind for sample in chosen)
        plain += sum(map(is_plain, chosen))
    for kind, share in {"single": 0.5, "pair": 0.22, "count": 0.16, "glyph": 0.12}.items():
        assert abs(counts[kind] / (12 * 128) - share) < 0.05
    assert plain / counts["single"] > 0.33


def test_every_class_comes_as_often_in_batches():
    seen, plain = Counter(), Counter()
    for step in range(60):
        for sample in World(4, mix=SINGLE, languages=0.0)._distinct(step, 64):
            name = (sample.scene.things[0].colour, sample.scene.things[0].shape)
            seen[name] += 1
            plain[name] += is_plain(sample)
    assert len(seen) == len(+plain) == 56  # + drops zeros
    mean = 60 * 64 / 56
    assert all(abs(n - mean) < 5 * math.sqrt(mean) for n in seen.values())


def test_large_batch_has_distinct_captions():
    captions = [sample.caption for sample in World(1)._distinct(0, 1500)]
    assert len(set(captions)) == 1500


def test_batch_without_distinct_is_the_stream():
    world = World(3, distinct=False)
    pixels, captions = world.batch(2, 4)
    for i in range(4):
        image, caption, _ = world.sample(2 * 2**20 + i)
        assert caption == captions[i]
        np.testing.assert_array_equal(pixels[i], np.asarray(image))


@pytest.mark.parametrize("distinct", [False, True])
def test_batches_of_few_colours(distinct):
    world, seen = World(3, batch_colours=2, distinct=distinct), Counter()
    for step in range(40):
        colours = {thing.colour for sample in world._chosen(step, 24) for thing in sample.scene.things}
        assert len(colours) == 2
        seen.update(colours)
    assert set(seen) == {*COLOURS}


def test_batch_that_cannot_be_filled_says_so(monkeypatch):
    monkeypatch.setattr("npsiglip.world.stream.PATIENCE", 50)
    world = World(0, mix=SINGLE, difficulty=0.0, languages=1.0)
    with pytest.raises(InputError, match="distinct=False"):
        world.batch(0, 3000)


def test_claims_of_pairs_do_not_depend_on_the_order():
    first, second = at("red", "circle", 0.2, 0.5), at("blue", "star", 0.8, 0.5)
    bits = claims_module.RELATIONS
    keys = [(claims_module.thing_key(thing), 0) for thing in (first, second)]
    left = claims_module.ordered(keys[0], keys[1], bits["left"], 0)
    assert left == claims_module.ordered(keys[1], keys[0], bits["right"], 0)
    above = claims_module.ordered(keys[0], keys[1], bits["above"], 0)
    assert above == claims_module.ordered(keys[1], keys[0], bits["below"], 0)
    for things in ((first, second), (second, first)):
        picture = shown(scene_of(*things, kind="pair"))
        assert left.true_of(picture)
        assert not above.true_of(picture)
    turned = shown(scene_of(at("red", "circle", 0.8, 0.5), at("blue", "star", 0.2, 0.5), kind="pair"))
    assert not left.true_of(turned)
    alone = claims_module.Claims((keys[1],))
    assert alone.true_of(turned)
    assert not left.true_of(shown(scene_of(first)))


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


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_stay_within_their_reach(shape):
    points = outline(shape).outer.astype(np.float64)
    turns = np.radians(np.linspace(-TURNS[shape], TURNS[shape], 41))
    corners = [
        points @ np.array([[1, 0], [shear, 1]]) @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
        for a in turns
        for shear in (-0.06, 0.06)
    ]
    farthest = max(np.abs(corner).max() for corner in corners)
    assert farthest <= REACH[shape] * 1.04  # stretched by up to 7 %, which the margin takes
    assert farthest > 0.85 * REACH[shape] / 1.07


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


def distances(pixels, rgb):
    """`palette.distance` of every pixel."""
    pixels, rgb = pixels.astype(np.float64), np.asarray(rgb, np.float64)
    red, d = (pixels[..., 0] + rgb[0]) / 512, pixels - rgb
    return np.sqrt(((2 + red) * d[..., 0] ** 2 + 4 * d[..., 1] ** 2 + (3 - red) * d[..., 2] ** 2) / 3)


def seen_colour(pixels, scene):
    """The colour that most pixels around the object come nearest to, those left out that the background explains."""
    thing, size = scene.things[0], len(pixels)
    y, x = np.mgrid[:size, :size] + 0.5
    near = pixels[(x - thing.x * size) ** 2 + (y - thing.y * size) ** 2 < (thing.diameter * size / 2) ** 2]
    near = near.astype(np.int64) - scene.brightness
    names = [(c, rgb) for c in COLOURS for rgb in (*ANCHORS[c], LIGHTER[c], DARKER[c])]
    behind = scene.background
    shadows = [tuple(int(v * dark) for v in behind.rgb) for dark in (0.5, 0.25)]
    names += [("", rgb) for rgb in (behind.rgb, behind.second, (250, 250, 246), (18, 18, 22), *shadows)]
    nearest = np.argmin([distances(near, rgb) for _, rgb in names], axis=0)
    votes = Counter(names[i][0] for i in nearest)
    del votes[""]
    return votes.most_common(1)[0][0]


def test_colours_can_be_told():
    world, right = World(9, mix=SINGLE), 0
    for i in range(500):
        image, _, scene = world.sample(i)
        right += seen_colour(np.asarray(image), scene) == scene.things[0].colour
    assert right >= 495  # 99.85 % of 2,000; the others are strokes that enclose more background than they cover


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


def test_pictures_show_what_the_scene_says():
    """Objects are where they are said to be: outside their reach, nothing but background."""
    world = World(3, mix={"single": 1.0, "count": 1.0, "pair": 1.0}, difficulty=0.0)
    y, x = (np.mgrid[:64, :64] + 0.5) / 64
    for i in range(100):
        image, _, scene = world.sample(i)
        different = distances(np.asarray(image), scene.background.rgb) > 20
        covered = np.zeros((64, 64), bool)
        for thing in scene.things:
            reach = REACH[thing.shape] * thing.diameter + 0.02
            inside = (np.abs(x - thing.x) < reach) & (np.abs(y - thing.y) < reach)
            assert different[inside].mean() > 0.12
            covered |= inside
        assert not different[~covered].any()


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


# -- evaluation -------------------------------------------------------------------------------------------------------


def test_class_captions():
    captions = class_captions()
    assert captions[:2] == ["a red circle", "a red square"]
    assert captions[8] == "an orange circle"
    assert captions[-1] == "a brown moon"
    assert [with_article(f"{COLOURS[i // 8]} {SHAPES[i % 8]}") for i in range(64)] == captions


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("unseen_styles", [False, True])
def test_zero_shot_pictures(held_out, unseen_styles):
    pixels, labels = zero_shot_pictures(300, held_out, 1, 48, unseen_styles)
    assert (pixels.shape, pixels.dtype, labels.shape) == ((300, 48, 48, 3), np.uint8, (300,))
    assert {CLASSES[i] for i in labels} <= (HELD_OUT if held_out else {*CLASSES} - HELD_OUT)
    assert len(set(labels.tolist())) >= (8 if held_out else 50)
    unseen = ["combinations"] * held_out + ["styles"] * unseen_styles
    world = World(1, 48, "test", SINGLE, unseen=unseen)
    for i in range(30):
        scene = world.sample(i).scene
        assert CLASSES[labels[i]] == (scene.things[0].colour, scene.things[0].shape)
        np.testing.assert_array_equal(pixels[i], np.asarray(world.sample(i).image))


def test_retrieval_pairs():
    pixels, captions = retrieval_pairs(200, 3)
    assert (pixels.shape, len(set(captions))) == ((200, 64, 64, 3), 200)
    assert captions == World(3, split="test").batch(0, 200)[1]


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "valid"}, "`split` must be one of train, test; got 'valid'"),
        ({"mix": {"singles": 1}}, "`mix` has .'singles'.; expected weights for some of single"),
        ({"mix": {"single": 0}}, "not all 0"),
        ({"mix": {"single": -1, "pair": 2}}, "0 or more"),
        ({"mix": {"single": float("nan")}}, "0 or more"),
        ({"mix": {}}, "not all 0"),
        ({"difficulty": 1.5}, "`difficulty` must lie between 0 and 1, got 1.5"),
        ({"plain": -0.1}, "`plain` must lie"),
        ({"languages": 2}, "`languages` must lie"),
        ({"batch_colours": 0}, "`batch_colours` must be from 1 to 8, got 0"),
        ({"batch_colours": 9}, "`batch_colours` must be from 1 to 8, got 9"),
        ({"colourless": 0.5}, "expected distinct=False"),
        ({"image_size": 16}, "`image_size` must be from 32 to 512 pixels, got 16"),
        ({"image_size": 5000}, "`image_size` must be from 32 to 512 pixels, got 5000"),
        ({"unseen": ["styles"]}, 'expected split="test"'),
        ({"unseen": ["style"], "split": "test"}, "`unseen` has .'style'."),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        World(**settings)


@pytest.mark.parametrize("index", [-1, 1 << 127])
def test_indices_that_cannot_be(index):
    with pytest.raises(InputError, match="from 0 to 2"):
        World().sample(index)


@pytest.mark.parametrize(("step", "size"), [(0, 0), (-1, 4), (0, -3)])
def test_batches_that_cannot_be(step, size):
    with pytest.raises(InputError, match="a step from 0 on and a size from 1"):
        World().batch(step, size)


# -- files ------------------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, ["world", *map(str, arguments)])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tar_and_folder_hold_the_stream(tmp_path):
    world = World(7, 48)
    write_samples(world, 3, tmp_path / "w.tar")
    write_samples(world, 3, tmp_path / "w")
    with tarfile.open(tmp_path / "w.tar") as archive:
        names = archive.getnames()
        files = {name: archive.extractfile(name).read() for name in names}
    assert names == [f"{i:06}.{suffix}" for i in range(3) for suffix in ("png", "txt", "json")]
    assert contents(tmp_path / "w") == files
    for i in range(3):
        image, caption, scene = world.sample(i)
        stored = Image.open(io.BytesIO(files[f"{i:06}.png"]))
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(image))
        assert files[f"{i:06}.txt"].decode() == caption
        facts = json.loads(files[f"{i:06}.json"])
        assert (facts["index"], facts["seed"], facts["split"], facts["kind"]) == (i, 7, "train", scene.kind)
        assert [thing["shape"] for thing in facts["things"]] == [thing.shape for thing in scene.things]
    write_samples(world, 3, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "w.tar").read_bytes()


def test_command_writes_and_says_so(tmp_path):
    result = run("--out", tmp_path / "w.tar", "--count", 2, "--size", 32, "--split", "test", "--unseen", "styles")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "2 pictures with captions in" in result.stderr
    with tarfile.open(tmp_path / "w.tar") as archive:
        facts = json.loads(archive.extractfile("000001.json").read())
    assert facts["split"] == "test"
    assert facts["things"][0]["style"] in HELD_OUT_STYLES


@pytest.mark.parametrize("name", ["w.tar", "w"])
def test_nothing_is_replaced_without_force(tmp_path, name):
    out = tmp_path / name
    assert run("--out", out, "--count", 2).exit_code == 0
    before = out.read_bytes() if out.is_file() else contents(out)
    result = run("--out", out, "--count", 1, "--seed", 5)
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert before == (out.read_bytes() if out.is_file() else contents(out))
    assert run("--out", out, "--count", 1, "--seed", 5, "--force").exit_code == 0
    if out.is_dir():
        assert sorted(contents(out)) == ["000000.json", "000000.png", "000000.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_folder_with_other_files_is_never_replaced(tmp_path):
    out = tmp_path / "photos"
    out.mkdir()
    assert run("--out", out, "--count", 1).exit_code == 0  # an empty folder is as good as none
    (out / "holiday.jpg").write_bytes(b"precious")
    result = run("--out", out, "--count", 1, "--force")
    assert result.exit_code == 1
    assert "holiday.jpg" in result.stderr
    assert (out / "holiday.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "w.tar", "--count", 0], "must be 1 or more, got 0"),
        (["--out", "w.tar", "--count", -4], "must be 1 or more, got -4"),
        (["--out", "none/w.tar"], "cannot be written"),
        (["--out", "none/w"], "cannot be written"),
        (["--out", "folder.tar"], "is a folder"),
        (["--out", "file"], "is a file"),
        (["--out", "w", "--size", 8], "must be from 32 to 512"),
        (["--out", "w", "--unseen", "styles"], 'split="test"'),
    ],
)
def test_what_cannot_be_written(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "file").write_text("text")
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr.replace("\n", " ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.tar"]


@pytest.mark.parametrize("name", ["w.tar", "w"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_full_disk_or_interrupt_loses_nothing(tmp_path, monkeypatch, name, error):
    out = tmp_path / name
    write_samples(World(1, 32), 2, out)
    before = out.read_bytes() if out.is_file() else contents(out)

    def fail(world, index):
        if index == 1:
            raise error
        return {"png": b"half"}

    monkeypatch.setattr("npsiglip.world.shards.sample_files", fail)
    result = run("--out", out, "--count", 3, "--force")
    assert result.exit_code == (1 if isinstance(error, OSError) else 130)
    if isinstance(error, OSError):
        assert "No space left on device" in result.stderr
    assert before == (out.read_bytes() if out.is_file() else contents(out))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    out = tmp_path / "w"
    write_samples(World(1, 32), 1, out)
    before, rename = contents(out), type(out).rename

    def fail(self, target):
        if self.name == "new":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(out), "rename", fail)
    with pytest.raises(InputError, match="Input/output error"):
        write_samples(World(2, 32), 1, out, force=True)
    assert contents(out) == before


def test_progress_is_told(tmp_path):
    told = []
    write_samples(World(1, 32, mix=SINGLE), 3, tmp_path / "w", say=lambda done, count: told.append((done, count)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_random_numbers_are_those_that_stay():
    """Python promises that `random()` keeps its sequence for a seed, whatever the version; nothing else is used."""
    assert Random(1 << 100 | 7).random() == Random((1 << 100) + 7).random()
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "npsiglip" / "world").glob("*.py"))
    assert not re.search(r"\brng\.(choice|randint|randrange|shuffle|sample|gauss|uniform|choices)\b", source)
