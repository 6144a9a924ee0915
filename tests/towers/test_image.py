"""The image tower with patches of every size and grids of another shape.

Every path that a model has (reference, kernels in three types, patches from outside, training) against plain formulas.
"""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from npsiglip import Checkpoint, SigLIP, reference, save_folder
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.element_types import DTYPES
from npsiglip.metrics import relative_l2
from npsiglip.params import cast, random_params
from npsiglip.reference import interpolate_antialias, interpolate_bicubic
from npsiglip.towers import image as image_tower
from npsiglip.train.layers import Scratch
from npsiglip.train.towers import Common, TrainedImageTower
from tests.helpers.train_steps import filled, flat_params

dtypes = pytest.mark.parametrize("dtype", DTYPES)
ROUNDING = {"float32": 1e-6, "bfloat16": 2.0**-8, "int8": 2.0**-8}  # of a product outside of blocks
TEXT = TextConfig(width=12, depth=2, num_heads=2, mlp_dim=18, seq_len=7, vocab_size=23, projection_dim=12)


def pixels_of(n, height, width, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3, height, width)).astype(np.float32)


# -- the order of a patch ---------------------------------------------------------------------------------------------


def convolution(pixels, w, b, size):
    """Patches [N, L, D] of a strided convolution, w [D, 3, P, P] as torch has it; one pixel of a patch at a time."""
    rows, columns = (side // size for side in pixels.shape[2:])
    out = np.zeros((len(pixels), rows, columns, len(w))) + b
    for y in range(size):
        for x in range(size):
            lit = pixels[:, :, y : rows * size : size, x : columns * size : size].astype(np.float64)
            out += np.einsum("nchw,dc->nhwd", lit, w[:, :, y, x].astype(np.float64))
    return out.reshape(len(pixels), -1, len(w))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 14, 15, 16, 17, 28, 32])
def test_patches_of_every_size(tmp_path, size):
    config = SigLIPConfig(
        ImageConfig(width=12, depth=1, num_heads=2, mlp_dim=14, image_size=2 * size, patch_size=size), TEXT
    )
    params = random_params(config, seed=size)
    save_folder(tmp_path / "model", config, params)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    place = "vision_model.embeddings.patch_embedding"
    w, b = stored[f"{place}.weight"], stored[f"{place}.bias"]
    assert w.shape == (12, 3, size, size)
    pixels = pixels_of(2, 2 * size, 2 * size)
    expected = convolution(pixels, w, b, size)
    trace = {}
    reference.image_tower(cast(params, np.float64), config.image, pixels, trace)
    assert relative_l2(trace["image.patch_embed"], expected) < 1e-12
    for dtype in DTYPES:
        model = SigLIP(config, Checkpoint.open(tmp_path / "model"), dtype=dtype)
        assert relative_l2(model.trace(pixels)["image.patch_embed"], expected) < ROUNDING[dtype]
    flexible = SigLIP(replace(config, image=replace(config.image, naflex=True)), params)
    patches = pixels.reshape(2, 3, 2, size, 2, size).transpose(0, 2, 4, 3, 5, 1).reshape(2, 4, -1)
    batch = {"pixel_values": patches, "pixel_attention_mask": np.ones((2, 4), int), "spatial_shapes": [[2, 2]] * 2}
    batch["spatial_shapes"] = np.array(batch["spatial_shapes"])
    assert relative_l2(flexible.trace(batch)["image.patch_embed"], expected) < ROUNDING["float32"]
    trained = flat_params(config)
    for name, value in params.items():
        trained.views[name][...] = value
    common = Common(trained.views, filled(trained).views, Scratch(), "float32")
    tower = TrainedImageTower(config.image, 2, common, 0, False)
    zimg = tower.forward(pixels)
    exact = reference.image_tower(cast(params, np.float64), config.image, pixels)
    assert relative_l2(zimg, exact) < 3e-6


# -- grids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("naflex", [False, True])
def test_positions_of_grids_with_as_many_patches_or_turned(naflex):
    """2 x 8 in a model of 4 x 4; and 3 x 5 behind 5 x 3, which are kept from call to call."""
    config = SigLIPConfig(
        ImageConfig(width=12, depth=1, num_heads=2, mlp_dim=14, image_size=12, patch_size=3, naflex=naflex), None
    )
    params = random_params(config, seed=4)
    table = params["image.pos_embed"].astype(np.float64)
    interpolate = interpolate_antialias if naflex else interpolate_bicubic
    tower = image_tower.ImageTower(params, config.image)
    model = SigLIP(config, params)
    exact = cast(params, np.float64)
    for rows, columns in [
        (4, 4),
        (2, 8),
        (8, 2),
        (16, 1),
        (1, 16),
        (3, 5),
        (5, 3),
        (3, 5),
        (4, 4),
        (5, 3),
        (8, 2),
        (2, 8),
    ]:
        expected = table if (rows, columns) == (4, 4) else interpolate(table, rows, columns)
        assert expected.shape == (rows * columns, 12)
        np.testing.assert_allclose(tower.positions(rows, columns), expected, atol=1e-6)
        pixels, trace = pixels_of(2, 3 * rows, 3 * columns), {}
        if naflex:
            patches = pixels.reshape(2, 3, rows, 3, columns, 3).transpose(0, 2, 4, 3, 5, 1).reshape(2, -1, 27)
            shapes, mask = np.array([[rows, columns]] * 2), np.ones(patches.shape[:2], int)
            pooled = reference.naflex_tower(exact, config.image, patches, mask, shapes, trace)
            batch = {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}
            found = model.encode_image(batch, normalize=False)
        else:
            pooled = reference.image_tower(exact, config.image, pixels, trace)
            found = model.encode_image(pixels, normalize=False, interpolate_pos_encoding=True)
        added = trace["image.embed"] - trace["image.patch_embed"]
        np.testing.assert_allclose(added, np.broadcast_to(expected, added.shape), atol=1e-12)
        assert relative_l2(found, pooled) < 1e-6
