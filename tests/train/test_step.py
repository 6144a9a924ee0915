"""A training step's loss and gradients on kernels, all of it together, against the float64 reference.

The model is small and everything odd: heads of 5 and 9 numbers, lengths and batches that fill no tile. Parts of a batch
are made small so that there are several, the last one shorter than the others. Covers train/layers.py and
train/towers.py as well.
"""

import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from npsiglip import reference
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import InputError
from npsiglip.kernels.jit import thread_count
from npsiglip.metrics import relative_l2
from npsiglip.params import count_params, param_shapes
from npsiglip.train import towers
from npsiglip.train.flat import Flat
from npsiglip.train.initial import frozen_params
from npsiglip.train.step import LOSSES, Gradients
from tests.helpers.train_steps import data, filled, flat_params

CONFIG = SigLIPConfig(
    ImageConfig(width=20, depth=2, num_heads=4, mlp_dim=33, image_size=23, patch_size=5),
    TextConfig(width=18, depth=1, num_heads=2, mlp_dim=30, seq_len=9, vocab_size=50, projection_dim=20),
)
# One head, depth one, image width above text width; one token, where attention has nothing to choose from.
OTHERS = {
    "one token": SigLIPConfig(ImageConfig(7, 1, 1, 5, 6, 4), TextConfig(3, 2, 3, 50, 1, 11, 7)),
    "wide heads": SigLIPConfig(ImageConfig(50, 1, 1, 17, 21, 3), TextConfig(65, 1, 1, 16, 19, 30, 50)),
}
SIZES_OF_PARTS = {"one part": 2048, "ragged": 40, "single inputs": 1}

# Relative L2 of one parameter's gradient, float32 against float64. Measured with four seeds: 6e-6 at most at the
# temperature of the beginning of training; 1.5e-5 at that of the end, t = 117, which makes of an error of 1e-7 in a
# cosine one of 1e-5 in the loss's gradient.
BOUND = 3e-5


def run(config, params, pixels, ids, **options):
    grads = filled(params)
    gradients = Gradients(config, *ids.shape, **options)
    return gradients.step(params, pixels, ids, grads), grads


def beside(name):
    """A parameter of the same attention whose gradient is never zero."""
    return re.sub(r"attn\.[qk]\.(w|b)$", r"attn.v.\1", name).replace("probe", "attn.v.b")


def check(config, params, pixels, ids, loss, grads, kind="sigmoid"):
    """The loss and all gradients against the reference.

    Where truth is zero, or rounding in float64, an error cannot be relative to it. The gradient of `attn.k.b` is such
    a one, since softmax does not see what is the same for all keys; of a single token, all of q, k and the probe. They
    are compared with the gradients of v beside them.
    """
    wide = {name: value.astype(np.float64) for name, value in params.views.items()}
    true_loss, truth = reference.siglip_loss_and_gradients(wide, config, pixels.astype(np.float64), ids, kind)
    assert loss == pytest.approx(true_loss, rel=BOUND)
    for name in truth:
        ours, size = grads.views[name], np.linalg.norm(truth[name])
        if size > 1e-9 * np.linalg.norm(truth[beside(name)]):
            assert relative_l2(ours, truth[name]) < BOUND, name
        elif name == "bias":
            assert kind == "softmax"  # which does not know it
            assert ours == 0
        else:
            one_token = min(config.image.seq_len, ids.shape[1]) == 1
            assert re.search(r"attn\.[qk]\.|probe$" if one_token else r"attn\.k\.b$", name), name
            assert np.linalg.norm(ours) <= BOUND * np.linalg.norm(truth[beside(name)]), name


@pytest.mark.parametrize("rows", SIZES_OF_PARTS.values(), ids=SIZES_OF_PARTS)
@pytest.mark.parametrize("temperature", [(10.0, -10.0), (117.0, -12.9)], ids=["begin", "end"])
@pytest.mark.parametrize("kind", LOSSES)
def test_against_the_reference(monkeypatch, kind, temperature, rows):
    """Also whatever the parts, and whatever the gradients held before; the text is shorter than it may be."""
    monkeypatch.setattr(towers, "ROWS_OF_A_PART", rows)
    params, (pixels, ids) = flat_params(CONFIG, 1, *temperature), data(CONFIG, 7, 7)
    loss, grads = run(CONFIG, params, pixels, ids, loss=kind)
    check(CONFIG, params, pixels, ids, loss, grads, kind)
    assert not grads.views["text.pos_embed"][7:].any()  # no text is that long
    never = np.setdiff1d(np.arange(CONFIG.text.vocab_size), ids)
    assert len(never)
    assert not grads.views["text.token_embed"][never].any()


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("batch", [1, 3])
def test_other_shapes(name, batch):
    config = OTHERS[name]
    params, (pixels, ids) = flat_params(config), data(config, batch, config.text.seq_len)
    check(config, params, pixels, ids, *run(config, params, pixels, ids))


