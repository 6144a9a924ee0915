"""What a picture shows, as plain facts: enough to caption it, to judge a caption, and to draw it up to small detail.

Lengths are fractions of the picture's side, from the top left. Left out: light, occlusion, perspective.
"""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Thing:
    """One object."""

    colour: str
    shape: str  # of SHAPES, or a letter or digit
    size: str
    texture: str
    style: str
    x: float  # of its centre
    y: float
    diameter: float
    angle: float  # degrees, clockwise
    rgb: RGB

    @property
    def is_glyph(self) -> bool:
        """Whether it is a letter or a digit."""
        return len(self.shape) == 1


@dataclass(frozen=True, slots=True)
class Background:
    """What is behind the objects."""

    tone: str  # of TONES
    pattern: str  # of PATTERNS
    rgb: RGB
    second: RGB  # the pattern's other colour; of a plain one, the same


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture. `things` has one object, two (a pair), or two to five of one colour and shape (a count)."""

    kind: str  # of KINDS
    things: tuple[Thing, ...]
    background: Background
    noise: float  # standard deviation that pixels are shaken by, of 255
    brightness: int  # added to every pixel
