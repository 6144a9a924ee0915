"""An index on disk: a folder of shards that memory-map, an SQLite database of what is in them, and a manifest.

What is committed is whole: a shard's file is written under another name and moved to its own, then one transaction
makes it part of the index. A file that no transaction knows is left over from a run that was ended, and is removed by
the next that writes. Rows are never changed in place: what is replaced or dropped becomes a row without an item.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.collection.database import DATABASE, connect, is_of_the_disk
from npsiglip.collection.items import key_bytes, key_of, reason_of
from npsiglip.collection.lock import Lock
from npsiglip.collection.manifest import Manifest
from npsiglip.collection.records import Failure, Record, Shard, refuse_database, refuse_write, write_shard
from npsiglip.errors import InputError

_NAME = re.compile(r"vectors-\d{5,}\.npy")
DEFAULT = "npsiglip-index"  # the folder, where none is named

_SCHEMA = """
CREATE TABLE sources (number INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);
CREATE TABLE shards (number INTEGER PRIMARY KEY, file TEXT NOT NULL, rows INTEGER NOT NULL, hash TEXT NOT NULL);
CREATE TABLE items (key BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime INTEGER NOT NULL, hash BLOB NOT NULL,
    source INTEGER NOT NULL, shard INTEGER NOT NULL, row INTEGER NOT NULL, width INTEGER, height INTEGER) WITHOUT ROWID;
CREATE UNIQUE INDEX items_row ON items (shard, row);
CREATE TABLE failures (key BLOB PRIMARY KEY, reason TEXT NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL,
    source INTEGER NOT NULL) WITHOUT ROWID;
