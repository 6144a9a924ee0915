"""Indexes put together, and shards written anew."""

import numpy as np
import pytest

from npsiglip.collection import merge as merging
from npsiglip.collection.damage import check
from npsiglip.collection.items import key_bytes
from npsiglip.collection.merge import compact, merge, wasted
from npsiglip.collection.records import Failure
from npsiglip.collection.store import Store
from npsiglip.errors import InputError
from tests.helpers.collections import content, manifest, records, rows

KEYS = [f"/{i:02}" for i in range(11)]


def living(store):
    """Key -> row of each item."""
    rows = np.concatenate(store.rows())
    known = store.items(range(len(rows)))
    return {record.key: row.tolist() for record, row in zip(known, rows, strict=True) if record}


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "index", manifest()) as store:
        for start in range(0, len(KEYS), 4):
            keys = KEYS[start : start + 4]
            store.add(records(keys), rows(len(keys), start))
        yield store


def test_shards_are_written_anew(store):
    before = living(store)
    assert not compact(store)
    store.drop([KEYS[0], KEYS[5], KEYS[6], KEYS[10]])
    assert wasted(store) == pytest.approx(4 / 11)
    assert not compact(store, 0.5)
    assert compact(store)
    assert [shard.rows for shard in store.shards()] == [4, 3]
    assert sorted(path.name for path in store.folder.glob("*.npy")) == ["vectors-00003.npy", "vectors-00004.npy"]
    assert living(store) == {key: before[key] for key in KEYS if key not in (KEYS[0], KEYS[5], KEYS[6], KEYS[10])}
    assert check(store.folder) == []
    store.add(records(["/new"]), rows(1))
    assert check(store.folder) == []


def test_nothing_is_left(store):
    store.drop(KEYS)
    assert compact(store)
    assert (len(store), store.shards(), list(store.folder.glob("*.npy"))) == (0, [], [])


def test_ended_while_shards_are_written_anew(store, monkeypatch):
    store.drop(KEYS[:5])
    before = living(store)
    real, written = merging.write_shard, []

    def write_shard(folder, name, rows):
        if written:
            raise OSError(28, "No space left on device")
        written.append(name)
        return real(folder, name, rows)

    monkeypatch.setattr(merging, "write_shard", write_shard)
    with pytest.raises(InputError, match="nothing is lost"):
        compact(store)
    assert living(store) == before
    store.close()
    with Store.open(store.folder, write=True) as again:
        assert living(again) == before
        assert not (store.folder / written[0]).exists()


def test_parts_make_the_whole(tmp_path, store):
    for part in range(3):
        with Store.create(tmp_path / f"part{part}", manifest()) as one:
            keys = KEYS[part::3]
            one.add(records(keys), [living(store)[key] for key in keys], [Failure(f"/bad{part}", "why")])
    folders = [tmp_path / f"part{part}" for part in (2, 0, 1)]
    assert merge(folders, tmp_path / "all") == len(KEYS)
    with Store.open(tmp_path / "all") as whole:
        assert living(whole) == living(store)
        assert [record.key for record in whole.items()] == KEYS
        assert [failure.key for failure in whole.failures()] == ["/bad0", "/bad1", "/bad2"]
    whole, one = content(tmp_path / "all"), content(store.folder)
    assert {name: whole[name] for name in one if name.endswith("npy")} == {
        name: one[name] for name in one if name.endswith("npy")
    }
    assert check(tmp_path / "all") == []


def test_an_item_that_is_in_several_is_taken_from_the_first(tmp_path):
    names = ["/b", "/caf\udce9", "/ü"]
    for part in range(2):
        with Store.create(tmp_path / f"part{part}", manifest()) as one:
            keys = names[part:]
            one.add(records(keys), rows(len(keys), part), [Failure("/b", "why")] * part)
    assert merge([tmp_path / "part1", tmp_path / "part0"], tmp_path / "all") == 3
    with Store.open(tmp_path / "all") as whole:
        assert [record.key for record in whole.items()] == sorted(names, key=key_bytes)
        np.testing.assert_array_equal(whole.rows()[0][whole.number("/ü")], rows(2, 1)[1])
        assert list(whole.failures()) == []


def test_what_cannot_be_put_together(tmp_path, store):
    Store.create(tmp_path / "other", manifest(dtype="int8")).close()
    with pytest.raises(InputError, match=r"'float32', now 'int8'"):
        merge([store.folder, tmp_path / "other"], tmp_path / "all")
    assert not (tmp_path / "all").exists()
    with pytest.raises(InputError, match="no indexes"):
        merge([], tmp_path / "all")
    with pytest.raises(InputError, match="is no index and is not empty"):
        merge([store.folder], tmp_path / "other")


def test_a_merge_that_fails_leaves_nothing(tmp_path, store, monkeypatch):
    Store.create(tmp_path / "other", manifest()).close()
    real = Store.add

    def add(self, *arguments):
        real(self, *arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "add", add)
    with pytest.raises(OSError, match="No space"):
        merge([store.folder, tmp_path / "other"], tmp_path / "all")
    assert list((tmp_path / "all").iterdir()) == []
    monkeypatch.undo()
    next(store.folder.glob("*.npy")).write_bytes(b"damaged")
    with pytest.raises(InputError):
        merge([store.folder], tmp_path / "all")
    assert list((tmp_path / "all").iterdir()) == []
