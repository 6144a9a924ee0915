"""Sums over rows, and the rows as products read them: bit for bit in the order that is documented."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from npsiglip.kernels import pack, sums
from npsiglip.metrics import relative_l2
from tests.helpers.arrays import UNIT, guarded, in_pairs, normal, number, on_threads, panels_of, stored, to_bits

seeds = st.integers(0, 2**32 - 1)


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
