"""FAISS's files: what we write, it searches with the same neighbours in the same order; what it wrote, we read.

Skipped without FAISS: `pip install '.[faiss]'`.
"""

import numpy as np
import pytest

from npsiglip.collection.exact import Shards, search
from npsiglip.collection.exchange import unit
from npsiglip.collection.faiss_files import read_faiss, write_faiss
from npsiglip.errors import InputError
from tests.helpers.arrays import normal

faiss = pytest.importorskip("faiss")

ROWS, QUERIES = unit(normal(0, 600, 32)), unit(normal(1, 9, 32))


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_same_neighbours_in_the_same_order(tmp_path, metric):
    write_faiss(tmp_path / "x.index", Shards([ROWS[:100], ROWS[100:]]), metric)
    index = faiss.read_index(str(tmp_path / "x.index"))
    assert type(index).__name__ == {"ip": "IndexFlatIP", "l2": "IndexFlatL2"}[metric]
    distances, numbers = index.search(QUERIES, 50)
    found = search([ROWS], QUERIES, 50)
    np.testing.assert_array_equal(numbers, found.numbers)
    cosines = distances if metric == "ip" else 1 - distances / 2
    np.testing.assert_allclose(cosines, found.scores, atol=32 * 2.0**-24)
    back = read_faiss(tmp_path / "x.index")
    np.testing.assert_array_equal(back.rows, ROWS)
    assert (back.metric, back.exact, back.ids.tolist()) == (metric, True, list(range(600)))


def test_the_index_of_the_original_notebook(tmp_path):
    """Rows scaled by FAISS, IndexFlatL2, a query of three."""
    rows = normal(2, 50, 32)
    faiss.normalize_L2(rows)
    index = faiss.IndexFlatL2(32)
    for row in rows:
        index.add(row[None])
    faiss.write_index(index, str(tmp_path / "siglip_70k.index"))
    back = read_faiss(tmp_path / "siglip_70k.index")
    assert (back.kind, back.metric) == ("IndexFlatL2", "l2")
    np.testing.assert_array_equal(search([back.rows], QUERIES, 3).numbers, index.search(QUERIES, 3)[1])


@pytest.mark.parametrize(
    ("name", "off", "exact"),
    [
        ("IVF8,Flat", 0, True),
        ("HNSW16,Flat", 0, True),
        ("IVF8,SQ8", 5e-3, False),
        ("HNSW16,SQfp16", 3e-4, False),
        ("SQfp16", 3e-4, False),
        ("IDMap,Flat", 0, True),
        ("IDMap2,HNSW16,Flat", 0, True),
    ],
)
@pytest.mark.parametrize("metric", ["METRIC_INNER_PRODUCT", "METRIC_L2"])
def test_other_indexes(tmp_path, name, off, exact, metric):
    index = faiss.index_factory(32, name, getattr(faiss, metric))
    index.train(ROWS)
    ids = np.arange(600)
    if name[0] == "I":
        ids = 10 * ids[::-1].copy()
        index.add_with_ids(ROWS, ids)
    else:
        index.add(ROWS)
    faiss.write_index(index, str(tmp_path / "x.index"))
    back = read_faiss(tmp_path / "x.index")
    order = np.argsort(ids)
    np.testing.assert_array_equal(back.ids, ids[order])
    np.testing.assert_allclose(back.rows, ROWS[order], atol=off, rtol=0)
    assert back.exact == exact
    assert back.metric == ("l2" if metric == "METRIC_L2" else "ip")


def test_nothing_in_an_index(tmp_path):
    write_faiss(tmp_path / "x.index", Shards([ROWS[:0]]))
    assert read_faiss(tmp_path / "x.index").rows.shape == (0, 32)


def test_what_cannot_be_read_or_written(tmp_path):
    shards = Shards([ROWS])
    write_faiss(tmp_path / "x.index", shards)
    (tmp_path / "half.index").write_bytes((tmp_path / "x.index").read_bytes()[:500])
    (tmp_path / "other.index").write_bytes(b"no index at all" * 9)
    for name in ("half.index", "other.index"):
        with pytest.raises(InputError, match="cannot be read as an index of FAISS"):
            read_faiss(tmp_path / name)
    with pytest.raises(InputError, match="is no file"):
        read_faiss(tmp_path)
    faiss.write_index(faiss.IndexLSH(32, 16), str(tmp_path / "lsh.index"))
    faiss.write_index(faiss.index_factory(32, "L2norm,Flat"), str(tmp_path / "norm.index"))
    for name in ("lsh.index", "norm.index"):
        with pytest.raises(InputError, match="expected a flat, an IVF or an HNSW index"):
            read_faiss(tmp_path / name)
    with pytest.raises(InputError, match="'ip' or 'l2'"):
        write_faiss(tmp_path / "x.index", shards, "cosine")
    with pytest.raises(InputError, match="cannot be written"):
        write_faiss(tmp_path / "missing" / "x.index", shards)
