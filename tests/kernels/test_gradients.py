"""Gradient kernels against npsiglip.reference.backward in float64, on awkward sizes.

Sums whose order is documented are compared bit for bit. Where a result is computed in float64 and rounded once, the
bound is that rounding and what cancellation may leave of float64. Where it is float32, it is bounded element by
element by the errors of its terms, as kernels/test_attention.py does for the forward pass.
"""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from npsiglip.element_types import LANES
from npsiglip.kernels import attention_gradient as attention_kernel
from npsiglip.kernels import gemm, map_pool, pack, sums, vector_math
from npsiglip.kernels import layer_norm_gradient as layer_norm_kernel
from npsiglip.kernels import map_pool_gradient as map_pool_kernel
from npsiglip.kernels.jit import thread_count
from npsiglip.kernels.steps import ROWS
from npsiglip.kernels.vector import load, store
from npsiglip.metrics import relative_l2
from npsiglip.reference import backward, model
from tests.helpers.arrays import (
    NONE,
    STORED,
    UNIT,
    chain_bound,
    guarded,
    in_chains,
    normal,
    number,
    panels_of,
    stored,
    to_bits,
)
from tests.helpers.golden_data import ROOT

seeds = st.integers(0, 2**32 - 1)
UNIT_F64 = 2.0**-53


def wide(*arrays):
    """Float64 copies."""
    return [a.astype(np.float64) for a in arrays]


def with_nan_behind(x, size):
    """A copy of x, and NaN behind it."""
    whole = np.full(x.size + size, np.nan, np.float32)
    whole[: x.size] = x.reshape(-1)
    return whole[: x.size].reshape(x.shape)


def on_threads(run):
    """What `run` returns, which must be the same bits on one thread and on two."""
    results = []
    for threads in (1, 2):
        with thread_count(threads):
            results.append(run())
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
    return results[0]


# -- GELU -------------------------------------------------------------------------------------------------------------

# Measured over a million of floats: 4.4 u, near x = 1.37 where s, x, slope and the sum are rounded after each other
# and the derivative is 1.13.
GELU_GRADIENT = 6 * UNIT


@njit
def apply_gelu_gradient(x, out):
    for i in range(0, x.size, LANES):
        store(out, i, vector_math.gelu_tanh_gradient(load(x, i)))