def test_tiny_golden_model(tiny_config, tiny_params, golden):
    pixels, ids = golden["inputs.pixel_values"].astype(np.float32), golden["inputs.input_ids"]
    params = Flat(param_shapes(tiny_config))
    for name, value in tiny_params.items():
        params.views[name][...] = value
    size = min(len(pixels), len(ids))
    pixels, ids = np.ascontiguousarray(pixels[:size]), ids[:size]
    check(tiny_config, params, pixels, ids, *run(tiny_config, params, pixels, ids))


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("rows", SIZES_OF_PARTS.values(), ids=SIZES_OF_PARTS)
def test_a_locked_tower(monkeypatch, rows, tower):
    """Zeros for the tower, and the same bits for everything else as if it were trained; again on a second step."""
    monkeypatch.setattr(towers, "ROWS_OF_A_PART", rows)
    params, (pixels, ids) = flat_params(CONFIG), data(CONFIG, 7, 9)
    loss, grads = run(CONFIG, params, pixels, ids)
    gradients, locked = Gradients(CONFIG, 7, 9, locked=frozenset({tower})), filled(params)
    for _ in range(2):
        assert gradients.step(params, pixels, ids, locked) == loss
        for name, value in locked.views.items():
            np.testing.assert_array_equal(value, 0 if name.startswith(tower) else grads.views[name], err_msg=name)


@pytest.mark.parametrize("blocks", [0, 1, 2, 99])
@pytest.mark.parametrize("rows", SIZES_OF_PARTS.values(), ids=SIZES_OF_PARTS)
def test_the_last_blocks_alone(monkeypatch, rows, blocks):
    """Zeros before them, and the same bits for them and what follows as if all were trained; again on a second step."""
    monkeypatch.setattr(towers, "ROWS_OF_A_PART", rows)
    params, (pixels, ids) = flat_params(CONFIG), data(CONFIG, 7, 9)
    loss, grads = run(CONFIG, params, pixels, ids)
    gradients, own = Gradients(CONFIG, 7, 9, blocks=blocks), Flat(param_shapes(CONFIG))
    frozen = frozen_params(CONFIG, blocks)
    for _ in range(2):
        own.vector[:] = 1.0
        assert gradients.step(params, pixels, ids, own) == loss
        for name, value in own.views.items():
            np.testing.assert_array_equal(value, 0 if name in frozen else grads.views[name], err_msg=name)
    depth = CONFIG.image.depth
    assert ("image.patch_embed.w" in frozen) == (blocks < depth)
    assert (f"image.blocks.{depth - 1:02}.mlp.fc1.w" in frozen) == (blocks == 0)
    assert "image.map_head.probe" not in frozen
    assert "text.head.w" not in frozen


def test_frozen_blocks_need_less_memory():
    config = replace(CONFIG, image=replace(CONFIG.image, depth=12))
    assert Gradients.memory(config, 64, 9, blocks=1) < 0.6 * Gradients.memory(config, 64, 9)


# -- bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
def test_same_bits_on_any_threads_again_and_with_other_layers(monkeypatch, kind):
    monkeypatch.setattr(towers, "ROWS_OF_A_PART", 100)
    params, (pixels, ids) = flat_params(CONFIG, 2), data(CONFIG, 40, 9)
    loss, grads = run(CONFIG, params, pixels, ids, loss=kind)
    again, gradients = filled(params), Gradients(CONFIG, 40, 9, loss=kind)
    for threads in (1, 2, 2, 1):
        with thread_count(threads):
            assert gradients.step(params, pixels, ids, again) == loss
        np.testing.assert_array_equal(again.vector, grads.vector)


