"""Attention in one pass against softmax(q k^T / sqrt(Dh)) v in float64, and against itself in other company."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npsiglip.kernels import attention as kernel
from npsiglip.kernels.jit import thread_count
from npsiglip.metrics import relative_l2
from npsiglip.reference import model
from tests.helpers.arrays import (
    NO_MASK,
    NO_PROBS,
    UNIT,
    UNIT_BF16,
    chain_bound,
    guarded,
    in_chains,
    normal,
    number,
    stored,
    to_bits,
)

DTYPES = [np.float32, np.uint16]  # of q, k and v
LENGTHS = [1, 2, 15, 16, 17, 48, 49, 127, 128, 129, 130, 196, 257]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
seeds = st.integers(0, 2**32 - 1)


class Case:
    """q, k and v of N images, H heads and Dh numbers beside each other."""

    def __init__(self, dtype, n, length, heads, head_dim, seed, scale=2.0):
        self.dtype, self.n, self.length, self.heads, self.head_dim = dtype, n, length, heads, head_dim
        self.qkv = stored(np.float32(scale) * normal(seed, n * length, 3 * heads * head_dim), dtype)

    @property
    def width(self):
        return self.heads * self.head_dim

    def __call__(self, first=0, valid=NO_MASK, probs=NO_PROBS, out_dtype=np.float32, images=slice(None)):
        """The kernel's result for some images, [N, L - first, D], in guarded memory."""
        qkv = self.qkv.reshape(self.n, self.length, -1)[images]
        out, check = guarded(len(qkv) * (self.length - first), self.width, dtype=out_dtype)
        kernel.attention(qkv.reshape(-1, 3 * self.width), self.length, self.heads, first, valid, probs, out)
        check()
        return out.reshape(len(qkv), self.length - first, self.width)

    def heads_of(self):
        """q, k and v, [N, H, L, Dh] in float64."""
        qkv = number(self.qkv).reshape(self.n, self.length, -1)
        return [model.split_heads(part, self.heads) for part in np.split(qkv, 3, axis=2)]

    def reference(self, valid=NO_MASK):
        """Probabilities [N, H, L, L] and the result [N, L, D], in float64."""
        q, k, v = self.heads_of()
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(self.head_dim)
        if valid.size:
            scores = np.where(valid[:, None, None, :] != 0, scores, -np.inf)
        probs = model.softmax(scores)
        return probs, model.merge_heads(probs @ v)

    def probs_bound(self):
        """The relative error of a probability.

        An exponential and the sum of exponentials each have the absolute error of a score as their relative one. For
        a score that is a chain of Dh multiply-adds, then one rounding each of the scaled score and of the maximum: 4 u
        of the largest score covers both. exp itself is good to 2 u, and the quotient is rounded.
        """
        q, k, _ = self.heads_of()
        dtype = "float32" if self.dtype == np.float32 else "bfloat16"
        score = chain_bound(self.head_dim, dtype) * np.sqrt(self.head_dim) * np.abs(q).max() * np.abs(k).max()
        largest = np.abs(q @ k.transpose(0, 1, 3, 2)).max() / np.sqrt(self.head_dim)
        return 2 * (score + 4 * UNIT * largest) + 8 * UNIT

    def check(self, result, valid=NO_MASK, first=0):
        """Within what probabilities, their rounding to bfloat16, and the weighted sum may lose of the largest value."""
        _, _, v = self.heads_of()
        rounding = 0 if self.dtype == np.float32 else UNIT_BF16
        bound = self.probs_bound() + rounding + chain_bound(self.length)
        error = np.abs(result - self.reference(valid)[1][:, first:])
        assert error.max() <= bound * np.abs(v).max()


@settings(max_examples=60)
@given(
    st.sampled_from(DTYPES), st.integers(1, 3), st.integers(1, 60), st.integers(1, 3), st.integers(1, 40),
    st.booleans(), seeds,
)  # fmt: skip
def test_any_shape(dtype, n, length, heads, head_dim, masked, seed):
    case = Case(dtype, n, length, heads, head_dim * 2 if dtype == np.uint16 else head_dim, seed)
    valid = NO_MASK
    if masked:
        rng = np.random.default_rng(seed)
        valid = rng.integers(0, 2, (n, length), np.uint8)
        valid[np.arange(n), rng.integers(0, length, n)] = 1
    probs, check_probs = guarded(n, heads, length, length)
    out = case(0, valid, probs)
    check_probs()
    case.check(out, valid)
    np.testing.assert_allclose(probs, case.reference(valid)[0], rtol=case.probs_bound(), atol=1e-30)
    np.testing.assert_array_equal(case(0, valid), out)  # the same bits when nobody asks for probabilities


