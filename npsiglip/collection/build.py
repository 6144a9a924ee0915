"""From items to an index: what is new or changed is embedded, what is gone is dropped, shard by shard.

A run that is ended at any moment, by a power cut or kill -9, loses the shard in work; the next run goes on, and what it
makes has the same bytes as what one run would have made: shards have a fixed number of rows, rows the order of the
items, and a row the same bits in any batch.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npsiglip.collection.engine import Engine, here
from npsiglip.collection.identity import manifest_of
from npsiglip.collection.items import Bad, Item, key_bytes, key_of
from npsiglip.collection.manifest import FILE, SHARD_ROWS, Manifest
from npsiglip.collection.merge import compact
from npsiglip.collection.prepare import Prepared, Task, failure
from npsiglip.collection.records import Failure, Record
from npsiglip.collection.store import Store
from npsiglip.collection.where import Source, Where
from npsiglip.errors import InputError
from npsiglip.model import SigLIP

BATCH = 32  # items that are given to the model at once


@dataclass
class Built:
    """What a run did.

    items: in the index, at the end.
    new, changed: embedded.
    same: that were in the index already; `touched` of these had another time and the same content.
    dropped: that are gone.
    failed: that cannot be used; `still` of these were known, and have not changed.
    pixels: of the pictures that were embedded.
    seconds: since the run began.
    """

    items: int = 0
    new: int = 0
    changed: int = 0
    same: int = 0
    touched: int = 0
    dropped: int = 0
    failed: int = 0
    still: int = 0
    pixels: int = 0
    seconds: float = 0.0

    @property
    def seen(self) -> int:
        """Items that were looked at."""
        return self.new + self.changed + self.same + self.failed


Progress = Callable[[Built], None]


def _silent(what: Any) -> None:
    pass


class _Run:
    """One run over all sources."""

    def __init__(self, store: Store, where: Where, strict: bool, drop_all: bool, retry: bool) -> None:
        self.store, self.where = store, where
        self.strict, self.drop_all, self.retry = strict, drop_all, retry
        self.built = Built()
        self.missing: list[bytes] = []  # what begins so could not be listed
        self.unfinished: set[str] = set()  # sources that could not be listed to their end
        self.found = 0
        self.had_failures = next(store.failures(), None) is not None  # else none need be looked for
        store.database.execute("CREATE TEMP TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")  # on disk, if it is large
        self.records: list[Record] = []
        self.rows: list[Any] = []
        self.failures: list[Failure] = []
        self.touched: list[Record] = []

    def tasks(self) -> Iterator[Task | Failure]:
        """What is new or changed, and what is bad and was not known to be."""
        for source in self.where.sources:
            before = self.found
            for item in source:
                self.found += 1
                if isinstance(item, Bad):  # whichever part it is in: it says what all parts cannot know of
                    self._note_missing(item)
                if self.where.part.has(item.key) and (task := self._look(item)):
                    yield task
            if self.found == before and source.name and not self.drop_all:
                self._refuse_empty(source)

    def _note_missing(self, bad: Bad) -> None:
        if bad.within:
            self.missing.append(key_bytes(bad.within))
        if bad.unfinished:
            self.unfinished.add(bad.source)

    def _refuse_empty(self, source: Source) -> None:
        query = "SELECT COUNT(*) FROM items, sources WHERE source = number AND (name = ? OR key >= ? AND key < ?)"
        (count,) = self.store.database.execute(query, (key_bytes(source.name), *under(source.prefix))).fetchone()
        if count:
            raise InputError(
                f"{source.name!r} holds nothing now, and the index {str(self.store.folder)!r} has {count:,} items of "
                "it: is a disk not there? If they are to be dropped, say --drop-all (drop_all=True)"
            )

    def _look(self, item: Item | Bad) -> Task | Failure | None:
        """What is to be done with an item, if anything."""
        store, key = self.store, key_bytes(item.key)
        if not store.database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount:
            return None  # named twice
        failed = store.failure(item.key) if self.had_failures else None
        if isinstance(item, Bad):
            bad = failure(item, item.reason)
            if failed != bad:
                return bad
            self._known_failure(bad)
            return None
        if failed and (failed.size, failed.mtime) == (item.size, item.mtime) and not self.retry:
            self._known_failure(failed)
            return None
        known = store.find(item.key)
        if known is None or known.size != item.size:
            return item, None
        if known.mtime != item.mtime:
            return item, known.hash
        self.built.same += 1
        if known.source != item.source:
            self.touched.append(known._replace(source=item.source))
        return None

    def _known_failure(self, failed: Failure) -> None:
        self._refuse(failed)
        self.built.failed += 1
        self.built.still += 1

    def _refuse(self, failed: Failure) -> None:
        if self.strict:
            raise InputError(f"{failed.key!r}: {failed.reason}; what was committed stays in the index")

    def take(self, batch: list[Prepared], rows: Any) -> None:
        """Rows of the model, in order; what is full is committed."""
        for prepared, row in zip(batch, rows, strict=True):
            known = self.store.find(prepared.record.key) is not None
            self.built.new += not known
            self.built.changed += known
            self.built.pixels += (prepared.record.width or 0) * (prepared.record.height or 0)
            self.records.append(prepared.record)
            self.rows.append(row)
        self.commit(self.store.manifest.shard_rows)

    def fail(self, failed: Failure) -> None:
        """An item that cannot be used."""
        if self.retry and self.store.failure(failed.key) == failed:
            self._known_failure(failed)
            return
        self._refuse(failed)
        self.built.failed += 1
        self.failures.append(failed)
        self.commit(self.store.manifest.shard_rows)

    def same(self, record: Record) -> None:
        """An item that has a new time and the same content."""
        self.built.same += 1
        self.built.touched += 1
        self.touched.append(record)
        if len(self.touched) >= self.store.manifest.shard_rows:  # decides on no shard
            self.store.touch(self.touched)
            self.touched = []

    @property
    def room(self) -> int:
        """Rows that the shard in work has room for."""
        return self.store.manifest.shard_rows - len(self.rows)

    def commit(self, least: int = 1) -> None:
        """Commit what there is, if there are so many rows or failures."""
        if max(len(self.rows), len(self.failures)) < least:
            return
        width = self.store.manifest.width
        rows = np.stack(self.rows) if self.rows else np.empty((0, width), np.float32)
        self.store.add(self.records, rows, self.failures)
        self.records, self.rows, self.failures = [], [], []

    def drop(self) -> None:
        """Forget what the sources no longer name, and what is gone from under them, whichever source named it last."""
        database = self.store.database
        database.execute("CREATE TEMP TABLE named (name BLOB PRIMARY KEY)")
        sources = [source for source in self.where.sources if source.name and source.name not in self.unfinished]
        database.executemany("INSERT OR IGNORE INTO named VALUES (?)", [(key_bytes(s.name),) for s in sources])
        for table in ("items", "failures"):
            query = f"""SELECT key FROM {table} WHERE key NOT IN seen
                AND source IN (SELECT number FROM sources WHERE name IN named)"""
            gone = {key for (key,) in database.execute(query)}
            for source in sources:
                query = f"SELECT key FROM {table} WHERE key >= ? AND key < ? AND key NOT IN seen"
                others = {key for (key,) in database.execute(query, under(source.prefix))} - gone
                gone |= {key for key in others if source.is_gone(key_of(key))}
            gone = {key for key in gone if not any(map(key.startswith, self.missing))}
            if gone:
                self.built.dropped += self.store.drop(map(key_of, sorted(gone)))


def under(prefix: str) -> tuple[bytes, bytes]:
    """The keys that begin with a prefix are from the first on, and before the second; none begin with an empty one."""
    first = key_bytes(prefix)
    return first, first[:-1] + bytes([first[-1] + 1]) if first else b""


def _open(folder: Path, manifest: Callable[[Manifest | None], Manifest]) -> Store:
    """The index, made if there is none, to be written; refused if it was made otherwise."""
    if not (folder / FILE).exists():
        return Store.create(folder, manifest(None))
    known = Manifest.read(folder)
    known.check(manifest(known), folder)
    return Store.open(folder, write=True)


def _fast(wanted: bool | None, known: Manifest | None) -> bool:
    """Whether JPEGs are decoded at a fraction of their size."""
    return bool(known and known.preprocessing.get("fast_decode")) if wanted is None else wanted


def build(
    where: Where,
    folder: str | os.PathLike[str],
    model: SigLIP,
    *,
    name: str | None = None,
    rows: str | None = None,
    fast_decode: bool | None = None,
    shard_rows: int | None = None,
    threads: int | None = None,
    strict: bool = False,
    drop_all: bool = False,
    retry: bool = False,
    engine: Callable[[Manifest], contextlib.AbstractContextManager[Engine]] | None = None,
    progress: Progress = _silent,
    skipped: Callable[[Failure], object] = _silent,
) -> Built:
    """Make an index of what there is, or bring it up to date.

    Args:
        where: the items.
        folder: of the index; made if there is none.
        model: what embeds them.
        name: that loads the model again; None: its folder.
        rows: "float32" or "float16"; None: the index's, or float32.
        fast_decode: decode JPEGs at 1/2, 1/4 or 1/8 of their size before they are resized: faster, and other pixels.
            None: as the index was made, or False.
        shard_rows: of an index that is made: rows of a shard, which is also what a kill can cost; None: 2048.
        threads: that read and decode beside the kernels; None: as many as there are CPUs.
        strict: stop at the first item that cannot be used.
        drop_all: whether a place in which nothing is left may be meant.
        retry: try again what could not be used and has not changed.
        engine: who reads, decodes and embeds, for a manifest; None: this process, in so many threads. Another one is
            `npsiglip.collection.ray.cluster`.
        progress: called now and then.
        skipped: called with each item that cannot be used and was not known to be.

    Raises:
        InputError: the index was made otherwise, is damaged, cannot be written, or is being written; a place cannot be
            listed; with `strict`, an item that cannot be used. What was committed before stays.
    """
    folder, start = Path(folder), time.monotonic()

    def manifest(known: Manifest | None) -> Manifest:
        kept = rows or (known.rows if known else "float32")
        size = known.shard_rows if known else shard_rows or SHARD_ROWS
        return manifest_of(model, where.kind, kept, _fast(fast_decode, known), name, size, known)

    with contextlib.ExitStack() as stack:
        store = stack.enter_context(_open(folder, manifest))
        run = _Run(store, where, strict, drop_all, retry)
        fast = bool(store.manifest.preprocessing.get("fast_decode"))
        made = engine(store.manifest) if engine else here(model, where.kind, fast, threads)
        prepare, encode = stack.enter_context(made)
        batch: list[Prepared] = []

        def embed() -> None:
            if batch:
                run.take(batch, encode([prepared.input for prepared in batch]))
                batch.clear()
            run.built.seconds = time.monotonic() - start
            progress(run.built)

        for found in prepare(run.tasks()):
            if isinstance(found, Failure):
                run.fail(found)
                skipped(found)
            elif found.input is None:
                run.same(found.record)
            else:
                batch.append(found)
                if len(batch) >= min(BATCH, run.room):
                    embed()
        embed()
        run.commit()
        if run.touched:
            store.touch(run.touched)
        run.drop()
        compact(store)
        run.built.items, run.built.seconds = len(store), time.monotonic() - start
        if not run.found and not drop_all:
            names = ", ".join(repr(os.fspath(place)) for place in where.places)
            raise InputError(f"there is nothing in {names} that could be embedded: are files named like pictures?")
        return run.built
