"""Weights in the order in which products read them, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from npsiglip.element_types import DTYPES, ELEMENT_TYPES, LANES
from npsiglip.kernels import (
    pack,
)
from tests.helpers.arrays import (
    STORED,
    guarded,
    normal,
    panels_of,
    read_only,
    to_bits,
)

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=30)


@settings(max_examples=40)
@given(st.sampled_from(DTYPES), st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 70), seeds)
def test_pack_layers_beside_each_other(dtype, widths, k, seed):
    """Widths that share a panel; nothing is left of what the memory held before, and nothing written beside it."""
    rng = np.random.default_rng(seed)
    n = sum(widths)
    w = rng.integers(0, 256, (n, 4 * ELEMENT_TYPES[dtype].steps(k)), np.uint8).view(STORED[dtype])
    panels, check = guarded(*pack.panels_shape(k, n, dtype), dtype=np.uint32)
    first = 0
    for width in widths:
        pack.pack(read_only(w[first : first + width].view(np.uint32)), first, panels)
        first += width
    check()
    np.testing.assert_array_equal(panels, panels_of(w.T, dtype))


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 70), seeds)
def test_to_bf16(rows, k, seed):
    """Rounded as ml_dtypes does; odd rows are padded with a zero."""
    x = normal(seed, rows, k)
    out, check = guarded(rows, k + k % 2, dtype=np.uint16)
    pack.to_bf16(x, out)
    check()
    np.testing.assert_array_equal(out, np.pad(to_bits(x), ((0, 0), (0, k % 2))))


@pytest.mark.parametrize(("k", "steps"), [(1, (1, 1, 1)), (4, (4, 2, 1)), (5, (5, 3, 2)), (768, (768, 384, 192))])
def test_steps(k, steps):
    assert tuple(ELEMENT_TYPES[dtype].steps(k) for dtype in DTYPES) == steps
    assert pack.panels_shape(k, 33, "int8") == (3, steps[2], 16)


@njit
def turned(source, source_row, target, target_row):
    pack.transpose_block(source.ctypes.data, 4 * source_row, target.ctypes.data, 4 * target_row)


@few
@given(st.integers(LANES, 40), st.integers(LANES, 40), seeds)
def test_transpose_block(source_row, target_row, seed):
    source = np.random.default_rng(seed).integers(0, 2**32, (LANES, source_row), np.uint32)
    target, check = guarded(LANES * target_row, dtype=np.uint32)
    expected = target.copy().reshape(LANES, target_row)
    expected[:, :LANES] = source[:, :LANES].T
    turned(source, source_row, target, target_row)
    check()
    np.testing.assert_array_equal(target.reshape(LANES, -1), expected)
