"""The list of operations is the reference, in float64; each can be run alone."""

from dataclasses import replace

import numpy as np
import pytest

from npsiglip.config import GELU_ERF
from npsiglip.params import cast, random_params
from npsiglip.reference import model as reference
from npsiglip.verify.arithmetic import HONEST
from npsiglip.verify.compare import Truth
from npsiglip.verify.diagnose import LIMITS
from npsiglip.verify.operations import IDS, PIXELS, Context, operations, run
from tests.helpers.golden_data import TINY
from tests.helpers.planted import truth_of


def test_taps_are_those_of_the_reference_in_its_order():
    truth, taps = truth_of(TINY)
    expected = {}
    reference.siglip(truth.params, truth.config, truth.inputs[PIXELS], truth.inputs[IDS], expected)
    assert [tap for tap in taps if tap not in (PIXELS, IDS)] == list(expected)
    for tap, value in expected.items():
        assert np.isfinite(value).all()
        if tap in ("logits", "probs"):  # (t zimg) ztxt there, t (zimg ztxt) here
            np.testing.assert_allclose(taps[tap], value, rtol=1e-13, atol=1e-15)
        else:
            np.testing.assert_array_equal(taps[tap], value, err_msg=tap)


@pytest.mark.parametrize("head, mean", [(False, True), (False, False), (True, False)])
def test_other_heads_activations_and_grids(tiny_config, head, mean):
    image = replace(tiny_config.image, head=head, mean=mean, activation=GELU_ERF)
    config = replace(tiny_config, image=image, text=None)
    params = cast(random_params(config, seed=2), np.float64)
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 3, 45, 31))
    taps, expected = Truth(config, params, pixels).taps(), {}
    reference.image_tower(params, image, pixels, expected)
    for tap, value in expected.items():
        np.testing.assert_array_equal(taps[tap], value, err_msg=tap)
    assert ("zimg" in taps) == (head or mean)


def test_towers_without_input_have_no_operations(tiny_config):
    assert all(op.tower == "text" for op in operations(tiny_config, images=False))
    assert all(op.tower == "image" for op in operations(tiny_config, texts=False))


def test_gelu_by_tanh_in_float32_is_within_its_floor(tiny_config):
    """1 + tanh loses digits where tanh is near -1: a port that has no wider type than float32 is not wrong."""
    op = next(op for op in operations(tiny_config) if op.kind == "gelu")
    x = np.float32(-2.5 + 0.2 * np.random.default_rng(0).standard_normal((2, 5, 64)))
    exact = run(Context(tiny_config, {}), op, {op.inputs[0]: np.float64(x)})
    floor = max(
        np.linalg.norm(run(Context(tiny_config, {}, arithmetic), op, {op.inputs[0]: x}) - exact)
        for arithmetic in HONEST["float32"]
    )
    u = np.float32(0.7978845608) * x * (np.float32(1) + np.float32(0.044715) * x * x)
    port = np.float32(0.5) * x + np.float32(0.5) * x * np.tanh(u)  # in another order
    assert port.dtype == np.float32 and np.isfinite(port).all()
    assert np.linalg.norm(port - exact) <= LIMITS["float32"] / 2 * floor
