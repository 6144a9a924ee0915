"""The same picture from the same number, batches without a caption that is true twice, settings that cannot be."""

import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from npsiglip.errors import InputError
from npsiglip.world import (
    COLOURS,
    World,
)
from npsiglip.world.claims import shown
from tests.helpers.worlds import SINGLE, digest, is_plain, says

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
    code = "from tests.helpers.worlds import World, digest; print(digest(World(4)), digest(World(4, 48, 'test')))"
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
