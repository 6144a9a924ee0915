"""Letters and digits as masks, from the fonts that matplotlib brings along.

Matplotlib is imported when the first glyph is drawn: a world without glyphs does not need it. O and 0 look alike in
most fonts: the digit is taken only from fonts that strike it through or dot it, the letter only from the others.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from npsiglip.errors import InputError
from npsiglip.interrupts import deferred

DOTTED_ZERO: Final = ("DejaVuSansMono", "DejaVuSansMono-Bold")
FONTS: Final = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "STIXGeneral",
    "STIXGeneralBol",
    "cmss10",
    "cmr10",
    "cmb10",
)


def check_fonts() -> None:
    """Raise InputError if matplotlib is missing, without importing it."""
    if not find_spec("matplotlib"):
        raise InputError(
            "letters and digits are drawn in matplotlib's fonts, and matplotlib is not installed; "
            "run pip install 'npsiglip[train]'; or, in Python, give World a mix without \"glyph\""
        )


@functools.cache
def _folder() -> Path:
    with deferred():
        import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf")


def fonts_of(glyph: str) -> tuple[str, ...]:
    """The fonts in which this letter or digit can be told from every other."""
    if glyph == "0":
        return DOTTED_ZERO
    return FONTS if glyph == "O" else FONTS + DOTTED_ZERO


@functools.cache
def glyph_mask(font: str, glyph: str, height: int) -> Image.Image:
    """Mode L: the glyph alone, about `height` pixels high (capitals and digits are about 0.72 of a font's size).

    Raises:
        InputError: a matplotlib without this font.
    """
    path = _folder() / f"{font}.ttf"
    try:
        drawn = ImageFont.truetype(path, round(height / 0.72), layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise InputError(f"the font {path} cannot be read ({error}); expected matplotlib 3.8 or newer") from None
    image = Image.new("L", (3 * height, 3 * height))
    ImageDraw.Draw(image).text((height, height // 2), glyph, 255, drawn)
    left, top, right, bottom = image.getbbox() or (0, 0, 1, 1)
    return image.crop((left - 1, top - 1, right + 1, bottom + 1))  # an empty border keeps edges soft when it is turned
