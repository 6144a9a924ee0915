"""A plain .npy with names, and clip-retrieval's folders: what was written comes back, as files that are mapped.

Those of clip-retrieval need pyarrow: `pip install '.[parquet]'`; they are skipped without.
as well.
"""

import json

import numpy as np
import pytest

from npsiglip.collection import exchange
from npsiglip.collection.exact import Shards, search
from npsiglip.collection.exchange import (
    read_clip_retrieval,
    read_names,
    read_npy,
    unit,
    write_clip_retrieval,
    write_npy,
)
from npsiglip.errors import InputError
from tests.helpers.arrays import normal


@pytest.fixture
def shards():
    rows = unit(normal(0, 90, 24))
    return Shards([rows[:40], rows[40:41], rows[41:]])


NAMES = [f"a folder/{i}é.jpg" for i in range(90)]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_npy(tmp_path, shards, dtype, monkeypatch):
    monkeypatch.setattr(exchange, "AT_ONCE", 32)
    assert write_npy(tmp_path / "x.npy", shards, NAMES, dtype) == tmp_path / "x.txt"
    back = read_npy(tmp_path / "x.npy")
    assert isinstance(back.rows[0], np.memmap)
    np.testing.assert_array_equal(back.rows[0], np.concatenate(shards.rows).astype(dtype))
    assert back.names == NAMES
    assert (tmp_path / "x.txt").read_text(encoding="utf-8").splitlines() == NAMES


def test_names_with_line_ends_and_bytes_of_no_encoding(tmp_path, shards):
    names = ["two\nlines", b"\xff.jpg".decode("utf-8", "surrogateescape"), *NAMES[2:]]
    assert write_npy(tmp_path / "x.npy", shards, names) == tmp_path / "x.json"
    assert read_npy(tmp_path / "x.npy").names == names
    names[0] = ""
    assert read_npy(tmp_path / "x.npy", write_npy(tmp_path / "x.npy", shards, names)).names == names


def test_npy_of_others(tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(normal(0, 5, 3)).astype(np.float64))
    back = read_npy(tmp_path / "x.npy")
    assert back.names == ["0", "1", "2", "3", "4"]
    assert search(back.rows, back.rows[0], 1).numbers.shape == (5, 1)
    np.save(tmp_path / "none.npy", np.empty((0, 3), np.float32))
    (tmp_path / "none.txt").write_text("")
    assert read_npy(tmp_path / "none.npy").names == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "cannot be read"),
        (lambda folder: (folder / "x.npy").write_bytes(b"\x93NUMPY"), "cannot be read"),
        (lambda folder: np.save(folder / "x.npy", np.array([{}])), "cannot be read"),
        (lambda folder: np.save(folder / "x.npy", np.zeros(3)), "must hold rows"),
        (lambda folder: np.save(folder / "x.npy", np.zeros((3, 2), int)), "must hold rows"),
        (
            lambda folder: (np.save(folder / "x.npy", np.zeros((3, 2))), (folder / "x.txt").write_text("a\nb\n")),
            "2 names",
        ),
        (lambda folder: (np.save(folder / "x.npy", np.zeros((1, 2))), (folder / "x.json").write_text("{}")), "a list"),
        (
            lambda folder: (np.save(folder / "x.npy", np.zeros((1, 2))), (folder / "x.json").write_text("[")),
            "cannot be",
        ),
    ],
)
def test_npy_that_cannot_be_used(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        read_npy(tmp_path / "x.npy")


def test_another_number_of_names(tmp_path, shards):
    with pytest.raises(InputError, match="3 names for 90 rows"):
        write_npy(tmp_path / "x.npy", shards, NAMES[:3])
    with pytest.raises(InputError, match="cannot be read"):
        read_names(tmp_path / "missing.txt")


def test_rows_without_direction():
    np.testing.assert_allclose(np.linalg.norm(unit(100 * normal(0, 5, 7)), axis=1), 1, rtol=1e-6)
    for bad in (0, np.nan, np.inf):
        rows = normal(0, 5, 7)
        rows[3] = bad
        with pytest.raises(InputError, match="row 3 is zero or not finite"):
            unit(rows)


@pytest.fixture
def arrow():
    return pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize("kind", ["img", "text"])
def test_clip_retrieval(tmp_path, shards, kind, arrow):
    columns = {exchange.KINDS[kind]: NAMES, "width": list(range(90))}
    write_clip_retrieval(tmp_path / "new", shards, columns, kind)
    files = sorted(path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*.*"))
    assert files == sorted(
        [f"{kind}_emb/{kind}_emb_{i}.npy" for i in range(3)] + [f"metadata/metadata_{i}.parquet" for i in range(3)]
    )
    back = read_clip_retrieval(tmp_path / "new", kind)
    assert all(isinstance(rows, np.memmap) and rows.dtype == np.float16 for rows in back.rows)
    assert (back.names, back.columns) == (NAMES, {"width": list(range(90))})
    queries = normal(1, 5, 24)
    halves = [rows.astype(np.float16) for rows in shards.rows]
    for one, other in zip(search(back.rows, queries, 20), search(halves, queries, 20), strict=True):
        np.testing.assert_array_equal(one, other)


def test_many_shards_are_in_the_order_of_their_numbers(tmp_path, arrow):
    rows = normal(0, 12, 4)
    write_clip_retrieval(tmp_path, Shards(list(rows[:, None])), {"image_path": NAMES[:12]}, dtype="float32")
    for folder in ("img_emb", "metadata"):  # without leading zeros, as others may number them
        for path in (tmp_path / folder).iterdir():
            path.rename(path.with_stem(path.stem.replace("_0", "_")) if not path.stem.endswith("_00") else path)
    back = read_clip_retrieval(tmp_path)
    np.testing.assert_array_equal(np.concatenate(back.rows), rows)
    assert back.names == NAMES[:12]


def test_columns_that_only_some_shards_have(tmp_path, arrow):
    import pyarrow

    write_clip_retrieval(tmp_path, Shards([normal(0, 2, 3), normal(1, 1, 3)]), {"image_path": ["a", "b", "c"]})
    table = pyarrow.table({"image_path": ["c"], "url": ["u"]})
    arrow.write_table(table, tmp_path / "metadata" / "metadata_1.parquet")
    assert read_clip_retrieval(tmp_path).columns == {"url": [None, None, "u"]}


def test_clip_retrieval_that_cannot_be_used(tmp_path, shards, arrow):
    with pytest.raises(InputError, match="no img_emb"):
        read_clip_retrieval(tmp_path)
    with pytest.raises(InputError, match="have a column 'image_path'"):
        write_clip_retrieval(tmp_path, shards, {"caption": NAMES})
    write_clip_retrieval(tmp_path, shards, {"image_path": NAMES})
    table = tmp_path / "metadata" / "metadata_1.parquet"
    whole = table.read_bytes()
    for content, message in ((whole[:50], "cannot be read"), (None, "no metadata"), (0, "40 names for 1 rows")):
        if content is None:
            table.unlink()
        else:
            table.write_bytes(content or (tmp_path / "metadata" / "metadata_0.parquet").read_bytes())
        with pytest.raises(InputError, match=message):
            read_clip_retrieval(tmp_path)


def test_json_is_read_as_it_is(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(["a", "b"]))
    assert read_names(tmp_path / "x.json") == ["a", "b"]