def test_each_step_sees_parameters_and_inputs_as_they_are_then(monkeypatch):
    """An optimiser changes parameters in place. Nothing of an earlier step is left, only gradients are written."""
    monkeypatch.setattr(towers, "ROWS_OF_A_PART", 40)
    params, gradients = flat_params(CONFIG), Gradients(CONFIG, 5, 9)
    grads = filled(params)
    for seed in range(3):
        pixels, ids = data(CONFIG, 5, 9, seed)
        params.vector[:] = flat_params(CONFIG, seed).vector
        before = params.vector.copy(), pixels.copy(), ids.copy()
        loss = gradients.step(params, pixels, ids, grads)
        for array, copy in zip((params.vector, pixels, ids), before, strict=True):
            np.testing.assert_array_equal(array, copy)
        fresh_loss, fresh = run(CONFIG, params, pixels, ids)
        assert loss == fresh_loss
        np.testing.assert_array_equal(grads.vector, fresh.vector)
    other = Flat(params.shapes)  # other arrays than those it knows
    other.vector[:] = params.vector
    assert gradients.step(other, pixels, ids, filled(params)) == loss


# -- bfloat16 ---------------------------------------------------------------------------------------------------------

EVEN = SigLIPConfig(ImageConfig(20, 2, 4, 34, 23, 5), TextConfig(18, 1, 2, 30, 9, 50, 20))


@pytest.mark.parametrize("rows", SIZES_OF_PARTS.values(), ids=SIZES_OF_PARTS)
def test_bfloat16_products(monkeypatch, rows):
    """Odd numbers of rows, which make pairs for the products over them. The error of all gradients together is that of
    rounding what products read, some 2^-9 each time: measured 0.01 to 0.03; below that range it would be float32.
    """
    monkeypatch.setattr(towers, "ROWS_OF_A_PART", rows)
    for seed in range(3):
        params, (pixels, ids) = flat_params(EVEN, seed), data(EVEN, 7, 9, seed)
        loss, grads = run(EVEN, params, pixels, ids, dtype="bfloat16")
        exact, truth = run(EVEN, params, pixels, ids)
        assert 1e-6 < abs(loss / exact - 1) < 0.02
        assert 0.002 < relative_l2(grads.vector, truth.vector) < 0.06
        for threads in (1, 2):
            with thread_count(threads):
                again, other = run(EVEN, params, pixels, ids, dtype="bfloat16")
            assert again == loss
            np.testing.assert_array_equal(other.vector, grads.vector)


# -- finite differences -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
def test_the_loss_falls_along_the_gradient(kind):
    """Independent of the reference's backward pass: the change of our own loss, a small step down.

    Measured: within 0.03 % of |g|^2 times the step.
    """
    params, (pixels, ids) = flat_params(CONFIG, 3), data(CONFIG, 7, 9)
    loss, grads = run(CONFIG, params, pixels, ids, loss=kind)
    square = float(grads.vector.astype(np.float64) @ grads.vector)
    step = 1e-3 / square
    sides = []
    for sign in (1, -1):
        moved = Flat(params.shapes)
        moved.vector[:] = params.vector + np.float32(sign * step) * grads.vector
        sides.append(run(CONFIG, moved, pixels, ids, loss=kind)[0])
    assert (sides[0] - sides[1]) / 2 == pytest.approx(1e-3, rel=3e-3)
    assert sides[1] < loss < sides[0]


# -- memory -----------------------------------------------------------------------------------------------------------

LARGER = SigLIPConfig(ImageConfig(64, 3, 2, 192, 40, 5), TextConfig(48, 2, 2, 128, 12, 300, 64))

WORDY = replace(LARGER, image=replace(LARGER.image, depth=1), text=replace(LARGER.text, depth=6, seq_len=80))


