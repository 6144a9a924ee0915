"""An index on disk: what is committed is whole, what is not never was.

Covers collection/lock.py, collection/manifest.py and collection/records.py as well.
"""

import errno
import json
import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from npsiglip.collection import records as record_files
from npsiglip.collection.records import Failure
from npsiglip.collection.store import Store
from npsiglip.errors import InputError
from tests.helpers.collections import WIDTH, content, manifest, records, rows
from tests.helpers.command import environment

ODD = "/photos/caf\udce9\n.png"


@pytest.fixture
def folder(tmp_path):
    """An index of three shards, a failure in it."""
    with Store.create(tmp_path / "index", manifest()) as store:
        store.add(records(["/a", "/b", "/c", ODD]), rows(4))
        store.add(records(["/d", "/e"]), rows(2, 1), [Failure("/bad", "why", 3, 4, "/photos")])
        store.add(records(["/f"]), rows(1, 2))
    return tmp_path / "index"


def test_what_was_added_is_there(folder):
    with Store.open(folder) as store:
        assert len(store) == 7
        assert [record.key for record in store.items()] == ["/a", "/b", "/c", ODD, "/d", "/e", "/f"]
        assert next(store.items([3, 6, 0])) == records([ODD])[0]
        assert [record.key for record in store.items([3, 6, 0])] == [ODD, "/f", "/a"]
        found = store.rows()
        assert [type(shard) for shard in found] == [np.memmap] * 3
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate([rows(4), rows(2, 1), rows(1, 2)]))
        assert store.alive() == [None] * 3
        assert list(store.failures()) == [Failure("/bad", "why", 3, 4, "/photos")]
        assert (store.number(ODD), store.number("/e"), store.number("/none")) == (3, 5, None)
        assert store.find("/none") is None
        for number in (-1, 7):
            with pytest.raises(IndexError):
                list(store.items([number]))


def test_half_precision(tmp_path):
    with Store.create(tmp_path / "index", manifest(rows="float16")) as store:
        store.add(records(["/a", "/b"]), rows(2))
        np.testing.assert_array_equal(store.rows()[0], rows(2).astype(np.float16))
        with pytest.raises(InputError, match="not finite as float16"):
            store.add(records(["/c"]), np.full((1, WIDTH), 1e6))


def test_what_is_replaced_or_dropped_leaves_a_row_without_an_item(folder):
    with Store.open(folder, write=True) as store:
        store.add(records(["/b", "/g"]), rows(2, 5), [Failure("/e", "broken")])
        assert store.drop(["/a", "/none", "/bad"]) == 1
        assert [mask if mask is None else mask.tolist() for mask in store.alive()] == [
            [False, False, True, True],
            [True, False],
            None,
            None,
        ]
        assert list(store.items([0, 1, 7]))[:2] == [None, None]
        assert store.number("/b") == 7
        assert [failure.key for failure in store.failures()] == ["/e"]
        assert len(store) == 6


def test_a_failure_that_works_again_is_none(folder):
    with Store.open(folder, write=True) as store:
        store.add(records(["/bad"]), rows(1))
        assert list(store.failures()) == []


@pytest.mark.parametrize(
    ("keys", "values", "phrase"),
    [
        (["/x"], rows(2), r"rows must be \[1, 6\]"),
        (["/x"], np.full((1, WIDTH), np.nan), "not finite"),
        (["/x", "/x"], rows(2), "comes twice"),
    ],
)
def test_rows_that_cannot_be_added(folder, keys, values, phrase):
    before = content(folder)
    with Store.open(folder, write=True) as store, pytest.raises(InputError, match=phrase):
        store.add(records(keys), values)
    assert content(folder) == before


def test_opened_for_reading_nothing_is_written(folder):
    before = content(folder)
    with Store.open(folder) as store, pytest.raises(InputError, match="opened for reading"):
        store.drop(["/a"])
    assert content(folder) == before


def test_a_full_disk_while_the_shard_is_written(folder, monkeypatch):
    def save(file, array):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = content(folder)
    with Store.open(folder, write=True) as store:
        monkeypatch.setattr(record_files.np, "save", save)
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); nothing is lost"):
            store.add(records(["/x"]), rows(1))
        monkeypatch.undo()
        assert content(folder) == before
        store.add(records(["/x"]), rows(1))
        assert len(store) == 8


FULL = """
import resource, sys
from npsiglip.collection.store import Store
from npsiglip.errors import InputError
from tests.helpers.collections import records, rows
store = Store.open(sys.argv[1], write=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    for i in range(2000):
        store.add(records([f"/{'x' * 200}{i}-{j}" for j in range(20)]), rows(20))
except InputError as error:
    print(error)
"""


def test_a_disk_that_gets_full_while_the_database_is_written(folder):
    """A limit on the size of files stands for the disk."""
    limit = 120_000
    result = subprocess.run(
        [sys.executable, "-c", FULL, folder, str(limit)], env=environment(), capture_output=True, text=True, check=True
    )
    assert "cannot be written" in result.stdout
    with Store.open(folder, write=True) as store:
        assert len(store) % 20 == 7
        assert len(store) > 20
        assert len(list(store.items())) == len(store)
        assert sum(map(len, store.rows())) == len(store)
        store.add(records(["/x"]), rows(1))


