"""Parquet: a column of paths, of pictures as bytes, or of texts; read some rows at a time, by pyarrow.

A column of pictures as the `datasets` library writes it, a structure of bytes and path, is one of bytes. A picture that
lies in the table is called by the table, the column and the number of its row: `x.parquet::image::12`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from npsiglip.collection.items import SEPARATOR, Bad, Flat, Item, reason_of, text_item
from npsiglip.collection.tables import PATHS, TEXTS, column_of, path_item
from npsiglip.errors import InputError
from npsiglip.extras import library

SUFFIX = ".parquet"
BYTES = ("bytes", "jpg", "jpeg", "png", "webp", "img", "picture", "image_bytes", "content")
_AT_ONCE = 32  # rows, whose pictures are in memory


def is_parquet(path: str) -> bool:
    """Whether a file is called like Parquet."""
    return path.lower().endswith(SUFFIX)


def _open(path: str) -> Any:
    """The file.

    Raises:
        InputError: no pyarrow; it cannot be read.
    """
    parquet = library("pyarrow.parquet", "parquet")
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # pyarrow has errors of its own
        raise InputError(f"{path!r} cannot be read as Parquet: {reason_of(error)}; is it whole?") from None


def _is_bytes(kind: Any) -> bool:
    """Whether a column of this type holds pictures."""
    types = library("pyarrow", "parquet").types
    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_string(kind: Any) -> bool:
    types = library("pyarrow", "parquet").types
    if types.is_dictionary(kind):
        return _is_string(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind))


@dataclass(frozen=True)
class Parquet(Flat):
    """Files, pictures or texts in a column.

    path: of the table, absolute.
    column: which one; None: the only one that can be, or the one with a usual name.
    texts: whether it holds texts.
    """

    path: str
    column: str | None = None
    texts: bool = False

    @property
    def name(self) -> str:
        """What the listing is of."""
        return self.path if self.column is None else f"{self.path}{SEPARATOR}{self.column}"

    def _column(self, schema: Any) -> str:
        """The column that is meant.

        Raises:
            InputError: that is not clear, or there is none.
        """
        fits = [
            field.name
            for field in schema
            if _is_string(field.type) or (not self.texts and _is_bytes(field.type)) or field.name == self.column
        ]
        pictures = [] if self.texts else [field.name for field in schema if _is_bytes(field.type)]
        if self.column is None and len(pictures) == 1:
            return str(pictures[0])
        found: str = column_of(fits, self.column, TEXTS if self.texts else PATHS + BYTES, self.path)
        kind = schema.field(found).type
        if not (_is_string(kind) or (not self.texts and _is_bytes(kind))):
            wanted = "texts" if self.texts else "paths, or pictures as bytes"
            raise InputError(f"the column {found!r} of {self.path} holds {kind}; expected {wanted}")
        return found

    def _item(self, value: Any, key: str, mtime: int) -> Item | Bad | None:
        if isinstance(value, dict):
            value = value["bytes"] if value["bytes"] is not None else value.get("path")
        if value is None or not value:
            return None
        if self.texts:
            return text_item(value, self.name)
        if isinstance(value, str):
            return path_item(self.path, value, self.name)
        return Item(key, len(value), mtime, partial(bytes, value), self.name)

    def __iter__(self) -> Iterator[Item | Bad]:
        """What is in the column; empty values are left out; Bad at the place where the file is damaged.

        Raises:
            InputError: no pyarrow; it cannot be read at all; it is not clear which column is meant.
        """
        with _open(self.path) as file:
            column, mtime = self._column(file.schema_arrow), os.stat(self.path).st_mtime_ns  # noqa: PTH116
            row = 0
            try:
                for value in _values(file, column):
                    key = f"{self.path}{SEPARATOR}{column}{SEPARATOR}{row}"
                    item = Bad(key, "it is not UTF-8", self.name) if value is None else self._item(value[0], key, mtime)
                    row += 1
                    if item is not None:
                        yield item
            except InputError:
                raise
            except Exception as error:  # pyarrow has errors of its own
                why = f"it cannot be read on from row {row}: {reason_of(error).partition(chr(10))[0]}; is it whole?"
                yield Bad(self.path, why, self.name, unfinished=True)


def _values(file: Any, column: str) -> Iterator[tuple[Any] | None]:
    """The values of a column, one group of rows after the other, so that what is damaged later does no harm before.

    None for what is no UTF-8.
    """
    for group in range(file.metadata.num_row_groups):
        for batch in file.iter_batches(_AT_ONCE, [group], [column]):
            for value in batch.column(column):
                try:
                    yield (value.as_py(),)
                except UnicodeDecodeError:
                    yield None


def read_row(path: str, place: str) -> bytes:
    """A picture that lies in a table.

    Args:
        path: of the table.
        place: its column and the number of its row, "image::12".

    Raises:
        InputError: no such row, or no picture in it; no pyarrow.
    """
    column, _, digits = place.rpartition(SEPARATOR)
    with _open(path) as file:
        row = int(digits) if digits.isdecimal() else -1
        for group in range(file.metadata.num_row_groups if row >= 0 and column in file.schema_arrow.names else 0):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                value = file.read_row_group(group, [column])[column][row].as_py()
                value = value.get("bytes") if isinstance(value, dict) else value
                if isinstance(value, bytes):
                    return value
                break
            row -= rows
    raise InputError(f"{Path(path).name!r} has no picture at {place!r}")