@pytest.mark.parametrize(
    ("config", "batch", "kind", "lock"),
    [
        pytest.param(LARGER, 2, "sigmoid", "", id="parameters"),
        pytest.param(LARGER, 90, "sigmoid", "", id="activations"),
        pytest.param(LARGER, 90, "sigmoid", "image", id="locked image tower"),
        pytest.param(WORDY, 90, "sigmoid", "text", id="locked text tower"),
        pytest.param(LARGER, 2, "sigmoid", "image", id="locked parameters"),
        pytest.param(replace(LARGER, image=replace(LARGER.image, depth=1)), 70, "sigmoid", "", id="parts"),
        pytest.param(OTHERS["one token"], 1500, "sigmoid", "", id="pairs"),
        pytest.param(OTHERS["one token"], 1500, "softmax", "", id="pairs of softmax"),
    ],
)
def test_memory_is_enough_and_not_much_too_much(config, batch, kind, lock):
    """The largest that NumPy's arrays were in two steps, beside parameters, gradients and inputs."""
    length = config.text.seq_len
    params, (pixels, ids) = flat_params(config), data(config, batch, length)
    grads = filled(params)
    run(CONFIG, flat_params(CONFIG), *data(CONFIG, 2, 3), loss=kind)  # compiled, which takes memory of its own
    tracemalloc.start()
    try:
        gradients = Gradients(config, batch, length, kind, frozenset({lock} if lock else ()))
        for _ in range(2):
            gradients.step(params, pixels, ids, grads)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    said = Gradients.memory(config, batch, length, kind, lock=lock)
    print(f"{peak / 1e6:.1f} of {said / 1e6:.1f} MB")
    assert peak <= said
    assert said - (1 << 20) <= 1.5 * peak


def test_memory_of_a_base_model():
    """B/16-224 with 64 pairs: 12 GB of activations, beside 3.3 GB of copies of 0.2 G parameters."""
    config = SigLIPConfig(
        ImageConfig(768, 12, 12, 3072, 224, 16), TextConfig(768, 12, 12, 3072, 64, 32_000, 768)
    )  # fmt: skip
    assert count_params(config) == 203_155_970
    assert 11e9 < Gradients.memory(config, 64, 64) < 16e9


# -- bad input --------------------------------------------------------------------------------------------------------


def test_options_that_make_no_sense():
    for options, message in (
        ({"loss": "hinge"}, "must be one of sigmoid, softmax"),
        ({"locked": frozenset({"image", "text"})}, "one tower can be locked, image or text, got image, text"),
        ({"dtype": "int8"}, "must be one of float32, bfloat16"),
        ({"dtype": "bfloat16"}, "even widths, got 33"),
    ):
        with pytest.raises(InputError, match=message):
            Gradients(CONFIG, 2, 9, **options)
    with pytest.raises(InputError, match="both towers"):
        Gradients(replace(CONFIG, text=None), 2, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pixels, ids: (pixels[:1], ids), r"float32 \[2, 3, 23, 23\] in C order.*got float32 \[1, 3, 23, 23\]"),
        (lambda pixels, ids: (pixels[..., :22].copy(), ids), r"got float32 \[2, 3, 23, 22\]"),
        (lambda pixels, ids: (pixels.astype(np.float64), ids), "got float64"),
        (lambda pixels, ids: (np.asfortranarray(pixels), ids), "in C order"),
        (lambda pixels, ids: (pixels, ids[:, :8]), r"whole numbers \[2, 9\].*got int32 \[2, 8\]"),
        (lambda pixels, ids: (pixels, ids.astype(np.float32)), "got float32"),
        (lambda pixels, ids: (pixels, ids + 49), "from 0 to 49, .*another tokenizer"),
        (lambda pixels, ids: (pixels, ids - 50), "from 0 to 49"),
        (lambda pixels, ids: (pixels, np.where(ids == ids.max(), 50, ids)), "from 0 to 49.*to 50"),  # the first beyond
        (lambda pixels, ids: (pixels, np.where(ids == ids.min(), -1, ids)), "from 0 to 49.*got -1"),
    ],
)
def test_inputs_that_do_not_fit(change, message):
    params, (pixels, ids) = flat_params(CONFIG), data(CONFIG, 2, 9)
    with pytest.raises(InputError, match=message):
        Gradients(CONFIG, 2, 9).step(params, *change(pixels, ids), filled(params))


def test_parameters_of_another_model():
    params, (pixels, ids) = flat_params(CONFIG), data(CONFIG, 2, 9)
    gradients, other = Gradients(CONFIG, 2, 9), Flat(param_shapes(OTHERS["one token"]))
    with pytest.raises(InputError, match="params must have the parameters of this model"):
        gradients.step(other, pixels, ids, filled(params))
    with pytest.raises(InputError, match="grads must have the parameters of this model"):
        gradients.step(params, pixels, ids, other)


def test_longer_texts_than_positions():
    with pytest.raises(InputError, match="at most 9"):
        Gradients(CONFIG, 2, 10)
