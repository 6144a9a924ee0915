"""A picture's file, or what it holds -> an 8-bit RGB Pillow image; which are too large, and what is said of the others.

Source of truth: transformers 5.x, `image_utils.load_image`, checked bit for bit in tests/parity. docs/divergences.md
tells where this page refuses what Hugging Face reads.
Leaves out: downloads, base64 strings. Pillow is imported at the first use: `import npsiglip` stays cheap.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError, InputWarning
from npsiglip.images.kinds import is_heif, what_it_is
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from PIL import Image

SIXTEEN_BIT = ("clip", "scale")

_BYTES = (bytes, bytearray, memoryview)
_DEEP_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # modes of Pillow; a PNG of 16 bits is one of these
_UNREADABLE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO)  # disks, not content
_OPEN_LOCK = threading.RLock()  # warnings.catch_warnings and Pillow's limit are globals of the process
if hasattr(os, "register_at_fork"):  # no child has a lock that is held by a thread of its parent
    os.register_at_fork(
        before=_OPEN_LOCK.acquire, after_in_parent=_OPEN_LOCK.release, after_in_child=_OPEN_LOCK.release
    )
_warned: set[str] = set()

_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:[^\s,]*,", re.IGNORECASE)


class Decoding(NamedTuple):
    """How files and 16-bit values are read.

    max_megapixels: the largest picture that is decoded, in millions of pixels; None: Pillow's `MAX_IMAGE_PIXELS`.
    sixteen_bit: what becomes of grey pictures and arrays of 16 bits: "clip", as in transformers: above 255 all is
        white, and arrays are refused; "scale": 65535 becomes 255.
    """

    max_megapixels: float | None = None
    sixteen_bit: str = "clip"

    def check(self) -> None:
        """Refuse what is no setting.

        Raises:
            InputError: naming it.
        """
        limit = self.max_megapixels
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0):
            raise InputError(f"max_megapixels must be a positive number (or None for Pillow's limit), got {limit!r}")
        if self.sixteen_bit not in SIXTEEN_BIT:
            raise InputError(f"sixteen_bit must be one of {', '.join(SIXTEEN_BIT)}; got {self.sixteen_bit!r}")


DEFAULT = Decoding()


def _warn_once(kind: str, text: str) -> None:
    """Warn of a kind of picture that is read otherwise than one may expect: of the first in this process."""
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(text, InputWarning, stacklevel=3)


def _refuse_size(name: str, size: str, pixels: int, limit: float) -> NoReturn:
    enough = math.ceil(pixels / 1e6)
    raise InputError(
        f"{name} holds {size} pixels, more than the {limit:,.0f} that are decoded without asking (a "
        f"small file can unpack into gigabytes); shrink it or, if you trust it, allow more: max_megapixels={enough}, "
        f"--max-megapixels {enough} on the command line"
    )


def _why_not_decoded(error: Exception) -> str:
    """What keeps a picture from being decoded, and what to do about it."""
    text = str(error)
    if isinstance(error, MemoryError):
        return "the memory does not suffice; shrink it, or close other programs"
    if isinstance(error, OSError) and error.errno in _UNREADABLE:
        return f"reading it failed ({error.strerror}); copy it to another disk, or download it again"
    if "Ghostscript" in text:
        return "an EPS is drawn by Ghostscript, which is not installed; install it, or save the picture as PNG"
    if "MAX_TEXT_" in text:
        return (
            f"it carries more text than Pillow reads beside a picture ({text}); save it again without its metadata, "
            "or set PIL.PngImagePlugin.MAX_TEXT_CHUNK and MAX_TEXT_MEMORY higher"
        )
    if re.search(r"conversion (from \S+ to \S+ )?not supported", text):
        return f"Pillow cannot turn its mode into RGB ({text}); convert it to RGB or RGBA first"
    if re.search(r"cannot find loader|decoder \S+ not available", text):
        return f"Pillow has nothing here that decodes its format ({text}); save it as PNG or JPEG"
    return (
        f"its content is truncated or damaged ({type(error).__name__}: {error}); expected a whole image, try to open "
        "or save it again with another program"
    )


def refuse_content(name: str, error: Exception) -> NoReturn:
    """Say why a picture is not decoded.

    Raises:
        InputError: always.
    """
    raise InputError(f"{name} cannot be decoded: {_why_not_decoded(error)}") from error


def _open_file(path: Path, name: str) -> Any:
    """The file, open for reading, if it is a regular file with something in it."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{name} is a folder; expected an image file, pass the files in it one by one")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer, perhaps for ever
            raise InputError(f"{name} is not a regular file; copy its content into one")
        if status.st_size == 0:
            raise InputError(f"{name} is empty (0 bytes); expected an image, was a download or copy interrupted?")
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{name} does not exist (working directory: {Path.cwd()}); check the path") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name} cannot be opened: {reason}; expected the path of a readable image") from error


