"""Exact search among stored embeddings: the best of all rows, the neighbours of one, and groups that are nearly equal.

Rows lie in shards, arrays that may be mapped files: they are read in one pass, and never copied as a whole. Scores are
inner products, which are cosines if rows and queries have unit norm, and have the same bits for any number of threads,
of shards, and of queries beside one. Of equal scores the lower number comes first.

Left out: approximate search (`npsiglip.collection.approximate`).
Dimensions: R rows of all shards, r of one; Q queries, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.kernels import top_k
from npsiglip.kernels.jit import check_threads, computing

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]

ROW_TYPES = {"f": "float32", "e": "float16", "b": "int8"}  # by the characters of dtypes
ROWS_AT_ONCE = 8192  # compared with each other for `groups`


class Found(NamedTuple):
    """The best rows for each query, the best first."""

    numbers: Numbers
    """[Q, k], counted from 0 through all shards; -1 where there are too few rows that have a score."""
    scores: Floats
    """[Q, k]; -inf where there is no row."""


@dataclass(frozen=True)
class Shards:
    """Rows of a collection as they lie: arrays [r, D] of one dtype, float32, float16, or int8 with scales.

    Raises:
        InputError: another dtype, shapes that do not fit each other, rows that are not one behind the other in memory;
            int8 without scales, or others with them.
    """

    rows: Sequence[NDArray[Any]]
    scales: Sequence[Floats] | None = None
    """For int8: [r] each, what the rows are multiplied with."""
    starts: Numbers = field(init=False)
    """The number of the first row of each shard, and at the end of all rows."""

    def __post_init__(self) -> None:
        given: Any = self.rows
        if isinstance(given, np.ndarray) and given.ndim != 3:
            raise InputError("rows are a list of arrays, the shards of a collection; got one array: try [rows]")
        for i, rows in enumerate(self.rows):
            known = isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype.char in ROW_TYPES
            if not known or not rows.dtype.isnative:
                got = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else type(rows).__name__
                raise InputError(f"shard {i} must be [r, D] of {', '.join(ROW_TYPES.values())}; got {got}")
            if rows.shape[1:] != self.rows[0].shape[1:] or rows.dtype != self.rows[0].dtype:
                first = self.rows[0]
                raise InputError(
                    f"shard {i} is {rows.dtype} {list(rows.shape)}, and shard 0 {first.dtype} {list(first.shape)}: "
                    "all must have one width and one dtype"
                )
            if not rows.flags.c_contiguous:
                raise InputError(f"the numbers of a row of shard {i} are not beside each other: np.ascontiguousarray")
        self._check_scales()
        object.__setattr__(self, "starts", np.cumsum([0, *map(len, self.rows)], dtype=np.int64))

    def _check_scales(self) -> None:
        int8 = len(self.rows) > 0 and self.rows[0].dtype == np.int8
        if int8 != (self.scales is not None):
            raise InputError("rows of int8 need scales, [r] float32 for each shard; others have none")
        for i, (rows, scales) in enumerate(zip(self.rows, self.scales or (), strict=self.scales is not None)):
            if scales.dtype != np.float32 or scales.shape != (len(rows),):
                raise InputError(f"scales of shard {i} must be float32 [{len(rows)}]; got {scales.dtype}")

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def width(self) -> int | None:
        """D; None without any shard."""
        return int(self.rows[0].shape[1]) if len(self.rows) else None

    def each(self) -> Iterator[tuple[int, NDArray[Any], Floats]]:
        """The number of the first row, the rows and their scales, shard by shard."""
        for i, rows in enumerate(self.rows):
            yield int(self.starts[i]), rows, np.ascontiguousarray(self.scales[i]) if self.scales else top_k.NO_SCALES

    def take(self, numbers: Any) -> Floats:
        """The rows of these numbers [n] as float32 [n, D].

        Raises:
            InputError: a number of no row.
        """
        wanted = np.asarray(numbers, np.int64).reshape(-1)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise InputError(f"rows are numbered from 0 to {len(self) - 1}; got {wanted.min()} to {wanted.max()}")
        out = np.empty((len(wanted), self.width or 0), np.float32)
        shard_of = np.searchsorted(self.starts, wanted, side="right") - 1
        for shard in np.unique(shard_of):
            places = np.flatnonzero(shard_of == shard)
            here = wanted[places] - self.starts[shard]
            out[places] = self.rows[shard][here]
            if self.scales is not None:
                out[places] *= self.scales[shard][here, None]
        return out


def left_out(rows: Sequence[Any], alive: Sequence[Any]) -> NDArray[np.bool_] | None:
    """Which rows belong to no item: bool [R] over all shards, from masks of those that do [r]; None if all do."""
    if all(mask is None for mask in alive):
        return None
    parts = [np.ones(len(r), bool) if m is None else m for r, m in zip(rows, alive, strict=True)]
    return ~np.concatenate(parts)


def _mask(skip: Any, number: int) -> NDArray[np.uint8]:
    """[R], not 0 for rows that are left out; empty if none is."""
    if skip is None or not len(skip):
        return top_k.NO_SKIP
    given = np.asarray(skip)
    if given.dtype == bool and given.shape == (number,):
        return given.astype(np.uint8)
    if given.ndim != 1 or given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= number:
        raise InputError(f"rows to leave out are their numbers, from 0 to {number - 1}, or bool [{number}]")
    mask = np.zeros(number, np.uint8)
    mask[given] = 1
    return mask


def is_gone(skip: Any, number: int) -> NDArray[np.bool_]:
    """[R], which rows are left out by `skip`, see `search`."""
    mask = _mask(skip, number)
    return mask.astype(bool) if len(mask) else np.zeros(number, bool)


def checked_queries(queries: Any, width: int | None) -> Floats:
    """Queries [Q, D], float32.

    Raises:
        InputError: another shape, or one that is not finite.
    """
    found = np.ascontiguousarray(queries, np.float32)
    if found.ndim != 2 or (width is not None and found.shape[1] != width):
        raise InputError(f"queries must be [Q, {'D' if width is None else width}]; got {list(found.shape)}")
    if not np.isfinite(found).all():
        raise InputError("a query is not finite (NaN or infinity): nothing is like it")
    return found


def search(
    rows: Shards | Sequence[NDArray[Any]], queries: Any, k: int, skip: Any = None, threads: int | None = None
) -> Found:
    """The k rows with the highest scores for each query; fewer if there are fewer rows.

    Args:
        rows: shards, or arrays [r, D] of float32 or float16.
        queries: [Q, D], taken as float32.
        k: how many; at least 1.
        skip: rows to leave out: their numbers, or bool [R].
        threads: None: all.

    Raises:
        InputError: shapes that do not fit, k below 1, a query that is not finite; as `Shards`.
    """
    shards = rows if isinstance(rows, Shards) else Shards(rows)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"k must be a whole number from 1 on; got {k!r}")
    q, mask, k = checked_queries(queries, shards.width), _mask(skip, len(shards)), min(int(k), len(shards))
    numbers, scores = np.full((len(q), k), -1, np.int64), np.full((len(q), k), -np.inf, np.float32)
    if k == 0:
        return Found(numbers, scores)
    threads = check_threads(threads)
    for start in range(0, len(q), top_k.QUERIES_EACH):
        part = slice(start, min(start + top_k.QUERIES_EACH, len(q)))
        n, padded = part.stop - part.start, top_k.padded(q[part])
        with computing(threads):
            best = top_k.no_rows(n, k)
            for first, shard, scales in shards.each():
                here = mask[first : first + len(shard)]
                top_k.top_k(shard, scales, here, first, n, padded, *best)
        scores[part], numbers[part] = top_k.merge(*best)
    return Found(numbers, scores)


def similar(
    rows: Shards | Sequence[NDArray[Any]], number: int, k: int, skip: Any = None, threads: int | None = None
) -> Found:
    """The k nearest neighbours of a row, without itself; Q is 1.

    Raises:
        InputError: a number of no row; as `search`.
    """
    shards = rows if isinstance(rows, Shards) else Shards(rows)
    query = shards.take([number])
    gone = is_gone(skip, len(shards))
    gone[number] = True
    return search(shards, query, k, gone, threads)


class _Union:
    """Which rows belong together; the lowest number stands for all of a group."""

    def __init__(self, number: int) -> None:
        self.parent = np.arange(number)

    def roots(self, rows: Numbers) -> Numbers:
        """What stands for each of these rows [n]."""
        found: Numbers = self.parent[rows]
        while (found != self.parent[found]).any():
            found = self.parent[found]
        self.parent[rows] = found
        return found

    def join(self, rows: Numbers) -> None:
        """Put rows [n] together."""
        found = self.roots(rows)
        self.parent[found] = found.min()


def _alike(
    shards: Shards, cosine: float, gone: NDArray[np.bool_], threads: int | None, say: Callable[[int], object]
) -> Iterator[tuple[int, Numbers]]:
    """Each row, with rows behind it whose score with it is `cosine` at least; not all at once; none that is `gone`."""
    out = np.empty(top_k.QUERIES_EACH * ROWS_AT_ONCE, np.float32)
    for first in range(0, len(shards), top_k.QUERIES_EACH):
        queries = shards.take(np.arange(first, min(first + top_k.QUERIES_EACH, len(shards))))
        n, padded = len(queries), top_k.padded(queries)
        for start, rows, scales in shards.each():
            for begin in range(max(0, first - start), len(rows), ROWS_AT_ONCE):
                part = rows[begin : begin + ROWS_AT_ONCE]
                scores = out[: n * len(part)].reshape(n, len(part))
                with computing(threads):
                    top_k.scores(part, scales[begin : begin + len(part)], n, padded, scores)
                near = scores >= np.float32(cosine)
                near[:, gone[start + begin : start + begin + len(part)]] = False
                near[gone[first : first + n]] = False
                for i in np.flatnonzero(near.any(axis=1)):
                    others = np.flatnonzero(near[i]) + start + begin
                    yield first + int(i), others[others > first + i]
        say(first + n)


def groups(
    rows: Shards | Sequence[NDArray[Any]],
    cosine: float,
    skip: Any = None,
    threads: int | None = None,
    say: Callable[[int], object] = lambda done: None,
) -> list[list[int]]:
    """Rows that are nearly equal: groups of two and more, in the order of their first rows; each in order.

    Two rows are in one group if their cosine is `cosine` at least, or if others between them lead from one to the
    other. Every row is compared with every other, R^2 D / 2 multiply-adds; nothing of the size R^2 is kept.

    Args:
        rows: of unit norm; see `search`.
        cosine: above -1, at most 1.
        skip: rows to leave out, which lead nowhere either; see `search`.
        threads: None: all.
        say: is told how many rows are done.

    Raises:
        InputError: a cosine that none can be; as `Shards`.
    """
    shards = rows if isinstance(rows, Shards) else Shards(rows)
    if not -1 < cosine <= 1:
        raise InputError(f"a cosine is above -1 and at most 1; got {cosine!r}")
    union, threads = _Union(len(shards)), check_threads(threads)
    gone = is_gone(skip, len(shards))
    for row, others in _alike(shards, cosine, gone, threads, say):
        if len(others):
            union.join(np.append(others, row))
    found: dict[int, list[int]] = {}
    for row, root in enumerate(union.roots(np.arange(len(shards))).tolist()):
        found.setdefault(root, []).append(row)
    return [members for members in found.values() if len(members) > 1]
