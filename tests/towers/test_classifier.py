"""Classifiers against the float64 reference: every element type, the widths of released models, stored in 8 bits."""

import numpy as np
import pytest

from npsiglip import SigLIP, reference, save_folder
from npsiglip.config import ClassifierConfig, ImageConfig, SigLIPConfig
from npsiglip.convert.quantize import quantize_folder
from npsiglip.metrics import relative_l2
from npsiglip.params import cast, random_params
from npsiglip.towers.image import Classifier
from npsiglip.trace import FORGET, Trace

LABELS = tuple(f"class {i}" for i in range(70))
# Of the logits, as of tokens in tests/test_family.py: measured 4e-7, 0.007 and 0.03 at most, over widths and seeds.
BOUNDS = {"float32": 1e-6, "bfloat16": 0.02, "int8": 0.05}
WIDTHS = {40: 2, 192: 3, 768: 12, 1152: 16, 45: 3}  # and heads
dtypes = pytest.mark.parametrize("dtype", BOUNDS)


def config_of(width, multi_label=False):
    image = ImageConfig(
        width=width, depth=2, num_heads=WIDTHS[width], mlp_dim=2 * width + 3, image_size=28, patch_size=7
    )
    return SigLIPConfig(image, None, ClassifierConfig(LABELS, multi_label))


@pytest.fixture(scope="module", params=WIDTHS)
def case(request):
    """A model, pixels, and the reference's logits."""
    config = config_of(request.param)
    params = random_params(config, seed=5)
    pixels = np.random.default_rng(1).uniform(-1, 1, (5, 3, 28, 28)).astype(np.float32)
    exact, trace = cast(params, np.float64), {}
    reference.image_tower(exact, config.image, pixels, trace)
    return config, params, pixels, reference.classify(exact, trace["image.final_ln"])


def assert_right(model, pixels, expected, dtype):
    for _ in range(3):  # packed into scratch memory, then for good, then by a program
        logits = model.class_logits(pixels)
        assert np.isfinite(logits).all()
        assert relative_l2(logits, expected) <= BOUNDS[dtype]
    each = np.linalg.norm(logits - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert each.max() <= 1.5 * BOUNDS[dtype]
    probs = np.exp(expected - expected.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    for ranked, row in zip(model.classify(pixels), probs, strict=True):
        scores = np.array([next(s["score"] for s in ranked if s["label"] == label) for label in LABELS])
        assert np.isfinite(scores).all()
        assert relative_l2(scores, row) <= 3 * BOUNDS[dtype]


@dtypes
def test_logits(case, dtype):
    config, params, pixels, expected = case
    assert_right(SigLIP(config, params, dtype=dtype), pixels, expected, dtype)


def test_logits_of_what_quantize_stored(case, tmp_path):
    config, params, pixels, expected = case
    save_folder(tmp_path / "float", config, params)
    quantize_folder(tmp_path / "float", tmp_path / "int8")
    assert_right(SigLIP.from_pretrained(tmp_path / "int8"), pixels, expected, "int8")


@dtypes
def test_the_mean_of_tokens(dtype):
    """Accumulated in float64 and rounded once, however many tokens there are and however alike."""
    config = config_of(40)
    tokens = (1 + 0.1 * np.random.default_rng(0).standard_normal((3, 5000, 40))).astype(np.float32)
    trace = Trace()
    logits = Classifier(random_params(config, seed=5), config, dtype)(tokens, trace)
    mean = tokens.astype(np.float64).mean(axis=1)
    rounding = 2.0**-24 if dtype == "float32" else 2.0**-8
    assert np.all(np.abs(trace["image.mean"] - mean) <= 1.001 * rounding * np.abs(mean))
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(Classifier(random_params(config, seed=5), config, dtype)(tokens, FORGET), logits)
