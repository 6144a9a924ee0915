"""Gradients of the reference's pieces against finite differences, and against what must hold exactly.

Of whole towers and models: test_backward_whole.py. tests/parity/test_backward_parity.py compares all of them with
torch's autograd.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.params import random_params
from npsiglip.reference import backward, model, siglip_loss_and_gradients
from tests.helpers.gradients import (
    CONFIG,
    EPS,
    PARAMS,
    assert_gradient,
    assert_piece_with_params,
    frozen,
    normal,
    weighed,
    weights,
)

seeds = st.integers(0, 2**32 - 1)
few = st.integers(1, 4)


@given(few, few, st.floats(0.1, 4), seeds)
def test_gelu_tanh(n, width, spread, seed):
    x = spread * normal(seed, n, width)
    c = weights(seed, x.shape)
    # far below zero it is x times the small difference of 1 and tanh, which is off by a rounding of 1
    terms = np.abs(c * x).sum()
    assert_gradient(lambda at: ((c * model.gelu_tanh(at["x"])).sum(), terms), {"x": x}, {"x": backward.gelu_tanh(x, c)})


@given(few, few, st.floats(0.1, 4), seeds)
def test_gelu_erf(n, width, spread, seed):
    x = spread * normal(seed, n, width)
    c = weights(seed, x.shape)
    terms = np.abs(c * x).sum()
    assert_gradient(lambda at: ((c * model.gelu_erf(at["x"])).sum(), terms), {"x": x}, {"x": backward.gelu_erf(x, c)})


def test_the_gradient_of_a_model_is_that_of_its_own_gelu():
    """In every MLP of both towers, the MAP head's among them: a form that one piece forgets shows in its gradient."""
    image = ImageConfig(12, 2, 2, 16, 12, 4, activation="gelu_erf")
    config = SigLIPConfig(image, TextConfig(8, 2, 2, 12, 5, 11, 12, activation="gelu_erf"))
    params = random_params(config, 3, dtype=np.float64)
    pixels, ids = normal(4, 2, 3, 12, 12), np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    _, grads = siglip_loss_and_gradients(params, config, pixels, ids)
    step = 1e-6
    for name in ("image.blocks.00.mlp.fc1.b", "image.map_head.mlp.fc1.b", "text.blocks.01.mlp.fc1.b"):
        direction = normal(5, *params[name].shape)
        ends = [params | {name: params[name] + sign * step * direction} for sign in (1, -1)]
        up, down = (siglip_loss_and_gradients(end, config, pixels, ids)[0] for end in ends)
        assert (up - down) / (2 * step) == pytest.approx((grads[name] * direction).sum(), rel=1e-6)


def test_gelu_tanh_far_out():
    x = np.array([-1e100, -50.0, 0.0, 50.0, 1e100])
    np.testing.assert_array_equal(backward.gelu_tanh(x, np.ones(5)), [0, 0, 0.5, 1, 1])


@given(few, st.integers(1, 9), st.floats(0.1, 4), seeds)
def test_softmax(n, width, spread, seed):
    x = spread * normal(seed, n, width)
    c = weights(seed, x.shape)
    d_x = backward.softmax(model.softmax(x), c)
    assert_gradient(lambda at: weighed(c, model.softmax(at["x"])), {"x": x}, {"x": d_x}, seed)
    assert np.abs(d_x.sum(axis=-1)).max() <= 1e-14  # adding one number to all x changes nothing


@given(few, st.integers(1, 9), seeds)
def test_l2_normalize(n, width, seed):
    x = normal(seed, n, width)
    x *= (1 + 1 / np.linalg.norm(x, axis=-1))[:, None]  # no shorter than 1: steps must be small beside it
    c = weights(seed, x.shape)
    d_x = backward.l2_normalize(x, c)
    assert_gradient(lambda at: weighed(c, model.l2_normalize(at["x"])), {"x": x}, {"x": d_x}, seed)
    assert np.abs((d_x * x).sum(axis=-1)).max() <= 1e-13  # stretching x changes nothing
    np.testing.assert_allclose(backward.l2_normalize(3 * x, c), d_x / 3, rtol=0, atol=1e-14)


