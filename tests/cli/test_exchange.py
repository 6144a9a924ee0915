"""`npsiglip index export` and `import`: there and back again, by each kind of file."""

import numpy as np
import pytest

from npsiglip import Index
from tests.helpers.arrays import normal
from tests.helpers.collections import index_of
from tests.helpers.command import assert_refused, invoke, lines_of_json
from tests.helpers.golden_data import TINY


@pytest.fixture
def rows(model):
    """Of nine items, of which one is gone."""
    x = normal(0, 9, model.encode_text("a").shape[1])
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def index(tmp_path, model, rows):
    return index_of(tmp_path / "index", model, rows, [f"/p/{i}.png" for i in range(9)], dead=[4])


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize(
    ("name", "library", "apart"),
    # float32 as it is, scaled to unit norm once more; clip-retrieval has float16
    [("x.npy", "numpy", 3e-7), ("x.faiss", "faiss", 3e-7), ("x", "pyarrow.parquet", 2e-3)],
)
def test_there_and_back(tmp_path, index, rows, name, library, apart, metric):
    pytest.importorskip(library)
    assert invoke("index", "export", tmp_path / name, "-i", index, "--metric", metric).exit_code == 0
    back = invoke("index", "import", tmp_path / name, "-i", tmp_path / "back", "--model", TINY)
    assert back.exit_code == 0, back.stderr
    with Index.open(tmp_path / "back") as found:
        assert found.keys == [f"/p/{i}.png" for i in range(9) if i != 4]
        np.testing.assert_allclose(found.vectors, np.delete(rows, 4, 0), atol=apart, rtol=0)


def test_an_approximate_search_has_exact_scores(tmp_path, index):
    pytest.importorskip("usearch.index")
    assert invoke("index", "export", tmp_path / "x.usearch", "-i", index).exit_code == 0
    exact = lines_of_json(invoke("search", "a cat", "-i", index, "--json").stdout)
    by = invoke("search", "a cat", "-i", index, "--json", "--usearch", tmp_path / "x.usearch")
    assert lines_of_json(by.stdout) == exact  # so few rows that all are proposed
    assert "/p/4.png" not in by.stdout


def test_refusals(tmp_path, index, rows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(invoke("index", "export", "x.csv", "-i", index), "expected a name that ends in")
    assert_refused(invoke("index", "import", "x.csv", "-i", "new", "--model", TINY), "expected a file of .npy")
    np.save("x.npy", rows[:, :-1])
    assert_refused(invoke("index", "import", "x.npy", "-i", "new", "--model", TINY), "and the model's have")
    np.save("x.npy", rows)
    (tmp_path / "x.txt").write_text("a\n" * 9)
    assert_refused(invoke("index", "import", "x.npy", "-i", "new", "--model", TINY), "a name comes twice")
    (tmp_path / "x.txt").write_text("a\n")
    assert_refused(invoke("index", "import", "x.npy", "-i", "new", "--model", TINY), "1 names for 9 rows")
    assert not (tmp_path / "new").exists()


def test_rows_of_16_bits_stay_so(tmp_path, rows):
    for dtype in (np.float16, np.float32):
        name = str(np.dtype(dtype))
        np.save(tmp_path / f"{name}.npy", (3 * rows).astype(dtype))
        invoke("index", "import", tmp_path / f"{name}.npy", "-i", tmp_path / name, "--model", TINY)
        with Index.open(tmp_path / name) as index:
            assert index.vectors.dtype == dtype
            # the given number and the scaled one are each rounded once, to half an eps of at most 1
            np.testing.assert_allclose(index.vectors.astype(float), rows, rtol=0, atol=np.finfo(dtype).eps)
