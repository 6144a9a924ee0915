"""What commands that read pictures share: which arguments are pictures, folders opened, going on without bad ones."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npsiglip.cli.console import note, quoted
from npsiglip.errors import InputError

if TYPE_CHECKING:
    from npsiglip.model import SigLIP

_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S*|data:\S+[;,]\S*", re.IGNORECASE)
_PATH = re.compile(r"(\.{0,2}|~)/\S*|\S+/|\S*/\S*[*?]\S*")  # ./x /x ~/x x/ x/*
_NUMBERS_SHOWN = 10


class Kind(StrEnum):
    """What an argument is."""

    AUTO = "auto"
    IMAGE = "image"
    TEXT = "text"


def is_file(path: str) -> bool:
    """Whether there is a file of this name; False, too, for what cannot be a name, such as a long text."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str) -> bool:
    """Whether there is a folder of this name."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def _names(pattern: str) -> bool:
    """Whether a pattern is spelt like the name of a picture."""
    from npsiglip.images.kinds import is_picture_name

    return is_picture_name(pattern)


def _exists(path: str) -> bool:
    """Whether there is anything of this name, a link to nothing included."""
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def kind_of(argument: str) -> Kind:
    """What exists is an image; what is clearly the name of one, or of a path, should exist; the rest is a text.

    Raises:
        InputError: nothing, or an image that is not there: to embed its name would be a silent mistake.
    """
    from npsiglip.images.kinds import is_picture_name

    as_text = "or pass --as text if all arguments are texts"
    if not argument.strip():
        raise InputError(f"an argument is empty, {argument!r}: is a variable not set? Expected an image or a text")
    if is_file(argument):
        return Kind.IMAGE
    if _exists(argument):
        return Kind.IMAGE  # to be refused with a better reason
    if _URL.fullmatch(argument):
        return Kind.IMAGE  # likewise
    folder = os.path.dirname(argument)  # noqa: PTH120  Path would drop "./"
    if is_picture_name(argument) or _PATH.fullmatch(argument) or (folder and _exists(folder)):
        raise InputError(
            f"{quoted(argument)} is spelt like a file's name and does not exist; check the path (working directory: "
            f"{Path.cwd()}), {as_text}"
        )
    return Kind.TEXT


def _within(place: str, argument: str, root: str) -> list[str]:
    """The pictures that a folder or a pattern names, under the name of the folder as it was given."""
    from npsiglip.collection.items import Bad
    from npsiglip.collection.where import Where

    names = []
    for item in Where([argument]):
        if isinstance(item, Bad) and item.within:
            raise InputError(f"{quoted(item.key)}: {item.reason}")
        names.append(os.path.join(place, os.path.relpath(item.key, root)))  # noqa: PTH118
    return names


def expand(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the pictures of each folder and each pattern, and the names in standard input for "-".

    What exists goes before what is a pattern; a folder or a pattern without pictures stays as it is.

    Raises:
        InputError: a folder that cannot be read; "-" twice, or without a name in it.
    """
    names = []
    for argument in arguments:
        folder = Path(argument).expanduser() if argument and _exists(argument) else None
        if argument == "-" and folder is None:
            from npsiglip.collection.tables import names_of

            found = [name for name in names_of(sys.stdin.buffer.read) if name]
            if not found:
                raise InputError("'-': there is no name in standard input; expected names of files, one a line")
            names += found
        elif folder and folder.is_dir():
            names += _within(argument, argument, os.path.abspath(argument)) or [argument]  # noqa: PTH100
        elif folder is None and re.search(r"[*?\[]", argument) and (_PATH.fullmatch(argument) or _names(argument)):
            from npsiglip.collection.walk import split_glob

            root = split_glob(argument)[0]
            place = "" if root == "." and not argument.startswith("./") else root
            names += (_within(place, argument, os.path.abspath(root)) if is_folder(root) else []) or [argument]  # noqa: PTH100
        else:
            names.append(argument)
    return names


class Skipped:
    """The images that are left out, told one by one; none may be, if this is not wanted.

    Attributes:
        reasons: input -> why.
        places: of the inputs among all.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.reasons: list[dict[str, str]] = []
        self.places: list[int] = []

    def add(self, name: str, place: int, error: InputError) -> None:
        """Leave one out.

        Raises:
            InputError: the same, if nothing may be left out.
        """
        if not self.wanted:
            raise error
        self.reasons.append({"input": name, "reason": str(error)})
        self.places.append(place)
        note(str(error), "skipped:", "bold yellow")

    def check(self, number: int) -> None:
        """Refuse to go on with nothing.

        Raises:
            InputError: all of the `number` inputs are left out.
        """
        if len(self.places) == number:
            raise InputError(f"none of the {number} inputs can be used" if number > 1 else "the input cannot be used")

    def summary(self, number: int) -> str:
        """How many were left out, and which, by their places from 0; empty if none was."""
        if not self.places:
            return ""
        places = sorted(self.places)
        more = f" and {len(places) - _NUMBERS_SHOWN} more" if len(places) > _NUMBERS_SHOWN else ""
        return (
            f"skipped {len(places)} of {number} inputs (counted from 0: "
            f"{', '.join(map(str, places[:_NUMBERS_SHOWN]))}{more})"
        )


def check_images(paths: Sequence[str], skipped: Skipped, places: Sequence[int] | None = None) -> list[int]:
    """Refuse files that are not there, before time is spent on loading a model.

    Args:
        paths: of all inputs.
        skipped: where those go that are left out.
        places: of those inputs that are images; None: all.

    Returns:
        The places of those that are left.

    Raises:
        InputError: a path of no file, or of one that may not be read.
    """
    from npsiglip.images.processor import load_image

    left = []
    for place in range(len(paths)) if places is None else places:
        path = paths[place]
        try:
            if not is_file(path) or not os.access(path, os.R_OK):
                if is_folder(path):
                    raise InputError(f"{quoted(path)} is a folder in which nothing is named like a picture")
                load_image(path)  # knows what to say
            left.append(place)
        except InputError as error:
            skipped.add(path, place, error)
    return left


def encode_good(
    model: SigLIP, paths: Sequence[str], places: Sequence[int], skipped: Skipped, encode: Callable[[list[str]], Any]
) -> tuple[list[int], Any]:
    """What `encode` makes of the images at some places among all paths, of those that can be used if others may not.

    Returns:
        The places of these, and the result; None if there are none.

    Raises:
        InputError: an image that cannot be used, if none may be left out; whatever else is wrong.
    """
    try:
        return list(places), encode([paths[place] for place in places])
    except InputError:
        if not skipped.wanted or model.processor is None:
            raise
        good = []
        for place in places:
            try:
                model.processor(paths[place], first=None)
                good.append(place)
            except InputError as error:
                skipped.add(paths[place], place, error)
        if len(good) == len(places):
            raise
    return good, encode([paths[place] for place in good]) if good else None