def test_a_shard_that_no_transaction_knows_is_removed(folder):
    before = content(folder)
    (folder / "vectors-00003.npy").write_bytes(b"left over")
    (folder / ".npsiglip-left").mkdir()
    (folder / ".npsiglip-left" / "vectors-00003.npy").write_bytes(b"half")
    with Store.open(folder) as store:
        assert len(store) == 7
    Store.open(folder, write=True).close()
    assert content(folder) == before


KILLED = """
import os, sqlite3, sys
from npsiglip.collection.store import Store
store = Store.open(sys.argv[1], write=True)
store.database.execute("PRAGMA cache_size=1")
store.database.execute("BEGIN IMMEDIATE")
for i in range(3000):
    store.database.execute("INSERT INTO failures VALUES (?, 'x', 1, 1, 0)", (b"%d" % i,))
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("write", [False, True])
def test_a_transaction_that_was_cut_short_is_undone(folder, write):
    before = content(folder)
    result = subprocess.run([sys.executable, "-c", KILLED, folder], env=environment(), check=False)
    assert result.returncode == -9
    assert (folder / "index.sqlite-journal").exists()
    with Store.open(folder, write) as store:
        assert len(store) == 7
        assert len(list(store.failures())) == 1
    Store.open(folder, write=True).close()
    assert content(folder) == before


HOLD = """
import sys
from npsiglip.collection.store import Store
store = Store.open(sys.argv[1], write=True)
print("open", flush=True)
sys.stdin.read()
"""


def test_one_writer(folder):
    command = [sys.executable, "-c", HOLD, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(InputError, match=rf"is being written by process {other.pid} on .*wait until that ends"):
            Store.open(folder, write=True)
        with Store.open(folder) as store:
            assert len(store) == 7
        other.kill()
        other.wait()
        Store.open(folder, write=True).close()  # the lock of a dead process is none


def test_one_writer_in_this_process(folder):
    with Store.open(folder, write=True), pytest.raises(InputError, match="is being written"):
        Store.open(folder, write=True)
    Store.open(folder, write=True).close()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everything")
def test_a_folder_that_may_not_be_written(folder):
    folder.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            Store.open(folder, write=True)
        with Store.open(folder) as store:
            assert len(store) == 7
    finally:
        folder.chmod(0o700)


def test_a_read_only_file_system(folder, monkeypatch):
    """As far as it can be played: what would open a file for writing fails."""
    from pathlib import Path

    real = Path.open

    def opens(self, mode="r", *args, **options):
        if set(mode) & set("wa+x"):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", opens)
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\); nothing was changed"):
        Store.open(folder, write=True)
    with Store.open(folder) as store:
        assert len(store) == 7


def test_what_is_no_index(tmp_path):
    with pytest.raises(InputError, match="does not exist; make one with"):
        Store.open(tmp_path / "none")
    with pytest.raises(InputError, match="is no index: it has no manifest"):
        Store.open(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"is no index and is not empty \('notes.txt' is in it\)"):
        Store.create(tmp_path, manifest())


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("{", "manifest of an index is damaged"),
        ("[]", "manifest of an index is damaged"),
        ('{"version": 1}', "is damaged"),
        ('{"version": 2}', "has format 2, this version of npsiglip reads 1"),
    ],
)
def test_a_manifest_that_cannot_be(folder, text, phrase):
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=phrase):
        Store.open(folder)


def test_a_manifest_with_more_than_is_known(folder):
    known = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(known | {"later": 1}), encoding="utf-8")
    with Store.open(folder) as store:
        assert store.manifest == manifest()


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"weights": "1" * 64, "model": "m"}, "the model's weights (000000000000 of 'none', now 'm' 111111111111)"),
        ({"dtype": "int8"}, "the type that the model computes in ('float32', now 'int8')"),
        ({"preprocessing": {"side": 9}}, "how pictures or texts are prepared (side 8, now 9)"),
        ({"rows": "float16"}, "the type of its rows ('float32', now 'float16')"),
        ({"kind": "text"}, "what is in it ('image', now 'text')"),
    ],
)
def test_an_index_of_something_else_is_refused_with_the_reason(tmp_path, changes, phrase):
    with pytest.raises(InputError) as error:
        manifest().check(manifest(**changes), tmp_path)
    assert phrase in str(error.value)
    manifest().check(manifest(versions={"numpy": "9"}, shard_rows=7, model="elsewhere"), tmp_path)


def test_a_run_that_was_ended_before_there_was_a_manifest(tmp_path):
    (tmp_path / "index").mkdir()
    sqlite3.connect(tmp_path / "index" / "index.sqlite").execute("CREATE TABLE items (x)").connection.close()
    with Store.create(tmp_path / "index", manifest()) as store:
        store.add(records(["/a"]), rows(1))
        assert len(store) == 1


def test_a_shard_that_is_damaged_is_named(folder):
    path = folder / "vectors-00001.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with Store.open(folder) as store, pytest.raises(InputError, match=r"vectors-00001.npy .* lost or damaged"):
        store.rows()
