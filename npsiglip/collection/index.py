"""`npsiglip.Index`: a collection in Python, in few lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.collection import calibrate
from npsiglip.collection.approximate import Approximate
from npsiglip.collection.build import Built, build
from npsiglip.collection.calibrate import Calibration
from npsiglip.collection.exact import Shards, left_out, search, similar
from npsiglip.collection.hits import Hit
from npsiglip.collection.identity import weights_of
from npsiglip.collection.manifest import Manifest
from npsiglip.collection.query import embed, parse
from npsiglip.collection.records import Failure, Record, Shard
from npsiglip.collection.store import DEFAULT, Store
from npsiglip.collection.where import IMAGE, Where
from npsiglip.errors import InputError
from npsiglip.model import SigLIP

TRIES = 5

Places = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def places_of(places: Places) -> list[str | os.PathLike[str]]:
    """One place or several, as a list."""
    return [places] if isinstance(places, str | os.PathLike) else list(places)


class Index(AbstractContextManager["Index"]):
    """A collection that was embedded: its keys and their rows. Made by `build` or `open`.

    A context, at whose end it is closed. Iterating gives the keys, in the order of the rows.
    """

    def __init__(self, store: Store, model: SigLIP | None = None) -> None:
        self._store = store
        self._model = model
        self._shards: list[Shard] | None = None  # of the last search
        self.built: Built | None = None
        """What the last `build` or `add` did."""

    @classmethod
    def build(
        cls,
        places: Places,
        folder: str | os.PathLike[str] = DEFAULT,
        model: SigLIP | str = "builtin",
        *,
        kind: str = IMAGE,
        ignore: Sequence[str] = (),
        column: str | None = None,
        **options: Any,
    ) -> Index:
        """Make an index of places, or bring it up to date, and open it.

        Args:
            places: folders, files, patterns, tars, tables: see `npsiglip.collection.where.Where`, as for `kind`,
                `ignore` and `column`.
            folder: of the index.
            model: what embeds them, or its name.
            options: see `npsiglip.collection.build.build`.

        Raises:
            InputError: see there.
            CheckpointError: the model cannot be loaded.
        """
        where = Where(places_of(places), kind, ignore, column)
        name = model if isinstance(model, str) else None
        loaded = SigLIP.from_pretrained(model) if isinstance(model, str) else model
        built = build(where, folder, loaded, name=name, **options)
        index = cls(Store.open(folder), loaded)
        index.built = built
        return index

    @classmethod
    def open(cls, folder: str | os.PathLike[str] = DEFAULT, model: SigLIP | None = None) -> Index:
        """Open an index for reading.

        Args:
            folder: of the index.
            model: that made it; None: it is loaded when it is needed.

        Raises:
            InputError: no index, or one that is damaged or of another version.
        """
        return cls(Store.open(folder), model)

    def add(self, places: Places, *, ignore: Sequence[str] = (), column: str | None = None, **options: Any) -> Built:
        """Embed what is new or changed in these places, and drop what is gone from them; what it did.

        Raises:
            InputError: see `build`.
        """
        where = Where(places_of(places), self.manifest.kind, ignore, column)
        built = build(where, self.folder, self.model, name=self.manifest.model, **options)
        self._store.close()
        self._store = Store.open(self.folder)
        self.built = built
        return built

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._store.folder

    @property
    def manifest(self) -> Manifest:
        """What it was made with."""
        return self._store.manifest

    @property
    def store(self) -> Store:
        """What is on disk."""
        return self._store

    @cached_property
    def model(self) -> SigLIP:
        """What embeds queries as the items were embedded.

        Raises:
            CheckpointError: it cannot be loaded.
            InputError: it is not the one that made the index.
        """
        if self._model is None:
            known = self.manifest
            self._model = SigLIP.from_pretrained(known.model, known.dtype, **loading(known))
        check_model(self.manifest, self._model, self.folder)
        return self._model

    @property
    def vectors(self) -> NDArray[Any]:
        """The embeddings of all items, [N, D] of the manifest's type; of a single shard, memory-mapped."""
        parts = [
            rows if mask is None else rows[mask]
            for rows, mask in zip(self._store.rows(), self._store.alive(), strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, self.manifest.width), self.manifest.rows)

    @property
    def keys(self) -> list[str]:
        """The name of each item, in the order of `vectors`: paths, or the texts themselves."""
        return list(self)

    def search(
        self, queries: str | Sequence[str], k: int = 10, usearch: str | os.PathLike[str] | None = None
    ) -> list[list[Hit]]:
        """What is most like words, pictures, or sums of them.

        Args:
            queries: one or several, in the language of `npsiglip.collection.query`: "two dogs", "./me.jpg",
                "2:beach + ./me.jpg - crowd".
            k: how many to find for each, at most.
            usearch: a file of `npsiglip index export`, to search approximately: faster from a million items on.

        Returns:
            For each query its hits, the best first; their probabilities are by `calibration`.

        Raises:
            InputError: a query that is empty, negative in all, or too long; nothing is in the index.
        """
        asked = [parse(query) for query in ([queries] if isinstance(queries, str) else queries)]
        if not asked:
            return []
        shards, skip = self.searched()
        vectors = embed(self.model, asked)
        found = (
            search(shards, vectors, k, skip)
            if usearch is None
            else Approximate(Path(usearch), shards).search(vectors, k, skip)
        )
        says = self.calibration
        return [
            self.hits(
                numbers, scores, says.probabilities if says and query.has_probability(self.manifest.kind) else None
            )
            for query, numbers, scores in zip(asked, found.numbers, found.scores, strict=True)
        ]

    def number(self, name: str | os.PathLike[str]) -> int | None:
        """The row of an item, by its key, or by a path as people write it; None if there is no such item."""
        name = os.fspath(name)
        found = self._store.number(name)
        return found if found is not None else self._store.number(os.path.abspath(name))  # noqa: PTH100  as keys are made

    def similar(self, key: str | os.PathLike[str], k: int = 10) -> list[Hit]:
        """The nearest neighbours of an item, by its key or path, without itself.

        Raises:
            InputError: no such item.
        """
        shards, skip = self.searched()
        number = self.number(key)
        if number is None:
            raise InputError(f"{str(key)!r} is not in the index {str(self.folder)!r}; expected one of `index.keys`")
        found = similar(shards, number, k, skip)
        return self.hits(found.numbers[0], found.scores[0])

    @property
    def calibration(self) -> Calibration | None:
        """What `npsiglip calibrate` stored for these weights, else the model's own; None for a single tower.

        Raises:
            InputError: what was stored is damaged.
        """
        stored = calibrate.read(self.folder)
        return stored[0] if stored and stored[1] == self.manifest.weights else calibrate.of_model(self.model)

    def searched(self) -> tuple[Shards, NDArray[np.bool_] | None]:
        """All rows as they lie, and which of them belong to no item: bool [R], or None if all do.

        Raises:
            InputError: nothing is in the index; a shard is damaged.
        """
        for _ in range(TRIES):  # another process may write meanwhile
            before = self._store.shards()
            try:
                shards = Shards(list(self._store.rows()))
                skip = left_out(shards.rows, self._store.alive())
            except (InputError, ValueError):
                if self._store.shards() == before:
                    raise
                continue
            if self._store.shards() == before:
                break
        else:
            raise InputError(f"the index {str(self.folder)!r} changes all the time; search it when that has ended")
        self._shards = before
        if not len(shards) or (skip is not None and skip.all()):
            raise InputError(f"nothing is in the index {str(self.folder)!r}; embed something first")
        return shards, skip

    def hits(
        self, numbers: NDArray[Any], scores: NDArray[Any], probabilities: Callable[[Any], Any] | None = None
    ) -> list[Hit]:
        """The items of rows [k] with their scores [k]; -1 is none."""
        numbers, scores = numbers[numbers >= 0], scores[numbers >= 0]
        found = probabilities(scores) if probabilities else [None] * len(numbers)
        records = list(self._store.items(numbers.tolist(), self._shards))
        now = self._store.shards()
        if self._shards and (not now or now[0].number != self._shards[0].number):
            raise InputError(f"the index {str(self.folder)!r} was written anew while it was searched: search again")
        return [
            Hit(record.key, float(score), None if probability is None else float(probability))
            for record, score, probability in zip(records, scores, found, strict=True)
            if record is not None
        ]

    def records(self) -> Iterator[Record]:
        """What is known of each item, in the order of `vectors`."""
        return (record for record in self._store.items() if record)

    def failures(self) -> list[Failure]:
        """What could not be used, and why."""
        return list(self._store.failures())

    def __iter__(self) -> Iterator[str]:
        return (record.key for record in self.records())

    def __len__(self) -> int:
        return len(self._store)

    def __repr__(self) -> str:
        known = self.manifest
        what = f"{len(self):,} {known.kind}{'' if len(self) == 1 else 's'}"
        return f"Index({str(self.folder)!r}: {what}, {known.rows} [{len(self)}, {known.width}], of {known.model!r})"

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._store.close()


def loading(manifest: Manifest) -> dict[str, Any]:
    """What a model has to be told when it is loaded, to embed as the items were."""
    known = manifest.preprocessing
    return {"adapter": known.get("adapter"), "sixteen_bit": known.get("sixteen_bit", "clip")}


def check_model(manifest: Manifest, model: SigLIP, folder: Path) -> None:
    """Refuse a model whose queries cannot be compared with the rows of an index.

    Raises:
        InputError: naming what is different.
    """
    for key, mine in (("weights", weights_of(model, manifest)[0]), ("dtype", model.dtype)):
        known = getattr(manifest, key)
        if mine != known:
            raise InputError(
                f"the index {str(folder)!r} was made by {manifest.model!r} in {manifest.dtype}, and the model is "
                f"another ({key}: {known[:12]}, now {mine[:12]})"
            )
