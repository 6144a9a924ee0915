"""What is damaged in an index, what is lost by it, and letting it be embedded again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npsiglip.collection.database import DATABASE
from npsiglip.collection.items import reason_of
from npsiglip.collection.manifest import Manifest
from npsiglip.collection.records import Shard, file_hash
from npsiglip.collection.store import Store
from npsiglip.errors import InputError


class Damage(NamedTuple):
    """Something that is wrong with an index.

    what: is wrong.
    lost: how many items are lost by it; None: all, or that cannot be said.
    repair: what to do.
    shard: the number of the shard that is damaged, if it is one.
    """

    what: str
    lost: int | None
    repair: str
    shard: int | None = None


def _shard_damage(store: Store, shard: Shard) -> str:
    """What is wrong with the file of a shard; empty if nothing is."""
    path = store.folder / shard.file
    try:
        size = path.stat().st_size
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if rows.shape != (shard.rows, store.manifest.width) or rows.dtype != store.manifest.rows:
            return f"holds {rows.dtype} {list(rows.shape)} instead of {[shard.rows, store.manifest.width]}"
        if file_hash(path) != shard.hash:
            return "does not hold what was written to it: its hash is another"
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, EOFError) as error:
        return f"is cut short or damaged, {size:,} bytes: {reason_of(error)}"
    return ""


def _database_damage(store: Store) -> Iterator[Damage]:
    again = "copy the index from a backup, or remove it and make it anew"
    found = [row[0] for row in store.database.execute("PRAGMA integrity_check(10)")]
    if found != ["ok"]:
        yield Damage(f"{DATABASE} is damaged: {found[0]}", None, again)
    query = """SELECT COUNT(*) FROM items LEFT JOIN shards ON shard = number
        WHERE number IS NULL OR row < 0 OR row >= rows"""
    (count,) = store.database.execute(query).fetchone()
    if count:
        yield Damage(f"{DATABASE} names rows that no shard has", count, "--repair lets them be embedded again", -1)


def check(folder: str | os.PathLike[str]) -> list[Damage]:
    """Everything that is wrong with an index; reads all of it. Empty: nothing is.

    Raises:
        InputError: there is no index.
    """
    folder = Path(folder)
    again = "copy the index from a backup, or remove it and make it anew"
    if not folder.is_dir() or not any((folder / name).exists() for name in ("manifest.json", DATABASE)):
        raise InputError(f"there is no index at {str(folder)!r}")
    try:
        Manifest.read(folder)
        store = Store.open(folder)
    except InputError as error:
        return [Damage(str(error), None, again)]
    found: list[Damage] = []
    try:
        found += _database_damage(store)
        for shard in store.shards():
            if what := _shard_damage(store, shard):
                query = "SELECT COUNT(*) FROM items WHERE shard = ?"
                (lost,) = store.database.execute(query, (shard.number,)).fetchone()
                found.append(Damage(f"{shard.file} {what}", lost, "--repair lets them be embedded again", shard.number))
    except sqlite3.Error as error:
        found.append(Damage(f"{DATABASE} is damaged: {error}", None, again))
    finally:
        store.close()
    return found


def repair(folder: str | os.PathLike[str]) -> int:
    """Forget the items whose rows are lost, so that the next run embeds them again; how many.

    Raises:
        InputError: the damage cannot be repaired, or the index cannot be written.
    """
    found = check(folder)
    for damage in found:
        if damage.shard is None:
            raise InputError(f"this cannot be repaired: {damage.what}; {damage.repair}")
    with Store.open(folder, write=True) as store:
        lost = 0
        with store.transaction() as database:
            for damage in found:
                lost += database.execute("DELETE FROM items WHERE shard = ?", (damage.shard,)).rowcount
                database.execute("DELETE FROM shards WHERE number = ?", (damage.shard,))
            query = """DELETE FROM items WHERE NOT EXISTS
                (SELECT 1 FROM shards WHERE number = shard AND row >= 0 AND row < rows)"""
            lost += database.execute(query).rowcount
        store.tidy()
        return lost
