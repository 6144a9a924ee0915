"""What a command is given, as a collection: decided by what lies there, never by a name alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from npsiglip.errors import InputError
from npsiglip.pairs.base import PICTURES, Pairs, Words, files
from npsiglip.pairs.folders import TABLES, Folder
from npsiglip.pairs.opening import open_pairs
from npsiglip.pairs.settings import Kind, SourceSettings
from npsiglip.pairs.tars import open_tars


def kind_of(paths: Sequence[Path]) -> Kind:
    """How these files and folders hold pairs.

    Raises:
        InputError: files of different kinds, or nothing that holds any.
    """
    kinds: set[Kind] = set()
    for path in paths:
        if path.is_dir():
            inside = any(child.is_dir() and not child.name.startswith(".") for child in path.iterdir())
            beside = any(child.suffix == ".txt" and not child.name.startswith(".") for child in path.iterdir())
            kinds.add("captions" if beside or not inside else "classes")
        elif path.suffix.lower() in TABLES:
            kinds.add("captions")
        elif path.suffix.lower() == ".tar":
            kinds.add("webdataset")
        else:
            raise InputError(
                f"{path} is neither a folder nor one of {', '.join(TABLES)} and .tar: expected a folder of classes, a "
                "folder with a text beside each picture, a table, or WebDataset tars"
            )
    if len(kinds) != 1:
        raise InputError(f"{', '.join(map(str, paths))} hold pairs in different ways: evaluate them one by one")
    return kinds.pop()


def open_collection(
    where: Sequence[str],
    labels: Sequence[str] = (),
    captions: Sequence[str] = (),
    picture: str = "picture",
    names: str = "",
) -> Pairs:
    """Open what a user names: a folder of classes, of pictures and texts, tables, or tars.

    Args:
        where: files and folders.
        labels: columns or keys that hold names, in English.
        captions: the column or key that holds captions, as LANGUAGE=KEY or KEY for English.
        picture: the column with the picture's file.
        names: a JSON file of synonyms and translations.

    Raises:
        InputError: nothing there, or not what it should be.
    """
    paths = files(where, "collection")
    said = {}
    for text in captions:
        code, _, key = text.rpartition("=")
        said[code or "en"] = key
    settings = SourceSettings(
        kind_of(paths),
        path=tuple(map(str, paths)),
        captions=said,
        labels={"en": tuple(labels)} if labels else {},
        picture=picture,
        names=names,
    )
    if settings.kind == "webdataset" and not (labels or captions):
        raise InputError(
            f"{paths[0]}: which key of a sample's JSON holds its name (--label) or its captions (--caption)? "
            '"txt" and "cls" are those of a text file'
        )
    return open_pairs(settings, "collection")


def open_pictures(where: Sequence[str]) -> Pairs:
    """Pictures without words: all files of folders, or of tars.

    Raises:
        InputError: no picture there.
    """
    paths = files(where, "pictures")
    if all(path.suffix.lower() == ".tar" for path in paths):
        return open_tars(SourceSettings("webdataset", path=tuple(map(str, paths))), "pictures", wordless=True)
    found = [
        path
        for place in paths
        for path in (sorted(place.rglob("*")) if place.is_dir() else [place])
        if path.suffix.lower() in PICTURES
    ]
    if not found:
        raise InputError(f"{', '.join(map(str, paths))}: no pictures there; expected files such as {min(PICTURES)}")
    return Folder(tuple(found), (Words(),) * len(found), (None,) * len(found))
