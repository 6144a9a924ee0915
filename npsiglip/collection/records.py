"""What an index knows of its items, its failures and its shards; and the files of shards.

Leaves out: the database that these are in (`npsiglip.collection.store`).
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.atomic import write_all
from npsiglip.collection.database import DatabaseDamaged
from npsiglip.collection.items import reason_of
from npsiglip.errors import InputError


class Record(NamedTuple):
    """What an index knows of an item.

    key: see `npsiglip.collection.items.Item`, as size, mtime and source.
    hash: of the content, the first 16 bytes of its SHA-256.
    width, height: of the picture; None for a text.
    """

    key: str
    size: int
    mtime: int
    hash: bytes
    source: str = ""
    width: int | None = None
    height: int | None = None


class Failure(NamedTuple):
    """An item that cannot be used, and why; size and mtime as it was then."""

    key: str
    reason: str
    size: int = -1
    mtime: int = -1
    source: str = ""


class Shard(NamedTuple):
    """A file of rows, and the hash of its bytes."""

    number: int
    file: str
    rows: int
    hash: str


def refuse_write(folder: Path, error: BaseException) -> InputError:
    """What to raise when an index cannot be written: a full disk, a folder that may not be written."""
    return InputError(
        f"the index {str(folder)!r} cannot be written ({reason_of(error)}); nothing is lost that was committed: make "
        "room or allow writing, and run the same command again, which goes on from there"
    )


def refuse_database(folder: Path, error: BaseException | str) -> DatabaseDamaged:
    """What to raise when the database cannot be read."""
    return DatabaseDamaged(
        f"the database of the index {str(folder)!r} cannot be read ({error}); `npsiglip index check -i {folder}` says "
        "what is lost"
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    found = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def write_shard(folder: Path, name: str, rows: NDArray[Any]) -> str:
    """Write a shard's file whole; its hash.

    Raises:
        OSError: it cannot be written.
    """
    found = ""

    def write(path: Path) -> None:
        nonlocal found
        with path.open("wb") as file:
            np.save(file, rows)
        found = file_hash(path)

    write_all(folder, {name: write})
    return found
