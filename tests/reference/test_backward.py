"""Gradients of the reference against finite differences, piece by piece and whole, and against what must hold exactly.

tests/parity/test_backward_parity.py compares them with torch's autograd.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.params import param_shapes, random_params
from npsiglip.reference import backward, model, siglip_loss_and_gradients, sigmoid_loss, softmax_loss
from npsiglip.reference.loss import cross_entropy

CONFIG = SigLIPConfig(
    ImageConfig(width=12, depth=2, num_heads=3, mlp_dim=20, image_size=17, patch_size=5),
    TextConfig(width=10, depth=2, num_heads=2, mlp_dim=14, seq_len=6, vocab_size=31, projection_dim=12),
)
# A temperature at which few pairs are saturated: where the loss does not move, nothing can be measured.
PARAMS = random_params(CONFIG, seed=3, dtype=np.float64) | {"t_prime": np.array(1.5), "bias": np.array(-2.0)}
EPS = 1e-6

seeds = st.integers(0, 2**32 - 1)
few = st.integers(1, 4)


# the measure


def derivative(f, step):
    """f'(0), and how far it may be off: central differences extrapolated to step 0 (Ridders 1982).

    An error of a central difference is a series in step^2. With steps that are halved, each column of the table
    removes one more power. What a further column or row still changes is the error; rounding, which grows as steps
    shrink, makes that change grow again, so the smallest change is where both are smallest.
    """
    best, error, row = np.nan, np.inf, []
    for _ in range(8):
        new = [(f(step) - f(-step)) / (2 * step)]
        for power, old in enumerate(row, 1):
            new.append(new[-1] + (new[-1] - old) / (4.0**power - 1))
            change = max(abs(new[-1] - new[-2]), abs(new[-1] - old))
            if change < error:
                best, error = new[-1], change
        row, step = new, step / 2
    return best, error


# f is a sum of terms of magnitude S, of which each is off by some roundings: by NOISE S in all. At the smallest step,
# 2^-7 of the first one, a difference is off by NOISE S / step; twice that may hide behind a change that is small by
# luck.
NOISE, STEP = 100 * 2.0**-53, 2.0**-5


def assert_gradient(forward, at, gradients, seed=0, sharp=1e-7):
    """`gradients` are those of sum(c y), y = forward(at), for c from `weights`: along a random direction in each input.

    `forward` takes `at`, name -> array, and returns sum(c y) and the sum of |c y|. `sharp`: the error that a
    derivative may have at most, relative to |gradient| |direction| + S: a measurement that shows nothing fails.
    """
    rng = np.random.default_rng(seed)
    assert set(gradients) == set(at)
    for name, x in at.items():
        assert np.shape(gradients[name]) == np.shape(x), name
        v = rng.standard_normal(np.shape(x))
        v /= np.linalg.norm(v)
        magnitude = forward(at)[1]
        measured, error = derivative(lambda h, v=v, name=name, x=x: forward(at | {name: x + h * v})[0], STEP)
        tolerance = 4 * error + 2 * NOISE * magnitude / (STEP / 128)
        assert tolerance <= sharp * (np.linalg.norm(gradients[name]) + magnitude), f"{name} cannot be measured"
        assert abs(measured - (gradients[name] * v).sum()) <= tolerance, name


def weights(seed, shape):
    """What turns an array into a number: y -> sum(c y), whose gradient by y is c."""
    return np.random.default_rng([seed, 1]).standard_normal(shape)


def weighed(c, y):
    """sum(c y), and the sum of its terms' magnitudes."""
    return (c * y).sum(), np.abs(c * y).sum()


def normal(seed, *shape):
    return np.random.default_rng([seed, 2]).standard_normal(shape)


def frozen(arrays):
    """The same arrays, which whoever writes into them fails on."""
    result = {name: np.array(x) for name, x in arrays.items()}
    for x in result.values():
        x.flags.writeable = False
    return result