"""
_RECORD = "key, size, mtime, hash, (SELECT name FROM sources WHERE number = source), width, height"


class Store(contextlib.AbstractContextManager["Store"]):
    """An index that is open; made by `create` and `open`. A context, at whose end it is closed."""

    def __init__(self, folder: Path, manifest: Manifest, database: sqlite3.Connection, lock: Lock | None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.database = database
        self._lock = lock

    @classmethod
    def create(cls, folder: str | os.PathLike[str], manifest: Manifest) -> Store:
        """Make an empty index and open it for writing.

        Args:
            folder: does not exist, or is empty.
            manifest: of all rows to come.

        Raises:
            InputError: there is something in the folder; it cannot be written; another process makes it.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            left = {path.name for path in folder.iterdir()} - {"lock", DATABASE, f"{DATABASE}-journal"}
            left = {name for name in left if not name.startswith(".")}
        except OSError as error:
            raise refuse_write(folder, error) from None
        if left:
            raise InputError(
                f"{str(folder)!r} is no index and is not empty ({sorted(left)[0]!r} is in it): give the name of an "
                "index, or of a folder to be made"
            )
        lock = Lock(folder)
        try:
            (folder / DATABASE).unlink(missing_ok=True)  # of a run that was ended before there was a manifest
            (folder / f"{DATABASE}-journal").unlink(missing_ok=True)
            database = connect(folder, "rwc")
            with database:
                database.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA.split(";"):
                    database.execute(statement)
            manifest.write(folder)  # last: what has one is an index
        except BaseException as error:
            lock.release()
            if isinstance(error, OSError | sqlite3.Error):
                raise refuse_write(folder, error) from None
            raise
        return cls(folder, manifest, database, lock)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], write: bool = False) -> Store:
        """Open an index; what a run that was ended has left is put right, if `write`.

        Raises:
            InputError: no index, one that is damaged or of another version; for `write`, another process writes, or
                the folder cannot be written.
        """
        folder = Path(folder)
        manifest = Manifest.read(folder)
        if not (folder / DATABASE).is_file():
            raise InputError(
                f"the index {str(folder)!r} has lost its database, {DATABASE}, and with it the names of all items: "
                "copy it from a backup, or make the index anew"
            )
        lock = Lock(folder) if write else None
        try:
            if not write and (folder / f"{DATABASE}-journal").exists():
                _roll_back(folder)
            store = cls(folder, manifest, connect(folder, "rw" if write else "ro"), lock)
            if write:
                store.database.execute("BEGIN IMMEDIATE")  # rolls back what a run has left
                store.database.execute("ROLLBACK")
            store.shards()
            if write:
                store.tidy()
        except (OSError, sqlite3.Error) as error:
            if lock:
                lock.release()
            if isinstance(error, OSError):
                raise refuse_write(folder, error) from None
            raise refuse_database(folder, error.__cause__ or error) from None
        return store

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and of the right to write."""
        self.database.close()
        if self._lock:
            self._lock.release()

    def __len__(self) -> int:
        """How many items there are."""
        return int(self._one("SELECT COUNT(*) FROM items"))

    def _one(self, query: str, *values: Any) -> Any:
        row = self.database.execute(query, values).fetchone()
        return row[0] if row else None

    def tidy(self) -> None:
        """Remove what no transaction knows.

        Raises:
            DatabaseDamaged: the database is, so that nobody can say what it knew.
        """
        known = {shard.file for shard in self.shards()}
        if left := [path for path in self.folder.glob("vectors-*.npy") if path.name not in known]:
            found = self._one("PRAGMA quick_check(1)")
            if found != "ok":
                raise refuse_database(self.folder, found)
            for path in left:
                path.unlink()
        for path in self.folder.glob(".npsiglip-*"):
            shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A context of changes that are made together or not at all.

        Raises:
            InputError: they cannot be written.
        """
        if self._lock is None:
            raise InputError(f"the index {str(self.folder)!r} was opened for reading: Store.open(..., write=True)")
        try:
            self.database.execute("BEGIN IMMEDIATE")
            yield self.database
            self.database.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            self._roll_back()
            reason = error.__cause__ or error
            refuse = refuse_write if is_of_the_disk(reason) else refuse_database
            raise refuse(self.folder, reason) from None
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have done so itself
            self.database.execute("ROLLBACK")

    # What is in it

    def shards(self) -> list[Shard]:
        """Its shards, in the order of their rows.

        Raises:
            DatabaseDamaged: what is said of a shard cannot be.
        """
        found = [Shard(*row) for row in self.database.execute("SELECT * FROM shards ORDER BY number")]
        for shard in found:
            if not (isinstance(shard.file, str) and _NAME.fullmatch(shard.file) and isinstance(shard.rows, int)):
                raise refuse_database(self.folder, f"a shard is called {shard.file!r} and has {shard.rows!r} rows")
        return found

    @property
    def version(self) -> int:
        """A number that is another one when another process has changed the index."""
        return int(self._one("PRAGMA data_version"))

    def rows(self) -> list[NDArray[Any]]:
        """The rows of each shard, [n, D] of the manifest's type, memory-mapped; with those that belong to no item.

        Raises:
            InputError: a shard is lost or damaged.
        """
        found = []
        for shard in self.shards():
            try:
                rows = np.load(self.folder / shard.file, mmap_mode="r", allow_pickle=False)
                wanted = (shard.rows, self.manifest.width)
                if rows.shape != wanted or rows.dtype != self.manifest.rows:
                    raise ValueError(f"{rows.dtype} {list(rows.shape)} instead of {list(wanted)}")
            except (OSError, ValueError, EOFError) as error:
                raise InputError(
                    f"{shard.file} of the index {str(self.folder)!r} is lost or damaged ({reason_of(error)}): "
                    f"`npsiglip index check -i {self.folder}` says what is lost, --repair lets it be embedded again"
                ) from None
            found.append(rows)
        return found

    def alive(self) -> list[NDArray[np.bool_] | None]:
        """For each shard, which of its rows belong to an item, [n]; None: all do."""
        found: list[NDArray[np.bool_] | None] = []
        for shard in self.shards():
            if self._one("SELECT COUNT(*) FROM items WHERE shard = ?", shard.number) == shard.rows:
                found.append(None)
                continue
            mask = np.zeros(shard.rows, bool)
            rows = self.database.execute("SELECT row FROM items WHERE shard = ?", (shard.number,))
            places = np.array([row for (row,) in rows], object)
            if not all(isinstance(place, int) and 0 <= place < shard.rows for place in places):
                raise refuse_database(self.folder, f"it names rows that {shard.file} does not have")
            mask[places.astype(np.intp)] = True
            found.append(mask)
        return found

    def items(
        self, numbers: Iterable[int] | None = None, shards: Sequence[Shard] | None = None
    ) -> Iterator[Record | None]:
        """What is known of some rows, by their numbers among those of all shards.

        Args:
            numbers: from 0; None: all rows that belong to an item, in their order.
            shards: those that there were when the numbers were found; None: those that there are.

        Yields:
            A record for each number; None for a row without an item.
        """
        if numbers is None:
            query = f"SELECT {_RECORD} FROM items ORDER BY shard, row"
            yield from map(self._record, self.database.execute(query))
            return
        shards = self.shards() if shards is None else shards
        ends = np.cumsum([shard.rows for shard in shards])
        query = f"SELECT {_RECORD} FROM items WHERE shard = ? AND row = ?"
        for number in numbers:
            place = int(np.searchsorted(ends, number, "right"))
            if number < 0 or place == len(shards):
                raise IndexError(f"row {number} of {ends[-1] if len(ends) else 0}")
            row = int(number) - (int(ends[place - 1]) if place else 0)
            found = self.database.execute(query, (shards[place].number, row)).fetchone()
            yield self._record(found) if found else None

    def _record(self, row: Sequence[Any]) -> Record:
        key, size, mtime, content, source, width, height = row
        if not (isinstance(key, bytes) and isinstance(source, bytes | None)):
            raise refuse_database(self.folder, f"an item is called {key!r}, of the place {source!r}")
        return Record(key_of(key), size, mtime, content, key_of(source or b""), width, height)

    def find(self, key: str) -> Record | None:
        """What is known of the item of a key."""
        found = self.database.execute(f"SELECT {_RECORD} FROM items WHERE key = ?", (key_bytes(key),)).fetchone()
        return self._record(found) if found else None

    def number(self, key: str) -> int | None:
        """The number of the row of a key's item among those of all shards."""
        query = "SELECT row + (SELECT COALESCE(SUM(s.rows), 0) FROM shards s WHERE s.number < shard) FROM items"
        found: int | None = self._one(f"{query} WHERE key = ?", key_bytes(key))
        return found

    def failure(self, key: str) -> Failure | None:
        """What is known of an item that could not be used."""
        return next(self._failures("WHERE key = ?", key_bytes(key)), None)

    def failures(self) -> Iterator[Failure]:
        """What could not be used, by its key."""
        return self._failures("ORDER BY key")

    def _failures(self, which: str, *values: Any) -> Iterator[Failure]:
        columns = "key, reason, size, mtime, (SELECT name FROM sources WHERE number = source)"
        for row in self.database.execute(f"SELECT {columns} FROM failures {which}", values):
            if not (isinstance(row[0], bytes) and isinstance(row[4], bytes | None)):
                raise refuse_database(self.folder, f"an item is called {row[0]!r}, of the place {row[4]!r}")
            yield Failure(key_of(row[0]), row[1], row[2], row[3], key_of(row[4] or b""))

    # Changes

    def _source(self, name: str) -> int:
        if not name:
            return 0
        stored = key_bytes(name)
        self.database.execute("INSERT OR IGNORE INTO sources (name) VALUES (?)", (stored,))
        return int(self._one("SELECT number FROM sources WHERE name = ?", stored))

    def next_shard(self) -> int:
        """The number of the next shard; none is used twice as long as it is the last."""
        return int(self._one("SELECT COALESCE(MAX(number) + 1, 0) FROM shards"))

    def add(self, records: Sequence[Record], rows: NDArray[Any], failures: Sequence[Failure] = ()) -> None:
        """Commit a shard; items that were there before, and failures, are replaced.

        Args:
            records: of each row.
            rows: [n, D], stored as the manifest's type; n is 0 where there are only failures.
            failures: what could not be used meanwhile.

        Raises:
            InputError: it cannot be written; then nothing has changed. Rows of another width, or not finite.
        """
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(rows, self.manifest.rows)
        if rows.shape != (len(records), self.manifest.width):
            expected = [len(records), self.manifest.width]
            raise InputError(f"rows must be {expected} like the records and the index, got {list(rows.shape)}")
        if not np.isfinite(rows).all():
            raise InputError(f"a row is not finite as {self.manifest.rows}")
        if len({record.key for record in records}) != len(records):
            raise InputError("a key comes twice in a shard")
        number = self.next_shard()
        shard = Shard(number, f"vectors-{number:05}.npy", len(rows), "")
        if records:
            try:
                shard = shard._replace(hash=write_shard(self.folder, shard.file, rows))
            except OSError as error:
                raise refuse_write(self.folder, error) from None
        with self.transaction() as database:
            if records:
                database.execute("INSERT INTO shards VALUES (?, ?, ?, ?)", shard)
            for row, record in enumerate(records):
                key, source = key_bytes(record.key), self._source(record.source)
                values = (key, *record[1:4], source, number, row, *record[5:])
                database.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
                database.execute("DELETE FROM failures WHERE key = ?", (key,))
            for failure in failures:
                key, source = key_bytes(failure.key), self._source(failure.source)
                failed = (key, failure.reason, failure.size, failure.mtime, source)
                database.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)", failed)
                database.execute("DELETE FROM items WHERE key = ?", (key,))

    def by_key(self) -> Iterator[tuple[Record, int, int]]:
        """All items in the order of their keys, each with the place of its shard among all, and its row there."""
        places = {shard.number: place for place, shard in enumerate(self.shards())}
        for *row, shard, number in self.database.execute(f"SELECT {_RECORD}, shard, row FROM items ORDER BY key"):
            if shard not in places:
                raise refuse_database(self.folder, f"it names a row of shard {shard!r}, which there is not")
            yield self._record(row), places[shard], number

    def touch(self, records: Sequence[Record]) -> None:
        """Note new times and sources of items whose content is the same."""
        with self.transaction() as database:
            for record in records:
                values = (record.mtime, self._source(record.source), key_bytes(record.key))
                database.execute("UPDATE items SET mtime = ?, source = ? WHERE key = ?", values)

    def drop(self, keys: Iterable[str]) -> int:
        """Forget items and failures; their rows stay until `compact`. How many items there were."""
        count = 0
        with self.transaction() as database:
            for key in map(key_bytes, keys):
                count += database.execute("DELETE FROM items WHERE key = ?", (key,)).rowcount
                database.execute("DELETE FROM failures WHERE key = ?", (key,))
        return count


def _roll_back(folder: Path) -> None:
    """Undo the transaction of a run that was ended, which opening for reading alone cannot do; not that of another."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(folder, "rw")) as database:
        database.execute("SELECT COUNT(*) FROM shards").fetchone()
