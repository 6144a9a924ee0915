"""WebDataset tars: each picture in one is an item, read where it lies; only headers are read to list them."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from npsiglip.collection.items import SEPARATOR, Bad, Flat, Item, read_part, reason_of
from npsiglip.collection.walk import is_picture
from npsiglip.errors import InputError


@dataclass(frozen=True)
class Tar(Flat):
    """The pictures in a tar that is not compressed; the time of each is that of the tar.

    path: of the tar, absolute.
    """

    path: str

    @property
    def name(self) -> str:
        """What the listing is of."""
        return self.path

    def __iter__(self) -> Iterator[Item | Bad]:
        """Its pictures; Bad at the place where it is damaged.

        Raises:
            InputError: it cannot be opened at all.
        """
        begun = False
        try:
            status = Path(self.path).stat()
            with tarfile.open(self.path, "r:", errors="surrogateescape") as archive:
                for member in archive:
                    begun = True
                    archive.members = []  # type: ignore[attr-defined]  # it would remember them all
                    if member.isfile() and is_picture(member.name):
                        if member.offset_data + member.size > status.st_size:
                            raise tarfile.ReadError("unexpected end of data")
                        opener = partial(read_part, self.path, member.offset_data, member.size)
                        key = f"{self.path}{SEPARATOR}{member.name}"
                        yield Item(key, member.size, status.st_mtime_ns, opener, self.name)
                if archive.offset > status.st_size:
                    raise tarfile.ReadError("unexpected end of data")
        except (OSError, tarfile.TarError, ValueError) as error:
            why = f"it cannot be read as a tar, uncompressed: {reason_of(error)}; is it whole?"
            if not begun:
                raise InputError(f"{self.path!r}: {why}") from None
            yield Bad(self.path, why, self.name, self.path + SEPARATOR)


def read_member(path: str, name: str) -> bytes:
    """A member of a tar, by its name.

    Raises:
        InputError: there is no such member.
        OSError, tarfile.TarError: it cannot be read.
    """
    with tarfile.open(path, "r:", errors="surrogateescape") as archive:
        for member in archive:
            if member.name == name:
                return read_part(path, member.offset_data, member.size)
    raise InputError(f"{path!r} has no member {name!r}")


def is_tar(path: str) -> bool:
    """Whether a file is called like a tar."""
    return os.path.basename(path).lower().endswith((".tar", ".tar.gz", ".tgz"))  # noqa: PTH119
