"""Embeddings in files of others: a plain .npy with a list of names, and the folders of clip-retrieval.

    x.npy, x.txt                         rows, and a name for each, one a line; .json: a list, for names with line ends
    img_emb/img_emb_0.npy                clip-retrieval: rows of pictures, shard by shard,
    text_emb/text_emb_0.npy              of their captions,
    metadata/metadata_0.parquet          and the columns image_path, caption and others; needs pyarrow

FAISS: `npsiglip.collection.faiss_files`. USearch: `npsiglip.collection.approximate`.
Dimensions: R rows of all shards, r of one; D width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.atomic import write_all
from npsiglip.collection.exact import Shards
from npsiglip.errors import InputError
from npsiglip.extras import library

Floats = NDArray[np.float32]

AT_ONCE = 65_536  # rows that are written at once
KINDS = {"img": "image_path", "text": "caption"}  # folders of clip-retrieval, and the column of their names
_NUMBERED = re.compile(r"_(\d+)$")


class Foreign(NamedTuple):
    """What others have written: rows as they are, perhaps not of unit norm, and what they are called."""

    rows: list[NDArray[Any]]
    """[r, D] each; mapped files where the format allows it."""
    names: list[str]
    """[R]"""
    columns: dict[str, list[Any]] = {}  # noqa: RUF012  never changed
    """What else is known of each row: the other columns of clip-retrieval's metadata."""


def unit(rows: Any) -> Floats:
    """Rows [R, D] scaled to unit norm, float32: so that inner products are cosines.

    Raises:
        InputError: a row of zeros, or one that is not finite.
    """
    x = np.asarray(rows, np.float32)
    norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if len(bad):
        raise InputError(f"row {bad[0]} is zero or not finite ({len(bad)} such rows): it has no direction")
    return np.asarray(x / norms, np.float32)


def blocks(shards: Shards, size: int = AT_ONCE) -> Iterator[Floats]:
    """All rows as float32 [n, D], some at a time."""
    for first in range(0, len(shards), size):
        yield shards.take(np.arange(first, min(first + size, len(shards))))


def _load(path: Path) -> NDArray[Any]:
    try:
        rows: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as .npy ({error})") from None
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise InputError(f"{path} must hold rows [R, D] of floats; got {rows.dtype} {list(rows.shape)}")
    return rows if rows.dtype.char in "ef" and rows.flags.c_contiguous else np.ascontiguousarray(rows, np.float32)


def _check_number(names: Sequence[Any], number: int, what: str) -> None:
    if len(names) != number:
        raise InputError(f"{what}: {len(names)} names for {number} rows; expected one for each")


# -- .npy --------------------------------------------------------------------------------------------------------------


def _save(path: Path, shards: Shards, first: int, end: int, dtype: Any) -> None:
    """Rows from `first` to `end` as .npy, some at a time."""
    shape = (end - first, shards.width or 0)
    if not shape[0]:
        with path.open("wb") as file:
            np.save(file, np.empty(shape, dtype))
        return
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    for start in range(0, len(out), AT_ONCE):
        part = slice(start, min(start + AT_ONCE, len(out)))
        out[part] = shards.take(np.arange(first + part.start, first + part.stop))
    out.flush()


