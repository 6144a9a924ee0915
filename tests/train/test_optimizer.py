"""AdamW's step against the reference in float64, its norm, its clipping, and that threads change nothing.

Covers kernels/adamw.py and reference/adamw.py as well.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npsiglip.kernels import adamw
from npsiglip.kernels.jit import current, max_threads, thread_count
from npsiglip.params import param_shapes
from npsiglip.reference.adamw import adamw_step, global_norm
from npsiglip.train.config import OptimizerSettings
from npsiglip.train.flat import Flat
from npsiglip.train.optimizer import AdamW, decays
from tests.helpers.arrays import guarded, normal
from tests.helpers.train_standin import config

SHAPES = {"a.w": (70, 130), "a.b": (130,), "locked.w": (40, 50), "t_prime": (), "long.w": (3, adamw.BLOCK)}
GAP_AND_SIZE = st.tuples(st.integers(0, 40), st.integers(0, 2 * adamw.BLOCK + 3))
LOCKED = frozenset({"locked.w"})


def flat(seed, scale=1.0):
    made = Flat(SHAPES)
    made.vector[:] = scale * normal(seed, made.vector.size)
    return made


class Plain:
    """The reference's steps, one parameter after the other; clipping, decay and locking as the settings say."""

    def __init__(self, params, s):
        self.x = {name: np.float64(value) for name, value in params.views.items()}
        self.m = dict.fromkeys(self.x, 0.0)
        self.v = dict.fromkeys(self.x, 0.0)
        self.count, self.s = 0, s

    def step(self, grads, part):
        s = self.s
        self.count += 1
        norm = global_norm(np.float64(g) for name, g in grads.views.items() if name not in LOCKED)
        for name in self.x:
            if name in LOCKED:
                continue
            g = np.float64(grads.views[name]) * min(1.0, s.clip_norm / norm)
            decay = part * s.weight_decay if name.endswith(".w") else 0.0
            self.x[name], self.m[name], self.v[name] = adamw_step(
                self.x[name], g, self.m[name], self.v[name], self.count, part * s.rate, s.beta1, s.beta2, s.eps, decay
            )
        return norm


@pytest.mark.parametrize("scale", [1e-4, 1.0])  # below the norm that is clipped, and above
def test_steps_as_in_float64(scale):
    s = OptimizerSettings(rate=0.01, weight_decay=0.02, clip_norm=1.0)
    params = flat(0)
    plain, ours = Plain(params, s), AdamW(SHAPES, s, LOCKED)
    start = params.vector.copy()
    for i, part in enumerate((0.3, 1.0, 0.5, 0.1)):
        grads = flat(i + 1, scale)
        before = grads.vector.copy()
        norm = ours.norm(grads)
        ours.step(params, grads, norm, part)
        assert norm == pytest.approx(plain.step(grads, part), rel=1e-12)
        np.testing.assert_array_equal(grads.vector, before)
    assert ours.count == 4
    for name, x in plain.x.items():
        # a rounding of x for each step, and a few of the step itself, at most 0.1 long for each
        assert np.max(np.abs(params.views[name] - x)) <= 4 * 2.0**-24 * (np.max(np.abs(x)) + 0.5), name
        if name not in LOCKED:
            assert np.max(np.abs(params.views[name] - start[slice(*params.spans[name])].reshape(x.shape))) > 1e-3
    np.testing.assert_array_equal(params.views["locked.w"], start[slice(*params.spans["locked.w"])].reshape(40, 50))


def test_weights_decay_and_nothing_else():
    names = {name for name in param_shapes(config().siglip) if decays(name)}
    assert "image.patch_embed.w" in names
    assert "image.blocks.00.attn.q.w" in names
    assert "text.head.w" in names
    assert not names & {
        "text.token_embed",
        "image.pos_embed",
        "image.map_head.probe",
        "t_prime",
        "image.final_ln.scale",
    }
    params, grads = flat(0), Flat(SHAPES)
    start = params.vector.copy()
    AdamW(SHAPES, OptimizerSettings(weight_decay=0.5), LOCKED).step(params, grads, 0.0, 0.5)
    for name, (first, end) in params.spans.items():
        factor = np.float32(0.75) if name.endswith(".w") and name not in LOCKED else np.float32(1)
        np.testing.assert_array_equal(params.vector[first:end], factor * start[first:end])


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2 * adamw.BLOCK + 3)), min_size=1, max_size=4),
    st.integers(0, 99),
)
def test_norm_of_spans(spans, seed):
    places, end = [], 0
    for gap, size in spans:
        places.append((end + gap, end + gap + size))
        end = places[-1][1]
    x, check = guarded(end + 5)
    x[:] = normal(seed, end + 5)
    truth = np.sqrt(sum(np.sum(np.float64(x[a:b]) ** 2) for a, b in places))
    assert adamw.norm(x, adamw.blocks(places)) == pytest.approx(truth, rel=1e-12)
    check()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_norm_of_what_is_not_finite(bad):
    grads = flat(0)
    grads.views["t_prime"][...] = bad
    assert not np.isfinite(AdamW(SHAPES, OptimizerSettings()).norm(grads))


def test_norm_beyond_float32():
    grads = flat(0)
    grads.vector[:] = 1e30
    assert AdamW(SHAPES, OptimizerSettings()).norm(grads) == pytest.approx(1e30 * grads.vector.size**0.5, rel=1e-6)


def test_threads_change_nothing():
    results = []
    for threads in sorted({1, 2, 3, max_threads()} & set(range(1, max_threads() + 1))):
        params, s = flat(0), OptimizerSettings(rate=0.1)
        ours = AdamW(SHAPES, s)
        with thread_count(threads):
            assert current() == threads
            norms = []
            for i in range(3):
                norms.append(ours.norm(flat(i)))
                ours.step(params, flat(i), norms[-1], 0.7)
        results.append((norms, params.vector.tobytes(), ours.m.vector.tobytes(), ours.v.vector.tobytes()))
    assert all(result == results[0] for result in results)
