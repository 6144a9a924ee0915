"""What the world consists of, by name: the words that captions, drawings and evaluations agree on.

A class is a pair of a colour and a shape, 64 in all. `HELD_OUT` are eight of them, one for each colour and each shape,
which training never shows and never names: whoever names them has put a colour and a shape together by itself.
"""

from __future__ import annotations

from typing import Final

COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
SHAPES: Final = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
CLASSES: Final = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
HELD_OUT: Final = frozenset((colour, SHAPES[(3 * i + 2) % 8]) for i, colour in enumerate(COLOURS))
SEEN: Final = tuple(pair for pair in CLASSES if pair not in HELD_OUT)

GLYPHS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
KINDS: Final = ("single", "count", "pair", "glyph")

SIZES: Final = ("small", "medium", "large")
TEXTURES: Final = ("plain", "striped", "dotted", "checkered")
STYLES: Final = ("flat", "gradient", "shadow", "sketch", "soft", "outline")
HELD_OUT_STYLES: Final = ("contour", "glow")
PATTERNS: Final = ("plain", "gradient", "horizon", "striped", "speckled", "cloudy")  # of backgrounds
TONES: Final = (
    "white",
    "light grey",
    "grey",
    "dark grey",
    "black",
    "light blue",
    "light green",
    "light yellow",
    "light pink",
    "dark blue",
    "dark green",
)