def assert_piece_with_params(piece, shape, run, run_backward, seed, params=PARAMS):
    """A piece with parameters below `piece`: gradients of its input x [shape] and of each of its parameters.

    run(params, x, trace) -> y; run_backward(params, x, trace, d_y, grads) -> d_x.
    """
    own = {name: x for name, x in params.items() if name.startswith(piece)}
    at = own | {"x": normal(seed, *shape)}
    trace, grads = {}, {}
    y = run(at, at["x"], trace)
    c = weights(seed, y.shape)
    inputs = frozen(at)
    grads["x"] = run_backward(inputs, inputs["x"], frozen(trace), c, grads)
    assert_gradient(lambda at: weighed(c, run(at, at["x"], model.FORGET)), at, grads, seed)


# the pieces


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


# the towers


def inputs(images=3, texts=4, length=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (images, 3, 17, 17)), rng.integers(0, 31, (texts, length))


def run_image_tower(params, pixels, d_y):
    trace, grads = {}, {}
    model.image_tower(params, CONFIG.image, pixels, trace)
    d_pixels = backward.image_tower(frozen(params), CONFIG.image, pixels, frozen(trace), d_y, grads)
    return grads | {"pixels": d_pixels}


def run_text_tower(params, ids, d_y):
    trace, grads = {}, {}
    model.text_tower(params, CONFIG.text, ids, trace)
    d_tokens = backward.text_tower(frozen(params), CONFIG.text, ids, frozen(trace), d_y, grads)
    return grads, d_tokens


def of(tower):
    return {name: x for name, x in PARAMS.items() if name.startswith(tower)}


def test_image_tower():
    pixels, _ = inputs()
    c = weights(0, (3, 12))
    at = of("image") | {"pixels": pixels}
    assert_gradient(
        lambda at: weighed(c, model.image_tower(at, CONFIG.image, at["pixels"])),
        at,
        run_image_tower(of("image"), pixels, c),
    )


@pytest.mark.parametrize("length", [1, 4, 6])
def test_text_tower(length):
    _, ids = inputs(length=length)
    c = weights(0, (4, 12))
    grads, d_tokens = run_text_tower(of("text"), ids, c)
    assert_gradient(lambda at: weighed(c, model.text_tower(at, CONFIG.text, ids)), of("text"), grads)
    assert d_tokens.shape == (4, length, 10)
    assert not grads["text.pos_embed"][length:].any()
    unseen = np.setdiff1d(np.arange(31), ids)
    assert len(unseen)
    assert not grads["text.token_embed"][unseen].any()


def test_a_token_that_repeats_gets_the_sum():
    ids = np.array([[7, 7, 7, 2, 7, 2]])
    grads, d_tokens = run_text_tower(of("text"), ids, weights(0, (1, 12)))
    np.testing.assert_allclose(grads["text.token_embed"][7], d_tokens[0, [0, 1, 2, 4]].sum(axis=0), rtol=1e-14)
    np.testing.assert_allclose(grads["text.token_embed"][2], d_tokens[0, [3, 5]].sum(axis=0), rtol=1e-14)


def test_pixels_that_no_patch_covers_have_no_gradient():
    d_pixels = run_image_tower(of("image"), inputs()[0], weights(0, (3, 12)))["pixels"]
    assert d_pixels[:, :, :15, :15].all()
    assert not d_pixels[:, :, 15:].any()
    assert not d_pixels[:, :, :, 15:].any()


def test_gradients_of_a_batch_are_the_sum_over_its_rows():
    (pixels, ids), c = inputs(), weights(0, (4, 12))
    whole = run_image_tower(of("image"), pixels, c[:3]) | run_text_tower(of("text"), ids, c)[0]
    pixel_rows = whole.pop("pixels")
    total = dict.fromkeys(whole, 0.0)
    for i in range(4):
        part = run_text_tower(of("text"), ids[i : i + 1], c[i : i + 1])[0]
        if i < 3:
            part |= run_image_tower(of("image"), pixels[i : i + 1], c[i : i + 1])
            np.testing.assert_allclose(part.pop("pixels")[0], pixel_rows[i], rtol=0, atol=1e-13)
        total = {name: x + part.get(name, 0.0) for name, x in total.items()}
    for name, x in whole.items():
        np.testing.assert_allclose(total[name], x, rtol=0, atol=1e-13 * (1 + np.abs(x).max()), err_msg=name)


