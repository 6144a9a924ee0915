"""One thing of a collection, before it is embedded: its name, how to notice that it changed, how to read it.

Leaves out: where such things are found (`npsiglip.collection.where`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from npsiglip.errors import InputError

SEPARATOR = "::"  # between a tar and the name of a member, in a key
NOT_SAID = -1  # a time or a size that a place does not tell


@dataclass(frozen=True, slots=True)
class Item:
    r"""A picture or a text that can be read.

    key: its name: an absolute path, a tar's path with "::" and the member's name, a URL, or the text itself. Bytes that
        are no UTF-8 are kept as Python keeps them (surrogateescape).
    size: in bytes; -1 if the place does not tell.
    mtime: when it was last changed, in nanoseconds; -1 likewise.
    opener: gives the content; raises InputError or OSError. It can be pickled.
    source: the place in whose listing it was found; empty if it was named by itself.
    """

    key: str
    size: int
    mtime: int
    opener: Callable[[], bytes]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Bad:
    """What cannot be an item, or a place that cannot be listed.

    key: its name.
    reason: why.
    source: the place in whose listing it was found; empty if it was named by itself.
    within: everything whose key begins with this could not be listed; "" if nothing is missing but this.
    unfinished: whether the listing of its source ends here, and nothing is known of what comes behind.
    """

    key: str
    reason: str
    source: str = ""
    within: str = ""
    unfinished: bool = False


class Flat:
    """A source under which nothing lies that another could list."""

    prefix = ""

    def is_gone(self, key: str) -> bool:
        """Nothing is known of it."""
        return False


def key_bytes(key: str) -> bytes:
    """A key as bytes, by which keys are sorted, stored and spread over machines."""
    return key.encode("utf-8", "surrogateescape")


def key_of(stored: bytes) -> str:
    """The inverse of `key_bytes`."""
    return stored.decode("utf-8", "surrogateescape")


def reason_of(error: BaseException) -> str:
    """What an error says, without its number and without the name of the file."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def read_file(path: str, size: int, mtime: int) -> bytes:
    """The content of a file that is as it was listed.

    Raises:
        InputError: it is gone, or was changed since, or while it was read.
        OSError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read()
            status = os.fstat(file.fileno())
    except FileNotFoundError:
        raise InputError("it vanished while the collection was read") from None
    if (status.st_size, status.st_mtime_ns, len(content)) != (size, mtime, size):
        raise InputError("it changed while it was read; run again to take it as it is then")
    return content


def read_part(path: str, offset: int, size: int) -> bytes:
    """A member of a tar.

    Raises:
        InputError: the tar is gone or was cut short.
        OSError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except FileNotFoundError:
        raise InputError("its tar vanished while the collection was read") from None
    if len(content) != size:
        raise InputError("its tar ends within it: is the file whole?")
    return content


def text_item(text: str, source: str) -> Item | Bad:
    """A text as an item, whose key is the text itself."""
    try:
        content = text.encode()
    except UnicodeEncodeError:
        shown = text.encode("utf-8", "backslashreplace").decode()
        return Bad(shown, "it is not UTF-8; save the file in UTF-8", source)
    return Item(text, len(content), NOT_SAID, partial(bytes, content), source)


def file_item(path: str, source: str = "") -> Item | Bad:
    """A file as an item, by its absolute path; Bad if it is no file that can be read."""
    try:
        status = os.stat(path)  # noqa: PTH116  Path would take "" for "."
    except FileNotFoundError:
        what = "it is a link to nothing" if os.path.islink(path) else "it does not exist; check the path"  # noqa: PTH114
        return Bad(path, what, source)
    except (OSError, ValueError) as error:
        return Bad(path, reason_of(error), source)
    if stat.S_ISDIR(status.st_mode):
        return Bad(path, "it is a folder; expected an image file", source)
    if not stat.S_ISREG(status.st_mode):
        return Bad(path, "it is not a regular file; copy its content into one", source)
    opener = partial(read_file, path, status.st_size, status.st_mtime_ns)
    return Item(path, status.st_size, status.st_mtime_ns, opener, source)
