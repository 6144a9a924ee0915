"""What a user names -> items, one after the other: folders, patterns, files, tars, tables, URLs, standard input.

Nothing is held but the names of one folder at a time, so that memory does not grow with a collection.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple, Protocol

from npsiglip.collection import tables
from npsiglip.collection.items import SEPARATOR, Bad, Flat, Item, file_item, key_bytes
from npsiglip.collection.parquet import Parquet, is_parquet, read_row
from npsiglip.collection.remote import Remote, is_url, read_url
from npsiglip.collection.tables import Lines, Names, Table
from npsiglip.collection.tars import Tar, is_tar, read_member
from npsiglip.collection.walk import MAGIC, Folder, check_ignore, split_glob
from npsiglip.errors import InputError

STDIN = "-"
IMAGE, TEXT = "image", "text"


class Source(Protocol):
    """A listing of items. What it named once and no longer names is gone, unless its `name` is empty."""

    @property
    def name(self) -> str:
        """What it is of."""

    @property
    def prefix(self) -> str:
        """What the keys of all that lies under it begin with; empty if nothing lies under it."""

    def is_gone(self, key: str) -> bool:
        """Whether what lies under it, and was listed elsewhere, is there no more."""

    def __iter__(self) -> Iterator[Item | Bad]:
        """What it lists."""


@dataclass(frozen=True)
class Single(Flat):
    """A file that is named by itself."""

    path: str
    name = ""

    def __iter__(self) -> Iterator[Item | Bad]:
        """The file."""
        yield file_item(self.path)


class Part(NamedTuple):
    """One of `parts` equal parts of a collection, by a hash of the keys: the same on every machine."""

    number: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """From "2/8", the second of eight.

        Raises:
            InputError: something else.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        part = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= part.number <= part.parts:
            raise InputError(f"a part is written i/n, from 1/n to n/n, such as 2/8; got {text!r}")
        return part

    def has(self, key: str) -> bool:
        """Whether the item of this key is in this part."""
        return (
            self.parts == 1
            or int.from_bytes(blake2b(key_bytes(key), digest_size=8).digest(), "big") % self.parts == self.number - 1
        )


WHOLE = Part(1, 1)


def _read_stdin(size: int) -> bytes:
    return sys.stdin.buffer.read(size)


def read_key(key: str) -> bytes:
    """The content of a picture, by its key.

    Raises:
        InputError: it is gone.
        OSError, tarfile.TarError: it cannot be read.
    """
    if is_url(key):
        return read_url(key)
    for found in re.finditer(SEPARATOR, key):
        if os.path.isfile(key[: found.start()]):  # noqa: PTH113
            path, place = key[: found.start()], key[found.end() :]
            return read_row(path, place) if is_parquet(path) else read_member(path, place)
    with open(key, "rb") as file:  # noqa: PTH123
        return file.read()


def source_of(place: str, kind: str, ignore: tuple[str, ...], column: str | None) -> Source:
    """What one argument names.

    Raises:
        InputError: nothing that there is.
    """
    if not place.strip():
        raise InputError(f"an argument is empty, {place!r}: is a variable not set? Expected a folder or a file")
    if place == STDIN:
        return Names(_read_stdin) if kind == IMAGE else Lines(_read_stdin)
    if is_url(place):
        return Remote(place)
    path = os.path.abspath(os.path.expanduser(place))  # noqa: PTH100, PTH111
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    if not os.path.lexists(path):
        if kind == IMAGE and MAGIC.search(place):
            root, glob = split_glob(os.path.expanduser(place))  # noqa: PTH111
            if os.path.isdir(root):  # noqa: PTH112
                return Folder(os.path.abspath(root), ignore, glob)  # noqa: PTH100
        if kind == TEXT or is_tar(path) or suffix in tables.SUFFIXES or is_parquet(path) or not suffix:
            raise InputError(f"{place!r} does not exist; check the path (working directory: {os.getcwd()})")  # noqa: PTH109
        return Single(path)
    if os.path.isdir(path):  # noqa: PTH112
        if kind == TEXT:
            raise InputError(f"{place!r} is a folder; expected a file with a text a line, a .csv, .jsonl or .parquet")
        return Folder(path, ignore)
    if is_parquet(path):
        return Parquet(path, column, kind == TEXT)
    if kind == TEXT or suffix in tables.SUFFIXES:
        return Table(path, column, kind == TEXT)
    if is_tar(path):
        return Tar(path)
    if suffix == ".txt":
        raise InputError(
            f"{place!r}: for a file with a text a line give --as text; for a file with a name a line, `- < {place}`"
        )
    return Single(path)


@dataclass(frozen=True)
class Where:
    """The items of some places, in their order, each folder's in the order of its names; items may come twice.

    Args:
        places: folders, patterns such as "photos/**/*.jpg", files, .tar, .csv, .jsonl, .parquet, URLs, and "-" for
            standard input, a name a line or separated by NULs; for texts, files with a text a line, .csv, .jsonl,
            .parquet, and "-".
        kind: "image" or "text".
        ignore: shell patterns of names or, with a "/", of paths within a folder, that are left out.
        column: of a table.
        part: which part of the items.

    Raises:
        InputError: a place that does not exist, or is of no such kind.
    """

    places: Sequence[str | os.PathLike[str]]
    kind: str = IMAGE
    ignore: Sequence[str] = ()
    column: str | None = None
    part: Part = WHOLE
    sources: tuple[Source, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.kind not in (IMAGE, TEXT):
            raise InputError(f"a collection is of kind {IMAGE!r} or {TEXT!r}, got {self.kind!r}")
        places = [os.fspath(place) for place in self.places]
        if not places:
            raise InputError("no places were given; expected a folder at least")
        if places.count(STDIN) > 1:
            raise InputError("'-', standard input, can be read once only")
        ignore = check_ignore(self.ignore)
        found = tuple(source_of(place, self.kind, ignore, self.column) for place in places)
        object.__setattr__(self, "sources", found)

    @property
    def can_be_counted(self) -> bool:
        """Whether listing everything twice does no harm and costs little."""
        return not any(isinstance(source, Names | Lines | Remote | Parquet) for source in self.sources)

    def of(self, source: Iterable[Item | Bad]) -> Iterator[Item | Bad]:
        """What one source lists, as far as it is in this part."""
        if self.part.parts == 1:
            yield from source
        else:
            yield from (item for item in source if self.part.has(item.key))

    def __iter__(self) -> Iterator[Item | Bad]:
        """Everything.

        Raises:
            InputError: a place that cannot be listed.
        """
        for source in self.sources:
            yield from self.of(source)

    def count(self) -> int:
        """How many items and bad ones there are now."""
        return sum(1 for _ in self)
