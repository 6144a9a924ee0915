"""Any picture that a caller hands in -> an 8-bit RGB Pillow image, with the rules of the Hugging Face processors.

Source of truth: transformers 5.x, `SiglipImageProcessorPil` (`image_utils.load_image`, `image_transforms`), checked
bit for bit in tests/parity. docs/divergences.md tells where this page refuses what Hugging Face reads.
Leaves out: downloads, base64 strings, float arrays. Resizing and normalising are in image.py.
Dimensions: H and W of the picture, C its channels. Pillow is imported at the first use: `import npsiglip` stays cheap.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_CHANNEL_COUNTS = (1, 3, 4)
_OPEN_LOCK = threading.Lock()  # warnings.catch_warnings swaps a global of the process


def _refuse_size(name: str, pixels: str) -> NoReturn:
    from PIL import Image

    raise InputError(
        f"{name} holds {pixels} pixels, more than the {Image.MAX_IMAGE_PIXELS} that Pillow takes as safe to decode (a "
        "small file can unpack into gigabytes); shrink it or, if you trust it, set PIL.Image.MAX_IMAGE_PIXELS higher"
    )


def _refuse_content(name: str, error: Exception) -> NoReturn:
    raise InputError(
        f"{name} cannot be decoded, its content is truncated or damaged ({type(error).__name__}: {error}); "
        "expected a whole image, try to open or save it again with another program"
    ) from error


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


def _open_image(file: Any, name: str) -> Image.Image:
    """Read the header only, and refuse a picture that would be too large once decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        with _OPEN_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the same limit is checked below
            image = Image.open(file)
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is not an image that Pillow can identify; expected PNG, JPEG, WebP, GIF, TIFF, BMP or the like"
        ) from None
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        _refuse_size(name, f"{image.width} x {image.height}")
    return image


def load_image(path: str | os.PathLike[str], convert: bool = True) -> Image.Image:
    """Read an image file as Hugging Face's `load_image` does: first frame, turned upright by its EXIF tag, RGB.

    Converting to RGB drops an alpha channel and keeps the colours under it, whereas a transparent *colour* (PNG's tRNS
    chunk, GIF's transparent index) stays in `image.info["transparency"]`, to be painted white by whoever composites.

    Args:
        path: of the file.
        convert: to RGB; False leaves the file's own mode.

    Returns:
        A Pillow image of mode RGB; no file is left open.

    Raises:
        InputError: the file is missing, unreadable, empty, damaged, not an image, or larger than
            `PIL.Image.MAX_IMAGE_PIXELS` pixels (read in its header, before anything is decoded).
    """
    from PIL import Image, ImageOps

    text = os.fspath(path)
    name = f"image file {text!r}" if len(text) <= 300 else f"image file {text[:100]!r}..."
    if not text:
        raise InputError("an empty string stands for an image; expected its path, is a variable not set?")
    if text.startswith(("http://", "https://", "data:")):
        raise InputError(f"{name}: URLs are not fetched; expected a path, download it or open it with PIL first")
    with _open_file(Path(text), name) as file:
        try:
            with _open_image(file, name) as image:
                upright = ImageOps.exif_transpose(image)
            if not convert:
                return upright
            if upright.mode == "P" and isinstance(upright.info.get("transparency"), bytes):
                del upright.info["transparency"]  # one alpha per palette entry; convert() would drop it with a warning
            return upright.convert("RGB")
        except InputError:
            raise
        except Image.DecompressionBombError as error:
            count = re.search(r"\d+", str(error))
            _refuse_size(name, count[0] if count else "too many")
        except Exception as error:  # damaged files raise almost anything: SyntaxError, struct.error, IndexError, ...
            _refuse_content(name, error)


def _as_uint8(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"{name} is a {array.dtype} array, expected uint8: values that are scaled already would be scaled by 1/255 "
            "a second time. If it holds 0..255, pass `.round().clip(0, 255).astype('uint8')`; if 0..1, multiply by 255 "
            "before that; if resized and normalised, give model.encode_image a float32 array [N, 3, H, W]"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} is an array of {array.dtype}; expected uint8 values in 0..255")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 255:
        raise InputError(
            f"{name} has values in {low}..{high}; expected 0..255 in a uint8 array, scale 16-bit data by 1/257 first"
        )
    return array.astype(np.uint8)


