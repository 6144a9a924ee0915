"""The text tower: what it leaves out without a trace changes no bit, short texts and masks come in any order."""

import numpy as np
import pytest

from npsiglip import reference
from npsiglip.config import SigLIPConfig, TextConfig
from npsiglip.element_types import DTYPES
from npsiglip.kernels.jit import computing
from npsiglip.metrics import relative_l2
from npsiglip.params import cast, random_params, text_shapes
from npsiglip.towers.blocks import RECENT_SHAPES
from npsiglip.towers.text import TextTower
from npsiglip.trace import FORGET, Trace

CONFIG = TextConfig(width=18, depth=2, num_heads=2, mlp_dim=30, seq_len=9, vocab_size=50, projection_dim=20)
# Relative to the reference's result; measured with eight seeds: 4.1e-7, 0.0072 and 0.035 at most.
BOUNDS = {"float32": 1e-6, "bfloat16": 0.02, "int8": 0.07}


def params():
    return random_params(SigLIPConfig(None, CONFIG), seed=2)


def texts(n, length, masked=False, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, CONFIG.vocab_size, (n, length))
    return ids, (np.arange(length) < rng.integers(1, length + 1, (n, 1))) if masked else None


def run(tower, inputs, trace=FORGET):
    with computing(1):
        return tower(inputs, trace)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_the_reference(dtype, masked):
    """With a trace every token is computed, without one the last alone: first from Python, then by a program."""
    own = params()
    tower, inputs = TextTower(own, CONFIG, dtype), texts(5, 9, masked)
    expected = reference.text_tower(cast(own, np.float64), CONFIG, inputs[0], mask=inputs[1])
    traced = run(tower, inputs, Trace())
    assert relative_l2(traced, expected) <= BOUNDS[dtype]
    for _ in range(3):
        np.testing.assert_array_equal(run(tower, inputs), traced)


def test_more_shapes_than_are_remembered():
    """Each call has the bits of a tower that has seen nothing else, whatever came before it."""
    own = params()
    tower = TextTower(own, CONFIG)
    shapes = [(n, length, masked) for n in (1, 3) for length in (4, 9) for masked in (False, True)]
    assert len(shapes) > RECENT_SHAPES
    for n, length, masked in shapes + shapes[::-1] + shapes:
        inputs = texts(n, length, masked, seed=n * length)
        np.testing.assert_array_equal(run(tower, inputs), run(TextTower(own, CONFIG), inputs))


def test_every_parameter_counts():
    """A parameter that nobody reads would be one that nobody misses."""
    own, inputs = params(), texts(4, 9)
    before = run(TextTower(own, CONFIG), inputs)
    for name in text_shapes(CONFIG):
        if name.endswith("attn.k.b"):  # which softmax does not see
            continue
        changed = own | {name: own[name] + 0.1 * np.sin(np.arange(own[name].size)).reshape(own[name].shape)}
        assert not np.array_equal(run(TextTower(changed, CONFIG), inputs), before), name
