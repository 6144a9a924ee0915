"""Folders of pictures with captions or classes: a CSV or JSONL, a text file beside each picture, a folder a class."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from npsiglip.errors import InputError
from npsiglip.images.files import load_image
from npsiglip.pairs.base import PICTURES, Words, files, phrases
from npsiglip.pairs.settings import SourceSettings

if TYPE_CHECKING:
    from PIL.Image import Image

Row = Mapping[str, Any]
Synonyms = Mapping[str, Mapping[str, Sequence[str]]]
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")


def load_synonyms(path: str, where: str) -> Synonyms:
    """{name: {language: [names]}} from a JSON file; empty for no path.

    Raises:
        InputError: a file that cannot be read, or holds something else.
    """
    if not path:
        return {}
    (file,) = files([path], f"{where}.names")[:1]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {name: {code: phrases(said) for code, said in found.items()} for name, found in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{where}.names: {file} must be JSON, {{name: {{language: [names]}}}}: {error}") from None


def spoken(name: str) -> str:
    """A name as one says it: "Golden-Delicious" and "red_pepper" with spaces."""
    return name.replace("_", " ").replace("-", " ").strip()


def words_of(row: Row, settings: SourceSettings, synonyms: Synonyms) -> Words:
    """What the columns or keys of one sample say."""
    captions = {code: phrases(row.get(key)) for code, key in settings.captions.items()}
    names: dict[str, list[str]] = {}
    for code, keys in settings.labels.items():
        for label in (text for key in keys for text in phrases(row.get(key))):
            names.setdefault(code, []).append(spoken(label))
            for other, more in synonyms.get(label, {}).items():
                names.setdefault(other, []).extend(more)
    names = {code: list(dict.fromkeys(said)) for code, said in names.items()}
    return Words({code: said for code, said in captions.items() if said}, names)


@dataclass(frozen=True)
class Folder:
    """Pictures in files of their own, and what is said of each."""

    paths: tuple[Path, ...]
    said: tuple[Words, ...]
    classes: tuple[str | None, ...]
    varies = False

    def __len__(self) -> int:
        return len(self.paths)

    def where(self, index: int) -> str:
        """The file."""
        return str(self.paths[index])

    def read(self, index: int, rng: Random) -> Image:
        """Decoded as for a model."""
        return load_image(self.paths[index])

    def words(self, index: int) -> Words:
        """Of the table, the text file or the class."""
        return self.said[index]

    def class_of(self, index: int) -> str | None:
        """The class, or the column that says it."""
        return self.classes[index]


def _rows(table: Path) -> Iterator[Row]:
    """The rows of a table.

    Raises:
        InputError: a file that is no such table.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix in (".csv", ".tsv"):
                yield from csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ",", strict=True)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise InputError(f"{table}, line {number}: expected a JSON object, got {type(row).__name__}")
                    yield row
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as {table.suffix[1:]}: {error}") from None


def _from_table(
    table: Path, settings: SourceSettings, where: str, synonyms: Synonyms
) -> Iterator[tuple[Path, Words, str | None]]:
    wanted = [
        settings.picture,
        *settings.captions.values(),
        *(key for keys in settings.labels.values() for key in keys),
    ]
    for number, row in enumerate(_rows(table), 1):
        if number == 1 and (missing := [key for key in wanted if key not in row]):
            raise InputError(
                f"{where}: {table} has no column {missing[0]!r}; it has {', '.join(map(str, row))}: set `picture`, "
                "`captions` and `labels` to those that it has"
            )
        words = words_of(row, settings, synonyms)
        name = row.get(settings.picture)
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: {table}, row {number} names no picture in {settings.picture!r}")
        if words.captions or words.names:
            key = row.get(settings.class_by) if settings.class_by else None
            yield table.parent / name, words, None if key is None else str(key)


def _from_texts(folder: Path, settings: SourceSettings) -> Iterator[tuple[Path, Words, str | None]]:
    """Pictures that have a text file of the same name beside them."""
    code = next(iter(settings.languages), "en")
    for path in sorted(folder.rglob("*")):
        beside = path.with_suffix(".txt")
        if path.suffix.lower() in PICTURES and beside.is_file():
            lines = phrases(beside.read_text(encoding="utf-8", errors="replace").splitlines())
            if lines:
                yield path, Words({code: lines}), None


def open_captions(settings: SourceSettings, where: str) -> Folder:
    """Pictures with captions: in tables, whose columns the settings name, or in a text file beside each picture.

    Raises:
        InputError: no pairs; a table that cannot be read or has other columns.
    """
    synonyms, found = load_synonyms(settings.names, where), []
    places = files(settings.path, where)
    for place in places:
        if place.suffix.lower() in TABLES:
            if not (settings.captions or settings.labels):
                raise InputError(f"{where}: {place} is a table: which of its columns are `captions` or `labels`?")
            found += list(_from_table(place, settings, where, synonyms))
        elif place.is_dir():
            found += list(_from_texts(place, settings))
    if not found:
        raise InputError(
            f"{where}: no picture with a caption in {', '.join(map(str, places[:3]))}; expected tables "
            f"({', '.join(TABLES)}), or folders of pictures with a .txt of the same name beside each"
        )
    return Folder(*zip(*found, strict=True))


def open_classes(settings: SourceSettings, where: str) -> Folder:
    """A folder of folders, each with pictures of the class that it is named after.

    Raises:
        InputError: no class, or one without pictures.
    """
    synonyms = load_synonyms(settings.names, where)
    code = next(iter(settings.languages), "en")
    found: list[tuple[Path, Words, str | None]] = []
    for root in files(settings.path, where):
        classes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        if not classes:
            raise InputError(f"{where}: {root} has no folders in it; expected one for each class, with its pictures")
        for folder in classes:
            pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
            if not pictures:
                raise InputError(f"{where}: class {folder} has no pictures: remove the folder, or fill it")
            names = {code: [spoken(folder.name)]}
            for other, more in synonyms.get(folder.name, {}).items():
                names.setdefault(other, []).extend(more)
            found += [(path, Words(names=names), folder.name) for path in pictures]
    return Folder(*zip(*found, strict=True))