def gelu_gradient(x):
    """gelu' as the kernels compute it."""
    padded = np.resize(x.reshape(-1), -(-x.size // LANES) * LANES)
    out = np.full_like(padded, np.nan)
    apply_gelu_gradient(padded, out)
    return out[: x.size].reshape(x.shape)


def test_gelu_gradient_over_all_floats():
    """A dense grid where it bends, and bits at random: every exponent, subnormal numbers, 1e38."""
    bits = np.random.default_rng(0).integers(0, 2**32, 1 << 18, np.uint32).view(np.float32)
    x = np.concatenate([np.linspace(-20, 20, 1 << 18), np.linspace(-1e-3, 1e-3, 1 << 12), bits[np.isfinite(bits)]])
    x = x.astype(np.float32)
    error = np.abs(gelu_gradient(x) - backward.gelu_tanh(x.astype(np.float64), 1.0))
    assert error.max() <= GELU_GRADIENT


def test_gelu_gradient_of_special_values():
    tiny, huge = np.float32(1e-45), np.finfo(np.float32).max
    x = np.array([0.0, -0.0, tiny, -tiny, 16.0, huge, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(gelu_gradient(x), np.array([0.5, 0.5, 0.5, 0.5, 1, 1, 1, np.nan], np.float32))
    assert np.all(np.abs(gelu_gradient(np.array([-10.5, -1e13, -1e20, -huge, -np.inf], np.float32))) < 1e-35)


def test_gelu_gradient_keeps_the_digits_that_one_minus_s_loses():
    """Where s is near 1, x 2 u' makes much of the error of s - s^2. Measured 0.9 u, and 13 u for the naive form."""
    x = np.linspace(3.0, 5.0, 1 << 12).astype(np.float32)
    truth = backward.gelu_tanh(x.astype(np.float64), 1.0)
    one, root, cubic, three = (np.float32(c) for c in (1, np.sqrt(8 / np.pi), 0.044715, 3))
    s = one / (one + np.exp(-root * (x + cubic * x * x * x)))
    naive = s + x * (s - s * s) * root * (one + three * cubic * x * x)
    assert naive.dtype == np.float32
    assert relative_l2(gelu_gradient(x), truth) < 1.3 * UNIT
    assert relative_l2(gelu_gradient(x), truth) < 0.2 * relative_l2(naive, truth)


# -- linear layers ----------------------------------------------------------------------------------------------------


def in_pairs(x):
    """x [M, K] of bfloat16 as lanes [ceil(M / 2), K] of two rows."""
    rows = np.pad(x, ((0, -len(x) % 2), (0, 0)))
    return rows[::2] | (rows[1::2].astype(np.uint32) << 16)


@settings(max_examples=60)
@given(
    st.sampled_from(["float32", "bfloat16"]), st.integers(1, 70), st.one_of(st.integers(1, 200), st.just(1700)),
    st.integers(1, 110), st.booleans(), seeds,
)  # fmt: skip
def test_transposed_product(dtype, m, k, n, adds, seed):
    """out = residual + x^T w + b in the documented order, whatever is behind x; the residual may be the output."""
    x, w = (stored(normal(s, *shape), STORED[dtype]) for s, shape in ((seed, (k, m)), (seed + 1, (k, n))))
    b, residual = normal(seed + 2, n), normal(seed + 3, m, n)
    expected = in_chains(number(x.T), number(w), dtype) + b
    lanes = with_nan_behind((x if dtype == "float32" else in_pairs(x)).view(np.float32), ROWS).view(x.dtype)

    def run():
        out, check = guarded(m, n)
        out[:] = residual
        gemm.linear(
            lanes, panels_of(w, dtype), dtype, gemm.NO_SCALES, b, gemm.NO_ACTIVATION, out if adds else NONE, NONE, out,
            transposed=True,
        )  # fmt: skip
        check()
        return (out,)

    (out,) = on_threads(run)
    np.testing.assert_array_equal(out, residual + expected if adds else expected)


@settings(max_examples=60)
@given(st.integers(1, 70), st.integers(1, 200), st.integers(1, 110), st.booleans(), seeds)
def test_product_behind_gelu(m, k, n, adds, seed):
    """out = residual + (x w + b) gelu'(before); before is read only."""
    x, w, b, residual = normal(seed, m, k), normal(seed + 1, k, n), normal(seed + 2, n), normal(seed + 3, m, n)
    before = 2 * normal(seed + 4, m, n)
    expected = (in_chains(*wide(x, w), "float32") + b) * gelu_gradient(before)
    copy = before.copy()

    def run():
        out, check = guarded(m, n)
        gemm.linear(
            x, panels_of(w, "float32"), "float32", gemm.NO_SCALES, b, gemm.GELU_TANH_GRADIENT,
            residual if adds else NONE, before, out,
        )  # fmt: skip
        check()
        return (out,)

    (out,) = on_threads(run)
    np.testing.assert_array_equal(out, residual + expected if adds else expected)
    np.testing.assert_array_equal(before, copy)


# -- sums -------------------------------------------------------------------------------------------------------------


def sums_in_parts(start, x, rows):
    """start + the sums of rows, in parts in float32 and from part to part in float64; rounded once."""
    total = np.zeros(len(start))
    for first in range(0, len(x), rows):
        total += np.add.accumulate(x[first : first + rows])[-1]  # one after the other
    return (start + total).astype(np.float32)


@settings(max_examples=60)
@given(st.one_of(st.integers(1, 70), st.integers(250, 300)), st.integers(1, 70), seeds)
def test_pack_and_sum(m, n, seed):
    """Panels as they are documented, and sums in their order."""
    x, start = normal(seed, m, n), normal(seed + 1, n)

    def run():
        panels, check_panels = guarded(*pack.panels_shape(m, n, "float32"))
        out, check = guarded(n)
        out[:] = start
        sums.pack_and_sum(x, panels, out)
        check()
        check_panels()
        return panels, out

    panels, out = on_threads(run)
    np.testing.assert_array_equal(panels.view(np.uint32), panels_of(x, "float32"))
    np.testing.assert_array_equal(out, sums_in_parts(start, x, sums.ROWS_EACH))


def test_sums_are_more_exact_than_chains():
    """Of numbers of one sign, where the error of a chain grows most: 1 u and not 20."""
    x = np.abs(normal(0, 4000, 50)) + 1
    out = np.zeros(50, np.float32)
    sums.pack_and_sum(x, np.empty(pack.panels_shape(*x.shape, "float32"), np.float32), out)
    assert relative_l2(out, x.sum(axis=0, dtype=np.float64)) < 2 * UNIT


@settings(max_examples=60)
@given(
    st.sampled_from([np.float32, np.uint16]), st.one_of(st.integers(1, 70), st.integers(250, 300)), st.integers(1, 70),
    seeds,
)  # fmt: skip
def test_pack_pairs_and_sum(dtype, m, n, seed):
    """Two rows in a lane, in bfloat16; sums of the rows as they were given, of two rows first."""
    x, start = stored(normal(seed, m, n), dtype), normal(seed + 1, n)

    def run():
        panels, check_panels = guarded(*pack.panels_shape(m, n, "bfloat16"), dtype=np.uint32)
        out, check = guarded(n)
        out[:] = start
        sums.pack_pairs_and_sum(x, panels, out)
        check()
        check_panels()
        return panels, out

    panels, out = on_threads(run)
    np.testing.assert_array_equal(panels, panels_of(to_bits(number(x)), "bfloat16"))
    rows = np.pad(number(x).astype(np.float32), ((0, m % 2), (0, 0)))
    np.testing.assert_array_equal(out, sums_in_parts(start, rows[::2] + rows[1::2], sums.ROWS_EACH // 2))


@settings(max_examples=60)
@given(st.integers(1, 70), st.integers(1, 70), seeds)
def test_pair_rows(m, k, seed):
    x = to_bits(normal(seed, m, k))

    def run():
        out, check = guarded(-(-m // 2), k, dtype=np.uint32)
        sums.pair_rows(x, out)
        check()
        return (out,)

    np.testing.assert_array_equal(on_threads(run)[0], in_pairs(x))


@settings(max_examples=60)
@given(st.integers(1, 200), st.integers(1, 70), st.integers(1, 20), seeds)
def test_add_rows(m, d, size, seed):
    """Indices repeat (there are more rows than places), and some places get nothing; in the order of the rows."""
    x, start = normal(seed, m, d), normal(seed + 1, size, d)
    index = np.random.default_rng(seed).integers(0, size, m, np.int32)
    expected = start.copy()
    np.add.at(expected, index, x)

    def run():
        out, check = guarded(size, d)
        out[:] = start
        sums.add_rows(x, index, out)
        check()
        return (out,)

    np.testing.assert_array_equal(on_threads(run)[0], expected)


# -- LayerNorm --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(2, 200), st.sampled_from([0.0, 100.0]), seeds)
def test_layer_norm_gradient(m, d, offset, seed):
    """dx is added to; the sums over rows are those of 64 rows each."""
    eps = 1e-6
    x, dy, scale = normal(seed, m, d) + np.float32(offset), normal(seed + 1, m, d), normal(seed + 2, d)
    start = normal(seed + 3, m, d)

    def run():
        dx, check = guarded(m, d)
        parts, check_parts = guarded(*layer_norm_kernel.sums_shape(m, d), dtype=np.float64)
        dx[:] = start
        layer_norm_kernel.layer_norm_gradient(x, dy, scale, eps, dx, parts)
        check()
        check_parts()
        return dx, parts

    dx, parts = on_threads(run)
    x, dy, scale, start = wide(x, dy, scale, start)
    # What float64 leaves of a normalised number: the variance loses 2^-53 (1 + mean^2 / var) (docs/numerics.md), and
    # of few numbers it may be small. 16 of that for the sums, and |n|, |g n| at most sqrt(d).
    variance = x.var(axis=1, keepdims=True)
    lost = 16 * UNIT_F64 * (1 + (x**2).mean(axis=1, keepdims=True) / (variance + eps)) * np.sqrt(d)
    expected = start + backward.layer_norm(x, scale, eps, dy)[0]
    terms = np.abs(dy * scale).max(axis=1, keepdims=True) / np.sqrt(variance + eps)
    assert np.all(np.abs(dx - expected) <= UNIT * np.abs(expected) * (1 + 1e-6) + d * lost * terms)
    for part, first in zip(parts, range(0, m, 64), strict=True):
        rows = slice(first, first + 64)
        _, d_scale, d_b = backward.layer_norm(x[rows], scale, eps, dy[rows])
        assert np.all(np.abs(part[0] - d_scale) <= (lost[rows] * np.abs(dy[rows])).sum(axis=0))
        np.testing.assert_allclose(part[1], d_b, rtol=0, atol=64 * UNIT_F64 * np.abs(dy).max() * 64)


# -- attention --------------------------------------------------------------------------------------------------------


def attention_truth(q, k, v, probs, d_mix, num_heads):
    """The reference's gradients of q, k and v [N, L, D]: its `attention` with linear layers that do nothing.

    Keys and values are the two halves of one input, so that their gradients come apart.
    """
    width = q.shape[-1]
    one, zero = np.eye(width), np.zeros((width, width))
    params = {"out.w": one, "q.w": one, "k.w": np.concatenate([one, zero]), "v.w": np.concatenate([zero, one])}
    trace = {"q": q, "k": k, "v": v, "probs": probs, "mix": np.zeros_like(d_mix)}
    params, trace = ({f"a.{name}": value for name, value in of.items()} for of in (params, trace))
    d_q, d_kv = backward.attention(params, "a", q, np.concatenate([k, v], -1), num_heads, trace, d_mix, {})
    return d_q, d_kv[..., :width], d_kv[..., width:]


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
        qkv = with_nan_behind(qkv.reshape(-1, 3 * width), attention_kernel.SLACK)
        d_mix = np.ascontiguousarray(d_mix.reshape(-1, width))
        attention_kernel.attention_gradient(qkv, d_mix, self.length, self.heads, out)
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
        truth = attention_truth(*qkv, probs, d_mix, self.heads)
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


# -- MAP pooling ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 4), st.integers(1, 40), seeds)
def test_map_pool_gradient(n, length, heads, head_dim, seed):
    """With the forward kernel's probabilities. In float64 inside: d_kv is rounded once, dq not at all."""
    width = heads * head_dim
    q, kv, d_mix = 2 * normal(seed, width), normal(seed + 1, n * length, 2 * width), normal(seed + 2, n, width)
    probs = np.empty((n, heads, 1, length), np.float32)
    map_pool.map_pool(q, kv, length, heads, probs, np.empty((n, width), np.float32))

    def run():
        d_kv, check = guarded(n * length, 2 * width)
        dq, check_dq = guarded(n, width, dtype=np.float64)
        map_pool_kernel.map_pool_gradient(q, d_mix, kv, heads, probs, d_kv, dq)
        check()
        check_dq()
        return d_kv, dq

    d_kv, dq = on_threads(run)
    q, kv, d_mix, probs = wide(q, kv, d_mix, probs)
    k, v = np.split(kv.reshape(n, length, -1), 2, axis=2)
    queries = np.broadcast_to(q, (n, 1, width))
    d_q, d_k, d_v = attention_truth(queries, k, v, probs, d_mix[:, None], heads)
    expected = np.concatenate([d_k, d_v], -1).reshape(n * length, -1)
    # what cancels in dP - mean is of the size of dP: 16 roundings of float64 of the largest that there can be
    largest = np.abs(d_mix).max() * np.abs(v).max() * np.sqrt(head_dim) * (head_dim + length)
    lost = 16 * UNIT_F64 * largest * max(np.abs(q).max(), np.abs(k).max(), 1.0)
    assert np.all(np.abs(d_kv - expected) <= UNIT * (1 + 1e-6) * np.abs(expected) + lost)
    assert np.all(np.abs(dq - d_q[:, 0]) <= length * lost)


# -- memory -----------------------------------------------------------------------------------------------------------

# Every array, read or written, ends where memory that nobody may touch begins, but for the slack that is documented.
AT_THE_END_OF_MEMORY = """
import ctypes, mmap, sys
sys.path.insert(0, ".")
import numpy as np
from tests.helpers.arrays import NONE, normal, to_bits
from npsiglip.kernels import attention_gradient, gemm, layer_norm_gradient, map_pool_gradient, pack, sums
from npsiglip.kernels.steps import ROWS

def at_end(a, slack=0):
    size = -(-(a.nbytes + 4 * slack) // mmap.PAGESIZE) * mmap.PAGESIZE
    region = np.frombuffer(mmap.mmap(-1, size + mmap.PAGESIZE), np.uint8)
    forbidden = ctypes.c_void_p(region.ctypes.data + size)
    assert ctypes.CDLL(None).mprotect(forbidden, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    end = size - 4 * slack
    view = region[end - a.nbytes : end].view(a.dtype).reshape(a.shape)
    view[:] = a
    return view

def new(*shape, dtype=np.float32):
    return at_end(np.zeros(shape, dtype))

for m, k, n in ((1, 1, 1), (3, 5, 17), (9, 66, 47), (21, 130, 50)):
    x, w, b, residual = (at_end(normal(i, *shape)) for i, shape in enumerate(((m, k), (k, n), (n,), (m, n))))
    x_t = at_end(np.ascontiguousarray(x.T), slack=-m % ROWS)
    panels = new(*pack.panels_shape(k, n, "float32"))
    sums.pack_and_sum(w, panels, new(n))
    bits, pairs = at_end(to_bits(w)), new(*pack.panels_shape(k, n, "bfloat16"), dtype=np.uint32)
    for values in (w, bits):
        sums.pack_pairs_and_sum(values, pairs, new(n))
    x_bits, x_pairs = at_end(to_bits(x.T)), at_end(np.zeros((-(-k // 2), m), np.uint32), slack=-m % ROWS)
    sums.pair_rows(x_bits, x_pairs)
    arguments = pairs, "bfloat16", gemm.NO_SCALES, b, gemm.NO_ACTIVATION, NONE, NONE
    gemm.linear(x_pairs.view(np.uint16), *arguments, new(m, n), transposed=True)
    for rest in (NONE, residual):
        arguments = panels.view(np.uint32), "float32", gemm.NO_SCALES, b
        gemm.linear(x_t, *arguments, gemm.NO_ACTIVATION, rest, NONE, new(m, n), transposed=True)
        gemm.linear(x, *arguments, gemm.GELU_TANH_GRADIENT, rest, at_end(normal(4, m, n)), new(m, n))
    sums.add_rows(x, at_end(np.zeros(m, np.int32)), new(1, k))
    parts = new(*layer_norm_gradient.sums_shape(m, k), dtype=np.float64)
    layer_norm_gradient.layer_norm_gradient(x, at_end(normal(5, m, k)), at_end(x[0]), 1e-6, new(m, k), parts)

for length, heads, head_dim in ((1, 1, 1), (1, 1, 2), (17, 2, 7), (131, 1, 20), (49, 1, 64)):
    width = heads * head_dim
    qkv = at_end(normal(0, length, 3 * width), attention_gradient.SLACK)
    attention_gradient.attention_gradient(
        qkv, at_end(normal(1, length, width)), length, heads, new(length, 3 * width)
    )
    arrays = (at_end(normal(i, *shape)) for i, shape in enumerate(((width,), (1, width), (length, 2 * width))))
    probs, out = at_end(np.ones((1, heads, 1, length), np.float32)), new(length, 2 * width)
    map_pool_gradient.map_pool_gradient(*arrays, heads, probs, out, new(1, width, dtype=np.float64))
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect")
def test_nothing_is_read_or_written_behind_an_array():
    command = [sys.executable, "-c", AT_THE_END_OF_MEMORY]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
