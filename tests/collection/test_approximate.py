"""Approximate search: its scores are the exact ones, its recall is measured, an index of other rows is refused.

Skipped without USearch, where only `recall` is tested: `pip install '.[usearch]'`.
"""

import importlib.util

import numpy as np
import pytest

from npsiglip.collection.approximate import Approximate, recall, write_usearch
from npsiglip.collection.exact import Found, Shards, search
from npsiglip.collection.exchange import unit
from npsiglip.errors import InputError
from tests.helpers.arrays import normal

ROWS, QUERIES = unit(normal(0, 3000, 32)), unit(normal(1, 20, 32))
needs_usearch = pytest.mark.skipif(importlib.util.find_spec("usearch") is None, reason="needs usearch")


def test_recall():
    scores = np.zeros((2, 3), np.float32)
    exact = Found(np.array([[1, 2, 3], [4, 5, -1]]), scores)
    assert recall(exact, exact) == 1
    assert recall(Found(np.array([[3, 9, 1], [6, 7, -1]]), scores), exact) == 2 / 5


@needs_usearch
@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
def test_scores_are_exact_and_most_rows_are_found(tmp_path, dtype):
    shards = Shards([ROWS[:1000], ROWS[1000:]])
    write_usearch(tmp_path / "x.usearch", shards, dtype)
    found = Approximate(tmp_path / "x.usearch", shards).search(QUERIES, 10)
    exact = search(shards, QUERIES, 10)
    assert recall(found, exact) > 0.9
    every = search(shards, QUERIES, 3000)
    for numbers, scores, all_numbers, all_scores in zip(*found, *every, strict=True):
        right = dict(zip(all_numbers.tolist(), all_scores.tolist(), strict=True))
        assert [right[n] for n in numbers.tolist()] == scores.tolist()
        assert np.all(np.diff(scores) <= 0)


@needs_usearch
def test_the_best_row_alone_is_found_as_often(tmp_path):
    shards = Shards([ROWS])
    write_usearch(tmp_path / "x.usearch", shards)
    found = Approximate(tmp_path / "x.usearch", shards).search(QUERIES, 1, times=1)
    assert recall(found, search(shards, QUERIES, 1)) > 0.9


@needs_usearch
def test_more_than_there_are(tmp_path):
    shards = Shards([ROWS[:5]])
    write_usearch(tmp_path / "x.usearch", shards)
    for one, other in zip(
        Approximate(tmp_path / "x.usearch", shards).search(QUERIES, 9), search(shards, QUERIES, 9), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@needs_usearch
def test_what_cannot_be_used(tmp_path):
    shards = Shards([ROWS[:50]])
    write_usearch(tmp_path / "x.usearch", shards)
    for other in (Shards([ROWS[:49]]), Shards([np.ascontiguousarray(ROWS[:50, :9])])):
        with pytest.raises(InputError, match="was it changed since"):
            Approximate(tmp_path / "x.usearch", other)
    (tmp_path / "bad").write_bytes(b"no index" * 30)
    for name in ("bad", "missing"):
        with pytest.raises(InputError, match=r"index of USearch"):
            Approximate(tmp_path / name, shards)
    with pytest.raises(InputError, match="cannot be written"):
        write_usearch(tmp_path / "missing" / "x", shards)
