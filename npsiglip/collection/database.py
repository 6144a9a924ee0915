"""SQLite as an index uses it: transactions begun and ended by hand, and damage told as an error of this package."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from npsiglip.errors import InputError

DATABASE = "index.sqlite"


_OF_THE_DISK = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
}


def is_of_the_disk(error: BaseException) -> bool:
    """Whether something could not be written, and the database is not to blame."""
    return isinstance(error, OSError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_DISK


class DatabaseDamaged(InputError, sqlite3.DatabaseError):
    """A database that cannot be read; for those who handle SQLite's errors, one of them."""


class _Cursor(sqlite3.Cursor):
    """Tells of damage wherever it shows: when a query begins, or at a row."""

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except DatabaseDamaged:
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            folder = getattr(self.connection, "folder", "?")
            raise DatabaseDamaged(
                f"the database of the index {str(folder)!r} cannot be used ({error}); "
                f"`npsiglip index check -i {folder}` says what is lost"
            ) from error

    def execute(self, *args: Any) -> _Cursor:
        """As of SQLite."""
        with self._telling():
            super().execute(*args)
        return self

    def fetchone(self) -> Any:
        """As of SQLite."""
        with self._telling():
            return super().fetchone()

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            with self._telling():
                raise


class Connection(sqlite3.Connection):
    """To the database of an index."""

    folder: Path

    def cursor(self, factory: Any = _Cursor) -> Any:
        """One that tells of damage."""
        return super().cursor(factory)

    def execute(self, *args: Any) -> Any:
        """As of SQLite, whose own takes a cursor that does not tell."""
        return self.cursor().execute(*args)


def connect(folder: Path, mode: str) -> Connection:
    """The database of an index: "ro", "rw" or "rwc".

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    uri = f"{(folder / DATABASE).absolute().as_uri()}?mode={mode}"
    found = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=60, check_same_thread=False, factory=Connection
    )
    found.folder = folder
    return found
