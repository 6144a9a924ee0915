"""Drawings: strokes as another hand might have made them.

Covers pairs/drawings.py.
"""

from random import Random

import numpy as np

from npsiglip.pairs.drawings import drawn, shaken
from npsiglip.pairs.opening import open_pairs
from tests.helpers import pairs_data

ROUNDING = 1e-12  # of numbers up to 255

HOUSE = (
    ((60, 60, 180, 180, 60), (200, 100, 100, 200, 200)),
    ((60, 120, 180), (100, 40, 100)),
    ((110, 112), (150, 150)),
)


def test_a_shaken_drawing_stays_within_its_square_and_keeps_most_of_its_lines():
    kept = []
    for seed in range(200):
        strokes = shaken(HOUSE, Random(seed), 1.0)
        values = np.concatenate([np.asarray(stroke).ravel() for stroke in strokes])
        assert np.isfinite(values).all()
        assert values.min() >= -ROUNDING
        assert values.max() <= 255 + ROUNDING
        assert {len(xs) for xs, _ in strokes} >= {5, 3}  # the walls and the roof are too long to be left out
        kept.append(len(strokes))
    assert 20 < kept.count(2) < 100  # the door handle is left out now and then
    assert kept.count(2) + kept.count(3) == 200


def test_little_shaking_is_the_drawing_moved():
    (xs, ys), *_ = shaken(HOUSE, Random(0), 1e-9)
    assert np.ptp(np.subtract(xs, HOUSE[0][0])) < 1e-6
    assert np.ptp(np.subtract(ys, HOUSE[0][1])) < 1e-6


def test_a_drawing_as_large_as_the_square_is_shrunk_to_fit():
    frame = (((0, 255, 255, 0, 0), (0, 0, 255, 255, 0)),)
    for seed in range(50):
        ((xs, ys),) = shaken(frame, Random(seed), 1.0)
        assert min(*xs, *ys) >= -ROUNDING
        assert max(*xs, *ys) <= 255 + ROUNDING
        assert max(xs) - min(xs) > 150


def test_shaken_drawings_differ_and_are_the_same_again():
    alpha = [np.asarray(drawn(HOUSE, Random(seed), shake=1.0))[..., 3].tobytes() for seed in (1, 2, 1)]
    assert alpha[0] == alpha[2] != alpha[1]


def test_the_setting_shakes_what_is_read(tmp_path):
    path = str(pairs_data.drawings(tmp_path / "d.ndjson.gz"))
    still, moved = (
        open_pairs(pairs_data.settings(kind="drawings", path=path, augment={"shake": shake}), "here")
        for shake in (0, 1)
    )
    assert still.read(0, Random(1)).tobytes() != moved.read(0, Random(1)).tobytes()
