"""What parameters start as: at random, from another model, or the whitening patch embedding from pictures."""

import numpy as np
import pytest

from npsiglip import InputError
from npsiglip.params import param_shapes
from npsiglip.reference.model import extract_patches
from npsiglip.train.config import read_config
from npsiglip.train.data import Pixels
from npsiglip.train.initial import FLOOR, cosines, initial_params, params_of, whitening
from npsiglip.world import World
from tests.helpers.train_standin import config, tables


@pytest.fixture(scope="module")
def pictures():
    return World(seed=3, image_size=40, mix={"single": 1.0}).batch(0, 64)[0]


@pytest.mark.parametrize("size", [1, 2, 8, 16])
def test_cosines_are_orthonormal(size):
    basis = cosines(size)
    np.testing.assert_allclose(basis @ basis.T, np.eye(size), atol=1e-14)  # sums of 16 products below 1
    np.testing.assert_allclose(basis[0], size**-0.5, rtol=1e-15)  # the mean comes first


def embedded(pictures, patch_size, width, scale):
    """What patches become, through the pixels and the order of patches that the model itself uses."""
    made = whitening(pictures, patch_size, width, scale)
    x = extract_patches(Pixels()(pictures).astype(np.float64), patch_size)
    return (x @ made["image.patch_embed.w"] + made["image.patch_embed.b"]).reshape(-1, width)


@pytest.mark.parametrize(("patch_size", "width"), [(8, 48), (8, 192), (4, 48), (16, 24)])
def test_outputs_have_no_mean_and_one_variance(pictures, patch_size, width):
    y = embedded(pictures, patch_size, width, 3.0)
    # an output of variance v is divided by sqrt(v + floor mean(v)): 9 v / (v + floor mean(v)), at most 9
    variance = y.var(axis=0)
    assert np.all(variance < 9.0 * (1 + 1e-4))
    assert variance[0] > 9.0 / (1 + FLOOR)  # the first has more than the mean variance
    assert np.all(np.diff(variance) < 1e-4)  # in the order of their variance
    np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=3e-4)  # float32 weights of up to 100, 192 of them


def test_colours_and_brightness_come_out_apart(pictures):
    """A grey picture differs from its mean in the outputs of brightness alone."""
    made = whitening(pictures, 8, 192, 1.0)
    w = made["image.patch_embed.w"].reshape(8, 8, 3, 192).sum(axis=2)  # the same number in all channels
    grey = np.abs(w).max(axis=(0, 1)) > 1e-3
    assert grey.sum() == 64


def test_width_beyond_the_patch(pictures):
    with pytest.raises(InputError, match="at most 48 outputs with patches of 4, got 64"):
        whitening(pictures, 4, 64, 1.0)


@pytest.fixture(scope="module")
def wide():
    content = tables()
    content["model"]["image"] |= {"width": 96, "mlp_dim": 384, "depth": 2}
    content["model"]["text"] |= {"width": 96, "mlp_dim": 384, "depth": 2, "vocab_size": 500}
    return read_config(content).siglip


def test_initial_parameters_have_the_deviations_of_big_vision(wide):
    params = initial_params(wide, 0, 2.0, -9.0)
    assert list(params) == list(param_shapes(wide))
    xavier = {(96, 96): (2 / 192) ** 0.5, (96, 384): (2 / 480) ** 0.5, (384, 96): (2 / 480) ** 0.5}
    for name, value in params.items():
        assert value.dtype == np.float32
        last = name.rsplit(".", 1)[-1]
        if name in ("image.patch_embed.w", "text.head.w"):
            deviation, limit = value.shape[0] ** -0.5, 2 * value.shape[0] ** -0.5 / 0.8796
        elif last == "w":
            deviation = xavier[value.shape]
            limit = 3**0.5 * deviation
        elif last in ("pos_embed", "token_embed"):
            deviation, limit = 96**-0.5, None
        elif last == "probe":
            deviation, limit = (2 / 97) ** 0.5, (6 / 97) ** 0.5
        elif ".mlp." in name:
            deviation, limit = 1e-6, None
        elif name in ("t_prime", "bias"):
            assert value == {"t_prime": 2.0, "bias": -9.0}[name]
            continue
        else:
            assert np.all(value == (last == "scale")), name
            continue
        few = 4 / (2 * value.size) ** 0.5  # of the estimate's own deviation, for normal values; smaller for others
        assert value.std() == pytest.approx(deviation, rel=few), name
        assert abs(value.mean()) < 4 * deviation / value.size**0.5, name
        if limit:
            assert 0.9 * limit < np.abs(value).max() <= limit * (1 + 1e-6), name


def test_every_parameter_has_a_stream_of_its_own(wide):
    content = tables()
    content["model"]["image"]["depth"] = 3
    shallow, deep = (initial_params(c, 5, 0.0, 0.0) for c in (config().siglip, read_config(content).siglip))
    for name, value in shallow.items():
        np.testing.assert_array_equal(value, deep[name])
    values = [v.tobytes() for k, v in deep.items() if v.size > 100 and not k.endswith((".b", ".scale"))]
    assert len(set(values)) == len(values)
    assert np.any(initial_params(config().siglip, 6, 0.0, 0.0)["text.head.w"] != shallow["text.head.w"])


def test_parameters_of_a_folder(tiny_folder, tiny_config):
    whole = params_of(tiny_folder, tiny_config)
    assert list(whole) == list(param_shapes(tiny_config))
    image = params_of(tiny_folder, tiny_config, "image")
    assert all(name.startswith("image.") for name in image)
    np.testing.assert_array_equal(image["image.pos_embed"], whole["image.pos_embed"])
    with pytest.raises(InputError, match=r"embed.w, \[model\] asks for \[192, 16\]: leave \[model.image\] out"):
        params_of(tiny_folder, config().siglip, "image")
