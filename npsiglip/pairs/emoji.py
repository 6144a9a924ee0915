"""Emoji: pictures by several designers, names and tags of Unicode's CLDR in many languages.

Pictures are files named by code points ("1f34e.png", "1F44B-1F3FB.webp"), as npm's packages have them
(emoji-datasource-google, emoji-datasource-twitter, @lobehub/fluent-emoji-3d), or the glyphs of a colour font. Names are
those of emojibase-data: a folder a language with data.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from npsiglip.errors import InputError
from npsiglip.interrupts import deferred
from npsiglip.pairs.base import PICTURES, Words, files, phrases
from npsiglip.pairs.settings import SourceSettings

if TYPE_CHECKING:
    from PIL.Image import Image

FONTS = (".ttf", ".otf", ".ttc")
BITMAP_SIZE = 109  # the one size of the pictures in Noto Color Emoji; others are scaled from outlines
MINIMUM = 20  # pixels: smaller pictures show nothing


def code_points(name: str) -> str:
    """The key of an emoji: code points in capitals, joined by "-", without the selector of its variant (FE0F)."""
    return "-".join(part for part in name.upper().split("-") if part != "FE0F")


def load_names(folder: Path, languages: Mapping[str, float], where: str) -> dict[str, Words]:
    """Key -> names and tags in all languages, of every emoji with a place in the order of Unicode.

    Raises:
        InputError: a folder without languages, or a language that it lacks.
    """
    names: dict[str, dict[str, list[str]]] = {}
    tags: dict[str, dict[str, list[str]]] = {}
    known = sorted(path.parent.name for path in folder.glob("*/data.json"))
    if not known:
        raise InputError(f"{where}.names: {folder} has no LANGUAGE/data.json; expected the folder of emojibase-data")
    for code in languages or known:
        if code not in known:
            raise InputError(f"{where}.languages: {folder} has no {code!r}; it has {', '.join(known)}")
        try:
            entries = json.loads((folder / code / "data.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{where}.names: {folder / code / 'data.json'} cannot be read: {error}") from None
        for entry in entries:
            if "order" in entry and entry.get("label"):
                key = code_points(entry["hexcode"])
                names.setdefault(key, {})[code] = [entry["label"]]
                if said := [tag for tag in phrases(entry.get("tags")) if tag != entry["label"]]:
                    tags.setdefault(key, {})[code] = said
    return {key: Words(names=found, tags=tags.get(key, {})) for key, found in names.items()}


@dataclass(frozen=True)
class Emoji:
    """Every picture of an emoji that has a name."""

    pictures: tuple[Path, ...]  # the file, or the font
    keys: tuple[str, ...]
    named: Mapping[str, Words]
    varies = False

    def __len__(self) -> int:
        return len(self.pictures)

    def where(self, index: int) -> str:
        """The file, or the font and the code points."""
        return f"{self.pictures[index]} ({self.keys[index]})"

    def read(self, index: int, rng: Random) -> Image:
        """A cut-out, RGBA."""
        with deferred():
            from PIL import Image

        path = self.pictures[index]
        if path.suffix.lower() in FONTS:
            return glyph(path, self.keys[index])
        with Image.open(path) as image:
            return image.convert("RGBA")

    def words(self, index: int) -> Words:
        """Names and tags."""
        return self.named[self.keys[index]]

    def class_of(self, index: int) -> str | None:
        """The emoji, whoever drew it."""
        return self.keys[index]


def glyph(font: Path, key: str) -> Image:
    """An emoji as a colour font draws it, RGBA; blank where the font lacks it.

    Raises:
        OSError: a font that cannot be used.
    """
    with deferred():
        from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(str(font), BITMAP_SIZE)
    canvas = Image.new("RGBA", (2 * BITMAP_SIZE, 2 * BITMAP_SIZE))
    text = "".join(chr(int(part, 16)) for part in key.split("-"))
    ImageDraw.Draw(canvas).text((BITMAP_SIZE // 4, BITMAP_SIZE // 4), text, font=face, embedded_color=True)
    box = canvas.getbbox()
    return canvas.crop(box) if box else canvas


def open_emoji(settings: SourceSettings, where: str) -> Emoji:
    """Every picture under the paths whose code points have a name in one of the languages.

    Raises:
        InputError: names or pictures that are not there.
    """
    (folder,) = files([settings.names], f"{where}.names")[:1]
    named = load_names(folder, settings.languages, where)
    found: list[tuple[Path, str]] = []
    for place in files(settings.path, where):
        if place.suffix.lower() in FONTS:
            found += [(place, key) for key in named if glyph(place, key).getbbox()]
            continue
        pictures = [place] if place.is_file() else sorted(place.rglob("*"))
        keyed = [(path, code_points(path.stem)) for path in pictures if path.suffix.lower() in PICTURES]
        if not any(key in named for _, key in keyed):
            raise InputError(
                f"{where}: no picture of an emoji in {place}; expected files named by code points, such as 1f34e.png, "
                "or a colour font"
            )
        found += [(path, key) for path, key in keyed if key in named]
    order = {key: number for number, key in enumerate(named)}
    found.sort(key=lambda pair: order[pair[1]])
    return Emoji(tuple(path for path, _ in found), tuple(key for _, key in found), named)
