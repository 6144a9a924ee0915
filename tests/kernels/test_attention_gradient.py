"""The gradient of attention against the reference in float64, on awkward sizes.

It is float32, and bounded element by element by the errors of its terms, as in test_attention.py.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npsiglip.kernels import attention_gradient
from npsiglip.metrics import relative_l2
from npsiglip.reference import model
from tests.helpers.arrays import (
    UNIT,
    attention_gradients,
    chain_bound,
    guarded,
    normal,
    on_threads,
    wide,
    with_nan_behind,
)

seeds = st.integers(0, 2**32 - 1)


# Of subnormal probabilities no digits need be left, times what they are multiplied with.
SUBNORMAL = 1e4 * 2.0**-126


class Case:
    """q, k, v and the mix's gradient of N images, H heads of Dh numbers."""

    def __init__(self, n, length, heads, head_dim, seed, scale=2.0):
        self.n, self.length, self.heads, self.head_dim = n, length, heads, head_dim
        self.qkv = np.float32(scale) * normal(seed, n * length, 3 * heads * head_dim)
        self.d_mix = normal(seed + 1, n * length, heads * head_dim)

    def __call__(self, images=slice(None)):
        """The kernel's gradients of some images, [N, L, 3 D], in guarded memory, with NaN behind the input."""
        qkv, d_mix = (x.reshape(self.n, self.length, -1)[images] for x in (self.qkv, self.d_mix))
        n, width = len(qkv), d_mix.shape[-1]
        out, check = guarded(n * self.length, 3 * width)
        qkv = with_nan_behind(qkv.reshape(-1, 3 * width), attention_gradient.SLACK)
        d_mix = np.ascontiguousarray(d_mix.reshape(-1, width))
        attention_gradient.attention_gradient(qkv, d_mix, self.length, self.heads, out)
        check()
        return out.reshape(n, self.length, 3 * width)

    def parts(self):
        """q, k, v and d_mix, [N, L, D] in float64."""
        qkv, d_mix = wide(self.qkv.reshape(self.n, self.length, -1), self.d_mix.reshape(self.n, self.length, -1))
        return [*np.split(qkv, 3, axis=2), d_mix]

    def truth_and_bounds(self):
        """The gradients of q, k and v in float64, and how far from them each number of the kernel's may be.

        scores          a chain of Dh products, scaled, less the largest
        probabilities   relative: the absolute error of the score, and of all scores of the sum in the mean
        dP              a chain of Dh products
        dS              P (dP - mean): P's error, and those of dP and of the mean, itself a sum of P dP over keys
        results         the sum over keys or queries of those errors, and the chains of that sum
        """
        *qkv, d_mix = self.parts()
        q, k, v, d_out = (model.split_heads(x, self.heads) for x in (*qkv, d_mix))
        root = np.sqrt(self.head_dim)
        scores = q @ k.transpose(0, 1, 3, 2) / root
        probs = model.softmax(scores)
        truth = attention_gradients(*qkv, probs, d_mix, self.heads)
        of_head, of_length = chain_bound(self.head_dim), chain_bound(self.length)
        of_score = of_head * (np.abs(q) @ np.abs(k).transpose(0, 1, 3, 2)) / root
        of_score += 4 * UNIT * np.abs(scores).max(-1, keepdims=True)
        relative = of_score + (probs * of_score).sum(-1, keepdims=True) + of_length + 8 * UNIT
        d_p = d_out @ v.transpose(0, 1, 3, 2)
        size = np.abs(d_out) @ np.abs(v).transpose(0, 1, 3, 2)
        centred = d_p - (probs * d_p).sum(-1, keepdims=True)
        of_mean = (probs * ((relative + of_length) * np.abs(d_p) + of_head * size)).sum(-1, keepdims=True)
        d_s = probs * np.abs(centred) / root
        d_s_bound = probs * ((relative + 4 * UNIT) * np.abs(centred) + of_head * size + of_mean) / root
        over_keys, over_queries = d_s_bound + of_length * d_s, (d_s_bound + of_length * d_s).transpose(0, 1, 3, 2)
        weights = ((relative + of_length) * probs).transpose(0, 1, 3, 2)
        bounds = over_keys @ np.abs(k), over_queries @ np.abs(q), weights @ np.abs(d_out)
        return np.concatenate(truth, -1), np.concatenate([model.merge_heads(bound) for bound in bounds], -1)

    def check(self, result):
        truth, bounds = self.truth_and_bounds()
        assert np.all(np.abs(result - truth) <= bounds + SUBNORMAL)


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(1, 60), st.integers(1, 3), st.integers(1, 75), seeds)
def test_attention_gradient_of_any_shape(n, length, heads, head_dim, seed):
    case = Case(n, length, heads, head_dim, seed)
    (out,) = on_threads(lambda: (case(),))
    case.check(out)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 47, 48, 49, 64, 96, 97, 130, 196, 257, 600])
def test_lengths_around_the_borders_of_tiles(length):
    """Measured: 1 to 6 u, of each of the three gradients; of two keys, 2.6 in the mean, and up to 15 in one image."""
    case = Case(2 + 64 // length, length, 2, 24, length, 1.0)
    out = case()
    case.check(out)
    if length > 1:  # of one key, the gradients of q and k are zero
        for ours, truth in zip(np.split(out, 3, 2), np.split(case.truth_and_bounds()[0], 3, 2), strict=True):
            assert relative_l2(ours, truth) < 12 * UNIT


def test_one_token_attends_to_itself_whatever_the_scores():
    case = Case(3, 1, 2, 5, 0)
    d_q, d_k, d_v = np.split(case(), 3, 2)
    assert not d_q.any()
    assert not d_k.any()
    np.testing.assert_array_equal(d_v.reshape(case.d_mix.shape), case.d_mix)


def test_scores_that_exp_cannot_take():
    """About 1600, and nearly every query sees a single key: no NaN, and the bound still holds."""
    case = Case(2, 70, 2, 16, 0, 1.0)
    case.qkv.reshape(-1, 3, 2, 16)[:, :2] += 20
    case.check(case())
    case = Case(2, 70, 2, 16, 0, 30.0)
    case.check(case())


def test_scores_far_beyond_what_exp_can_take():
    """Of 1e15, where a rounding is 1e8, and with one element of a key of 1e30: nearly every query sees a single key."""
    case = Case(2, 70, 2, 16, 0)
    case.qkv.reshape(-1, 3, 2, 16)[:, :2] *= 1e7
    out, truth = case(), case.truth_and_bounds()[0]
    assert np.isfinite(out).all()
    width = case.d_mix.shape[-1]
    assert relative_l2(out[..., 2 * width :], truth[..., 2 * width :]) < 12 * UNIT
    case = Case(2, 70, 2, 16, 0)
    case.qkv.reshape(-1, 3, 2, 16)[9, 1, 0, 3] = 1e30
    assert np.isfinite(case()).all()


def test_an_image_and_a_head_see_no_other():
    case, alone = Case(4, 50, 3, 20, 0), Case(4, 50, 1, 20, 0)
    whole = case()
    for images in (slice(0, 1), slice(3, 4), slice(1, 4)):
        np.testing.assert_array_equal(case(images), whole[images])
    for head in range(3):
        alone.qkv = np.ascontiguousarray(case.qkv.reshape(200, 3, 3, 20)[:, :, head].reshape(200, 60))
        alone.d_mix = np.ascontiguousarray(case.d_mix.reshape(200, 3, 20)[:, head])
        np.testing.assert_array_equal(alone(), whole.reshape(4, 50, 3, 3, 20)[:, :, :, head].reshape(4, 50, 60))
