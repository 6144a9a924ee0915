"""Pairs of others as sources of a training: what is read, what is said, how it is shown, which comes when."""

import json
import pickle
from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from PIL import Image

from npsiglip.errors import InputError
from npsiglip.pairs.base import Words
from npsiglip.pairs.opening import of_class, open_pairs
from npsiglip.pairs.settings import AugmentSettings, SourceSettings
from npsiglip.pairs.wording import Wording, names_a_side
from npsiglip.train import TrainingError
from npsiglip.train.augment import recolouring, reduced, shown
from npsiglip.train.mixture import Mixture
from npsiglip.train.order import Order
from tests.helpers import pairs_data
from tests.helpers.train_standin import config


def settings(**values):
    source = config(data={"sources": [values]}).data.sources[0]
    assert isinstance(source, SourceSettings)
    return source


def opened(**values):
    return open_pairs(settings(**values), "data.sources[0]")


def mean_colour(image):
    return np.asarray(image.convert("RGB"))[4:-4, 4:-4].mean(axis=(0, 1))


# -- what is read -----------------------------------------------------------------------------------------------------


def test_a_folder_of_classes(tmp_path):
    pairs = opened(kind="classes", path=str(pairs_data.class_folder(tmp_path / "c")))
    assert len(pairs) == 9
    assert pairs.words(0) == Words(names={"en": ["a blue thing"]})
    assert Counter(pairs.class_of(i) for i in range(9)) == {f"a_{name}-thing": 3 for name in pairs_data.COLOURS}
    for i in range(9):
        name = pairs.words(i).names["en"][0].split()[1]
        assert np.allclose(mean_colour(pairs.read(i, Random(0))), pairs_data.COLOURS[name])


