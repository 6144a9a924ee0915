"""FAISS's files, written and read by FAISS itself (`pip install 'npsiglip[faiss]'`).

Written: IndexFlatIP, whose distances are cosines of unit vectors, and IndexFlatL2, with 2 - 2 cos. Read: these, and the
vectors of IVF and HNSW indexes and of those with ids (IndexIDMap), as exact as they are stored there.

FAISS keeps a whole index in memory, float32: R D 4 bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.atomic import write_all
from npsiglip.collection.exact import Shards
from npsiglip.collection.exchange import AT_ONCE, blocks
from npsiglip.errors import InputError
from npsiglip.extras import library

Floats = NDArray[np.float32]


class FaissFile(NamedTuple):
    """The vectors of an index."""

    rows: Floats
    """[R, D], in the order of their ids."""
    ids: NDArray[np.int64]
    """[R]; 0, 1, ... unless the index was given others."""
    kind: str
    """The name of FAISS's class, such as "IndexFlatL2"."""
    metric: str
    """"ip" or "l2"."""
    exact: bool
    """Whether rows are what was added, and not something near it."""


def write_faiss(path: Path, shards: Shards, metric: str = "ip") -> None:
    """Rows to a flat index, whole or not at all; id i is row i.

    Args:
        path: a file in a folder that exists.
        shards: the rows.
        metric: "ip" for IndexFlatIP, "l2" for IndexFlatL2.

    Raises:
        InputError: no FAISS; another metric; it cannot be written.
    """
    faiss = library("faiss", "faiss")
    if metric not in ("ip", "l2"):
        raise InputError(f"the metric is 'ip' or 'l2'; got {metric!r}")
    index = (faiss.IndexFlatIP if metric == "ip" else faiss.IndexFlatL2)(shards.width or 1)
    for rows in blocks(shards):
        index.add(rows)
    try:
        write_all(path.parent, {path.name: lambda temporary: faiss.write_index(index, str(temporary))})
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be written ({getattr(error, 'strerror', None) or _reason(error)})") from None


def _reason(error: Exception) -> str:
    """What FAISS says, without where in its sources."""
    return str(error).rpartition(": ")[2].strip() or type(error).__name__


def _of_lists(faiss: Any, index: Any) -> tuple[Floats, NDArray[np.int64]]:
    """Vectors and ids of an inverted file, list by list."""
    lists = index.invlists
    sizes = [lists.list_size(i) for i in range(index.nlist)]
    rows, ids, flat = np.empty((sum(sizes), index.d), np.float32), np.empty(sum(sizes), np.int64), is_flat(faiss, index)
    first = 0
    for i, size in enumerate(sizes):
        if not size:
            continue
        here = slice(first, first + size)
        ids[here] = faiss.rev_swig_ptr(lists.get_ids(i), size)
        if flat:
            codes = faiss.rev_swig_ptr(lists.get_codes(i), size * lists.code_size)
            rows[here] = codes.view(np.float32).reshape(size, index.d)
        else:
            for j in range(size):
                index.reconstruct_from_offset(i, j, faiss.swig_ptr(rows[first + j]))
        first += size
    return rows, ids


def is_flat(faiss: Any, index: Any) -> bool:
    """Whether an index keeps vectors as they were added."""
    return isinstance(index, faiss.IndexFlat | faiss.IndexIVFFlat | faiss.IndexHNSWFlat)


def _vectors(faiss: Any, index: Any, path: Path) -> tuple[Floats, NDArray[np.int64], bool]:
    if isinstance(index, faiss.IndexIDMap | faiss.IndexIDMap2):
        rows, places, exact = _vectors(faiss, faiss.downcast_index(index.index), path)
        return rows, faiss.vector_to_array(index.id_map)[places], exact
    if isinstance(index, faiss.IndexIVF):
        return *_of_lists(faiss, index), is_flat(faiss, index)
    if not isinstance(index, faiss.IndexFlat | faiss.IndexScalarQuantizer | faiss.IndexPQ | faiss.IndexHNSW):
        raise InputError(f"{path} is a {type(index).__name__}; expected a flat, an IVF or an HNSW index")
    rows = np.empty((index.ntotal, index.d), np.float32)
    for first in range(0, index.ntotal, AT_ONCE):
        size = min(AT_ONCE, index.ntotal - first)
        index.reconstruct_n(first, size, rows[first : first + size])
    return rows, np.arange(index.ntotal), is_flat(faiss, index)


def read_faiss(path: Path) -> FaissFile:
    """The vectors of an index that FAISS wrote.

    Raises:
        InputError: no FAISS; no index in this file, or one of another kind.
    """
    faiss = library("faiss", "faiss")
    if not path.is_file():
        raise InputError(f"{path} is no file; expected an index of FAISS")
    try:
        index = faiss.read_index(str(path))
        rows, ids, exact = _vectors(faiss, index, path)
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an index of FAISS ({_reason(error)})") from None
    if index.metric_type not in (faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2):
        raise InputError(f"{path} has FAISS's metric {index.metric_type}; expected inner products or L2")
    order = np.argsort(ids, kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        rows, ids = rows[order], ids[order]
    metric = "ip" if index.metric_type == faiss.METRIC_INNER_PRODUCT else "l2"
    return FaissFile(rows, np.asarray(ids, np.int64), type(index).__name__, metric, exact)
