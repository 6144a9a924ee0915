"""An index that is searched while another process writes it: never the name of another row."""

import numpy as np
import pytest

from npsiglip import Index, SigLIP
from npsiglip.collection import index as module
from npsiglip.collection.merge import compact
from npsiglip.collection.store import Store
from npsiglip.errors import InputError
from tests.helpers.collections import index_of, records
from tests.helpers.golden_data import TINY


@pytest.fixture(scope="module")
def model():
    return SigLIP.from_pretrained(TINY)


@pytest.fixture
def folder(tmp_path, model):
    """Of words, each its own nearest."""
    return index_of(tmp_path / "index", model, model.encode_text(list("abcdef")), list("abcdef"), kind="text")


def write_anew(folder):
    """Without the first two, so that all others have new numbers."""
    with Store.open(folder, write=True) as store:
        store.drop(["a", "b"])
        assert compact(store, 0.0)


def test_written_anew_between_two_searches(folder, model):
    with Index.open(folder, model) as index:
        assert index.search("d", 1)[0][0].key == "d"
        write_anew(folder)
        assert index.search("d", 1)[0][0].key == "d"
        assert [hit.key for hit in index.similar("d", 9)] == [hit.key for hit in index.similar("d", 9)]
        assert {hit.key for hit in index.search("d", 9)[0]} == set("cdef")


@pytest.mark.parametrize("method", ["search", "similar"])
def test_written_anew_while_it_is_searched(folder, model, monkeypatch, method):
    real = getattr(module, method)

    def searching(*args, **options):
        found = real(*args, **options)
        write_anew(folder)
        return found

    monkeypatch.setattr(module, method, searching)
    with Index.open(folder, model) as index, pytest.raises(InputError, match="written anew while it was searched"):
        getattr(index, method)("d")


@pytest.mark.parametrize("step", ["rows", "alive"])
def test_written_anew_while_rows_are_looked_up(folder, model, monkeypatch, step):
    real, done = getattr(Store, step), []

    def looking(self):
        if not done:
            done.append(1)
            shards = self.shards()
            write_anew(folder)
            monkeypatch.setattr(Store, "shards", lambda self: shards) if step == "rows" else None
            try:
                return real(self)
            finally:
                monkeypatch.setattr(Store, "shards", shown)
        return real(self)

    shown = Store.shards
    monkeypatch.setattr(Store, step, looking)
    with Index.open(folder, model) as index:
        assert index.search("d", 1)[0][0].key == "d"
    assert done


def test_what_is_added_or_dropped_meanwhile(folder, model, monkeypatch):
    """Numbers stay: what was dropped is left out, what is new is found by the next search."""
    real = module.search

    def searching(*args, **options):
        found = real(*args, **options)
        with Store.open(folder, write=True) as store:
            store.drop(["d"])
            store.add(records(["new"]), np.asarray(model.encode_text("d")))
        monkeypatch.setattr(module, "search", real)
        return found

    monkeypatch.setattr(module, "search", searching)
    with Index.open(folder, model) as index:
        assert {hit.key for hit in index.search("d", 9)[0]} == set("abcef")
        assert index.search("d", 1)[0][0].key == "new"
