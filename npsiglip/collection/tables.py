"""Lists of files and of texts: names from a pipe, a column of a CSV or of JSON Lines, a text a line.

All are read line by line. Paths in a table are meant from the table's folder on; URLs may stand among them.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from npsiglip.collection.items import NOT_SAID, Bad, Flat, Item, file_item, reason_of, text_item
from npsiglip.collection.remote import is_url, read_url
from npsiglip.errors import InputError

PATHS = ("path", "file", "file_name", "filename", "filepath", "image", "image_path")
TEXTS = ("text", "caption", "title", "sentence")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_ENOUGH = 8192  # bytes: longer than a path can be


def _guess(names: list[str], usual: tuple[str, ...], where: str) -> str:
    """The column that is meant.

    Raises:
        InputError: that is not clear.
    """
    found = [name for name in names if name.lower() in usual]
    if len(found) == 1:
        return found[0]
    if len(names) == 1:
        return names[0]
    raise InputError(f"{where} has the columns {', '.join(map(repr, names))}: say with --column which one is meant")


def column_of(names: list[str], wanted: str | None, usual: tuple[str, ...], where: str) -> str:
    """The column that is wanted, or meant.

    Raises:
        InputError: there is no such column; it is not clear which one is meant.
    """
    if wanted is None:
        return _guess(names, usual, where)
    if wanted not in names:
        raise InputError(f"{where} has no column {wanted!r}; it has {', '.join(map(repr, names))}")
    return wanted


def path_item(table: str, value: str, source: str) -> Item | Bad:
    """What a table names in a column of paths: a file, from the table's folder on, or a URL."""
    if value[:5].lower() == "data:":
        return Bad(f"{value[:40]}...", "it is a picture in letters; write such a column as bytes, in Parquet", source)
    if is_url(value):
        return Item(value, NOT_SAID, NOT_SAID, partial(read_url, value), source)
    folder = os.path.dirname(table)  # noqa: PTH120
    return file_item(os.path.normpath(os.path.join(folder, value)), source)  # noqa: PTH118


@dataclass(frozen=True)
class Table(Flat):
    """Files or texts that a table names.

    path: of a .csv, .tsv, .jsonl, or of any file with a text a line.
    column: which of its columns; None: the only one, or the one with a usual name.
    texts: whether the column holds texts; else, paths of pictures.
    """

    path: str
    column: str | None = None
    texts: bool = False

    @property
    def name(self) -> str:
        """What the listing is of."""
        return self.path if self.column is None else f"{self.path}::{self.column}"

    def _item(self, value: str) -> Item | Bad:
        if self.texts:
            return text_item(value, self.name)
        return path_item(self.path, value, self.name)

    def _column(self, names: list[str]) -> str:
        return column_of(names, self.column, TEXTS if self.texts else PATHS, self.path)

    def _rows(self, file: IO[str]) -> Iterator[str | Bad]:
        """The values of the column, as they stand."""
        suffix = Path(self.path).suffix.lower()
        if suffix in (".csv", ".tsv"):
            reader = csv.reader(file, delimiter="," if suffix == ".csv" else "\t")
            names = next(reader, [])
            place = names.index(self._column(names)) if names else 0
            for row in reader:
                if row:
                    short = Bad(f"{self.path}:{reader.line_num}", "the row has no such column", self.name)
                    yield row[place] if place < len(row) else short
        elif suffix in (".jsonl", ".ndjson"):
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield self._of_json(line, f"{self.path}:{number}")
        else:
            for line in file:
                yield line.rstrip("\r\n")

    def _of_json(self, line: str, where: str) -> str | Bad:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            return Bad(where, f"the line is no JSON ({error})", self.name)
        if isinstance(row, str):
            return row
        if not isinstance(row, dict):
            return Bad(where, "the line is no JSON object", self.name)
        strings = [key for key, value in row.items() if isinstance(value, str)]
        try:
            value = row[self._column(strings)]
        except InputError as error:
            return Bad(where, str(error), self.name)
        return value if isinstance(value, str) else Bad(where, "the value is no text", self.name)

    def __iter__(self) -> Iterator[Item | Bad]:
        """Its files or texts; empty ones are left out.

        Raises:
            InputError: the file cannot be read; it is not clear which column is meant.
        """
        try:
            with Path(self.path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                for value in self._rows(file):
                    if isinstance(value, Bad):
                        yield value
                    elif value.strip():
                        yield self._item(value)
        except csv.Error as error:
            yield Bad(self.path, f"it cannot be read as a table ({error})", self.name, unfinished=True)
        except OSError as error:
            raise InputError(f"{self.path!r} cannot be read: {reason_of(error)}") from None


def names_of(stream: Callable[[int], bytes]) -> Iterator[str]:
    """The names in a stream: separated by NULs if there is one near its beginning, else one a line.

    Args:
        stream: reads up to so many bytes, none at the end.
    """
    rest = b""
    while len(rest) < _ENOUGH and (more := stream(_ENOUGH)):
        rest += more
    separator = b"\0" if b"\0" in rest else b"\n"
    while True:
        *names, rest = rest.split(separator)
        for name in names:
            yield os.fsdecode(name if separator == b"\0" else name.removesuffix(b"\r"))
        more = stream(1 << 16)
        if not more:
            break
        rest += more
    if rest:
        yield os.fsdecode(rest)


@dataclass(frozen=True)
class Names(Flat):
    """Files that a stream names, such as standard input."""

    stream: Callable[[int], bytes]
    name = ""

    def __iter__(self) -> Iterator[Item | Bad]:
        """The files; can be iterated over once."""
        for name in names_of(self.stream):
            if name:
                yield file_item(os.path.abspath(name))  # noqa: PTH100


@dataclass(frozen=True)
class Lines(Flat):
    """Texts that a stream holds, one a line."""

    stream: Callable[[int], bytes]
    name = ""

    def __iter__(self) -> Iterator[Item | Bad]:
        """The texts; can be iterated over once."""
        for name in names_of(self.stream):
            if name.strip():
                yield text_item(os.fsencode(name).decode("utf-8", "surrogateescape"), "")
