"""Indexes put together, and shards written anew without the rows that belong to no item.

Both stream: one shard of new rows is in memory.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.collection.items import key_bytes
from npsiglip.collection.records import Failure, Record, Shard, refuse_write, write_shard
from npsiglip.collection.store import Store
from npsiglip.errors import InputError

WASTE = 0.25  # of all rows: with more that belong to no item, shards are written anew


def wasted(store: Store) -> float:
    """The part of an index's rows that belong to no item."""
    rows = sum(shard.rows for shard in store.shards())
    return 1 - len(store) / rows if rows else 0.0


def _keys(store: Store, shard: Shard) -> list[bytes]:
    """The stored keys of a shard's items, in the order of their rows."""
    query = "SELECT key FROM items WHERE shard = ? ORDER BY row"
    return [key for (key,) in store.database.execute(query, (shard.number,))]


def compact(store: Store, most: float = WASTE) -> bool:
    """Write the shards anew, if more than this part of their rows belongs to no item; whether that was so.

    Raises:
        InputError: a shard is damaged, or there is no room for the new ones; then nothing has changed.
    """
    if wasted(store) <= most:
        return False
    old, size, first = store.shards(), store.manifest.shard_rows, store.next_shard()
    shards: list[Shard] = []
    buffer: list[NDArray[Any]] = []

    def write() -> None:
        number = first + len(shards)
        rows = np.stack(buffer)
        name = f"vectors-{number:05}.npy"
        try:
            shards.append(Shard(number, name, len(rows), write_shard(store.folder, name, rows)))
        except OSError as error:
            raise refuse_write(store.folder, error) from None
        buffer.clear()

    for rows, alive in zip(store.rows(), store.alive(), strict=True):
        for row in rows if alive is None else rows[alive]:
            buffer.append(row)
            if len(buffer) == size:
                write()
    if buffer:
        write()
    with store.transaction() as database:
        # old and new places do not overlap, and each old shard's keys are read before any of them moves
        keys = (key for shard in old for key in _keys(store, shard))
        for shard in shards:
            for row in range(shard.rows):
                place = (shard.number, row, next(keys))
                database.execute("UPDATE items SET shard = ?, row = ? WHERE key = ?", place)
        database.execute("DELETE FROM shards WHERE number < ?", (first,))
        database.executemany("INSERT INTO shards VALUES (?, ?, ?, ?)", shards)
    for shard in old:
        (store.folder / shard.file).unlink(missing_ok=True)
    return True


def _all(store: Store, place: int) -> Iterator[tuple[bytes, int, Record, NDArray[Any]]]:
    rows = store.rows()
    for record, shard, row in store.by_key():
        yield key_bytes(record.key), place, record, rows[shard][row]


def merge(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> int:
    """Put indexes together into a new one, in the order of the keys; how many items it has.

    For the parts of one folder (`--shard i/n`) that is the index of the whole folder, row for row. An item that is in
    several is taken from the first of them.

    Raises:
        InputError: no index, one that was made otherwise or is damaged; `out` is there already, or cannot be written.
    """
    if not folders:
        raise InputError("no indexes to put together were given")
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(Store.open(folder)) for folder in folders]
        manifest = stores[0].manifest
        for store in stores[1:]:
            manifest.check(store.manifest, stores[0].folder)
        for store in stores:
            store.rows()  # finds what is damaged before anything is written
        result = stack.enter_context(Store.create(Path(out), manifest))
        try:
            _put_together(stores, result)
        except BaseException:
            result.close()
            for path in Path(out).iterdir():  # all of it was made here
                path.unlink()
            raise
        return len(result)


def _put_together(stores: Sequence[Store], result: Store) -> None:
    size = result.manifest.shard_rows
    records: list[Record] = []
    rows: list[NDArray[Any]] = []
    before = None
    streams = [_all(store, place) for place, store in enumerate(stores)]
    for key, _, record, row in heapq.merge(*streams, key=lambda each: each[:2]):
        if key == before:
            continue
        before = key
        records.append(record)
        rows.append(row)
        if len(rows) == size:
            result.add(records, np.stack(rows))
            records, rows = [], []
    failures = _failures(stores, result, {record.key for record in records})
    if records or failures:
        result.add(records, np.stack(rows) if rows else np.empty((0, result.manifest.width)), failures)


def _failures(stores: Sequence[Store], result: Store, pending: set[str]) -> list[Failure]:
    """What could be used in no index."""
    found = {failure.key: failure for store in reversed(stores) for failure in store.failures()}
    used = {key for key in found if key in pending or result.find(key) is not None}
    return [found[key] for key in sorted(found.keys() - used, key=key_bytes)]