def _read_start(file: Any) -> bytes:
    """How a file begins; after Pillow has looked at it, and has read all of one that cannot be rewound."""
    try:
        file.seek(0)
        return bytes(file.read(256))
    except (OSError, AttributeError, ValueError):
        return b""


def _identify(file: Any, name: str) -> Image.Image:
    """The picture in a file, of which only the header is read."""
    with deferred():
        from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file)
    except UnidentifiedImageError:
        start = _read_start(file)
    what = what_it_is(start)
    if is_heif(start) and find_spec("pillow_heif"):
        with deferred():
            from pillow_heif import register_heif_opener

        register_heif_opener()
        with contextlib.suppress(UnidentifiedImageError):
            return Image.open(file)
        what = "a HEIC that pillow-heif does not read: is it whole? Try to save the picture as JPEG"
    raise InputError(
        f"{name} is {what}"
        if what
        else f"{name} is not an image that Pillow can identify; expected PNG, JPEG, WebP, GIF, TIFF, BMP or the like"
    )


def _open_image(file: Any, name: str, limit: float | None) -> Image.Image:
    """Read the header only, and refuse a picture that would be too large once decoded."""
    image = _identify(file, name)
    pixels = image.width * image.height
    if limit is not None and pixels > limit:
        _refuse_size(name, f"{image.width} x {image.height}", pixels, limit)
    return image


@contextlib.contextmanager
def _pixel_limit(max_megapixels: float | None) -> Iterator[float | None]:
    """The limit in pixels, which Pillow too knows meanwhile, if it is not its own: others have to wait."""
    with deferred():
        from PIL import Image

    if max_megapixels is None:
        with _OPEN_LOCK:  # not while it is another's
            own: Any = Image.MAX_IMAGE_PIXELS
        yield own
        return
    limit = max_megapixels * 1e6
    with _OPEN_LOCK:
        before: Any = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = math.ceil(limit) if math.isfinite(limit) else None
        try:
            yield limit
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextlib.contextmanager
def _without_size_warnings(locked: bool) -> Iterator[None]:
    """Pillow's own warning of large pictures has the same limit as the refusal here."""
    with deferred():
        from PIL import Image

    with contextlib.nullcontext() if locked else _OPEN_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _decode(
    file: Any, name: str, decoding: Decoding, convert: bool, draft: tuple[int, int] | None = None
) -> Image.Image:
    with deferred():
        from PIL import Image, ImageOps

    own_limit = decoding.max_megapixels is not None
    with _pixel_limit(decoding.max_megapixels) as limit:
        try:
            with _without_size_warnings(own_limit):
                opened = _open_image(file, name, limit)
            with opened as image:
                if draft:
                    image.draft("RGB", draft)
                ImageOps.exif_transpose(image, in_place=True)  # else it copies, a fifth of the time of decoding
            if not convert:
                return of_eight_bits(image, name, decoding)
            if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
                del image.info["transparency"]  # one alpha per palette entry; convert() would drop it with a warning
            return as_rgb(of_eight_bits(image, name, decoding))
        except (InputError, InputWarning):
            raise
        except Image.DecompressionBombError as error:
            count = re.search(r"\d+", str(error))
            pixels = int(count[0]) if count else 0
            _refuse_size(name, f"{pixels:,}" if count else "too many", pixels, limit or 0)
        except Exception as error:  # damaged files raise almost anything: SyntaxError, struct.error, IndexError, ...
            refuse_content(name, error)


