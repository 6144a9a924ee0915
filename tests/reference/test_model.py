"""The reference against definitions written another way: loops, `math`, finite differences, symmetries."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.params import random_params
from npsiglip.reference import image_tower, siglip, text_tower
from npsiglip.reference.loss import softplus
from npsiglip.reference.model import (
    FORGET,
    attention,
    block,
    extract_patches,
    gelu_erf,
    gelu_tanh,
    l2_normalize,
    layer_norm,
    linear,
    map_head,
    sigmoid,
    softmax,
)
from tests.helpers.arrays import close

CONFIG = SigLIPConfig(
    ImageConfig(width=12, depth=2, num_heads=3, mlp_dim=20, image_size=17, patch_size=5),
    TextConfig(width=10, depth=1, num_heads=2, mlp_dim=14, seq_len=6, vocab_size=31, projection_dim=12),
)
PARAMS = random_params(CONFIG, seed=3, dtype=np.float64)

seeds = st.integers(0, 2**32 - 1)


def rows(limit):
    """Float64 [rows, columns] within +-limit."""
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 9))
    return arrays(np.float64, shapes, elements=st.floats(-limit, limit))


# elementwise and per row


@given(rows(1e4))
def test_softmax_is_a_distribution_and_keeps_order(x):
    p = softmax(x)
    close(p.sum(axis=-1), np.ones(len(x)))
    assert (p >= 0).all()
    assert (np.diff(np.take_along_axis(p, np.argsort(x, axis=-1), axis=-1), axis=-1) >= 0).all()


@given(rows(30), st.floats(-1e3, 1e3))
def test_softmax_ignores_a_shift(x, shift):
    close(softmax(x + shift), softmax(x), atol=1e-12)


@given(rows(30))
def test_softmax_is_its_definition(x):
    for p, row in zip(softmax(x), x, strict=True):
        total = math.fsum(math.exp(v) for v in row)
        close(p, np.array([math.exp(v) / total for v in row]))


@given(st.floats(-700, 700))
def test_sigmoid_and_softplus_are_their_definitions(x):
    assert sigmoid(np.float64(x)) == pytest.approx(1 / (1 + math.exp(-x)), rel=1e-14)
    assert softplus(np.float64(x)) == pytest.approx(max(x, 0) + math.log1p(math.exp(-abs(x))), rel=1e-15)
    assert sigmoid(np.float64(x)) + sigmoid(np.float64(-x)) == pytest.approx(1, rel=1e-15)
    # -log sigmoid(x) = softplus(-x), where the left side has digits
    if abs(x) < 30:
        assert -math.log(sigmoid(np.float64(x))) == pytest.approx(softplus(np.float64(-x)), abs=1e-14)


def test_sigmoid_and_softplus_do_not_overflow():
    x = np.array([-1e308, -800.0, 800.0, 1e308])
    np.testing.assert_array_equal(sigmoid(x), [0, 0, 1, 1])
    np.testing.assert_array_equal(softplus(x), [0, 0, 800, 1e308])


@given(st.floats(-30, 30))
def test_gelu_tanh_identities(x):
    x = np.float64(x)
    assert gelu_tanh(x) - gelu_tanh(-x) == pytest.approx(x, rel=1e-14)  # g(x) = x Phi(x), Phi(x) + Phi(-x) = 1
    assert gelu_tanh(x) >= -0.1701
    # 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)); the left side cancels where x is far below zero
    twin = x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) if x > -8 else 0.0
    assert gelu_tanh(x) == pytest.approx(twin, rel=1e-13, abs=1e-14)


@given(st.floats(-37, 37))
def test_gelu_erf_is_x_times_the_normal_distribution(x):
    phi = 0.5 * math.erfc(-x / math.sqrt(2))
    assert gelu_erf(np.float64(x)) == pytest.approx(x * phi, rel=1e-15, abs=0)
    if x > -5:  # below, 1 + erf has few digits left
        assert gelu_erf(np.float64(x)) == pytest.approx(0.5 * x * (1 + math.erf(x / math.sqrt(2))), rel=1e-9, abs=1e-15)


def test_gelu_erf_takes_arrays_of_any_shape():
    assert gelu_erf(np.empty((0, 3))).shape == (0, 3)
    np.testing.assert_array_equal(gelu_erf(np.array([[0.0, 50.0], [-50.0, 1e100]])), [[0, 50], [0, 1e100]])


def test_gelu_is_the_tanh_form_not_erf():
    erf_form = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    assert gelu_tanh(np.float64(1)) == pytest.approx(0.8411919906082768, abs=1e-15)
    assert 1e-4 < abs(gelu_tanh(np.float64(1)) - erf_form) < 5e-4


@given(rows(100).filter(lambda x: (np.abs(x).max(axis=-1) > 1e-3).all()), st.floats(0.01, 100))
def test_l2_normalize_has_length_one_and_ignores_scale(x, scale):
    z = l2_normalize(x)
    close(np.array([math.hypot(*row) for row in z]), np.ones(len(x)))
    close(l2_normalize(scale * x), z)
    close(z * np.linalg.norm(x, axis=-1, keepdims=True), x)


def test_l2_normalize_has_no_epsilon():
    with np.errstate(invalid="ignore"):
        assert np.isnan(l2_normalize(np.zeros((1, 3)))).all()
    assert l2_normalize(np.array([[3e-30, 4e-30]])) == pytest.approx(np.array([[0.6, 0.8]]))


@given(st.integers(1, 5), st.integers(2, 40), st.floats(1e-3, 100), st.floats(-100, 100), seeds)
def test_layer_norm_moments(n, width, spread, shift, seed):
    rng = np.random.default_rng(seed)
    x, eps = spread * rng.standard_normal((n, width)), 1e-6
    y = layer_norm(x, 1.0, 0.0, eps)
    var = np.array([math.fsum((v - math.fsum(row) / width) ** 2 for v in row) / width for row in x])
    close(y.mean(axis=-1), np.zeros(n), atol=1e-12)
    close((y**2).mean(axis=-1), var / (var + eps), rtol=1e-11)
    close(layer_norm(x + shift, 1.0, 0.0, eps), y, rtol=1e-8)  # spread 1e-3 around 100 costs 5 digits
    scale, b = rng.standard_normal((2, width))
    close(layer_norm(x, scale, b, eps), y * scale + b)


def test_layer_norm_of_a_constant_row_is_its_bias():
    b = np.array([0.5, -1.5, 2.5])
    np.testing.assert_array_equal(layer_norm(np.full((1, 3), 7.0), np.ones(3), b, 1e-6), b[None])


# patches


@given(st.integers(1, 2), st.integers(3, 13), st.integers(3, 13), st.integers(1, 3), seeds)
def test_patches_times_weights_are_a_convolution(n, height, width, patch, seed):
    rng = np.random.default_rng(seed)
    out, rows_, columns = 2, height // patch, width // patch
    pixels = rng.standard_normal((n, 3, height, width))
    kernel = rng.standard_normal((out, 3, patch, patch))  # a convolution's (out, channel, row, column)
    w = np.empty((patch * patch * 3, out))
    expected = np.zeros((n, rows_ * columns, out))
    for o, c, y, x in np.ndindex(kernel.shape):
        w[(y * patch + x) * 3 + c, o] = kernel[o, c, y, x]
        for i, row, column in np.ndindex(n, rows_, columns):
            value = pixels[i, c, row * patch + y, column * patch + x]
            expected[i, row * columns + column, o] += kernel[o, c, y, x] * value
    close(extract_patches(pixels, patch) @ w, expected)


# attention and what is built on it


def attention_by_loops(params, name, x_q, x_kv, num_heads):
    """[Lq, D], [L, D] -> [Lq, D], one number at a time."""
    q, k, v = (linear(params, f"{name}.{part}", x) for part, x in (("q", x_q), ("k", x_kv), ("v", x_kv)))
    width = q.shape[-1]
    head_dim = width // num_heads
    mix = np.zeros_like(q)
    for i in range(len(q)):
        for head in range(num_heads):
            own = range(head * head_dim, (head + 1) * head_dim)
            weights = [math.exp(sum(q[i, d] * kj[d] for d in own) / math.sqrt(head_dim)) for kj in k]
            for d in own:
                mix[i, d] = sum(w * vj[d] for w, vj in zip(weights, v, strict=True)) / sum(weights)
    return linear(params, f"{name}.out", mix)


NAME = "image.blocks.00.attn"


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 7), st.sampled_from([1, 2, 3, 4]), seeds)
def test_attention_is_its_definition(n, queries, tokens, num_heads, seed):
    rng = np.random.default_rng(seed)
    x_q, x_kv = rng.standard_normal((n, queries, 12)), rng.standard_normal((n, tokens, 12))
    trace = {}
    out = attention(PARAMS, NAME, x_q, x_kv, num_heads, trace)
    for i in range(n):
        close(out[i], attention_by_loops(PARAMS, NAME, x_q[i], x_kv[i], num_heads))
    assert trace[f"{NAME}.probs"].shape == (n, num_heads, queries, tokens)
    close(trace[f"{NAME}.probs"].sum(axis=-1), np.ones((n, num_heads, queries)))


@given(st.integers(1, 9), seeds)
def test_attention_and_blocks_do_not_know_the_order_of_tokens(tokens, seed):
    rng = np.random.default_rng(seed)
    x, order = rng.standard_normal((2, tokens, 12)), rng.permutation(tokens)
    close(attention(PARAMS, NAME, x, x[:, order], 3), attention(PARAMS, NAME, x, x, 3))
    close(
        block(PARAMS, "image.blocks.00", x[:, order], 3, 1e-6),
        block(PARAMS, "image.blocks.00", x, 3, 1e-6)[:, order],
    )
    close(map_head(PARAMS, "image.map_head", x[:, order], 3, 1e-6), map_head(PARAMS, "image.map_head", x, 3, 1e-6))


def test_one_token_attends_to_itself():
    x = np.random.default_rng(0).standard_normal((2, 1, 12))
    expected = linear(PARAMS, f"{NAME}.out", linear(PARAMS, f"{NAME}.v", x))
    close(attention(PARAMS, NAME, x, x, 3), expected)


def test_probe_reaches_the_map_head_only_through_attention():
    # with one token the attention is that token, whatever the probe is; a residual of the probe would show
    x = np.random.default_rng(0).standard_normal((2, 1, 12))
    other = PARAMS | {"image.map_head.probe": PARAMS["image.map_head.probe"] + 5.0}
    close(map_head(other, "image.map_head", x, 3, 1e-6), map_head(PARAMS, "image.map_head", x, 3, 1e-6))


# towers


def inputs(seed=0, images=3, texts=4):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (images, 3, 17, 17)), rng.integers(0, 31, (texts, 6))


def test_image_tower_crops_what_the_patch_does_not_divide():
    pixels, _ = inputs()
    changed = pixels.copy()
    changed[:, :, 15:], changed[:, :, :, 15:] = 9.0, 9.0
    np.testing.assert_array_equal(image_tower(PARAMS, CONFIG.image, changed), image_tower(PARAMS, CONFIG.image, pixels))
    changed[:, :, 14, 14] = 9.0
    assert (image_tower(PARAMS, CONFIG.image, changed) != image_tower(PARAMS, CONFIG.image, pixels)).any()


def test_position_matters_in_both_towers():
    pixels, ids = inputs()
    assert (
        np.abs(image_tower(PARAMS, CONFIG.image, pixels[:, :, ::-1]) - image_tower(PARAMS, CONFIG.image, pixels)).max()
        > 1e-2
    )
    swapped = ids[:, [1, 0, 2, 3, 4, 5]]
    assert np.abs(text_tower(PARAMS, CONFIG.text, swapped) - text_tower(PARAMS, CONFIG.text, ids)).max() > 1e-2


def test_text_tower_has_no_causal_mask():
    _, ids = inputs()
    changed, name, traces = ids.copy(), "text.blocks.00.+mlp", ({}, {})
    changed[:, 5] = (ids[:, 5] + 1) % 31
    for x, trace in zip((ids, changed), traces, strict=True):
        text_tower(PARAMS, CONFIG.text, x, trace)
    difference = np.abs(traces[0][name] - traces[1][name]).max(axis=-1)
    assert (difference > 1e-6).all()  # the first position sees the last


@pytest.mark.parametrize("token", [0, 1, 2])
def test_text_tower_has_no_padding_mask(token):
    _, ids = inputs()
    ids[:, 2:4], ids[:, 5] = token, 30
    table = PARAMS["text.token_embed"].copy()
    table[token] *= -1.0
    difference = text_tower(PARAMS | {"text.token_embed": table}, CONFIG.text, ids)
    difference -= text_tower(PARAMS, CONFIG.text, ids)
    assert (np.abs(difference).max(axis=-1) > 1e-6).all()  # the last position sees what padding holds


def test_text_tower_pools_the_last_position():
    _, ids = inputs()
    trace = {}
    text_tower(PARAMS, CONFIG.text, ids, trace)
    np.testing.assert_array_equal(trace["text.pooled"], trace["text.final_ln"][:, 5])


def test_text_of_one_token():
    p, eps = PARAMS, CONFIG.text.layer_norm_eps
    token = np.array([[17]])
    x = p["text.token_embed"][17] + p["text.pos_embed"][0]
    y = layer_norm(x, p["text.blocks.00.ln1.scale"], p["text.blocks.00.ln1.b"], eps)
    x = x + linear(p, "text.blocks.00.attn.out", linear(p, "text.blocks.00.attn.v", y))
    y = layer_norm(x, p["text.blocks.00.ln2.scale"], p["text.blocks.00.ln2.b"], eps)
    x = x + linear(p, "text.blocks.00.mlp.fc2", gelu_tanh(linear(p, "text.blocks.00.mlp.fc1", y)))
    x = layer_norm(x, p["text.final_ln.scale"], p["text.final_ln.b"], eps)
    close(text_tower(p, CONFIG.text, token), linear(p, "text.head", x)[None])


def test_images_and_texts_do_not_see_each_other():
    pixels, ids = inputs()
    together = siglip(PARAMS, CONFIG, pixels, ids)
    for i in range(3):
        for j in range(4):
            close(siglip(PARAMS, CONFIG, pixels[i : i + 1], ids[j : j + 1])[0, 0], together[i, j], atol=1e-12)


def test_logits_and_probabilities():
    pixels, ids = inputs()
    trace = {}
    logits = siglip(PARAMS, CONFIG, pixels, ids, trace)
    cosines = trace["zimg"] @ trace["ztxt"].T
    assert np.abs(cosines).max() <= 1
    close(logits, 117.0 * cosines - 12.9)
    close(trace["probs"], 1 / (1 + np.exp(-logits)))
    np.testing.assert_array_equal(trace["logits"], logits)


def test_tracing_changes_nothing():
    pixels, ids = inputs()
    trace = {}
    np.testing.assert_array_equal(siglip(PARAMS, CONFIG, pixels, ids), siglip(PARAMS, CONFIG, pixels, ids, trace))
    assert len(FORGET) == 0
    assert {value.dtype for value in trace.values()} == {np.dtype(np.float64)}


# the loss
