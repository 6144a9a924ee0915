"""Exact search through shards: the same as in one array, files that are mapped, neighbours, groups, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npsiglip.collection.exact import Shards, groups, search, similar
from npsiglip.errors import InputError
from npsiglip.kernels import top_k as kernel
from npsiglip.reference import top_k
from tests.helpers.arrays import normal


def units(seed, *shape):
    x = normal(seed, *shape)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 250), st.integers(1, 400), st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_as_in_one_array(r, q, k, cut, seed):
    rows, queries = (np.random.default_rng(seed).integers(-2, 3, (n, 5)).astype(np.float32) for n in (r, q))
    skip = np.flatnonzero(np.random.default_rng(seed).random(r) < 0.2)
    found = search(np.split(rows, [min(cut, r)]), queries, k, skip)
    scores, numbers = top_k.top_k(rows, queries, min(k, r), np.isin(np.arange(r), skip))
    np.testing.assert_array_equal(found.numbers, numbers)
    np.testing.assert_array_equal(found.scores, scores)


def test_mapped_files_are_not_copied(tmp_path, monkeypatch):
    rows = units(0, 100, 8).astype(np.float16)
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", rows[50 * i : 50 * i + 50])
    mapped = [np.load(tmp_path / f"{i}.npy", mmap_mode="r") for i in range(2)]
    seen = []
    launch = kernel.launch
    monkeypatch.setattr(kernel, "launch", lambda *args: (seen.append(args[-1][0]), launch(*args))[1])
    found = search(mapped, rows[[7, 70]], 3)
    assert all(any(array is shard for shard in mapped) for array in seen)
    np.testing.assert_array_equal(found.numbers[:, 0], [7, 70])
    assert np.all(np.abs(found.scores[:, 0] - 1) < 2e-3)


def test_neighbours_of_a_row():
    rows = units(0, 50, 8)
    expected = [n for n in search([rows], rows[[30]], 6).numbers[0] if n not in (30, 5)]
    assert similar([rows[:20], rows[20:]], 30, 4, skip=[5]).numbers[0].tolist() == expected[:4]
    assert similar([rows], 30, 100).numbers[0, -1] == -1


def brute_groups(rows, cosine):
    near = top_k.scores(rows, rows) >= cosine
    left, found = set(range(len(rows))), []
    while left:
        group, new = set(), {min(left)}
        while new:
            group |= new
            new = {int(j) for i in new for j in np.flatnonzero(near[i])} - group
        left -= group
        found += [sorted(group)] if len(group) > 1 else []
    return found


@settings(max_examples=20)
@given(st.integers(0, 260), st.integers(0, 260), st.sampled_from([0.2, 0.8, 0.99]), st.integers(0, 2**32 - 1))
def test_groups(r, cut, cosine, seed):
    rows = units(seed, r, 6)
    rng = np.random.default_rng(seed)
    if r > 10:
        rows[rng.integers(0, r, 10)] = rows[rng.integers(0, r, 10)]
    assert groups(np.split(rows, [min(cut, r)]), cosine) == brute_groups(rows, cosine)


def test_groups_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr("npsiglip.collection.exact.ROWS_AT_ONCE", 32)
    rows, told = units(1, 400, 16), []
    rows[399], rows[150] = rows[0], rows[399]
    assert groups([rows[:130], rows[130:]], 0.999, say=told.append) == [[0, 150, 399]]
    assert told[-1] == 400


def test_rows_of_int8():
    rows = units(0, 60, 16)
    scales = np.abs(rows).max(1) / np.float32(127)
    whole = np.rint(rows / scales[:, None]).astype(np.int8)
    shards = Shards([whole[:20], whole[20:]], [scales[:20], scales[20:]])
    np.testing.assert_array_equal(search(shards, rows, 1).numbers[:, 0], np.arange(60))
    np.testing.assert_array_equal(shards.take([59, 3]), whole[[59, 3]] * scales[[59, 3], None])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: search([x], x[:1], 0), "from 1 on"),
        (lambda x: search([x], x[:1], True), "from 1 on"),
        (lambda x: search([x], x[0], 1), "queries must be"),
        (lambda x: search([x], x[:, :3], 1), "queries must be"),
        (lambda x: search([x], x[:1] * np.nan, 1), "not finite"),
        (lambda x: search(x, x[:1], 1), "list of arrays"),
        (lambda x: search([x, x[:, :3]], x[:1], 1), "one width"),
        (lambda x: search([x, x.astype(np.float16)], x[:1], 1), "one dtype"),
        (lambda x: search([x.astype(float)], x[:1], 1), "float64"),
        (lambda x: search([x.astype(">f4")], x[:1], 1), ">f4"),
        (lambda x: search([np.asfortranarray(x)], x[:1], 1), "beside each other"),
        (lambda x: search([x.astype(np.int8)], x[:1], 1), "need scales"),
        (lambda x: Shards([x], [x[:, 0]]), "need scales"),
        (lambda x: Shards([x.astype(np.int8)], [x[0]]), "scales of shard 0"),
        (lambda x: search([x], x[:1], 1, skip=[9]), "leave out"),
        (lambda x: search([x], x[:1], 1, skip=[-1]), "leave out"),
        (lambda x: similar([x], 9, 1), "numbered"),
        (lambda x: similar([x], -1, 1), "numbered"),
        (lambda x: groups([x], 1.5), "cosine"),
        (lambda x: groups([x], float("nan")), "cosine"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call(units(0, 9, 4))


def test_nothing_in_a_collection():
    found = search([], np.zeros((2, 4)), 3)
    assert found.numbers.shape == found.scores.shape == (2, 0)
    assert groups([], 0.9) == []
