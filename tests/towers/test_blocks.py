"""Blocks of towers that ordinary models do not have: another epsilon, heads of odd sizes."""

import numpy as np
import pytest

from npsiglip import SigLIP, reference
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.element_types import DTYPES
from npsiglip.metrics import relative_l2
from npsiglip.params import cast, random_params
from npsiglip.train.step import Gradients
from tests.helpers.train_steps import data, flat_params

EPS = 0.3  # against a variance of some 1


LARGE_EPS = SigLIPConfig(
    ImageConfig(width=20, depth=2, num_heads=4, mlp_dim=33, image_size=20, patch_size=5, layer_norm_eps=EPS),
    TextConfig(
        width=18, depth=2, num_heads=2, mlp_dim=30, seq_len=9, vocab_size=50, projection_dim=20, layer_norm_eps=EPS
    ),
)


def norms(config):
    """Name of each LayerNorm -> the tap that it reads."""
    found = {"image.map_head.ln": "image.map_head.attn.out"}
    for tower, depth in (("image", config.image.depth), ("text", config.text.depth)):
        for i in range(depth):
            block = f"{tower}.blocks.{i:02d}"
            found[f"{block}.ln1"] = f"{tower}.blocks.{i - 1:02d}.+mlp" if i else f"{tower}.embed"
            found[f"{block}.ln2"] = f"{block}.+attn"
        found[f"{tower}.final_ln"] = f"{tower}.blocks.{depth - 1:02d}.+mlp"
    return found


def test_every_layer_norm_has_the_epsilon_of_its_tower():
    params = random_params(LARGE_EPS, seed=1)
    pixels, ids = data(LARGE_EPS, 3, 9)
    truth = {}
    reference.siglip(cast(params, np.float64), LARGE_EPS, pixels, ids, truth)
    traces = {"reference": truth} | {
        dtype: SigLIP(LARGE_EPS, params, dtype=dtype).trace(pixels, ids) for dtype in DTYPES
    }
    bounds = {"reference": 1e-12, "float32": 1e-6, "bfloat16": 2.0**-8, "int8": 2.0**-8}
    for kind, trace in traces.items():
        for name, source in norms(LARGE_EPS).items():
            x = np.asarray(trace[source], np.float64).reshape(-1, trace[source].shape[-1])
            scale, b = (params[f"{name}.{part}"].astype(np.float64) for part in ("scale", "b"))
            y = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + EPS) * scale + b
            assert relative_l2(trace[name].reshape(y.shape), y) < bounds[kind], (kind, name)


def test_gradients_with_another_epsilon():
    """Of kernels against the reference, and of the reference against a difference along a random direction."""
    params, (pixels, ids) = flat_params(LARGE_EPS), data(LARGE_EPS, 3, 9)
    wide = {name: value.astype(np.float64) for name, value in params.views.items()}
    loss, truth = reference.siglip_loss_and_gradients(wide, LARGE_EPS, pixels, ids)
    grads = flat_params(LARGE_EPS)
    assert Gradients(LARGE_EPS, 3, 9).step(params, pixels, ids, grads) == pytest.approx(loss, rel=1e-5)
    for name, expected in truth.items():
        if not name.endswith("attn.k.b"):
            assert relative_l2(grads.views[name], expected) < 3e-5, name
        direction = np.random.default_rng(len(name)).standard_normal(expected.shape)
        direction /= np.linalg.norm(direction)
        sides = []
        for step in (1e-4, -1e-4):
            changed = wide | {name: wide[name] + step * direction}
            sides.append(reference.siglip_loss_and_gradients(changed, LARGE_EPS, pixels, ids)[0])
        slope = (sides[0] - sides[1]) / 2e-4
        assert slope == pytest.approx(
            (expected * direction).sum(), rel=1e-4, abs=1e-6 * np.linalg.norm(expected) + 1e-9
        ), name


@pytest.mark.parametrize("head_dim", [1, 3, 9, 15, 17, 33])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_odd_heads(dtype, head_dim):
    """They have no pairs of bfloat16. Cosines measured: 0.9992 and 0.9967 at least."""
    sizes = {"width": 3 * head_dim, "depth": 2, "num_heads": 3, "mlp_dim": 50}
    image = ImageConfig(**sizes, image_size=20, patch_size=5)
    config = SigLIPConfig(image, TextConfig(**sizes, seq_len=9, vocab_size=50, projection_dim=3 * head_dim))
    params = random_params(config, seed=head_dim)
    pixels, ids = data(config, 6, 9)
    truth = {}
    reference.siglip(cast(params, np.float64), config, pixels, ids, truth)
    model = SigLIP(config, params, dtype=dtype)
    for found, expected in ((model.encode_image(pixels), truth["zimg"]), (model.encode_text(ids), truth["ztxt"])):
        cosines = (found * expected).sum(1)
        assert np.all(cosines > {"bfloat16": 0.998, "int8": 0.98}[dtype])
    trace = model.trace(pixels, ids)
    for tower in ("image", "text"):
        for tap in ("attn.q", "attn.k", "attn.v", "attn.probs", "attn.mix"):
            name = f"{tower}.blocks.00.{tap}"
            assert relative_l2(trace[name], truth[name]) < {"bfloat16": 0.03, "int8": 0.1}[dtype], name
