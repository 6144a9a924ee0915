"""Gradients of whole towers and models of the reference against finite differences, and what must hold exactly."""

import numpy as np
import pytest

from npsiglip.params import param_shapes
from npsiglip.reference import backward, model, siglip_loss_and_gradients, sigmoid_loss, softmax_loss
from npsiglip.reference.loss import cross_entropy
from tests.helpers.gradients import CONFIG, PARAMS, assert_gradient, frozen, weighed, weights


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
