"""The benchmark of training: both sides are given the same pictures and texts, and our side trains on them."""

import numpy as np
import pytest

from benchmarks.training_sides import CONFIG, SETTLE, WORLD, Drawn, Ours, settings_of, source_of
from benchmarks.training_speed import check_losses
from npsiglip.params import random_params
from npsiglip.save import save_folder
from npsiglip.train.data import Batches
from npsiglip.train.tokenizer import train_tokenizer
from tests.helpers import pairs_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model to begin with, and a vocabulary."""
    folder = tmp_path_factory.mktemp("model")
    params = random_params(CONFIG, seed=0) | {"t_prime": np.float32(2.3), "bias": np.float32(-10)}
    save_folder(folder, CONFIG, params, "float32")
    captions = source_of(settings_of(WORLD, 4, 12)).captions(500)
    train_tokenizer(captions, CONFIG.text.vocab_size, folder / "spiece.model")
    return folder


def test_both_sides_see_the_same(folder, tmp_path):
    for pictures in (WORLD, str(pairs_data.class_folder(tmp_path / "classes"))):
        config = settings_of(pictures, 4, 3)
        theirs = Drawn(config, folder / "spiece.model")
        assert len(theirs) == 3
        with Batches(source_of(config), folder / "spiece.model", CONFIG.text.seq_len, range(3), 2) as batches:
            for step in range(3):
                ours, (pixels, ids) = batches.get(), theirs[step]
                np.testing.assert_array_equal(ours.ids, ids)
                # numbers up to 1 in float32, rounded three times
                np.testing.assert_allclose(ours.images, pixels.transpose(0, 3, 1, 2) / 127.5 - 1, atol=1e-6)


def test_our_side_trains(folder):
    steps = SETTLE + 2
    runs = [Ours(folder, 2, True, WORLD).prepare(f"4:{steps}", None).function() for _ in range(2)]
    for found in runs:
        assert found.shape == (steps, 2)
        assert np.all(found[:, 0] > 0)
    np.testing.assert_array_equal(runs[0][:, 1], runs[1][:, 1])  # the same losses
    assert len(np.unique(runs[0][:, 1])) == steps


def test_other_steps_are_not_compared():
    assert check_losses({"npsiglip": 2.0, "torch": 2.001, "in bfloat16": 2.05}) == 2.0
    for other in ({"torch": 2.01}, {"in bfloat16": 2.2}, {"torch": float("nan")}):
        with pytest.raises(SystemExit, match="not the same steps"):
            check_losses({"npsiglip": 2.0} | other)
