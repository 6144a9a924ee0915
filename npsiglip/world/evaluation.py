"""What a trained model is measured on: pictures that training never draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from npsiglip.world.captions import with_article
from npsiglip.world.stream import World
from npsiglip.world.vocabulary import CLASSES, COLOURS, SHAPES


def class_captions() -> list[str]:
    """The 64 classes in their order, from "a red circle" to "a brown moon"."""
    return [with_article(f"{colour} {shape}") for colour, shape in CLASSES]


def zero_shot_pictures(
    count: int, held_out: bool, seed: int = 0, image_size: int = 64, unseen_styles: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Single objects of the test split, in every size, texture and background of training.

    Args:
        count: how many.
        held_out: of the 8 combinations that training never shows; otherwise of the 56 others.
        seed: which pictures.
        image_size: their side S.
        unseen_styles: in the styles that training never shows, instead of those it does.

    Returns:
        Pictures [count, S, S, 3], and labels [count]: class i is COLOURS[i // 8], SHAPES[i % 8].
    """
    unseen = ["combinations"] * held_out + ["styles"] * unseen_styles
    world = World(seed, image_size, "test", {"single": 1.0}, distinct=False, unseen=unseen)
    pixels, labels = np.empty((count, image_size, image_size, 3), np.uint8), np.empty(count, np.int64)
    for i in range(count):
        image, _, scene = world.sample(i)
        thing = scene.things[0]
        pixels[i] = np.asarray(image)
        labels[i] = len(SHAPES) * COLOURS.index(thing.colour) + SHAPES.index(thing.shape)
    return pixels, labels


def retrieval_pairs(count: int, seed: int = 0, image_size: int = 64) -> tuple[NDArray[np.uint8], list[str]]:
    """Pictures [count, S, S, 3] of the test split and their captions, all distinct, each true of its own alone.

    Raises:
        InputError: more than can be told apart.
    """
    return World(seed, image_size, "test").batch(0, count)
