"""Quick, Draw! strokes, drawn with varied pens: one JSON object a line with `word` and `drawing`, perhaps compressed.

A drawing is a list of strokes, each [xs, ys] from 0 to 255. Source: https://github.com/googlecreativelab/quickdraw-dataset,
the simplified files.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import hypot, pi, sin
from random import Random
from typing import TYPE_CHECKING

from npsiglip.errors import InputError
from npsiglip.interrupts import deferred
from npsiglip.pairs.base import Words, files
from npsiglip.pairs.folders import Synonyms, load_synonyms
from npsiglip.pairs.settings import SourceSettings

if TYPE_CHECKING:
    from PIL.Image import Image

Strokes = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
CANVAS = 192  # pixels, for pictures of 64 to 96


def _length(stroke: tuple[tuple[int, ...], tuple[int, ...]]) -> float:
    return sum(hypot(x2 - x1, y2 - y1) for (x1, y1), (x2, y2) in pairwise(zip(*stroke, strict=True)))


def shaken(strokes: Strokes, rng: Random, strength: float) -> list[tuple[list[float], list[float]]]:
    """The strokes as another hand might have made them, anywhere within 0 to 255.

    All of them are bent by one smooth wave in each direction, each is moved and scaled a little about its middle, and
    some of the short ones are left out, never most of the drawing.
    """
    lengths = [_length(stroke) for stroke in strokes]
    (wide, turn_x, start_x), (high, turn_y, start_y) = (
        (strength * 20 * rng.random(), (1 + 2 * rng.random()) * pi / 128, 2 * pi * rng.random()) for _ in "xy"
    )
    lost, result = 0.0, []
    for (xs, ys), length in zip(strokes, lengths, strict=True):
        drop, *draws = (rng.random() for _ in range(5))
        if drop < 0.3 * strength and lost + length < 0.25 * sum(lengths):
            lost += length
            continue
        move_x, move_y, grow_x, grow_y = (strength * (2 * draw - 1) for draw in draws)
        points = list(zip(xs, ys, strict=True))
        bent_x = [x + wide * sin(turn_x * y + start_x) + 10 * move_x for x, y in points]
        bent_y = [y + high * sin(turn_y * x + start_y) + 10 * move_y for x, y in points]
        result.append((_grown(bent_x, 1 + 0.2 * grow_x), _grown(bent_y, 1 + 0.2 * grow_y)))
    ways_x, ways_y = zip(*result, strict=True)
    return list(zip(_within(ways_x, rng.random()), _within(ways_y, rng.random()), strict=True))


def _grown(values: list[float], factor: float) -> list[float]:
    middle = sum(values) / len(values)
    return [middle + factor * (value - middle) for value in values]


def _within(strokes: Sequence[list[float]], place: float) -> list[list[float]]:
    """The numbers of all strokes, shrunk to fit in 0 to 255 and moved to a place, from 0 to 1 of the room left."""
    least, most = min(map(min, strokes)), max(map(max, strokes))
    scale = min(1.0, 255 / max(most - least, 1.0))
    start = place * (255 - scale * (most - least))
    return [[start + scale * (value - least) for value in values] for values in strokes]


def drawn(strokes: Strokes, rng: Random, side: int = CANVAS, shake: float = 0.0) -> Image:
    """The strokes as a cut-out, RGBA [side, side], with a pen of random width, mostly dark."""
    with deferred():
        from PIL import Image, ImageDraw

    width = side * (0.012 + 0.03 * rng.random())
    dark = rng.random() < 0.7
    colour = tuple(int((60 if dark else 256) * rng.random()) for _ in range(3))
    picture = Image.new("RGBA", (side, side), (*colour, 0))
    pen = ImageDraw.Draw(picture)
    margin = side * 0.05
    scale = (side - 2 * margin) / 255
    for xs, ys in shaken(strokes, rng, shake) if shake else strokes:
        points = [(margin + scale * x, margin + scale * y) for x, y in zip(xs, ys, strict=True)]
        pen.line(points, fill=colour, width=max(1, round(width)), joint="curve")
        for x, y in (points[0], points[-1]):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=colour)
    return picture


@dataclass(frozen=True)
class Drawings:
    """Every drawing, with another pen each time."""

    strokes: tuple[Strokes, ...]
    names: tuple[str, ...]
    synonyms: Synonyms
    source: str
    shake: float = 0.0
    varies = True

    def __len__(self) -> int:
        return len(self.strokes)

    def where(self, index: int) -> str:
        """The word, and the number of the drawing."""
        return f"{self.source}: {self.names[index]}, drawing {index}"

    def read(self, index: int, rng: Random) -> Image:
        """A cut-out, RGBA."""
        return drawn(self.strokes[index], rng, shake=self.shake)

    def words(self, index: int) -> Words:
        """Its word, with synonyms and translations."""
        name = self.names[index]
        said = {"en": [name]}
        for code, more in self.synonyms.get(name, {}).items():
            said.setdefault(code, []).extend(more)
        return Words(names=said)

    def class_of(self, index: int) -> str | None:
        """Its word."""
        return self.names[index]


def open_drawings(settings: SourceSettings, where: str) -> Drawings:
    """All drawings of the files.

    Raises:
        InputError: a file that cannot be read, or a line that is no drawing.
    """
    strokes, names, paths = [], [], files(settings.path, where)
    for path in paths:
        number = 0
        try:
            with (
                gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file
            ):
                for line in file:
                    number += 1
                    entry = json.loads(line)
                    parts = tuple((tuple(xs), tuple(ys)) for xs, ys, *_ in entry["drawing"])
                    if not parts or not all(len(xs) == len(ys) >= 1 for xs, ys in parts):
                        raise ValueError("strokes that are empty, or whose x and y differ in number")
                    strokes.append(parts)
                    names.append(str(entry["word"]))
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{where}: {path}, line {number}: expected a JSON object with `word` and `drawing`, a list of strokes "
                f"[xs, ys]: {error!r}"
            ) from None
    if not strokes:
        raise InputError(f"{where}: {', '.join(map(str, paths))} holds no drawing")
    return Drawings(
        tuple(strokes), tuple(names), load_synonyms(settings.names, where), str(paths[0]), settings.augment.shake
    )
