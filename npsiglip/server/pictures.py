"""A picture as a stranger sends it: base64, a data URI, or a URL; and whether a decoder may be let at it."""

from __future__ import annotations

import base64
import binascii
import io
import re

from npsiglip.errors import InputError
from npsiglip.images.files import Decoding, load_image
from npsiglip.images.kinds import what_it_is
from npsiglip.interrupts import deferred
from npsiglip.server.dialects import Refused

# Decoders of Pillow that are used much, and so tried much; none that starts another program, as EPS does.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
_DATA = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


def is_data_uri(text: str) -> bool:
    """Whether a text is a picture as a data URI."""
    return text[:11].lower() == "data:image/"


def is_url(text: str) -> bool:
    """Whether a text is a URL, of any scheme but data."""
    return re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def from_base64(text: str, where: str) -> bytes:
    """The bytes of base64, or of a data URI.

    Raises:
        Refused: 400, it is neither.
    """
    if text[:5].lower() == "data:":
        head = _DATA.match(text)
        if not head or ";base64" not in head[2].lower():
            raise Refused(400, f"{where} is a data URI without base64; expected data:image/png;base64,...", where)
        if not head[1].lower().startswith("image/"):
            raise Refused(400, f"{where} is a data URI of {head[1][:40] or 'text'!r}; expected image/...", where)
        text = text[head.end() :]
    text = _SPACE.sub("", text)
    if not text:
        raise Refused(400, f"{where} is empty; expected a picture in base64", where)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, f"{where} is not base64; expected a picture's bytes in base64", where) from None


def check_picture(content: bytes, max_megapixels: float, where: str) -> None:
    """Look at the head of a picture, before anything is decoded.

    Raises:
        Refused: 400, no picture that is taken, or an animation; 413, too many pixels.
    """
    with deferred():
        from PIL import Image, UnidentifiedImageError
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    too_large = f"pixels, more than the {max_megapixels:g} million that this server decodes; send it smaller"
    try:
        with Image.open(io.BytesIO(content), formats=formats) as found:
            pixels = found.width * found.height
            if pixels > max_megapixels * 1e6:
                raise Refused(413, f"{where} has {found.width} x {found.height} {too_large}", where)
            if found.format in ANIMATED and getattr(found, "is_animated", False):
                raise Refused(400, f"{where} is an animation; send one of its pictures", where)
    except Refused:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refused(413, f"{where} has far too many {too_large}", where) from None
    except UnidentifiedImageError:
        what = what_it_is(content[:256]) or f"not an image; expected one of {', '.join(formats)}"
        raise Refused(400, f"{where} is {what}", where) from None
    except Exception as error:  # a damaged head raises almost anything
        raise Refused(400, f"{where} cannot be decoded: its head is damaged ({type(error).__name__})", where) from None


def thumbnail(content: bytes, side: int) -> bytes:
    """A picture as JPEG, of `side` pixels at most, transparency on white.

    Raises:
        InputError: it cannot be decoded.
    """
    with deferred():
        from PIL import Image
    picture = load_image(content, Decoding(), convert=False, draft=(side, side))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def without_paths(error: InputError, where: str) -> str:
    """What the library says of a picture that was sent, named as the client knows it."""
    return str(error).replace("the image", where, 1)
