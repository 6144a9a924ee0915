"""Linear layers: packed weights, the product, and what is done to it before it leaves the tile.

A linear layer is compared in two parts. x w + b, which it hands out before GELU and residual, has the very bits of the
documented order for floats, and is a few roundings from the exact number for int8; its error against float64 is
bounded besides. What follows is compared bit for bit with the same steps one after the other.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from npsiglip.element_types import LANES
from npsiglip.kernels import gemm
from npsiglip.kernels.jit import thread_count
from npsiglip.kernels.steps import ROWS
from npsiglip.kernels.vector import load, store
from npsiglip.kernels.vector_math import gelu_erf, gelu_tanh, gelu_tanh_gradient
from npsiglip.metrics import relative_l2
from npsiglip.reference import model
from tests.helpers.arrays import (
    NONE,
    STORED,
    UNIT,
    chain_bound,
    guarded,
    in_chains,
    in_pairs,
    normal,
    number,
    on_threads,
    panels_of,
    stored,
    whole_steps,
    wide,
    with_nan_behind,
)

DTYPES = tuple(STORED)
OUTS = [np.float32, np.uint16]
seeds = st.integers(0, 2**32 - 1)


@njit
def apply_gelu(x, out):
    for i in range(0, x.size, LANES):
        store(out, i, gelu_tanh(load(x, i)))


@njit
def apply_gelu_erf(x, out):
    for i in range(0, x.size, LANES):
        store(out, i, gelu_erf(load(x, i)))


def gelu(x, apply=apply_gelu):
    """GELU as the kernels compute it."""
    padded = np.resize(x.reshape(-1), -(-x.size // LANES) * LANES)
    out = np.empty_like(padded)
    apply(padded, out)
    return out[: x.size].reshape(x.shape)


def flushed(a):
    """Subnormal bfloat16 as zeros, which the instruction of AVX512-BF16 writes for them: GELU far below zero."""
    return np.where(a & 0x7F80, a, a & 0x8000) if a.dtype == np.uint16 else a


class Case:
    """Inputs of a linear layer in an element type, and the product: `exact` in float64, `sums` in the known order."""

    def __init__(self, dtype, m, k, n, seed):
        self.dtype, self.shape = dtype, (m, n)
        self.b, self.scales = normal(seed + 2, n), gemm.NO_SCALES
        if dtype == "int8":
            rng = np.random.default_rng(seed)
            x, w = rng.integers(0, 256, (m, k), np.uint8), rng.integers(-127, 128, (k, n), np.int8)
            scale_x, scale_w = (rng.uniform(0.5, 2, size).astype(np.float32) for size in (m, n))
            zero = rng.integers(0, 256, m, np.int32)
            self.scales = scale_x, zero, scale_w, w.sum(0, dtype=np.int32)
            whole = x.astype(np.int64) @ w - zero[:, None].astype(np.int64) * w.sum(0, dtype=np.int64)
            self.exact = whole * (scale_x.astype(np.float64)[:, None] * scale_w)
            self.magnitude = np.abs(self.exact)
        else:
            x, w = (stored(normal(s, *shape), STORED[dtype]) for s, shape in ((seed, (m, k)), (seed + 1, (k, n))))
            self.exact, self.magnitude = number(x) @ number(w), np.abs(number(x)) @ np.abs(number(w))
            self.values = number(x), number(w)
        self.x, self.panels = whole_steps(x, dtype), panels_of(w, dtype)
        if dtype == "int8":
            self.x[:, k:] = 99  # beyond K: anything, since the weights are zero there

    def sums(self):
        """x w in the documented order."""
        return in_chains(*self.values, self.dtype)

    def __call__(self, out, gelu=gemm.NO_ACTIVATION, residual=NONE, before=NONE, rows=slice(None)):
        """Run the layer, or some rows of it."""
        x, scales = np.ascontiguousarray(self.x[rows]), self.scales
        if self.dtype == "int8":
            scales = (scales[0][rows].copy(), scales[1][rows].copy(), *scales[2:])
        gemm.linear(x, self.panels, self.dtype, scales, self.b, int(gelu), residual, before, out)
        return out


def check_sums(case, before):
    """x w + b: bit for bit, or within the roundings of int8's three products and two sums."""
    if case.dtype != "int8":
        np.testing.assert_array_equal(before, case.sums() + case.b)
    else:
        bound = UNIT * (4 * case.magnitude + 2 * np.abs(case.b))
        assert np.all(np.abs(before - (case.exact + case.b)) <= bound)


