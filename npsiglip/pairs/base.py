"""What a source of pairs is: pictures that can be read in any order, and what can be said of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol

from npsiglip.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Phrases = Mapping[str, Sequence[str]]  # language -> phrases

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})


@dataclass(frozen=True)
class Words:
    """What can be said of a picture, by language; any may be empty.

    Attributes:
        captions: whole sentences.
        names: of what it shows, for templates; the first one is the usual one.
        tags: words that fit it, none of which is a name.
    """

    captions: Phrases = field(default_factory=dict)
    names: Phrases = field(default_factory=dict)
    tags: Phrases = field(default_factory=dict)


class Pairs(Protocol):
    """A source that is open. It can be pickled, and reads in any process.

    Attributes:
        varies: whether a picture is drawn anew each time, so that keeping it would be wrong.
    """

    varies: bool

    def __len__(self) -> int:
        """How many pictures."""

    def where(self, index: int) -> str:
        """The name of a picture, for a message."""

    def read(self, index: int, rng: Random) -> Image:
        """The picture: RGB, or RGBA for a cut-out that stands on any background.

        Raises:
            Exception: of any kind, if it cannot be decoded.
        """

    def words(self, index: int) -> Words:
        """What can be said of it."""

    def class_of(self, index: int) -> str | None:
        """What tells pictures of different things apart; None where nothing does."""


def files(patterns: Sequence[str], where: str) -> list[Path]:
    """The files and folders of some patterns, with ~, $VARIABLES, * and **, in a fixed order, none twice.

    Raises:
        InputError: a pattern that finds nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        expanded = os.path.expandvars(Path(pattern).expanduser())
        names = sorted(glob(expanded, recursive=True))  # noqa: PTH207  Path.glob refuses absolute patterns
        if not names:
            unset = ": is a $VARIABLE not set?" if "$" in expanded else ""
            raise InputError(f"{where}: {pattern!r} finds nothing (working directory: {Path.cwd()}){unset}")
        found |= dict.fromkeys(map(Path, names))
    return list(found)


def phrases(value: object) -> list[str]:
    """Strings from one value of a table or a JSON object: a string, or a list of them; blank ones left out."""
    values = value if isinstance(value, list | tuple) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]