@dtypes
@pytest.mark.parametrize("length", [*LENGTHS, 600])
def test_lengths_around_the_borders_of_tiles(dtype, length):
    case = Case(dtype, 2, length, 2, 24, length)
    out = case()
    case.check(out)
    # Measured: up to 10 u in float32 (600 keys), 0.15 of the unit of bfloat16, in which the weights are rounded.
    bound = 20 * UNIT if dtype == np.float32 else 0.3 * UNIT_BF16
    assert relative_l2(out, case.reference()[1]) < bound


@dtypes
@pytest.mark.parametrize("length", [1, 17, 50, 130, 257])
def test_the_last_queries_alone(dtype, length):
    """What is left out changes no bit of what is not, wherever the tiles of queries then begin."""
    case = Case(dtype, 2, length, 2, 16, length)
    whole, probs = case(), np.empty((2, 2, length, length), np.float32)
    case(0, NO_MASK, probs)
    for first in sorted({0, 1, 15, 16, 33, 48, length // 2, length - 1}):
        if first < length:
            some, check = guarded(2, 2, length - first, length)
            np.testing.assert_array_equal(case(first, NO_MASK, some), whole[:, first:])
            check()
            np.testing.assert_array_equal(some, probs[:, :, first:])


@dtypes
def test_bfloat16_results_are_the_rounded_ones(dtype):
    case = Case(dtype, 2, 50, 3, 20, 0)
    np.testing.assert_array_equal(case(out_dtype=np.uint16), to_bits(case()))


# -- masks --------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("head_dim", [2, 6, 16, 24, 64, 72])
def test_whole_tiles_of_keys_left_out(dtype, head_dim):
    """The first ones, those in the middle, the last ones, and all keys but one, wherever that is."""
    length = 3 * kernel.KEY_TILE + 7
    case, valid = Case(dtype, 6, length, 1, head_dim, head_dim), np.zeros((6, length), np.uint8)
    valid[0, kernel.KEY_TILE + 3 :] = 1
    valid[1, -1] = 1
    valid[2, 0] = 1
    valid[3, kernel.KEY_TILE + 9] = 1
    valid[4, : kernel.KEY_TILE // 2] = 1
    valid[5] = 1
    valid[5, 40:-40] = 0
    out = case(0, valid)
    case.check(out, valid)
    v = number(case.qkv).reshape(6, length, -1)[..., 2 * head_dim :]
    for image, key in ((1, length - 1), (2, 0), (3, kernel.KEY_TILE + 9)):  # one key: its value
        value = np.broadcast_to(v[image, key], out[image].shape)
        np.testing.assert_allclose(out[image], value, rtol=case.probs_bound())


@dtypes
def test_keys_left_out_have_no_influence(dtype):
    rng = np.random.default_rng(0)
    case = Case(dtype, 2, 140, 2, 16, 0)
    valid = rng.integers(0, 2, (2, 140), np.uint8)
    out, probs = case(0, valid), np.empty((2, 2, 140, 140), np.float32)
    keys_and_values = case.qkv.reshape(2, 140, -1)[..., case.width :]
    keys_and_values[valid == 0] = stored(np.full((int((valid == 0).sum()), 2 * case.width), 1e9, np.float32), dtype)
    np.testing.assert_array_equal(case(0, valid, probs), out)
    assert np.all(probs.transpose(0, 3, 1, 2)[valid == 0] == 0)


@dtypes
def test_mask_of_ones_is_no_mask(dtype):
    case = Case(dtype, 2, 150, 2, 16, 0)
    np.testing.assert_array_equal(case(0, np.ones((2, 150), np.uint8)), case())


# -- scores that are hard -----------------------------------------------------------------------------------------


def far(dtype, length, shift):
    """Queries and keys that all point the same way, or the opposite one: scores far above or below zero."""
    case = Case(dtype, 1, length, 1, 16, 1, 1.0)
    qkv = number(case.qkv)
    qkv[:, :16] += 20
    qkv[:, 16:32] += shift
    case.qkv = stored(qkv.astype(np.float32), dtype)
    return case


@dtypes
@pytest.mark.parametrize("shift", [20.0, -20.0])
def test_scores_that_exp_cannot_take(dtype, shift):
    """About +-1600, where exp gives inf or 0: the running maximum keeps it in range, from tile to tile of keys too.

    Lanes behind the last query or key must not take part in the maximum. Scores of 1600 have errors of 2e-4.
    """
    for length in (21, 2 * kernel.KEY_TILE + 5):
        case = far(dtype, length, shift)
        scores = case.heads_of()[0] @ case.heads_of()[1].transpose(0, 1, 3, 2) / 4
        assert np.abs(scores).min() > 1000
        assert relative_l2(case(), case.reference()[1]) < (1e-3 if dtype == np.float32 else UNIT_BF16)


@dtypes
def test_scores_that_are_far_apart(dtype):
    """From -1e4 to 1e4: nearly every query sees a single key, whichever tile that lies in. Measured 2e-4 at most."""
    case = Case(dtype, 1, 2 * kernel.KEY_TILE + 5, 1, 16, 1, 50.0)
    assert relative_l2(case(), case.reference()[1]) < 5e-4


@dtypes
@pytest.mark.parametrize("scale", [2.0, 50.0])
def test_probabilities_sum_to_one(dtype, scale):
    """Whatever rounding scores and their maxima suffered: it is the same in every tile of keys."""
    case = Case(dtype, 1, 2 * kernel.KEY_TILE + 5, 1, 16, 1, scale)
    probs = np.empty((1, 1, case.length, case.length), np.float32)
    case(0, NO_MASK, probs)
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=4 * UNIT * np.sqrt(case.length))


@dtypes
def test_scores_that_grow_from_key_to_key(dtype):
    """Every tile brings a new maximum, and what was summed before fades."""
    length = 4 * kernel.KEY_TILE
    case = Case(dtype, 1, length, 1, 16, 1, 1.0)
    qkv = number(case.qkv)
    qkv[:, :16] = 1
    qkv[:, 16:32] = np.arange(length)[:, None] / 256  # exact in bfloat16 up to 256 / 256
    case.qkv = stored(qkv.astype(np.float32), dtype)
    case.check(case())


def huge(dtype, kind):
    """A case with numbers beyond what scores of a trained model ever are; two of three tiles of keys are ordinary."""
    case = Case(dtype, 2, 2 * kernel.KEY_TILE + 5, 2, 16, 7)
    qkv = number(case.qkv).reshape(2, case.length, 3, 2, 16)
    if kind == "scores of 1e15":
        qkv[:, :, :2] *= 1e7
    elif kind == "scores of 1e15 and nearly equal":
        qkv[:, :, :2] = 1e7 * (1 + 2.0**-6 * np.rint(qkv[:, :, :2]))
    elif kind == "one element of a key":
        qkv[0, 140, 1, 0, 3] = 1e30
    elif kind == "one element of every query and key":
        qkv[..., :2, :, 5] = 1e18
    elif kind == "all keys opposite":
        qkv[:, :, 0], qkv[:, :, 1] = 4e18, -4e18 * (1 + 2.0**-7 * np.abs(np.rint(qkv[:, :, 1])))
    elif kind == "values":
        qkv[:, :, 2] = np.where(qkv[:, :, 2] > 0, 3e38, 2e38)
    elif kind == "values of either sign":
        qkv[:, :, 2] = 3e38 * np.sign(qkv[:, :, 2])
    case.qkv = stored(qkv.reshape(2 * case.length, -1).astype(np.float32), dtype)
    return case


HUGE = [
    "scores of 1e15",
    "scores of 1e15 and nearly equal",
    "one element of a key",
    "one element of every query and key",
    "all keys opposite",
    "values",
    "values of either sign",
]


LUCK = ["scores of 1e15 and nearly equal", "one element of every query and key", "all keys opposite"]


@dtypes
@pytest.mark.parametrize("kind", HUGE)
def test_huge_numbers(dtype, kind):
    """Of a score of 1e15, float32 has lost 1e8: which key a query sees may be luck, that it sees some is not.

    So the probabilities are compared where scores have no errors to speak of; elsewhere they must be probabilities.
    """
    case = huge(dtype, kind)
    probs = np.empty((2, 2, case.length, case.length), np.float32)
    out, (expected_probs, expected) = case(0, NO_MASK, probs), case.reference()
    assert np.isfinite(out).all()
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=4 * UNIT * np.sqrt(case.length))
    q, k, v = case.heads_of()
    scores, errors = (x @ y.transpose(0, 1, 3, 2) / 4 for x, y in ((q, k), (np.abs(q), np.abs(k))))
    errors *= chain_bound(16)
    counts = scores + errors >= (scores - errors).max(-1, keepdims=True) - 30
    sure = (counts.sum(-1) == 1) | (np.where(counts, errors, 0).max(-1) < 1e-4)
    assert kind in LUCK or sure.mean() > 0.9
    np.testing.assert_allclose(probs[sure], expected_probs[sure], rtol=1e-3, atol=1e-7)
    rounding = 0 if dtype == np.float32 else UNIT_BF16
    bound = (chain_bound(case.length) + rounding + 1e-3) * np.abs(v).max((-1, -2))[..., None, None]
    errors = np.abs(model.split_heads(out, 2).astype(np.float64) - model.split_heads(expected, 2))
    assert np.all((errors <= bound)[sure])


def test_scores_so_low_that_nothing_is_lower():
    """Where the running maximum begins may not be above them; keys that are masked come first."""
    case = Case(np.float32, 1, 2 * kernel.KEY_TILE, 1, 16, 3)
    qkv = number(case.qkv)
    qkv[:, :16], qkv[:, 16:32] = 4e18, -4e18
    case.qkv = qkv.astype(np.float32)
    valid = np.ones((1, case.length), np.uint8)
    valid[0, : kernel.KEY_TILE + 3] = 0
    for mask in (NO_MASK, valid):
        assert relative_l2(case(0, mask), case.reference(mask)[1]) < 20 * UNIT


@dtypes
def test_what_is_no_number_stays_so(dtype):
    case = Case(dtype, 1, 150, 1, 16, 3)
    for place in (0, 16, 32):  # a query, a key, a value
        qkv = number(case.qkv).astype(np.float32)
        qkv[140, place] = np.nan
        strange = Case(dtype, 1, 150, 1, 16, 3)
        strange.qkv = stored(qkv, dtype)
        out = strange()[0]
        assert np.isnan(out[140]).any()
        assert np.isnan(out).any(axis=1).sum() == (1 if place == 0 else 150)


# -- sums ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [64, 100, 128])
def test_weighted_sums_are_chains_of_64_keys(length):
    """Of equal scores all weights are 1: what is left is the order of the sum over the keys of one tile."""
    case = Case(np.float32, 1, length, 1, 16, length)
    case.qkv[:, :32] = 0
    sums = in_chains(np.ones((1, length)), case.qkv[:, 32:].astype(np.float64), "float32", 64)
    power = np.float32(2.0 ** np.ceil(np.log2(length)))  # of two: no bit changes
    expected = (sums / power) * np.float32(float(power) / length)
    np.testing.assert_array_equal(case(), np.broadcast_to(expected, (1, length, 16)))
    longer = in_chains(np.ones((1, length)), number(case.qkv[:, 32:]), "float32", 128)
    assert np.array_equal(sums, longer) == (length == 64)


@pytest.mark.parametrize("head_dim", [24, 64, 72])
def test_scores_are_chains_of_16_numbers(head_dim):
    """2^24 + 1 is 2^24 in float32: ones are lost one by one in a chain with it, but not in one of their own."""
    case = Case(np.float32, 1, 2, 1, head_dim, 0)
    case.qkv[:] = 0
    q, k, _ = np.split(case.qkv, 3, axis=1)
    q[:, 0], q[:, 16:24], k[:, 0] = 1, 1, 2.0**24
    k[0, 16:24], k[1, 16] = 1, 4
    probs = np.empty((1, 1, 2, 2), np.float32)
    case(0, NO_MASK, probs)
    scores, others = (in_chains(number(q), number(k.T), "float32", chain).astype(np.float64) for chain in (16, 32))
    assert np.ptp(scores[0]) == 4 and not np.array_equal(scores, others)
    np.testing.assert_allclose(probs[0, 0], model.softmax(scores / np.sqrt(head_dim)), rtol=1e-5)


# -- bits ---------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("length", [40, 260])
def test_same_bits_alone_in_a_batch_and_on_any_threads(dtype, length):
    """How many parts a head's queries are cut into depends on the batch, the heads and the threads."""
    case = Case(dtype, 5, length, 3, 16, 0)
    valid = np.random.default_rng(0).integers(0, 2, (5, length), np.uint8)
    valid[:, 7] = 1
    whole, masked = case(), case(0, valid)
    for threads in (1, 2):
        with thread_count(threads):
            np.testing.assert_array_equal(case(), whole)
            np.testing.assert_array_equal(case(0, valid), masked)
            for images in (slice(0, 1), slice(4, 5), slice(1, 4)):
                np.testing.assert_array_equal(case(images=images), whole[images])
                np.testing.assert_array_equal(case(0, valid[images].copy(), images=images), masked[images])


@dtypes
def test_a_head_does_not_see_the_others(dtype):
    case, alone = Case(dtype, 2, 60, 3, 16, 0), Case(dtype, 2, 60, 1, 16, 0)
    parts = case.qkv.reshape(120, 3, 3, 16)
    out = case().reshape(2, 60, 3, 16)
    for head in range(3):
        alone.qkv = parts[:, :, head].reshape(120, 48)
        np.testing.assert_array_equal(alone(), out[:, :, head])