def _channels_last(array: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """[C, H, W] or [H, W, C] -> [H, W, C]: the channels' axis has length 1, 3 or 4; the first axis is tried first."""
    first, last = array.shape[0] in _CHANNEL_COUNTS, array.shape[2] in _CHANNEL_COUNTS
    if not (first or last):
        raise InputError(
            f"{name} has shape {list(array.shape)}; expected [H, W, C] or [C, H, W] with 1, 3 or 4 channels"
        )
    if first and last:
        warnings.warn(
            f"{name} has the ambiguous shape {list(array.shape)} and is read as [C, H, W], as Hugging Face does; "
            "pass PIL.Image.fromarray(array) if its last axis is the channels",
            stacklevel=2,
        )
    return np.moveaxis(array, 0, -1) if first else array


def _array_to_pil(array: NDArray[Any], name: str) -> Image.Image:
    """[H, W, C] or [C, H, W] -> mode L, RGB or RGBA, as C says.

    Hugging Face blends arrays in float64 where it has Pillow blend images; both give the same byte for each of the
    65,536 pairs of a value and an alpha, so that Pillow does it here for either.
    """
    from PIL import Image

    if array.ndim == 2:
        raise InputError(
            f"{name} has shape {list(array.shape)}, without an axis for channels; expected [H, W, 3]. "
            "If it is a grey picture, pass `array[..., None]`"
        )
    if array.ndim != 3:
        raise InputError(
            f"{name} is an array of {array.ndim} dimensions; expected [H, W, C], [C, H, W] or a batch of these"
        )
    if array.size == 0:
        raise InputError(f"{name} has no pixels: its shape is {list(array.shape)}")
    pixels = _channels_last(_as_uint8(array, name), name)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def _pil_to_rgb(image: Image.Image, name: str, convert: bool) -> Image.Image:
    """Any mode -> RGB, transparency of any kind on white; `convert=False` takes three bands as if they were RGB."""
    from PIL import Image

    bands = image.getbands()
    if 0 in image.size:
        raise InputError(f"{name} has no pixels: its size is {image.width} x {image.height}")
    if not convert and len(bands) != 3:
        raise InputError(
            f"{name} has {len(bands)} channel(s), expected 3: preprocessor_config.json switches the conversion to RGB "
            "off (do_convert_rgb), so convert the image first"
        )
    try:
        if not convert:
            return Image.fromarray(np.array(image))
        if "A" in bands or image.info.get("transparency") is not None:
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")
    except Exception as error:  # a lazily opened file is decoded here
        _refuse_content(f"{name} (a PIL image of mode {image.mode})", error)


def to_rgb(image: Any, name: str, convert: bool = True) -> Image.Image:
    """One image -> a Pillow image of mode RGB.

    Args:
        image: a path; a PIL image of any mode (taken as it lies, its EXIF orientation is not applied); an integer array
            [H, W, C] or [C, H, W] of 0..255 with 1, 3 or 4 channels, or what NumPy can read as one (a torch tensor).
        name: what to call the image in an error message.
        convert: Hugging Face's `do_convert_rgb`; False takes only what has three channels already.

    Raises:
        InputError: anything else, with the reason and the likely fix.
    """
    from PIL import Image

    if isinstance(image, str | os.PathLike):
        image = load_image(image)
    elif not isinstance(image, Image.Image):
        if not hasattr(image, "__array__"):
            raise InputError(
                f"{name} is of type {type(image).__name__}; expected a path, a PIL image or a uint8 array [H, W, 3] "
                "(bytes or a file object: open it with PIL.Image.open)"
            )
        try:
            array = np.asarray(image)
        except Exception as error:  # a tensor on another device, for one
            raise InputError(
                f"{name} of type {type(image).__name__} cannot be read as a NumPy array: {error}"
            ) from error
        image = _array_to_pil(array, name)
    return _pil_to_rgb(image, name, convert)


def flatten_images(images: Any) -> Iterator[Any]:
    """One image, a batch array [N, ...] or a (nested) list of these -> the single images, in order."""
    if isinstance(images, list | tuple):
        for item in images:
            yield from flatten_images(item)
    elif getattr(images, "ndim", 0) == 4:
        yield from images
    else:
        yield images