@settings(max_examples=80)
@given(
    st.sampled_from(DTYPES), st.sampled_from(OUTS), st.integers(1, 70), st.integers(1, 200), st.integers(1, 110),
    st.sampled_from([gemm.NO_ACTIVATION, gemm.GELU_TANH, gemm.GELU_ERF]), st.sampled_from([None, 1, 2, 5]), seeds,
)  # fmt: skip
def test_linear(dtype, out_dtype, m, k, n, activate, period, seed):
    """Any shape, with or without GELU, with a residual of M rows, or of fewer that are repeated."""
    m *= period or 1
    case = Case(dtype, m, k, n, seed)
    residual = NONE if period is None else normal(seed + 3, m // period, n)
    before, check_before = guarded(m, n)
    out, check = guarded(m, n, dtype=out_dtype)
    case(out, activate, residual, before)
    check()
    check_before()
    check_sums(case, before)
    forms = {gemm.GELU_TANH: gelu, gemm.GELU_ERF: lambda x: gelu(x, apply_gelu_erf)}
    expected = forms.get(activate, np.array)(before)
    if period is not None:
        expected = np.tile(residual, (period, 1)) + expected
    np.testing.assert_array_equal(flushed(out), flushed(stored(expected, out_dtype)))
    np.testing.assert_array_equal(case(np.empty_like(out), activate, residual), out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 64, 257, 768, 769, 3072, 6200])
def test_error_at_any_depth(dtype, k):
    """Against float64, relative to the sums of magnitudes: several chains, and several blocks of steps."""
    case = Case(dtype, 11, k, 50, k)
    before = case(np.empty(case.shape, np.float32))
    check_sums(case, before)
    if dtype != "int8":
        error = np.linalg.norm(before - (case.exact + case.b))
        assert error <= chain_bound(k, dtype) * np.linalg.norm(case.magnitude + np.abs(case.b))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_typical_error_at_width_768(dtype):
    """Measured 1.6 u: bfloat16 is as exact as float32, once its inputs are given."""
    case = Case(dtype, 40, 768, 100, 0)
    assert relative_l2(case(np.empty(case.shape, np.float32)), case.exact + case.b) < 4 * UNIT


def test_gelu_is_that_of_the_reference():
    case = Case("float32", 30, 64, 50, 1)
    before = np.empty(case.shape, np.float32)
    out = case(np.empty(case.shape, np.float32), True, NONE, before)
    assert relative_l2(out, model.gelu_tanh(before.astype(np.float64))) < 2 * UNIT
    out = case(np.empty(case.shape, np.float32), gemm.GELU_ERF, NONE, before)
    assert relative_l2(out, model.gelu_erf(before.astype(np.float64))) < 2 * UNIT


@pytest.mark.parametrize("dtype", DTYPES)
def test_residual_may_be_the_output(dtype):
    case, stream = Case(dtype, 21, 70, 65, 0), normal(1, 21, 65)
    out = case(np.empty(case.shape, np.float32), residual=stream)
    np.testing.assert_array_equal(case(stream, residual=stream), out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_alone_among_others_and_on_any_threads(dtype):
    """Blocks of rows depend on M and on the number of threads, and several tasks share the rows."""
    case = Case(dtype, 700, 150, 100, 0)
    whole = case(np.empty(case.shape, np.float32), True)
    for threads in (1, 2):
        with thread_count(threads):
            np.testing.assert_array_equal(case(np.empty(case.shape, np.float32), True), whole)
            for rows in (slice(0, 1), slice(699, 700), slice(3, 20), slice(100, 401)):
                part = np.empty_like(whole[rows])
                np.testing.assert_array_equal(case(part, True, rows=rows), whole[rows])


@pytest.mark.parametrize(("q_x", "zero"), [(255, 0), (0, 255), (255, 255), (255, 128)])
@pytest.mark.parametrize("q_w", [-127, 127])
def test_int8_at_the_largest_k(q_x, zero, q_w):
    """All whole numbers fit int32; only one rounding is left, since the scales are 1."""
    k, n = 66_000, 17
    w = np.full((k, n), q_w, np.int8)
    scales = np.ones(2, np.float32), np.full(2, zero, np.int32), np.ones(n, np.float32), w.sum(0, dtype=np.int32)
    out = np.empty((2, n), np.float32)
    x = np.full((2, k), q_x, np.uint8)
    gemm.linear(x, panels_of(w, "int8"), "int8", scales, np.zeros(n, np.float32), gemm.NO_ACTIVATION, NONE, NONE, out)
    np.testing.assert_array_equal(out, np.float32((q_x - zero) * q_w * k))


def test_types_without_a_product_are_refused():
    """Of both sides: what x is is told by its array, what the weights are must be said."""
    x, panels, b, out = np.zeros((1, 4), np.uint16), np.zeros((1, 2, 16), np.uint32), normal(0, 16), normal(1, 1, 16)
    rest = gemm.NO_SCALES, b, gemm.NO_ACTIVATION, NONE, NONE, out
    with pytest.raises(TypeError, match="no product of bfloat16 x int8 weights; there are those of float32 x"):
        gemm.linear(x, panels, "int8", *rest)
    with pytest.raises(TypeError, match=r"float32 \(float32\), uint16 \(bfloat16\), uint8 \(int8\); got float64"):
        gemm.linear(x.astype(np.float64), panels, "float32", *rest)


# -- for gradients ----------------------------------------------------------------------------------------------------


@njit
def apply_gelu_gradient(x, out):
    for i in range(0, x.size, LANES):
        store(out, i, gelu_tanh_gradient(load(x, i)))


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
    expected = (in_chains(*wide(x, w), "float32") + b) * gelu(before, apply_gelu_gradient)
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
