"""How pictures are shown: cut, turned, mirrored, recoloured, on another background."""

from random import Random

import numpy as np
from PIL import Image

from npsiglip.pairs.settings import AugmentSettings
from npsiglip.train.augment import recolouring, reduced, shown

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


def test_an_outline_is_dark_where_the_picture_changes_and_white_elsewhere():
    half = np.zeros((40, 40, 3), np.uint8)
    half[:, 20:] = (250, 120, 30)
    result = shown(Image.fromarray(half), 40, Random(0), AugmentSettings(outline=1.0, colour=0.5), False)
    assert (result == result[..., :1]).all()
    dark = result[..., 0] < 128
    assert set(np.flatnonzero(dark.any(axis=0))) == {20}  # the brighter side of the edge
    assert dark[1:-1, 20].all()
    assert (result[:, :15] == 255).all()
    assert result.min() == 0


def test_an_outline_of_one_colour_is_white():
    plain = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    result = shown(plain, 40, Random(0), AugmentSettings(outline=1.0, background=("noise",)), False)
    assert (result == 255).all()


def test_ink_keeps_colours_and_darkens_edges():
    half = np.full((40, 40, 3), (40, 60, 80), np.uint8)
    half[:, 20:] = (250, 120, 30)
    result = shown(Image.fromarray(half), 40, Random(0), AugmentSettings(ink=1.0), False)
    np.testing.assert_array_equal(result[:, :15], half[:, :15])
    np.testing.assert_array_equal(result[:, 25:], half[:, 25:])
    assert (result[1:-1, 20] < half[1:-1, 20] // 4).all()  # the brighter side of the edge
    assert (result <= half).all()


def test_half_in_ink_is_half():
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, (24, 24, 3), np.uint8))
    rng, settings = Random(5), AugmentSettings(ink=0.5)
    inked = [(shown(picture, 24, rng, settings, False) != np.asarray(picture)).any() for _ in range(400)]
    assert 160 < sum(inked) < 240  # four standard deviations of 200
