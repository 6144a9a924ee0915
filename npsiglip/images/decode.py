"""Any picture that a caller hands in -> an 8-bit RGB Pillow image, with the rules of the Hugging Face processors.

Source of truth: transformers 5.x, `SiglipImageProcessorPil` (`image_utils`, `image_transforms`), checked bit for bit
in tests/parity. docs/divergences.md tells where this page refuses what Hugging Face reads.
Leaves out: float arrays. Files are read in files.py; resizing and normalising are in processor.py.
Dimensions: H and W of the picture, C its channels. Pillow is imported at the first use: `import npsiglip` stays cheap.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError, InputWarning
from npsiglip.images.files import (
    DEFAULT,
    Decoding,
    as_rgb,
    is_content,
    load_image,
    of_eight_bits,
    refuse_content,
    scaled_16_bit,
)
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from PIL import Image

_CHANNEL_COUNTS = (1, 3, 4)


def _as_uint8(array: NDArray[Any], name: str, decoding: Decoding) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    sixteen_bit = array.dtype.kind in "ui" and array.dtype.itemsize == 2
    if sixteen_bit and array.dtype.kind == "u" and decoding.sixteen_bit == "scale":
        return scaled_16_bit(array)
    if sixteen_bit:  # by the type: a dark picture of 16 bits fits into 0..255
        raise InputError(
            f'{name} is an array of {array.dtype}, expected uint8: if it holds 0..65535, set sixteen_bit="scale" '
            "(of uint16), or pass `(array // 257).astype('uint8')`; if 0..255, `.astype('uint8')`"
        )
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
            InputWarning,
            stacklevel=2,
        )
    return np.moveaxis(array, 0, -1) if first else array


def _array_to_pil(array: NDArray[Any], name: str, decoding: Decoding) -> Image.Image:
    """[H, W, C] or [C, H, W] -> mode L, RGB or RGBA, as C says.

    Hugging Face blends arrays in float64 where it has Pillow blend images; both give the same byte for each of the
    65,536 pairs of a value and an alpha, so that Pillow does it here for either.
    """
    with deferred():
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
    pixels = _channels_last(_as_uint8(array, name, decoding), name)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def _pil_to_rgb(image: Image.Image, name: str, convert: bool, decoding: Decoding) -> Image.Image:
    """Any mode -> RGB, transparency of any kind on white; `convert=False` takes three bands as if they were RGB."""
    with deferred():
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
        image.load()  # a lazily opened file is decoded here
        return as_rgb(of_eight_bits(image, name, decoding))
    except InputWarning:
        raise
    except Exception as error:
        refuse_content(f"{name} (a PIL image of mode {image.mode})", error)


def to_rgb(image: Any, name: str, convert: bool = True, decoding: Decoding = DEFAULT) -> Image.Image:
    """One image -> a Pillow image of mode RGB.

    Args:
        image: a path, or a file's content as bytes or as a file that is open; a PIL image of any mode (taken as it
            lies, its EXIF orientation is not applied); an integer array [H, W, C] or [C, H, W] of 0..255 with 1, 3 or
            4 channels, or what NumPy can read as one (a torch tensor).
        name: what to call the image in an error message.
        convert: Hugging Face's `do_convert_rgb`; False takes only what has three channels already.
        decoding: which files are too large, and what becomes of 16 bits.

    Raises:
        InputError: anything else, with the reason and the likely fix.
    """
    with deferred():
        from PIL import Image

    if isinstance(image, str | os.PathLike) or is_content(image):
        image = load_image(image, decoding, name)
    elif not isinstance(image, Image.Image):
        if not hasattr(image, "__array__"):
            raise InputError(
                f"{name} is of type {type(image).__name__}; expected a path, a PIL image, a uint8 array [H, W, 3], "
                "bytes of an image file, or a file object"
            )
        try:
            array = np.asarray(image)
        except Exception as error:  # a tensor on another device, for one
            raise InputError(
                f"{name} of type {type(image).__name__} cannot be read as a NumPy array: {error}"
            ) from error
        image = _array_to_pil(array, name, decoding)
    return _pil_to_rgb(image, name, convert, decoding)


def _are_several(images: Any) -> bool:
    """A list, a tuple, a generator or the like, and not one image that can be iterated over."""
    if isinstance(images, str | Mapping | Set) or is_content(images) or hasattr(images, "__array__"):
        return False
    return isinstance(images, Iterable)


def flatten_images(images: Any) -> Iterator[Any]:
    """One image, a batch array [N, ...], or a (nested) list or generator of these -> the single images, in order."""
    if getattr(images, "ndim", 0) == 4:
        yield from images
    elif _are_several(images):
        for item in images:
            yield from flatten_images(item)
    else:
        yield images
