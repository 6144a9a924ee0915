"""The rows that are most like each query against the reference: numbers, order, equal scores, bits.

Covers kernels/row_products.py and reference/top_k.py as well.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npsiglip.element_types import LANES
from npsiglip.kernels import top_k
from npsiglip.kernels.jit import thread_count
from npsiglip.reference import top_k as reference
from tests.helpers.arrays import UNIT, fma32, guarded, normal, on_threads, read_only

DTYPES = [np.float32, np.float16, np.int8]
seeds = st.integers(0, 2**32 - 1)


def whole_numbers(seed, *shape, dtype=np.float32):
    """Few different ones, so that scores are exact and many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(dtype)


def search(shards, queries, k, scales=None, skip=None):
    """Scores and numbers [Q, k], shard by shard."""
    best, numbers = top_k.no_rows(len(queries), k)
    padded, first = top_k.padded(queries), 0
    for rows in shards:
        here = slice(first, first + len(rows))
        top_k.top_k(
            read_only(rows),
            top_k.NO_SCALES if scales is None else scales[here],
            top_k.NO_SKIP if skip is None else skip[here].astype(np.uint8),
            first,
            len(queries),
            padded,
            best,
            numbers,
        )
        first += len(rows)
    return top_k.merge(best, numbers)


def every_score(rows, queries, scales=top_k.NO_SCALES):
    out, check = guarded(len(queries), len(rows))
    top_k.scores(rows, scales, len(queries), top_k.padded(queries), out)
    check()
    return out


def in_lanes(rows, queries):
    """What row_products.py says of the order of a sum: 16 lanes, folded; float32 [Q, R]."""
    width = -(-rows.shape[1] // LANES) * LANES
    x, q = (np.zeros((len(a), width)) for a in (rows, queries))
    x[:, : rows.shape[1]], q[:, : rows.shape[1]] = rows, queries
    sums = np.zeros((len(queries), len(rows), LANES))
    for start in range(0, width, LANES):
        part = slice(start, start + LANES)
        sums = fma32(q[:, None, part], x[None, :, part], sums)
    sums = sums.astype(np.float32)
    while sums.shape[2] > 1:
        half = sums.shape[2] // 2
        sums = sums[..., :half] + sums[..., half:]
    return sums[..., 0]


@settings(max_examples=60)
@given(
    st.sampled_from(DTYPES),
    st.integers(0, 200),
    st.integers(1, 50),
    st.integers(1, 15),
    st.integers(1, 30),
    st.lists(st.integers(0, 200), max_size=2),
    seeds,
)
def test_numbers_scores_and_order(dtype, r, d, q, k, cuts, seed):
    rows, queries = whole_numbers(seed, r, d, dtype=dtype), whole_numbers(seed + 1, q, d)
    skip = np.random.default_rng(seed).random(r) < 0.2
    shards = np.split(rows, sorted(min(cut, r) for cut in cuts))
    found = on_threads(lambda: search(shards, queries, k, skip=skip))
    for one, other in zip(found, reference.top_k(rows, queries, k, skip), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_tasks(dtype):
    """Threads find different rows, all queries of one pass."""
    rows, queries = whole_numbers(0, 5000, 20, dtype=dtype), whole_numbers(1, top_k.QUERIES_EACH, 20)
    found = on_threads(lambda: search([rows[:2100], rows[2100:]], queries, 100))
    for one, other in zip(found, reference.top_k(rows, queries, 100), strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=30)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 15), seeds)
def test_the_order_of_a_sum_and_what_is_beside_it(r, d, q, seed):
    rows, queries = normal(seed, r, d), normal(seed + 1, q, d)
    found = every_score(rows, queries)
    np.testing.assert_array_equal(found, in_lanes(rows.astype(np.float64), queries.astype(np.float64)))
    best, numbers = search([rows], queries, r)
    np.testing.assert_array_equal(np.take_along_axis(found, numbers, 1), best)


@pytest.mark.parametrize("d", [1, 768, 1152])
def test_near_the_truth(d):
    """16 chains of d / 16 products, each rounded, and four additions; |q| |x| bounds every partial sum."""
    rows, queries = normal(0, 40, d), normal(1, 7, d)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    error = np.abs(every_score(rows, queries) - reference.scores(rows, queries))
    assert np.all(error <= (-(-d // LANES) + 4) * UNIT * lengths)


def test_every_number_of_float16():
    bits = np.arange(1 << 16, dtype=np.uint16)
    rows = bits.view(np.float16)[:, None]
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(every_score(rows, np.ones((1, 1), np.float32))[0], rows[:, 0].astype(np.float32))
        behind = np.stack([np.zeros_like(bits), bits], 1).view(np.float16)  # in the last step, which is not whole
        found = every_score(np.repeat(behind, 9, axis=1), np.full((1, 18), 0.5, np.float32))[0]
        np.testing.assert_array_equal(found, rows[:, 0].astype(np.float32) * np.float32(4.5))


def test_rows_of_int8_have_a_scale_each():
    rows, queries = whole_numbers(0, 300, 40, dtype=np.int8), whole_numbers(1, 7, 40)
    rows[0] = -128
    scales = (2.0 ** np.random.default_rng(2).integers(-3, 4, 300)).astype(np.float32)
    expected = reference.top_k(rows * scales[:, None], queries, 20)
    for one, other in zip(search([rows[:130], rows[130:]], queries, 20, scales=scales), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(every_score(rows, queries, scales), reference.scores(rows * scales[:, None], queries))


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("r", [1, 16, 40])
def test_a_row_without_a_score_never_wins(bad, r):
    rows, queries = np.abs(normal(0, r, 5)), np.abs(normal(1, 7, 5))
    rows[::3] = bad
    left = np.flatnonzero(np.arange(r) % 3)
    scores, numbers = search([rows], queries, r)
    assert np.all(numbers[:, len(left) :] == -1)
    assert np.all(scores[:, len(left) :] == -np.inf)
    assert all(set(row) == set(left) for row in numbers[:, : len(left)])


def test_nothing_to_find():
    scores, numbers = search([np.empty((0, 4), np.float32)], normal(0, 2, 4), 3)
    np.testing.assert_array_equal(scores, np.full((2, 3), -np.inf))
    np.testing.assert_array_equal(numbers, np.full((2, 3), -1))
    scores, numbers = search([normal(0, 3, 4)], normal(0, 2, 4), 2, skip=np.ones(3, bool))
    assert np.all(numbers == -1)


def test_a_query_has_the_same_bits_alone():
    rows, queries = normal(0, 100, 70), normal(1, 13, 70)
    together = every_score(rows, queries)
    with thread_count(1):
        np.testing.assert_array_equal(np.concatenate([every_score(rows, query[None]) for query in queries]), together)