def is_content(image: Any) -> bool:
    """Whether this is what a file holds, or a file that is open: bytes, or an object that can be read."""
    return isinstance(image, _BYTES) or (hasattr(image, "read") and not hasattr(image, "__array__"))


def _load_content(
    content: Any, name: str, decoding: Decoding, convert: bool, draft: tuple[int, int] | None
) -> Image.Image:
    if isinstance(content, _BYTES):
        if not len(content):
            raise InputError(f"{name} is empty (0 bytes); expected the content of an image file")
        content = io.BytesIO(content)
    elif isinstance(content, io.TextIOBase):
        raise InputError(f"{name} is a file opened as text; expected one opened as open(path, 'rb')")
    elif getattr(content, "closed", False):
        raise InputError(f"{name} is a file that is closed; expected one that can be read")
    return _decode(content, name, decoding, convert, draft)


def load_image(
    path: Any,
    decoding: Decoding = DEFAULT,
    name: str = "the image",
    convert: bool = True,
    draft: tuple[int, int] | None = None,
) -> Image.Image:
    """Read an image file as Hugging Face's `load_image` does: first frame, turned upright by its EXIF tag, RGB.

    Converting to RGB drops an alpha channel and keeps the colours under it, whereas a transparent *colour* (PNG's tRNS
    chunk, GIF's transparent index) stays in `image.info["transparency"]`, to be painted white by whoever composites.

    Args:
        path: of the file; or its content, as bytes or as a file that is open for reading, which stays open.
        decoding: which pictures are too large, and what becomes of 16 bits.
        name: what to call content in an error message.
        convert: to RGB; False leaves the file's own mode.
        draft: of a JPEG, decode only 1/2, 1/4 or 1/8 of the width and height, as long as these, width and height, are
            left: faster, and other pixels. None: all of it.

    Returns:
        A Pillow image of mode RGB; no file is left open.

    Raises:
        InputError: the file is missing, unreadable, empty, damaged, not an image, or larger than `decoding` or
            `PIL.Image.MAX_IMAGE_PIXELS` allows (read in its header, before anything is decoded).
    """
    if is_content(path):
        return _load_content(path, name, decoding, convert, draft)
    text = os.fspath(path)
    name = f"image file {text!r}" if len(text) <= 300 else f"image file {text[:100]!r}..."
    if not text:
        raise InputError("an empty string stands for an image; expected its path, is a variable not set?")
    if _URL.match(text):
        raise InputError(f"{name}: URLs are not fetched; expected a path, download it or open it with PIL first")
    with _open_file(Path(text), name) as file:
        return _decode(file, name, decoding, convert, draft)


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB: itself, if it is; to copy a photograph takes a tenth of the time of decoding it."""
    return image if image.mode == "RGB" else image.convert("RGB")


def scaled_16_bit(values: NDArray[Any]) -> NDArray[np.uint8]:
    """0..65535 to 0..255, rounded to nearest: v / 257, as a byte repeated twice makes 16 bits."""
    scaled: NDArray[np.uint8] = ((np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8)
    return scaled


def of_eight_bits(image: Image.Image, name: str, decoding: Decoding) -> Image.Image:
    """A grey picture of more than 8 bits in 8, if they are to be scaled; else as it is, for Pillow to cut off."""
    with deferred():
        from PIL import Image

    if image.mode in _DEEP_GREY:
        values = np.asarray(image)
        if decoding.sixteen_bit == "scale":
            return Image.fromarray(scaled_16_bit(values))
        if values.size and values.max() > 255:
            _warn_once(
                "16 bits",
                f"{name} is a grey picture of 16 bits (mode {image.mode}, up to {values.max()}): what is above 255 is "
                "cut off and turns white, as in transformers, here and in others like it; to have it scaled, set "
                'sixteen_bit="scale", on the command line --sixteen-bit scale',
            )
    elif image.mode == "F":
        values = np.asarray(image)
        if values.size and not 1 < values.max() <= 255:
            _warn_once(
                "floats",
                f"{name} is a picture of floats (mode F, up to {values.max():g}): they are cut off to whole numbers "
                "of 0 to 255, as in transformers, here and in others like it; scale them to 0..255 first",
            )
    return image
