"""One writer for a folder: a lock that the system lets go when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import IO

from npsiglip.collection.items import reason_of
from npsiglip.errors import InputError

FILE = "lock"


def _take(file: IO[str]) -> None:
    """Lock the file, or raise OSError at once."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(1 << 20)  # far from what is written, which others shall be able to read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Lock:
    """The right to write to a folder, held until `release`, or until this process ends.

    Raises:
        InputError: another process has it, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FILE
        try:
            self._file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"the index {str(folder)!r} cannot be written ({reason_of(error)}); nothing was changed: it can still "
                "be searched, or copied to where it can be written"
            ) from None
        try:
            _take(self._file)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read(200).strip() or "another process"
            self._file.close()
            raise InputError(
                f"the index {str(folder)!r} is being written by {holder} ({reason_of(error)}): wait until that ends; "
                "to write on several machines or in several processes, use --shard i/n"
            ) from None
        with contextlib.suppress(OSError):  # a full disk: the name is for others only
            self._file.seek(0)
            self._file.truncate()
            self._file.write(f"process {os.getpid()} on {platform.node()}\n")
            self._file.flush()

    def release(self) -> None:
        """Let others write."""
        self._file.close()