# the whole


def test_siglip_by_any_gradient_of_logits():
    """3 images, 4 texts."""
    pixels, ids = inputs()
    c, trace, grads = weights(0, (3, 4)), {}, {}
    model.siglip(PARAMS, CONFIG, pixels, ids, trace)
    d_pixels, d_tokens = backward.siglip(frozen(PARAMS), CONFIG, pixels, ids, frozen(trace), c, grads)
    assert_gradient(
        lambda at: weighed(c, model.siglip(at, CONFIG, at["pixels"], ids)),
        PARAMS | {"pixels": pixels},
        grads | {"pixels": d_pixels},
    )
    np.testing.assert_allclose(d_tokens.sum(axis=0), grads["text.pos_embed"], rtol=1e-12)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_loss_of_the_whole_model(loss):
    pixels, ids = inputs(images=4, texts=4)
    value, grads = siglip_loss_and_gradients(frozen(PARAMS), CONFIG, pixels, ids, loss)
    function = {"sigmoid": sigmoid_loss, "softmax": softmax_loss}[loss]

    def forward(at):
        trace = {}
        model.siglip(at, CONFIG, pixels, ids, trace)
        result = function(trace["zimg"], trace["ztxt"], at["t_prime"], at["bias"]).loss
        return result, abs(result)

    assert value == forward(PARAMS)[0]
    assert_gradient(forward, PARAMS, grads)
    assert {name: x.shape for name, x in grads.items()} == param_shapes(CONFIG)
    assert list(grads) == list(PARAMS)
    small = [name for name, x in grads.items() if not np.linalg.norm(x) > 1e-6]
    assert [name for name in small if not name.endswith("attn.k.b")] == (["bias"] if loss == "softmax" else [])


def test_both_ways_to_the_gradients_agree():
    """By the loss's own gradients of embeddings, t_prime and bias, and by g = d loss / d logits."""
    pixels, ids = inputs(images=4, texts=4)
    for loss in ("sigmoid", "softmax"):
        _, expected = siglip_loss_and_gradients(PARAMS, CONFIG, pixels, ids, loss)
        trace, grads = {}, {}
        logits = model.siglip(PARAMS, CONFIG, pixels, ids, trace)
        if loss == "sigmoid":
            g = (model.sigmoid(logits) - np.eye(4)) / 4
        else:
            g = (cross_entropy(logits)[1] + cross_entropy(logits.T)[1].T) / 8
        backward.siglip(PARAMS, CONFIG, pixels, ids, trace, g, grads)
        for name, x in expected.items():
            np.testing.assert_allclose(grads[name], x, rtol=0, atol=1e-13 * (1 + np.abs(x).max()), err_msg=name)


def test_a_small_step_downhill_lowers_the_loss():
    pixels, ids = inputs(images=4, texts=4)
    loss, grads = siglip_loss_and_gradients(PARAMS, CONFIG, pixels, ids)
    square = sum((x**2).sum() for x in grads.values())
    rate = 1e-3 * loss / square  # a thousandth of the loss, if it were a plane
    lower, _ = siglip_loss_and_gradients(
        {name: x - rate * grads[name] for name, x in PARAMS.items()}, CONFIG, pixels, ids
    )
    assert lower == pytest.approx(loss * (1 - 1e-3), rel=1e-4)


def test_refuses_another_loss_and_pairs_that_are_none():
    pixels, ids = inputs(images=3, texts=4)
    with pytest.raises(ValueError, match="one of sigmoid, softmax; got 'hinge'"):
        siglip_loss_and_gradients(PARAMS, CONFIG, pixels, ids[:3], "hinge")
    with pytest.raises(ValueError, match=r"text i belonging to image i; got \[3, 12\] and \[4, 12\]"):
        siglip_loss_and_gradients(PARAMS, CONFIG, pixels, ids)
