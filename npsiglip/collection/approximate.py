"""Approximate search by USearch (`pip install 'npsiglip[usearch]'`), worth it from about a million rows on.

The index proposes candidates, more than are wanted; their scores are computed exactly, with the bits of
`npsiglip.collection.exact`, and so is their order. What can be wrong is that a row is not proposed: `recall` tells how
often, against the exact answer. Building on several threads is not deterministic; searching an index is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from npsiglip.atomic import write_all
from npsiglip.collection.exact import Found, Shards, checked_queries, is_gone, search
from npsiglip.collection.exchange import blocks
from npsiglip.errors import InputError
from npsiglip.extras import library

TIMES = 4  # candidates for each row that is wanted
CONNECTIVITY = 32  # neighbours of a row; with USearch's 16 it takes two to three times as long to the same recall
LOOKED_AT, LEAST = 4, 128  # rows that the search keeps in view (expansion_search): for each candidate; at least


def write_usearch(path: Path, shards: Shards, dtype: str = "f16", threads: int = 0, **options: Any) -> None:
    """An index of all rows for inner products, whole or not at all; key i is row i.

    Args:
        path: a file in a folder that exists.
        shards: the rows.
        dtype: what USearch keeps: "f32", "f16" or "i8".
        threads: 0: all.
        options: of `usearch.index.Index`: connectivity, expansion_add, expansion_search.

    Raises:
        InputError: no USearch; it cannot be written.
    """
    usearch = library("usearch.index", "usearch")
    options = {"connectivity": CONNECTIVITY} | options
    index = usearch.Index(ndim=shards.width or 1, metric="ip", dtype=dtype, **options)
    first = 0
    for rows in blocks(shards):
        index.add(np.arange(first, first + len(rows), dtype=np.uint64), rows, threads=threads)
        first += len(rows)
    try:
        write_all(path.parent, {path.name: lambda temporary: index.save(str(temporary))})
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be written ({getattr(error, 'strerror', None) or error})") from None


class Approximate:
    """An index that USearch wrote, mapped, and the rows that it is of.

    Raises:
        InputError: no USearch; no index in this file, or one of other rows.
    """

    def __init__(self, path: Path, shards: Shards) -> None:
        usearch = library("usearch.index", "usearch")
        try:
            index = usearch.Index.restore(str(path), view=True) if path.is_file() else None
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{path} cannot be read as an index of USearch ({error})") from None
        if index is None:
            raise InputError(f"{path} is no index of USearch")
        if index.ndim != (shards.width or 1) or len(index) != len(shards):
            raise InputError(
                f"{path} has {len(index)} rows of width {index.ndim}, the collection {len(shards)} of {shards.width}: "
                "was it changed since? Write the index again"
            )
        self._index, self._shards = index, shards

    def search(self, queries: Any, k: int, skip: Any = None, times: int = TIMES) -> Found:
        """As `exact.search`, of the candidates that the index proposes, `times` as many as are wanted.

        Raises:
            InputError: as `exact.search`.
        """
        q, gone = checked_queries(queries, self._shards.width), is_gone(skip, len(self._shards))
        k = min(k, len(self._shards))
        self._index.expansion_search = max(LEAST, LOOKED_AT * times * k)
        numbers, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
        for i, query in enumerate(q):
            if not k:
                break
            proposed = self._index.search(query, min(times * k, len(self._shards))).keys
            candidates = np.sort(np.asarray(proposed).astype(np.int64))
            candidates = candidates[~gone[candidates]]
            found = search([self._shards.take(candidates)], query[None], k)
            size = found.numbers.shape[1]
            numbers[i, :size] = np.where(found.numbers[0] >= 0, candidates[found.numbers[0]], -1)
            scores[i, :size] = found.scores[0]
        return Found(numbers, scores)


def recall(found: Found, exact: Found) -> float:
    """The part of the exact answer [Q, k] that was found."""
    hits = [np.isin(right[right >= 0], some).sum() for some, right in zip(found.numbers, exact.numbers, strict=True)]
    return float(np.sum(hits) / max(1, (exact.numbers >= 0).sum()))