def read_names(path: Path) -> list[str]:
    """Names from a .json with a list of str, or one a line.

    Raises:
        InputError: it cannot be read, or is no such list.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if path.suffix.lower() != ".json":
            return text.removesuffix("\n").split("\n") if text else []
        names = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"the names in {path} cannot be read ({error})") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} must hold a list of names")
    return names


def names_beside(path: Path, names: Sequence[str]) -> tuple[Path, Callable[[Path], object]]:
    """The file beside another for the names of its rows, and what writes it: .txt; .json if a name has a line end."""
    as_json = any("\n" in name for name in names)
    lines = json.dumps(list(names)) if as_json else "".join(f"{name}\n" for name in names)

    def write(temporary: Path) -> None:
        temporary.write_text(lines, encoding="utf-8", errors="surrogateescape", newline="\n")

    return path.with_suffix(".json" if as_json else ".txt"), write


def names_of(path: Path, number: int, names: Path | None = None) -> list[str]:
    """The names of the rows of a file: from a file; from the .txt or .json beside it; or their numbers.

    Raises:
        InputError: they cannot be read, or are another number than of rows.
    """
    beside = names or next((p for p in map(path.with_suffix, (".txt", ".json")) if p.is_file()), None)
    found = read_names(beside) if beside else [str(i) for i in range(number)]
    _check_number(found, number, str(beside))
    return found


def write_npy(path: Path, shards: Shards, names: Sequence[str], dtype: str = "float32") -> Path:
    """Rows to an .npy and their names beside it, each whole or not at all.

    Args:
        path: of the .npy, in a folder that exists.
        shards: the rows.
        names: [R].
        dtype: "float32" or "float16".

    Returns:
        The file with the names: .txt; .json if a name has a line end.

    Raises:
        InputError: another number of names than of rows.
        OSError: it cannot be written.
    """
    _check_number(names, len(shards), str(path))
    beside, write = names_beside(path, names)
    write_all(
        path.parent,
        {path.name: lambda temporary: _save(temporary, shards, 0, len(shards), dtype), beside.name: write},
    )
    return beside


def read_npy(path: Path, names: Path | None = None) -> Foreign:
    """Rows of an .npy, mapped, and their names, see `names_of`.

    Raises:
        InputError: what cannot be read, or another number of names than of rows.
    """
    rows = _load(path)
    return Foreign([rows], names_of(path, len(rows), names))


# -- clip-retrieval ----------------------------------------------------------------------------------------------------


def write_clip_retrieval(
    folder: Path,
    shards: Shards,
    columns: Mapping[str, Sequence[Any]],
    kind: str = "img",
    dtype: str = "float16",
) -> None:
    """Rows as `clip-retrieval inference` writes them, a file for each shard.

    Args:
        folder: is made if it is not there.
        shards: the rows.
        columns: of the metadata, [R] each: `image_path`, or `caption` for texts, and others.
        kind: "img" or "text".
        dtype: "float16", which clip-retrieval writes, or "float32".

    Raises:
        InputError: no pyarrow; a column of another length, or without the names.
        OSError: it cannot be written.
    """
    arrow, parquet = library("pyarrow", "parquet"), library("pyarrow.parquet", "parquet")
    if KINDS[kind] not in columns:
        raise InputError(f"clip-retrieval's metadata of {kind} have a column {KINDS[kind]!r}; got {', '.join(columns)}")
    for name, values in columns.items():
        _check_number(values, len(shards), f"the column {name!r}")
    digits = len(str(max(1, len(shards.rows))))
    for sub in (f"{kind}_emb", "metadata"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for i, (first, end) in enumerate(zip(shards.starts[:-1].tolist(), shards.starts[1:].tolist(), strict=True)):
        number = str(i).zfill(digits)
        table = arrow.table({name: list(values[first:end]) for name, values in columns.items()})

        def save(path: Path, first: int = first, end: int = end) -> None:
            _save(path, shards, first, end, dtype)

        def save_table(path: Path, table: Any = table) -> None:
            parquet.write_table(table, path)

        write_all(folder / f"{kind}_emb", {f"{kind}_emb_{number}.npy": save})
        write_all(folder / "metadata", {f"metadata_{number}.parquet": save_table})


def _numbered(folder: Path, suffix: str) -> dict[int, Path]:
    found = ((_NUMBERED.search(path.stem), path) for path in sorted(folder.glob(f"*{suffix}")))
    return dict(sorted((int(number[1]), path) for number, path in found if number))


def read_clip_retrieval(folder: Path, kind: str = "img") -> Foreign:
    """Rows of a folder that clip-retrieval wrote, mapped, with their metadata.

    Raises:
        InputError: no pyarrow; no files; a shard without metadata, or with another number of them than of rows.
    """
    parquet = library("pyarrow.parquet", "parquet")
    rows = _numbered(folder / f"{kind}_emb", ".npy")
    if not rows:
        raise InputError(
            f"{folder} has no {kind}_emb/{kind}_emb_0.npy: expected a folder of `clip-retrieval inference`"
        )
    tables = _numbered(folder / "metadata", ".parquet")
    loaded: list[NDArray[Any]] = []
    columns: dict[str, list[Any]] = {}
    for number, path in rows.items():
        if number not in tables:
            raise InputError(f"{folder}: there is no metadata for {path.name}")
        loaded.append(_load(path))
        try:
            table = parquet.read_table(tables[number]).to_pydict()
        except Exception as error:  # pyarrow has errors of its own
            raise InputError(f"{tables[number]} cannot be read ({str(error).splitlines()[0]})") from None
        if KINDS[kind] not in table:
            raise InputError(f"{tables[number]} has no column {KINDS[kind]!r}; got {', '.join(table)}")
        _check_number(table[KINDS[kind]], len(loaded[-1]), str(tables[number]))
        before = sum(map(len, loaded[:-1]))
        for name in columns.keys() | table.keys():  # shards may differ in what is known
            values = columns.setdefault(name, [None] * before)
            values += table.get(name, [None] * len(loaded[-1]))
    names = columns.pop(KINDS[kind])
    return Foreign(loaded, [str(name) for name in names], columns)
