"""Pictures that are the same, or nearly: which changes do not hide them, and which are no duplicates."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from npsiglip.evaluation.duplicates import dhash, duplicates, looks_of, same
from npsiglip.evaluation.measure import opaque
from npsiglip.pairs.guess import open_pictures
from npsiglip.pairs.opening import open_pairs
from tests.helpers import pairs_data
from tests.helpers.command import run


def scene(seed, size=(96, 80)):
    """A picture with structure: coarse noise, blurred."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))


def saved_anew(picture):
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=40)
    return Image.open(io.BytesIO(data.getvalue()))


CHANGES = {
    "the same": lambda picture: picture,
    "half": lambda picture: picture.resize((48, 40)),
    "squashed": lambda picture: picture.resize((64, 64)),
    "saved anew": saved_anew,
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.04),
}
OTHERS = {
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "other colours": lambda picture: Image.merge("RGB", picture.split()[::-1]),
    "negative": lambda picture: Image.fromarray(255 - np.asarray(picture)),
}


def folder(root, pictures):
    root.mkdir()
    for i, picture in enumerate(pictures):
        picture.save(root / f"{i:02}.png")
    return open_pictures([str(root)])


def looks(pairs):
    return looks_of(pairs, range(len(pairs)))


def test_the_hash_by_hand():
    grey = np.zeros((8, 9), np.uint8)
    grey[0] = np.arange(9)  # each is darker than its right neighbour: eight ones
    grey[1, 8] = 5  # the last sign of the second row alone
    assert dhash(Image.fromarray(grey).convert("RGB")) == 0xFF01 << 48
    assert dhash(Image.new("RGB", (30, 20), (9, 200, 3))) == 0


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_that_do_not_hide_a_picture(tmp_path, change):
    first = folder(tmp_path / "first", [scene(i) for i in range(20)])
    second = folder(tmp_path / "second", [change(scene(i)) for i in (19, 3, 50, 7)])
    assert same(looks(second), looks(first)) == [(0, 19), (1, 3), (3, 7)]
    assert same(looks(first), looks(second)) == [(3, 1), (7, 3), (19, 0)]


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_what_is_no_duplicate(tmp_path, change):
    first = folder(tmp_path / "first", [scene(i) for i in range(20)])
    assert same(looks(folder(tmp_path / "second", [change(scene(i)) for i in range(20)])), looks(first)) == []


def test_both_measures_are_needed(tmp_path):
    """Flat pictures have one hash, whatever their colour; of two alike the nearer one is named."""
    first = folder(tmp_path / "first", [Image.new("RGB", (20, 20), (c, 30, 60)) for c in (0, 100, 106)])
    second = folder(tmp_path / "second", [Image.new("RGB", (20, 20), (c, 30, 60)) for c in (50, 104)])
    assert len(set(looks(first).hashes) | set(looks(second).hashes)) == 1
    assert same(looks(second), looks(first)) == [(1, 2)]


def test_cut_outs_and_bad_files(tmp_path):
    """A cut-out is what it looks like on white; what cannot be decoded is nobody's duplicate."""
    pairs_data.emoji(tmp_path / "emoji")
    source = pairs_data.settings(
        kind="emoji", path=str(tmp_path / "emoji" / "one"), names=str(tmp_path / "emoji" / "names")
    )
    cut = open_pairs(source, "emoji")
    white = [opaque(cut.read(i, None)) for i in range(len(cut))]
    assert cut.read(0, None).mode == "RGBA"
    second = folder(tmp_path / "second", [white[2], scene(1)])
    (tmp_path / "second" / "01.png").write_bytes(b"no picture")
    found = looks(second)
    assert (found.looked, found.total, len(found.index)) == (2, 2, 1)
    assert duplicates(cut, second) == {cut.where(2): str(tmp_path / "second" / "00.png")}


def test_time_is_bounded(tmp_path):
    pairs = folder(tmp_path / "first", [scene(i) for i in range(5)])
    none = looks_of(pairs, range(5), seconds=-1.0)
    assert (none.looked, none.total, none.colours.shape) == (0, 5, (0, 768))
    assert same(none, looks(pairs)) == same(looks(pairs), none) == []


def test_evaluate_tells(tmp_path):
    for name, colour in pairs_data.COLOURS.items():
        (tmp_path / "test" / name).mkdir(parents=True)
        for i in range(2):
            pairs_data.picture(colour, (24 + 8 * i, 20)).save(tmp_path / "test" / name / f"{i}.png")
    (tmp_path / "train").mkdir()
    pairs_data.picture(pairs_data.COLOURS["red"], (24, 20)).save(tmp_path / "train" / "x.png")
    result = run("evaluate", str(tmp_path / "test"), "--seen", str(tmp_path / "train"), "--json", model=None)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["duplicates"]
    assert found[str(tmp_path / "test" / "red" / "0.png")] == str(tmp_path / "train" / "x.png")
    assert all("/red/" in name for name in found)
    assert "of 6 pictures are among those of --seen" in " ".join(result.stderr.split())
    result = run("evaluate", str(tmp_path / "test"), "--json", model=None)
    assert "duplicates" not in json.loads(result.stdout)
