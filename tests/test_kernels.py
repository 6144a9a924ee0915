"""Every kernel against its plain twin in float64, on awkward sizes, with nothing written outside of `out`.

Tolerances are relative L2 errors. A chain of K fused multiply-adds in float32 has a random error of about
2^-25 sqrt(K / 3) of the result (docs/numerics.md); kernels add their last rounding. The bounds below are 4 times that.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.kernels import attention, gemm, layer_norm, map_pool, patch_embed, similarity, tile
from npsiglip.kernels.jit import thread_count
from npsiglip.metrics import relative_l2
from npsiglip.reference import model

NONE = np.empty((0, 0), np.float32)
NO_PROBS = np.empty((0, 0, 0, 0), np.float32)
UNIT = 2.0**-24

sizes = st.integers(1, 70)
seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def guarded(*shape):
    """An array inside a larger one filled with a sentinel, and a check that the surroundings are untouched."""
    size = int(np.prod(shape))
    whole = np.full(size + 64, np.float32(12345.0))
    view = whole[32 : 32 + size].reshape(shape)

    def check():
        assert np.all(whole[:32] == 12345.0), "written before the array"
        assert np.all(whole[32 + size :] == 12345.0), "written behind the array"

    return view, check


def chain_bound(k):
    """4 times the random error of one chain of min(k, K_BLOCK) terms, the sum of chains, and the last rounding."""
    return 4 * UNIT * (1 + np.sqrt(min(k, gemm.K_BLOCK) / 3) + np.sqrt(k / gemm.K_BLOCK))


def packed(w):
    panels = np.full(gemm.packed_size(*w.shape), np.nan, np.float32)
    packable = np.ascontiguousarray(w.T)
    packable.flags.writeable = False
    part = w.shape[1] // 3  # in two calls, as layers beside each other are
    for first, last in ((0, part), (part, w.shape[1])):
        if last > first:
            gemm.pack(packable[first:last], first, w.shape[1], panels)
    return panels


@given(sizes, st.integers(1, 200), st.integers(1, 110), seeds)
def test_linear(m, k, n, seed):
    x, w, b = normal(seed, m, k), normal(seed + 1, k, n), normal(seed + 2, n)
    out, check = guarded(m, n)
    gemm.linear(x, packed(w), b, gemm.NO_ACTIVATION, NONE, NONE, out)
    check()
    reference = x.astype(np.float64) @ w + b
    assert np.linalg.norm(out - reference) <= chain_bound(k) * np.linalg.norm(np.abs(x) @ np.abs(w) + np.abs(b))


@given(sizes, sizes, st.integers(1, 110), st.sampled_from([1, 2, 5]), seeds)
def test_linear_fused_steps_are_the_separate_ones(m, k, n, period, seed):
    """GELU and residual in the tile give the bits of linear, GELU and addition one after the other."""
    m *= period
    x, w, b, residual = (
        normal(seed, m, k),
        normal(seed + 1, k, n),
        normal(seed + 2, n),
        normal(seed + 3, m // period, n),
    )
    panels = packed(w)
    plain = np.empty((m, n), np.float32)
    gemm.linear(x, panels, b, gemm.NO_ACTIVATION, NONE, NONE, plain)
    before, check_before = guarded(m, n)
    out, check = guarded(m, n)
    gemm.linear(x, panels, b, gemm.GELU_TANH, residual, before, out)
    check()
    check_before()
    np.testing.assert_array_equal(before, plain)
    activated = np.empty_like(plain)
    gemm.linear(x, panels, b, gemm.GELU_TANH, NONE, NONE, activated)
    np.testing.assert_array_equal(out, np.tile(residual, (period, 1)) + activated)
    assert relative_l2(activated, model.gelu_tanh(plain.astype(np.float64))) < 2 * UNIT


def test_linear_may_add_to_its_own_output():
    x, w, b, stream = normal(0, 9, 20), normal(1, 20, 33), normal(2, 33), normal(3, 9, 33)
    panels = packed(w)
    out = np.empty_like(stream)
    gemm.linear(x, panels, b, gemm.NO_ACTIVATION, stream, NONE, out)
    gemm.linear(x, panels, b, gemm.NO_ACTIVATION, stream, NONE, stream)
    np.testing.assert_array_equal(stream, out)


@given(st.integers(1, 600), st.integers(1, 150), seeds)
def test_linear_row_has_the_same_bits_in_any_batch(m, k, seed):
    x, w, b = normal(seed, m, k), normal(seed + 1, k, 50), normal(seed + 2, 50)
    panels = packed(w)
    whole, alone = np.empty((m, 50), np.float32), np.empty((1, 50), np.float32)
    gemm.linear(x, panels, b, gemm.GELU_TANH, NONE, NONE, whole)
    row = seed % m
    gemm.linear(x[row : row + 1].copy(), panels, b, gemm.GELU_TANH, NONE, NONE, alone)
    np.testing.assert_array_equal(alone[0], whole[row])


@given(st.integers(1, 40), st.integers(2, 300), seeds, st.sampled_from([0.0, 100.0]))
def test_layer_norm(m, d, seed, offset):
    x, scale, b = normal(seed, m, d) + np.float32(offset), normal(seed + 1, d), normal(seed + 2, d)
    out, check = guarded(m, d)
    layer_norm.layer_norm(x, scale, b, 1e-6, out)
    check()
    reference = model.layer_norm(x.astype(np.float64), scale.astype(np.float64), b.astype(np.float64), 1e-6)
    # One rounding at the end; the variance loses 2^-52 (1 + mean^2 / var), and var of few values may be small.
    np.testing.assert_allclose(out, reference, rtol=2 * UNIT, atol=1e-5 * UNIT * offset**2 + 1e-30)


@given(st.integers(1, 3), st.integers(1, 60), st.integers(1, 3), st.integers(1, 40), seeds)
def test_attention(n, length, num_heads, head_dim, seed):
    check_attention(n, length, num_heads, head_dim, seed)


@pytest.mark.parametrize("length", [attention.KEY_TILE - 1, attention.KEY_TILE, attention.KEY_TILE + 1, 900])
def test_attention_over_several_tiles_of_keys(length):
    check_attention(1, length, 2, 24, length)


def check_attention(n, length, num_heads, head_dim, seed):
    width = num_heads * head_dim
    qkv = 2 * normal(seed, n * length, 3 * width)
    scratch = np.full(attention.scratch_size(n, length, num_heads, head_dim), np.nan, np.float32)
    probs, check_probs = guarded(n, num_heads, length, length)
    out, check = guarded(n * length, width)
    attention.attention(qkv, length, num_heads, scratch, probs, out)
    check()
    check_probs()
    q, k, v = (
        model.split_heads(part.reshape(n, length, width), num_heads)
        for part in np.split(qkv.astype(np.float64), 3, axis=1)
    )
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(head_dim)
    reference = model.softmax(scores)
    # A score's absolute error is the relative error of its exponential.
    score_error = chain_bound(head_dim) * np.abs(q).max() * np.abs(k).max() * np.sqrt(head_dim) + 8 * UNIT
    np.testing.assert_allclose(probs, reference, rtol=2 * score_error, atol=1e-30)
    expected = model.merge_heads(reference @ v).reshape(out.shape)
    assert np.abs(out - expected).max() <= (2 * score_error + chain_bound(length)) * np.abs(v).max()
    quiet = np.empty_like(out)
    attention.attention(qkv, length, num_heads, scratch, NO_PROBS, quiet)
    np.testing.assert_array_equal(quiet, out)


def test_attention_survives_scores_that_exp_cannot_take():
    """Scores of +-1e4: the running maximum keeps exp in range, across tiles of keys too."""
    length, width = 2 * attention.KEY_TILE + 5, 16
    qkv = normal(1, length, 3 * width)
    qkv[:, : 2 * width] *= 50
    scratch = np.empty(attention.scratch_size(1, length, 1, width), np.float32)
    out = np.empty((length, width), np.float32)
    attention.attention(qkv, length, 1, scratch, NO_PROBS, out)
    q, k, v = np.split(qkv.astype(np.float64), 3, axis=1)
    assert relative_l2(out, model.softmax(q @ k.T / 4) @ v) < 1e-3  # scores of 1e4 have errors of 1e-3


def test_attention_where_every_score_is_far_below_zero():
    """The lanes behind the last key must not take part in the maximum: exp would underflow for every key."""
    length, width = 21, 16
    qkv = normal(2, length, 3 * width)
    qkv[:, :width] += 20
    qkv[:, width : 2 * width] -= 20  # scores of about -1600
    scratch = np.empty(attention.scratch_size(1, length, 1, width), np.float32)
    out = np.empty((length, width), np.float32)
    attention.attention(qkv, length, 1, scratch, NO_PROBS, out)
    q, k, v = np.split(qkv.astype(np.float64), 3, axis=1)
    assert relative_l2(out, model.softmax(q @ k.T / 4) @ v) < 1e-3  # scores of 6400 have errors of 1e-3


@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 4), st.integers(1, 40), seeds)
def test_map_pool(n, length, num_heads, head_dim, seed):
    width = num_heads * head_dim
    q, kv = 2 * normal(seed, width), normal(seed + 1, n * length, 2 * width)
    probs, check_probs = guarded(n, num_heads, 1, length)
    out, check = guarded(n, width)
    map_pool.map_pool(q, kv, length, num_heads, probs, out)
    check()
    check_probs()
    k, v = (
        model.split_heads(part.reshape(n, length, width), num_heads)
        for part in np.split(kv.astype(np.float64), 2, axis=1)
    )
    queries = model.split_heads(np.broadcast_to(q.astype(np.float64), (n, 1, width)), num_heads)
    reference = model.softmax(queries @ k.transpose(0, 1, 3, 2) / np.sqrt(head_dim))
    np.testing.assert_allclose(probs, reference, rtol=2 * UNIT, atol=1e-30)
    # Rounded once, but for cancellation in the weighted sum.
    assert np.abs(out - model.merge_heads(reference @ v)[:, 0]).max() <= 2 * UNIT * np.abs(v).max()


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 8), st.integers(1, 3), seeds)
def test_extract_patches(n, patch_size, rest, grid, seed):
    side = patch_size * grid + min(rest, patch_size - 1)
    pixels = normal(seed, n, 3, side, side)
    out, check = guarded(n * grid * grid, patch_size * patch_size * 3)
    patch_embed.extract_patches(pixels, patch_size, out)
    check()
    np.testing.assert_array_equal(out, model.extract_patches(pixels, patch_size).reshape(out.shape))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 100), seeds)
def test_unit_vectors_and_logits(n, k, d, seed):
    x, y = normal(seed, n, d), normal(seed + 1, k, d)
    unit_x, unit_y, out = np.empty_like(x), np.empty_like(y), np.empty((n, k), np.float32)
    similarity.l2_normalize(x, unit_x)
    similarity.l2_normalize(y, unit_y)
    np.testing.assert_allclose(unit_x, model.l2_normalize(x.astype(np.float64)), rtol=2 * UNIT)
    similarity.logits(unit_x, unit_y, np.log(117.0), -12.9, out)
    expected = 117.0 * unit_x.astype(np.float64) @ unit_y.astype(np.float64).T - 12.9
    np.testing.assert_allclose(out, expected, rtol=2 * UNIT, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 13])
def test_tile_with_any_strides_adds_to_what_it_holds(dtype, rows):
    from numba import njit

    units = 1 if dtype == np.float64 else tile.UNITS_F32

    @njit
    def run(rows, units, a, a_start, row_stride, k_stride, panel, k, k_block, out, out_stride):
        tile.add_product(rows, units, a, a_start, row_stride, k_stride, panel, 16, k, k_block, out, 3, out_stride)

    rng = np.random.default_rng(rows)
    k, width = 29, 16 * units
    a = rng.integers(-4, 5, (k, rows + 2)).astype(dtype)  # small whole numbers: every sum is exact
    panel = rng.integers(-4, 5, 16 + k * width).astype(dtype)
    out = rng.integers(-4, 5, 3 + rows * (width + 5)).astype(dtype)
    expected = out.copy()
    block = expected[3:].reshape(rows, width + 5)[:, :width]
    block += a[:, 1 : rows + 1].T @ panel[16:].reshape(k, width)
    run(rows, units, a, 1, 1, rows + 2, panel, k, 11, out, width + 5)
    np.testing.assert_array_equal(out, expected)


def test_every_kernel_gives_the_same_bits_on_one_and_two_threads():
    m, length = 600, 150  # several blocks of rows and of queries
    x, w, b = normal(0, m, 130), normal(1, 130, 192), normal(2, 192)
    panels, results = packed(w), []
    scratch = np.empty(attention.scratch_size(4, length, 4, 16), np.float32)
    for threads in (1, 2):
        hidden, normed = np.empty((m, 192), np.float32), np.empty((m, 192), np.float32)
        mixed = np.empty((m, 64), np.float32)
        with thread_count(threads):
            gemm.linear(x, panels, b, gemm.GELU_TANH, NONE, NONE, hidden)
            layer_norm.layer_norm(hidden, b, b, 1e-6, normed)
            attention.attention(normed, length, 4, scratch, NO_PROBS, mixed)
        results.append((hidden, normed, mixed))
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
