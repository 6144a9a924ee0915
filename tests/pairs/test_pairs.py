"""Pairs of others: what is read, what is said of each, and what cannot be.

Covers pairs/base.py, pairs/emoji.py, pairs/fields.py, pairs/folders.py, pairs/guess.py,
pairs/opening.py, pairs/settings.py and pairs/tars.py.
"""

import json
from collections import Counter
from random import Random

import numpy as np
import pytest

from npsiglip.errors import InputError
from npsiglip.pairs.base import Words
from npsiglip.pairs.opening import of_class, open_pairs
from tests.helpers import pairs_data
from tests.helpers.pairs_data import settings


def opened(**values):
    return open_pairs(settings(**values), "data.sources[0]")


def mean_colour(image):
    return np.asarray(image.convert("RGB"))[4:-4, 4:-4].mean(axis=(0, 1))


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
