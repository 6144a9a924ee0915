"""The world as a source: its phases, and captions that are given to other pictures."""

import numpy as np
import pytest

from npsiglip.errors import InputError
from npsiglip.train.worlds import WorldSource, mislabelled
from tests.helpers.train_standin import config


def in_world(*phases, noise=0.0, **train):
    content = {"steps": 10, "batch": 3} | train
    made = config(data={"phases": list(phases), "seed": 4, "label_noise": noise}, train=content)
    return WorldSource(made.__class__(**vars(made) | {"model": larger(made.model)}))


def larger(model):
    return model.__class__(image=model.image.__class__(**vars(model.image) | {"image_size": 32}), text=model.text)


def test_phases_of_the_world():
    from npsiglip.world import World

    source = in_world({"fraction": 0.5, "mix": {"glyph": 1.0}}, {"mix": {"count": 1.0}})
    for step, kind in ((0, "glyph"), (4, "glyph"), (5, "count"), (9, "count")):
        pictures, captions = source.batch(step)
        truth = World(4, 32, "train", {kind: 1.0}).batch(step, 3)
        np.testing.assert_array_equal(pictures, truth[0])
        assert captions == truth[1]
    assert len(list(source.captions(7))) == 8  # four of each phase


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"mix": {"circles": 1.0}}, r"data.phases\[0\]: `mix` has \['circles'\]"),
        ({"difficulty": 2.0}, r"data.phases\[0\]: `difficulty` must lie between 0 and 1"),
        ({"difficulty": "hard"}, r"data.phases\[0\]: "),
    ],
)
def test_the_world_refuses(phase, message):
    with pytest.raises(InputError, match=message):
        in_world(phase).world(0)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)])
def test_a_share_of_the_captions_goes_to_other_pictures(share, count):
    captions = [f"caption {i}" for i in range(20)]
    found = mislabelled(captions, share, seed=3, step=7)
    wrong = {i for i in range(20) if found[i] != captions[i]}
    assert len(wrong) == count
    assert {found[i] for i in wrong} == {captions[i] for i in wrong}  # among themselves
    assert captions == [f"caption {i}" for i in range(20)]
    assert found == mislabelled(captions, share, seed=3, step=7)
    if count:
        assert found != mislabelled(captions, share, seed=3, step=8)
        assert found != mislabelled(captions, share, seed=4, step=7)
        more = mislabelled(captions, 1.0, seed=3, step=7)
        assert wrong <= {i for i in range(20) if more[i] != captions[i]}


def test_the_same_pairs_are_wrong_in_every_version():
    """Worked out once: they decide the bits of a run."""
    assert mislabelled(list("abcdefgh"), 0.5, seed=0, step=0) == list("adbhefgc")


def test_noise_leaves_pictures_as_they_are():
    right, wrong = (in_world({}, noise=noise, batch=8).batch(2) for noise in (0.0, 0.5))
    np.testing.assert_array_equal(wrong[0], right[0])
    assert wrong[1] == mislabelled(right[1], 0.5, 4, 2)
    assert sum(a != b for a, b in zip(right[1], wrong[1], strict=True)) == 4