@given(few, few, st.integers(1, 9), st.sampled_from([1e-6, 0.3]), seeds)
def test_layer_norm(n, length, width, eps, seed):
    x = normal(seed, n, length, width)
    x[..., 0] = x[..., -1] + 1.0  # steps must be small beside the deviation; of a single number it is zero
    at = {"x": x, "scale": 1 + 0.3 * normal(seed + 1, width), "b": normal(seed + 2, width)}
    c = weights(seed, x.shape)
    gradients = dict(zip(at, backward.layer_norm(x, at["scale"], eps, c), strict=True))
    assert_gradient(lambda at: weighed(c, model.layer_norm(**at, eps=eps)), at, gradients, seed)
    terms = np.abs(c * at["scale"]).max() / np.sqrt(x.var(axis=-1).min() + eps)
    assert np.abs(gradients["x"].sum(axis=-1)).max() <= 1e-14 * terms  # moving all of x changes nothing


@given(few, few, seeds)
def test_linear(n, length, seed):
    name = "image.blocks.00.mlp.fc1"
    assert_piece_with_params(
        name,
        (n, length, 12),
        lambda params, x, trace: model.linear(params, name, x),
        lambda params, x, trace, d_y, grads: backward.linear(params, name, x, d_y, grads),
        seed,
    )


@settings(max_examples=30)
@given(few, few, few, st.sampled_from([1, 2, 3, 4, 6, 12]), seeds)
def test_attention(n, queries, tokens, num_heads, seed):
    name = "image.blocks.00.attn"
    own = {key: x for key, x in PARAMS.items() if key.startswith(name)}
    at = own | {"x_q": normal(seed, n, queries, 12), "x_kv": normal(seed + 1, n, tokens, 12)}
    trace, grads = {}, {}
    out = model.attention(at, name, at["x_q"], at["x_kv"], num_heads, trace)
    c, inputs = weights(seed, out.shape), frozen(at)
    grads["x_q"], grads["x_kv"] = backward.attention(
        inputs, name, inputs["x_q"], inputs["x_kv"], num_heads, frozen(trace), c, grads
    )
    assert_gradient(lambda at: weighed(c, model.attention(at, name, at["x_q"], at["x_kv"], num_heads)), at, grads, seed)
    assert np.abs(grads[f"{name}.k.b"]).max() <= 1e-14 * max(1, np.abs(grads[f"{name}.k.w"]).max())  # seen by nobody


@settings(max_examples=30)
@given(few, few, seeds)
def test_mlp(n, length, seed):
    name = "text.blocks.01.mlp"
    assert_piece_with_params(
        name,
        (n, length, 10),
        lambda params, x, trace: model.mlp(params, name, x, trace),
        lambda params, x, trace, d_y, grads: backward.mlp(params, name, x, trace, d_y, grads),
        seed,
    )


@settings(max_examples=30)
@given(few, few, seeds)
def test_block(n, length, seed):
    name = "image.blocks.01"
    assert_piece_with_params(
        name,
        (n, length, 12),
        lambda params, x, trace: model.block(params, name, x, 3, EPS, trace),
        lambda params, x, trace, d_y, grads: backward.block(params, name, x, 3, EPS, trace, d_y, grads),
        seed,
    )


@pytest.mark.parametrize("tower", ["image", "text"])
def test_blocks(tower):
    config = getattr(CONFIG, tower)
    names = (f"{tower}.blocks.", f"{tower}.final_ln.")
    assert_piece_with_params(
        names,
        (2, 3, config.width),
        lambda params, x, trace: model.blocks(params, tower, x, config, trace),
        lambda params, x, trace, d_y, grads: backward.blocks(params, tower, x, config, trace, d_y, grads),
        seed=0,
    )


@given(few, st.integers(3, 13), st.integers(3, 13), st.integers(1, 3), seeds)
def test_extract_patches(n, height, width, patch_size, seed):
    """A linear map is its own derivative; its gradient is the transposed map: <d, A x> = <A^T d, x>, exactly here."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(-8, 9, (n, 3, height, width)).astype(np.float64)
    patches = model.extract_patches(pixels, patch_size)
    d_patches = rng.integers(-8, 9, patches.shape).astype(np.float64)
    d_pixels = backward.extract_patches(pixels.shape, patch_size, d_patches)
    assert (d_patches * patches).sum() == (d_pixels * pixels).sum()
    np.testing.assert_array_equal(model.extract_patches(d_pixels, patch_size), d_patches)
    rows, columns = height // patch_size * patch_size, width // patch_size * patch_size
    assert not d_pixels[:, :, rows:].any()
    assert not d_pixels[:, :, :, columns:].any()


@settings(max_examples=30)
@given(few, few, seeds)
def test_map_head(n, length, seed):
    name = "image.map_head"
    assert_piece_with_params(
        name,
        (n, length, 12),
        lambda params, x, trace: model.map_head(params, name, x, 3, EPS, trace),
        lambda params, x, trace, d_y, grads: backward.map_head(params, name, x, 3, EPS, trace, d_y, grads),
        seed,
    )
