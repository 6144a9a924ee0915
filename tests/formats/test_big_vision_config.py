"""The configuration that the shapes in an npz tell, and what an npz cannot hold."""

from dataclasses import replace

import pytest

from npsiglip.config import ClassifierConfig, SigLIPConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats.big_vision_config import npz_config
from npsiglip.formats.big_vision_names import Form, npz_layouts
from npsiglip.params import random_params
from npsiglip.save import save_npz
from npsiglip.variants import VARIANTS
from tests.helpers.npz_models import BOTH, IMAGE, TEXT


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("stacked", [False, True])
def test_shapes_tell_the_configuration(name, stacked):
    """Of every released model, so also that So400m/14-384 has images of 384 pixels and not of 27 x 14."""
    config = VARIANTS[name].config
    towers = frozenset({"image", "text"}) if stacked else frozenset()
    shapes = {place.key: place.shape for place in npz_layouts(config, towers).values()}
    assert npz_config("x.npz", shapes, Form("", towers)) == config


def test_a_released_image_tower_with_other_texts_is_not_the_released_model():
    """Nobody knows its image size, which then is a multiple of the patch."""
    known = VARIANTS["siglip-so400m-patch14-384"].config
    config = replace(known, text=replace(known.text, vocab_size=999))
    shapes = {place.key: place.shape for place in npz_layouts(config, frozenset()).values()}
    assert npz_config("x.npz", shapes, Form("", frozenset())) == replace(
        config, image=replace(known.image, image_size=27 * 14)
    )


def test_what_an_npz_cannot_hold(tmp_path):
    classifier = SigLIPConfig(IMAGE, None, ClassifierConfig(("a", "b")))
    with pytest.raises(CheckpointError, match="a classifier has no place"):
        save_npz(tmp_path / "x.npz", classifier, random_params(classifier, seed=1))
    other = replace(BOTH, text=replace(TEXT, layer_norm_eps=1e-5))
    with pytest.raises(CheckpointError, match=r"layer_norm_eps is 1e-05, .* its models have 1e-06"):
        save_npz(tmp_path / "x.npz", other, random_params(other, seed=1))
    with pytest.raises(InputError, match=r"must end in \.npz"):
        save_npz(tmp_path / "x", BOTH, random_params(BOTH, seed=1))
    assert list(tmp_path.iterdir()) == []
