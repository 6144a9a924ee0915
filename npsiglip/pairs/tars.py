"""WebDataset tars: files of one sample share their name up to the first dot; pictures are read where they lie.

Only headers and the small files are read when a source is opened; of each picture its place is kept, 24 bytes and its
words. Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from npsiglip.errors import InputError
from npsiglip.interrupts import deferred
from npsiglip.pairs.base import PICTURES, Words, files
from npsiglip.pairs.folders import load_synonyms, words_of
from npsiglip.pairs.settings import SourceSettings

if TYPE_CHECKING:
    from PIL.Image import Image


class _Place(NamedTuple):
    """Where a picture lies."""

    tar: int
    offset: int
    size: int
    key: str


@dataclass(frozen=True)
class Tars:
    """The samples of some tars that have a picture and words."""

    tars: tuple[Path, ...]
    places: tuple[_Place, ...]
    said: tuple[Words, ...]
    classes: tuple[str | None, ...]
    varies = False

    def __len__(self) -> int:
        return len(self.places)

    def where(self, index: int) -> str:
        """The tar, and the sample's key."""
        place = self.places[index]
        return f"{self.tars[place.tar]}: {place.key}"

    def read(self, index: int, rng: Random) -> Image:
        """Decoded as for a model."""
        with deferred():
            from PIL import Image, ImageOps

        place = self.places[index]
        with self.tars[place.tar].open("rb") as file:
            file.seek(place.offset)
            data = file.read(place.size)
        with Image.open(io.BytesIO(data)) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return image.convert("RGB")

    def words(self, index: int) -> Words:
        """What its JSON or text says."""
        return self.said[index]

    def class_of(self, index: int) -> str | None:
        """The key of its JSON that says it."""
        return self.classes[index]


def _samples(tar: Path) -> Iterator[tuple[str, dict[str, Any], tuple[int, int] | None]]:
    """Key, what is said, and the place of the picture, sample by sample.

    Raises:
        InputError: a tar that is damaged or ends too early.
    """
    key, row, place = "", dict[str, Any](), None
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                found = f"{folder}/{stem}" if folder else stem
                if found != key:
                    if key:
                        yield key, row, place
                    key, row, place = found, {}, None
                suffix = f".{suffix.lower()}"
                if suffix in PICTURES:
                    place = member.offset_data, member.size
                elif suffix == ".json":
                    content = json.loads(archive.extractfile(member).read())  # type: ignore[union-attr]
                    row |= content if isinstance(content, dict) else {}
                elif suffix in (".txt", ".cls"):
                    row[suffix[1:]] = archive.extractfile(member).read().decode("utf-8", "replace")  # type: ignore[union-attr]
            if archive.offset > tar.stat().st_size:
                raise tarfile.ReadError("unexpected end of data")
    except (OSError, tarfile.TarError, ValueError) as error:
        raise InputError(f"{tar} cannot be read as a tar, after sample {key!r}: {error}; is it whole?") from None
    if key:
        yield key, row, place


def open_tars(settings: SourceSettings, where: str, wordless: bool = False) -> Tars:
    """All samples with a picture and words; "txt" and "cls" are keys like those of the JSON.

    Args:
        settings: of the source.
        where: they stand, for messages.
        wordless: whether a picture is enough.

    Raises:
        InputError: a damaged tar; no sample that has both.
    """
    synonyms = load_synonyms(settings.names, where)
    tars = files(settings.path, where)
    places, said, classes, keys = [], [], [], set[str]()
    for number, tar in enumerate(tars):
        for key, row, place in _samples(tar):
            keys |= set(row)
            words = words_of(row, settings, synonyms)
            if place and (wordless or words.captions or words.names):
                places.append(_Place(number, *place, key))
                said.append(words)
                value = row.get(settings.class_by) if settings.class_by else None
                classes.append(None if value is None else str(value))
    if not places:
        raise InputError(
            f"{where}: no sample with a picture and words; the samples' keys are {', '.join(sorted(keys)) or 'none'}: "
            "set `captions` or `labels` to those that they have"
        )
    return Tars(tuple(tars), tuple(places), tuple(said), tuple(classes))
