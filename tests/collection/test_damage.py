"""Whatever is damaged is found, with what is lost by it, and can be embedded again."""

import sqlite3

import pytest

from npsiglip.collection.damage import check, repair
from npsiglip.collection.store import Store
from npsiglip.errors import InputError
from tests.helpers.collections import manifest, records, rows


@pytest.fixture
def folder(tmp_path):
    """An index of two shards."""
    with Store.create(tmp_path / "index", manifest()) as store:
        store.add(records(["/a", "/b", "/c", "/d"]), rows(4))
        store.add(records(["/e", "/f"]), rows(2, 1))
    return tmp_path / "index"


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_nothing_is_wrong_with_an_index(folder):
    assert check(folder) == []
    assert repair(folder) == 0


SHARDS = {
    "missing": (lambda path: path.unlink(), "is missing"),
    "empty": (lambda path: truncate(path, 0), "is cut short or damaged, 0 bytes"),
    "cut short": (lambda path: truncate(path, 200), "is cut short or damaged, 200 bytes"),
    "a bit of a row": (lambda path: flip(path, -1), "its hash is another"),
    "a bit of the header": (lambda path: flip(path, 0), "damaged"),
    "another shard": (lambda path: path.write_bytes((path.parent / "vectors-00001.npy").read_bytes()), "holds float32"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "damaged"),
}


@pytest.mark.parametrize("kind", SHARDS)
def test_a_shard(folder, kind):
    damage, phrase = SHARDS[kind]
    damage(folder / "vectors-00000.npy")
    (found,) = check(folder)
    assert "vectors-00000.npy" in found.what
    assert phrase in found.what
    assert found.lost == 4
    assert "--repair" in found.repair
    if kind == "a folder":
        (folder / "vectors-00000.npy").rmdir()
    assert repair(folder) == 4
    assert check(folder) == []
    with Store.open(folder) as store:
        assert [record.key for record in store.items()] == ["/e", "/f"]
        assert sum(map(len, store.rows())) == 2
    assert not (folder / "vectors-00000.npy").exists()


def test_rows_that_no_shard_has(folder):
    database = sqlite3.connect(folder / "index.sqlite")
    with database:
        database.execute("UPDATE items SET shard = 9 WHERE row = 0 AND shard = 1")
    database.close()
    (found,) = check(folder)
    assert (found.lost, found.shard) == (1, -1)
    assert repair(folder) == 1
    assert check(folder) == []


BEYOND_REPAIR = {
    "no database": (lambda folder: (folder / "index.sqlite").unlink(), "lost its database"),
    "an empty database": (lambda folder: truncate(folder / "index.sqlite", 0), "cannot be read"),
    "half a database": (lambda folder: truncate(folder / "index.sqlite", 9000), "database"),
    "another file": (lambda folder: (folder / "index.sqlite").write_bytes(b"x" * 9000), "cannot be read"),
    "a page of it": (
        lambda folder: [flip(folder / "index.sqlite", 8192 + i) for i in range(0, 4000, 3)],
        "sqlite",
    ),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
    "half a manifest": (lambda folder: truncate(folder / "manifest.json", 40), "manifest of an index is damaged"),
}


@pytest.mark.parametrize("kind", BEYOND_REPAIR)
def test_what_has_to_be_made_anew(folder, kind):
    damage, phrase = BEYOND_REPAIR[kind]
    damage(folder)
    found = check(folder)
    assert found
    assert any(phrase in each.what for each in found)
    assert any("backup" in each.repair for each in found)
    with pytest.raises(InputError, match="cannot be repaired"):
        repair(folder)


def test_no_index(tmp_path):
    with pytest.raises(InputError, match="there is no index"):
        check(tmp_path)
