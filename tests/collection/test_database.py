"""A database that is damaged anywhere is told, by an error of this package; no shard is removed because of it."""

import shutil
import sqlite3

import numpy as np
import pytest

from npsiglip.collection.damage import check, repair
from npsiglip.collection.database import DATABASE, DatabaseDamaged
from npsiglip.collection.records import Failure
from npsiglip.collection.store import Store
from npsiglip.errors import InputError
from tests.helpers.collections import content, manifest, records, rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An index of five shards of twelve rows, with failures and rows without an item."""
    folder = tmp_path_factory.mktemp("whole") / "index"
    with Store.create(folder, manifest(shard_rows=12)) as store:
        for i in range(5):
            names = [f"/photos/{i}-{j}-{'x' * 30}.jpg" for j in range(12)]
            store.add(records(names), rows(12), [Failure(f"/photos/bad{i}.jpg", "is not an image, ü", 3, 4, "/photos")])
        store.drop([f"/photos/0-1-{'x' * 30}.jpg", f"/photos/3-5-{'x' * 30}.jpg"])
    return folder


def read_all(folder):
    with Store.open(folder) as store:
        store.rows(), store.alive()
        list(store.items()), list(store.items([0, 3, 11])), list(store.failures()), list(store.by_key())
        store.number("/photos/1-1"), store.find("/photos/1-1"), len(store)


def change(folder):
    with Store.open(folder, write=True) as store:
        store.add(records(["/new"]), rows(1))
        store.drop(["/photos/bad1.jpg"])


@pytest.mark.parametrize("seed", range(40))
def test_damaged_anywhere(whole, tmp_path, seed):
    """Bytes that are others, and an end that is missing."""
    rng, folder = np.random.default_rng(seed), tmp_path / "index"
    shutil.copytree(whole, folder)
    damaged = bytearray((folder / DATABASE).read_bytes())
    for place in rng.integers(0, len(damaged), rng.integers(1, 60)):
        damaged[place] = rng.integers(256)
    if seed % 5 == 0:
        del damaged[rng.integers(len(damaged)) :]
    (folder / DATABASE).write_bytes(damaged)
    shards = {name for name in content(folder) if name.endswith(".npy")}
    told = bool(check(folder))
    for action in (read_all, change, repair):
        try:
            action(folder)
        except InputError as error:
            told = True
            assert "`npsiglip index check" in str(error) or "cannot be repaired" in str(error)
            assert shards <= content(folder).keys()
    assert told or check(folder) == []


DAMAGES = {
    "no name": ("UPDATE shards SET file = 'x' WHERE number = 2", "a shard is called 'x'"),
    "a name elsewhere": (
        "UPDATE shards SET file = '../secret.npy' WHERE number = 2",
        "a shard is called '../secret.npy'",
    ),
    "a row too far": ("UPDATE items SET row = 99 WHERE shard = 0 AND row = 2", "rows that vectors-00000.npy does not"),
    "no table": ("DROP TABLE failures", "no such table: failures"),
    "no text": ("UPDATE failures SET reason = CAST(x'ff80' AS TEXT)", "Could not decode to UTF-8"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_told(whole, tmp_path, kind):
    statement, phrase = DAMAGES[kind]
    shutil.copytree(whole, tmp_path / "index")
    database = sqlite3.connect(tmp_path / "index" / DATABASE)
    with database:
        database.execute(statement)
    database.close()
    with pytest.raises(DatabaseDamaged) as error:
        read_all(tmp_path / "index")
    assert phrase in str(error.value)
    assert isinstance(error.value, sqlite3.Error)


def test_shards_that_a_damaged_database_does_not_know_stay(whole, tmp_path):
    """It cannot be trusted to know all of them."""
    folder = tmp_path / "index"
    shutil.copytree(whole, folder)
    with sqlite3.connect(folder / DATABASE) as database:
        database.execute("DELETE FROM shards WHERE number = 4")
        (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'items_row'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    damaged = bytearray((folder / DATABASE).read_bytes())
    damaged[(page - 1) * size + 3 : (page - 1) * size + 5] = b"\xff\xff"  # the number of its cells
    (folder / DATABASE).write_bytes(damaged)
    with pytest.raises(DatabaseDamaged):
        Store.open(folder, write=True)
    assert (folder / "vectors-00004.npy").exists()
