"""Mistakes in pixels and token ids: each is named, and honest differences are not. Covers verify/inputs.py as well."""

import numpy as np
import pytest
from PIL import Image

from npsiglip import SigLIP
from npsiglip.hub.resolve import model_folder
from npsiglip.verify import Golden, compare
from npsiglip.verify.operations import IDS, PIXELS
from npsiglip.verify.preprocessing import SUMMARIES, ids_by_mistake, pixels_by_mistake

TEXTS = ["A red circle!", "two blue squares, on a white background"]
LONG = "a red circle and a blue square and a green star " * 8


@pytest.fixture(scope="module")
def model():
    return SigLIP.from_pretrained(model_folder("builtin"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A smooth picture that lies on its side."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8)).resize((130, 90), Image.Resampling.BICUBIC)
    path = tmp_path_factory.mktemp("pictures") / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif, quality=95)
    return path


def named(report, tap):
    found = next(each for each in report.taps if each.tap == tap)
    return [match.name for match in found.diagnosis] if found.diverges else None


def test_pixels(model, picture):
    golden = Golden(model, [picture], TEXTS)
    decoded = [golden.before["image.decoded.0"]]
    size, seen = model.config.image.image_size, set()
    for name, pixels in pixels_by_mistake(decoded, [picture], model.processor, size):
        seen.add(name)
        if not np.array_equal(pixels.shape, golden.inputs[PIXELS].shape):
            continue
        report = compare({PIXELS: pixels.astype(np.float32)}, golden)
        assert named(report, PIXELS) == [name], name
    assert {"bgr", "exif_ignored", "resize_nearest", "centre_crop", "clip_mean_and_deviation"} <= seen
    assert named(compare({PIXELS: golden.inputs[PIXELS]}, golden), PIXELS) is None


def test_alpha(model, tmp_path):
    rgba = np.random.default_rng(1).integers(0, 256, (40, 50, 4)).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    golden = Golden(model, [Image.open(tmp_path / "a.png")], TEXTS)
    dropped = model.processor([Image.fromarray(np.ascontiguousarray(rgba[:, :, :3]))])
    assert named(compare({PIXELS: dropped}, golden), PIXELS) == ["alpha_dropped"]


def test_one_level_is_another_librarys_rounding(model, picture):
    golden = Golden(model, [picture], TEXTS)
    pixels = golden.inputs[PIXELS].copy()
    pixels[0, 0, ::7] += np.float32(2 / 255)
    report = compare({PIXELS: pixels}, golden)
    assert report.verdict == "conforms"
    assert any("off by one level of 256" in what for what in report.assumed)
    pixels[0, 1, 3, 3] += np.float32(0.5)
    report = compare({PIXELS: pixels}, golden)
    assert named(report, PIXELS) == []
    assert "up to 0.5" in report.first.where


@pytest.mark.parametrize("texts", [TEXTS, [*TEXTS, LONG]])
@pytest.mark.filterwarnings("ignore:.*tokens that the model reads")
def test_ids(model, texts):
    golden, seen = Golden(model, None, texts), set()
    for name, ids in ids_by_mistake(texts, model.tokenizer):
        if np.array_equal(ids, golden.inputs[IDS]):
            continue
        seen.add(name)
        found = named(compare({IDS: ids}, golden), IDS)
        assert name in found, name
    assert {"pad_id_0", "padded_left", "not_lowered", "punctuation_kept", "end_missing"} <= seen
    assert ("cut_without_an_end" in seen) == (LONG in texts)
    assert named(compare({IDS: golden.inputs[IDS]}, golden), IDS) is None
    wrong = golden.inputs[IDS].copy()
    wrong[1, 2] += 1
    report = compare({IDS: wrong}, golden)
    assert named(report, IDS) == []
    assert f"first at text 1, position 2: {wrong[1, 2]} instead of" in report.first.where


def test_every_mistake_has_words(model, picture):
    golden = Golden(model, [picture], TEXTS)
    names = {name for name, _ in ids_by_mistake(TEXTS, model.tokenizer)}
    decoded = [golden.before["image.decoded.0"]]
    names |= {name for name, _ in pixels_by_mistake(decoded, [picture], model.processor, 32)}
    assert names <= set(SUMMARIES)
