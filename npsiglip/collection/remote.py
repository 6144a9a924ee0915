"""Pictures behind a URL, read by fsspec: https, s3 and whatever else it has a package for.

fsspec comes with huggingface_hub; what a protocol needs beside it is said when it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import blake2b
from typing import Any

from npsiglip.collection.items import NOT_SAID, Bad, Item, reason_of
from npsiglip.collection.walk import is_picture
from npsiglip.errors import InputError

_EXTRAS = {"s3": "s3", "https": "http", "http": "http", "gs": "gcs", "gcs": "gcs", "az": "abfs", "abfs": "abfs"}


_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_url(place: str) -> bool:
    """Whether it is spelt like a URL."""
    return _URL.match(place) is not None


def _file_system(url: str) -> tuple[Any, str]:
    """The file system that a URL is in, and the path there.

    Raises:
        InputError: a package is missing, or there is no such protocol.
    """
    protocol = url.partition("://")[0]
    extra = _EXTRAS.get(protocol)
    needs = f'pip install "fsspec[{extra}]"' if extra else "pip install fsspec"
    try:
        from fsspec.core import url_to_fs

        found: tuple[Any, str] = url_to_fs(url)
    except ImportError as error:
        raise InputError(f"{url!r}: {protocol} needs a package that is not installed ({error}): {needs}") from None
    except ValueError as error:
        raise InputError(f"{url!r} cannot be opened: {error}") from None
    return found


def _time(info: Mapping[str, Any]) -> int:
    """When a file was changed, in nanoseconds, if that is known; else a number for its version; else -1."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e6) * 1000
        if isinstance(value, int | float):
            return int(value * 1e6) * 1000
    for key in ("ETag", "etag", "md5Hash", "version_id"):
        if info.get(key):
            return int.from_bytes(blake2b(str(info[key]).encode(), digest_size=7).digest(), "big")
    return NOT_SAID


def read_url(url: str) -> bytes:
    """The content of a file behind a URL.

    Raises:
        InputError: it is gone; a package is missing.
        OSError: it cannot be read.
    """
    files, path = _file_system(url)
    try:
        content: bytes = files.cat_file(path)
    except FileNotFoundError:
        raise InputError("it vanished while the collection was read") from None
    except OSError:
        raise
    except Exception as error:  # each protocol has errors of its own: a server that is busy, rights that are missing
        raise OSError(reason_of(error)) from None
    return content


@dataclass(frozen=True)
class Remote:
    """A file, or the pictures under a folder, behind a URL."""

    url: str

    @property
    def name(self) -> str:
        """What the listing is of."""
        return self.url

    @property
    def prefix(self) -> str:
        """What keys under it begin with."""
        return self.url.rstrip("/") + "/"

    def is_gone(self, key: str) -> bool:
        """Whether a file under it is there no more."""
        files, path = _file_system(key)
        return not files.exists(path)

    def _item(self, files: Any, path: str, info: Mapping[str, Any]) -> Item:
        url = str(files.unstrip_protocol(path))
        size = info.get("size")
        return Item(url, size if isinstance(size, int) else NOT_SAID, _time(info), partial(read_url, url), self.name)

    def _walk(self, files: Any, folder: str) -> Iterator[Item]:
        """fsspec's own walk passes over folders that cannot be listed."""
        infos = {info["name"].rstrip("/"): info for info in files.ls(folder, detail=True)}
        infos.pop(folder.rstrip("/"), None)  # some systems list the folder itself
        shown = sorted(name for name in infos if not name.rpartition("/")[2].startswith("."))
        for name in shown:
            if infos[name]["type"] != "directory" and is_picture(name):
                yield self._item(files, name, infos[name])
        for name in shown:
            if infos[name]["type"] == "directory":
                yield from self._walk(files, infos[name]["name"])

    def __iter__(self) -> Iterator[Item | Bad]:
        """Its pictures, folder by folder, in the order of their names.

        Raises:
            InputError: it cannot be listed; a package is missing.
        """
        files, path = _file_system(self.url)
        try:
            info = files.info(path)
            if info["type"] == "file" and not path.endswith("/"):  # a page that lists files is one as well
                yield self._item(files, path, info)
                return
            yield from self._walk(files, path)
        except FileNotFoundError:
            raise InputError(f"{self.url!r} does not exist; check the URL") from None
        except InputError:
            raise
        except Exception as error:  # each protocol has errors of its own
            raise InputError(f"{self.url!r} cannot be listed: {reason_of(error)}") from None
