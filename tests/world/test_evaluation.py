"""Pictures and captions for measuring: classes, zero-shot, retrieval."""

import numpy as np
import pytest

from npsiglip.world import (
    CLASSES,
    COLOURS,
    HELD_OUT,
    SHAPES,
    World,
    class_captions,
    retrieval_pairs,
    zero_shot_pictures,
)
from npsiglip.world.captions import (
    with_article,
)
from tests.helpers.worlds import SINGLE


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