def test_a_text_beside_each_picture(tmp_path):
    pairs = opened(kind="captions", path=[str(pairs_data.caption_folder(tmp_path / "c"))])
    assert [pairs.words(i).captions for i in range(len(pairs))] == [
        {"en": [f"a {name} block", f"one block, {name}"]} for name in ("blue", "green", "red")
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_with_several_languages(tmp_path, suffix):
    rows = [{"file": f"{n}.png", "en": f"a {n} one", "zh": f"{n} 一个", "kind": n} for n in pairs_data.COLOURS]
    path = pairs_data.table(tmp_path / f"t{suffix}", rows)
    pairs = opened(
        kind="captions", path=str(path), picture="file", captions={"en": "en", "zh": "zh"}, labels={"en": ["kind"]},
        class_by="kind",
    )  # fmt: skip
    assert pairs.words(1) == Words({"en": ["a green one"], "zh": ["green 一个"]}, {"en": ["green"]})
    assert [pairs.class_of(i) for i in range(3)] == list(pairs_data.COLOURS)
    assert np.allclose(mean_colour(pairs.read(2, Random(0))), pairs_data.COLOURS["blue"])


def test_webdataset_tars_are_read_where_they_lie(tmp_path):
    for name in ("a", "b"):
        pairs_data.tar(tmp_path / f"{name}.tar")
    pairs = opened(
        kind="webdataset", path=str(tmp_path / "*.tar"), captions={"en": "en"}, labels={"en": ["kind"]}, class_by="kind"
    )
    assert len(pairs) == 12
    assert pairs.words(7) == Words({"en": ["the green one"]}, {"en": ["green block"]})
    assert pairs.where(7).endswith("b.tar: x/green0")
    for i in range(12):
        colour = pairs_data.COLOURS[pairs.words(i).names["en"][0].split()[0]]
        assert np.allclose(mean_colour(pairs.read(i, Random(0))), colour)


def test_emoji_by_several_designers_in_several_languages(tmp_path):
    root = pairs_data.emoji(tmp_path / "e")
    pairs = opened(
        kind="emoji",
        path=[str(root / "one"), str(root / "two")],
        names=str(root / "names"),
        languages={"en": 1, "de": 1},
    )
    assert len(pairs) == 6  # the regional indicator has no name
    assert [pairs.class_of(i) for i in range(6)] == [key for key in pairs_data.EMOJI for _ in "12"]
    assert pairs.words(5).names == {"en": ["waving hand"], "de": ["de waving hand"]}
    assert pairs.words(5).tags["de"] == ["de tag of waving hand"]
    assert pairs.read(3, Random(0)).mode == "RGBA"


def test_drawings_come_with_another_pen_each_time(tmp_path):
    pairs = opened(kind="drawings", path=str(pairs_data.drawings(tmp_path / "d.ndjson.gz")), of_class=[1, 3])
    assert len(pairs) == 6
    assert of_class(pairs, settings(kind="drawings", path="x", of_class=[1, 3])) == [1, 2, 4, 5]
    first, again, other = (np.asarray(pairs.read(1, Random(seed))) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    middle = np.asarray(pairs.read(0, Random(0)))[96, 96, 3]  # the stroke goes from corner to corner
    assert middle > 0


def test_synonyms_and_translations_from_a_file(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"cat": {"de": ["Katze"], "en": ["kitty"]}}))
    pairs = opened(kind="drawings", path=str(pairs_data.drawings(tmp_path / "d.gz")), names=str(path))
    assert pairs.words(0).names == {"en": ["cat", "kitty"], "de": ["Katze"]}
    assert pairs.words(3).names == {"en": ["house"]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "emoji", "path": "x"}, "of kind 'emoji' needs `names`"),
        ({"kind": "classes"}, "of kind 'classes' needs `path`"),
        ({"kind": "clases", "path": "x"}, "kind must be one of 'world', 'captions'"),
        ({"kind": "classes", "path": "x", "wieght": 1}, "unknown key `wieght`: did you mean `weight`"),
        ({"kind": "classes", "path": 3}, "path must be a list of one or more; got 3"),
        ({"kind": "classes", "path": "x", "weight": -1}, "weight must be at least 0, got -1"),
        ({"kind": "classes", "path": "x", "of_class": [3, 3]}, "leaves nothing"),
        ({"kind": "classes", "path": "x", "of_class": [3]}, "must be a list of 2, got"),
        ({"kind": "classes", "path": "x", "templates": {"en": ["a photo"]}}, "'a photo' needs {} once"),
        ({"kind": "classes", "path": "x", "languages": {"en": 0}}, "languages.en must be above 0, got 0"),
        ({"kind": "classes", "path": "x", "augment": {"flip": 1}}, "augment.flip must be true or false, got 1"),
        ({"kind": "classes", "path": "x", "augment": {"background": ["wite"]}}, r"background\[0\] must be one of"),
        ({"kind": "webdataset", "path": "x"}, "needs `captions` or `labels`"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(InputError, match=message):
        settings(**values)


def test_sources_that_do_not_fit_each_other():
    world = {"kind": "world"}
    with pytest.raises(InputError, match="'world' more than once"):
        config(data={"sources": [world, world]})
    with pytest.raises(InputError, match=r"phases\[0\].shares has the unknown key `wrld`: did you mean `world`"):
        config(data={"sources": [world], "phases": [{"shares": {"wrld": 1}}]})
    with pytest.raises(InputError, match="leave no source with a weight above 0"):
        config(data={"sources": [world], "phases": [{"shares": {"world": 0}}]})


def test_files_that_are_not_what_they_should_be(tmp_path, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(InputError, match="'x' finds nothing"):
        opened(kind="classes", path="x")
    with pytest.raises(InputError, match=r"'\$NOWHERE/x' finds nothing .* is a \$VARIABLE not set"):
        opened(kind="classes", path="$NOWHERE/x")
    with pytest.raises(InputError, match="has no folders in it; expected one for each class"):
        opened(kind="classes", path=str(tmp_path))
    pairs_data.class_folder(tmp_path / "c", 0)
    with pytest.raises(InputError, match="a_blue-thing has no pictures"):
        opened(kind="classes", path=str(tmp_path / "c"))
    with pytest.raises(InputError, match="no picture with a caption in"):
        opened(kind="captions", path=str(tmp_path / "c"))
    path = pairs_data.table(tmp_path / "t.csv", [{"picture": "red.png", "said": "x"}])
    with pytest.raises(InputError, match="has no column 'text'; it has picture, said"):
        opened(kind="captions", path=str(path), captions={"en": "text"})
    with pytest.raises(InputError, match="which of its columns are `captions` or `labels`"):
        opened(kind="captions", path=str(path))
    (tmp_path / "t.jsonl").write_text('{"picture": "a"')
    with pytest.raises(InputError, match=r"t\.jsonl cannot be read as jsonl"):
        opened(kind="captions", path=str(tmp_path / "t.jsonl"), captions={"en": "text"})
    (tmp_path / "d.ndjson").write_text('{"word": "cat", "drawing": [[[0, 1], [0]]]}\n')
    with pytest.raises(InputError, match="line 1: expected a JSON object with `word` and `drawing`"):
        opened(kind="drawings", path=str(tmp_path / "d.ndjson"))
    root = pairs_data.emoji(tmp_path / "e")
    with pytest.raises(InputError, match="has no 'fr'; it has de, en"):
        opened(kind="emoji", path=str(root / "one"), names=str(root / "names"), languages={"fr": 1})
    with pytest.raises(InputError, match="no picture of an emoji in"):
        opened(kind="emoji", path=str(tmp_path / "c"), names=str(root / "names"))


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_tar_that_ends_too_early(tmp_path, keep):
    path = pairs_data.tar(tmp_path / "a.tar", 8)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size) // 512 * 512 - 300])
    with pytest.raises(InputError, match="cannot be read as a tar, after sample"):
        opened(kind="webdataset", path=str(path), labels={"en": ["kind"]})


def test_a_tar_without_the_keys_that_are_wanted(tmp_path):
    path = pairs_data.tar(tmp_path / "a.tar")
    with pytest.raises(InputError, match="the samples' keys are en, kind"):
        opened(kind="webdataset", path=str(path), labels={"en": ["label"]})


# -- which comes when -------------------------------------------------------------------------------------------------


def test_every_class_comes_once_a_round_and_its_pictures_in_turn():
    order = Order(1, "x", range(12), [*"aaaaaaaa", *"bbb", "c"])
    kinds = "aaaaaaaabbbc"
    rounds = [[order(3 * turn + k) for k in range(3)] for turn in range(24)]
    assert all(sorted(kinds[i] for i in found) == ["a", "b", "c"] for found in rounds)
    of_b = [i for found in rounds for i in found if kinds[i] == "b"]
    assert all(sorted(of_b[k : k + 3]) == [8, 9, 10] for k in range(0, 24, 3))
    of_a = [i for found in rounds for i in found if kinds[i] == "a"]
    assert sorted(of_a[:8]) == list(range(8))
    assert of_a[:8] != of_a[8:16]  # another order each time


@pytest.mark.parametrize("window", [0, 4, 10, 64])
def test_all_pictures_come_before_any_comes_again(window):
    order = Order(1, "x", range(10, 20), [None] * 10, window)
    epochs = [[order(10 * epoch + k) for k in range(10)] for epoch in range(3)]
    assert all(sorted(found) == list(range(10, 20)) for found in epochs)
    assert epochs[0] != epochs[1]
    if window == 4:  # windows of 4, 4 and 2 neighbours, one after the other
        blocks = [(i - 10) // 4 for i in epochs[0]]
        assert sum(a != b for a, b in pairwise(blocks)) == 2


def mixed(tmp_path, **changes):
    folder = tmp_path / "c"
    if not folder.exists():
        pairs_data.class_folder(folder)
        pairs_data.drawings(tmp_path / "d.gz")
        pairs_data.tar(tmp_path / "a.tar", 3, broken=("green1",))
    sources = [
        {"kind": "classes", "path": str(folder), "weight": 3},
        {
            "kind": "drawings",
            "path": str(tmp_path / "d.gz"),
            "augment": {"background": ["plain", "noise"], "crop": 0.5},
        },
        {"kind": "webdataset", "path": str(tmp_path / "a.tar"), "labels": {"en": ["kind"]}, "weight": 0.7},
    ]
    data = {"sources": sources, "phases": [{"fraction": 0.5}, {"shares": {"classes": 0}}], "tokenizer_captions": 100}
    return config(data=data, train={"steps": 10, "batch": 8, **changes})


def test_shares_are_held_over_any_stretch(tmp_path):
    mixture = Mixture(mixed(tmp_path))
    given = np.array([mixture.given(step) for step in range(11)])
    assert (np.diff(given, axis=0).sum(axis=1) == 8).all()
    assert (np.diff(given, axis=0) >= 0).all()
    first = np.array([3, 1, 0.7]) / 4.7
    assert (np.abs(given[:6] - np.arange(6)[:, None] * 8 * first) < 2).all()
    second = np.array([0, 1, 0.7]) / 1.7
    assert (np.abs(given[5:] - given[5] - np.arange(6)[:, None] * 8 * second) < 2).all()


def test_a_batch_follows_from_its_number_in_any_process(tmp_path):
    mixture = Mixture(mixed(tmp_path))
    batches = [mixture.batch(step) for step in range(10)]
    other = pickle.loads(pickle.dumps(mixture))
    for step in (7, 2, 9):
        pictures, captions = other.batch(step)
        assert (pictures == batches[step][0]).all()
        assert captions == batches[step][1]
    assert batches[0][0].shape == (8, 16, 16, 3)
    assert batches[0][0].dtype == np.uint8
    assert (batches[0][0] != batches[1][0]).any()


def test_a_bad_picture_is_named_once_and_passed_over(tmp_path):
    mixture = Mixture(mixed(tmp_path))
    for step in range(10):
        _, captions = mixture.batch(step)
        assert len(captions) == 8
        assert all(captions)
    skipped = mixture.take_skipped()
    assert [name.rpartition(" ")[2] for name in skipped] == ["x/green1"]
    assert mixture.take_skipped() == {}


def test_a_source_of_bad_pictures_ends_the_training(tmp_path):
    every = [f"{name}{i}" for name in pairs_data.COLOURS for i in range(2)]
    path = pairs_data.tar(tmp_path / "a.tar", broken=every)
    source = {"kind": "webdataset", "path": str(path), "labels": {"en": ["kind"]}}
    with pytest.raises(TrainingError, match=r"pictures in a row cannot be decoded, the last .*a\.tar: x/"):
        Mixture(config(data={"sources": [source]})).batch(0)


def test_captions_belong_to_their_pictures(tmp_path):
    source = {"kind": "classes", "path": str(pairs_data.class_folder(tmp_path / "c")), "plain": 1.0}
    pictures, captions = Mixture(config(data={"sources": [source]})).batch(1)
    for image, caption in zip(pictures, captions, strict=True):
        assert np.allclose(image[6:10, 6:10].mean(axis=(0, 1)), pairs_data.COLOURS[caption.split()[1]], atol=2)


# -- what is said -----------------------------------------------------------------------------------------------------

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


# -- how it is shown --------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8))


def test_without_settings_it_is_a_plain_resize():
    expected = np.asarray(PHOTO.resize((32, 32), Image.Resampling.BICUBIC))
    assert (shown(PHOTO, 32, Random(0), AugmentSettings(), False) == expected).all()


def test_a_mirrored_picture_is_the_picture_mirrored():
    square = PHOTO.crop((0, 0, 32, 32))
    found = {shown(square, 32, Random(i), AugmentSettings(flip=True), True).tobytes() for i in range(20)}
    assert found == {np.asarray(square).tobytes(), np.asarray(square)[:, ::-1].tobytes()}
    kept = {shown(square, 32, Random(i), AugmentSettings(flip=True), False).tobytes() for i in range(20)}
    assert kept == {np.asarray(square).tobytes()}


def test_a_turned_picture_is_turned_about_its_centre():
    dot = np.zeros((33, 33, 3), np.uint8)
    dot[16, 28] = 255
    settings = AugmentSettings(rotate=90.0)
    for seed in range(10):
        y, x = np.unravel_index(
            shown(Image.fromarray(dot), 33, Random(seed), settings, False)[..., 0].argmax(), (33, 33)
        )
        assert abs(np.hypot(y - 16, x - 16) - 12) < 1


def test_crops_keep_the_share_of_the_area_that_they_should():
    ramp = np.broadcast_to(np.linspace(0, 255, 256)[None, :, None], (256, 256, 3)).astype(np.uint8)
    widths = []
    for seed in range(200):
        row = shown(Image.fromarray(ramp), 32, Random(seed), AugmentSettings(crop=0.25), False)[16, :, 0].astype(float)
        widths.append((row[-1] - row[0]) / 255 * 32 / 31)
    area = np.square(widths)
    assert 0.22 < area.min() < 0.32
    assert 0.93 < area.max() < 1.05


def test_a_cut_out_stands_whole_on_its_background():
    block = Image.fromarray(np.full((20, 20, 4), (200, 10, 10, 255), np.uint8))
    for seed in range(20):
        result = shown(block, 40, Random(seed), AugmentSettings(crop=0.5), False).astype(int)
        red = result[..., 1] < 60
        assert 17**2 < red.sum() <= 1600
        assert (result[~red].min(axis=0) > 55).all()


def test_the_parts_of_a_recolouring():
    from colorsys import rgb_to_hsv

    colour = np.array([200.0, 120, 40, 1])
    assert np.allclose(recolouring(1, 1, 1, 0) @ colour, colour[:3])
    assert np.allclose(recolouring(0.5, 1, 1, 0) @ colour, colour[:3] / 2)
    assert np.allclose(recolouring(1, 0, 1, 0) @ colour, 127.5)
    assert np.allclose(recolouring(1, 1, 0, 0) @ colour, colour[:3] @ [0.299, 0.587, 0.114])
    assert np.allclose(recolouring(1, 1, 1, 1 / 3) @ colour, [40, 200, 120])  # red to green to blue
    assert abs(rgb_to_hsv(*recolouring(1, 1, 1, 0.1) @ colour / 255)[0] - rgb_to_hsv(*colour[:3] / 255)[0] - 0.1) < 0.02


def test_large_pictures_are_made_smaller_first():
    assert reduced(Image.new("RGB", (1000, 400)), 16).size == (84, 34)
    assert reduced(Image.new("RGB", (60, 40)), 16).size == (60, 40)
