"""Pixels as open_clip and timm make them, by what a folder says: squashed, or resized and cropped at the centre.

    open_clip    resize_mode squash: to H x W.   shortest: the shorter side to H, then the centre of H x W.
    timm         the shorter side to floor(H / crop_pct), then the centre of H x W; crop_mode squash: both sides.

open_clip resizes a picture in its own mode and makes it RGB afterwards, timm before that (`convert("RGB")`, which drops
transparency). Both divide bytes by 255 in float32.

Source: open_clip 3.3 `transform.py`, timm 1.0 `data/transforms_factory.py`, torchvision's `Resize` and `CenterCrop`.

Leaves out: borders instead of crops (resize_mode longest, crop_mode border), sizes that are not square. Files are
turned upright by their EXIF orientation, as everywhere in this project; these libraries take what PIL gives.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats.told import OPEN_CLIP, OPEN_CLIP_CONFIG, read_object
from npsiglip.images.decode import to_rgb
from npsiglip.images.files import Decoding, is_content, load_image, of_eight_bits
from npsiglip.images.processor import ImageProcessor
from npsiglip.images.settings import BICUBIC, BILINEAR, PixelSettings
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from PIL import Image

_OPENAI_MEAN, _OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DEFAULT_CROP = 0.875  # timm's
_RESAMPLE = {"bicubic": BICUBIC, "bilinear": BILINEAR}


@dataclass(frozen=True, kw_only=True)
class CropProcessor(ImageProcessor):
    """`ImageProcessor` with other steps before the bytes: `processor(images) -> float32 [N, 3, height, width]`.

    Args:
        resized: what is resized to: the shorter side, or, with `squash`, both.
        squash: whether the aspect ratio is given up.
        as_stored: resize in the picture's own mode, and make it RGB afterwards.
    """

    resized: int
    squash: bool = True
    as_stored: bool = False

    def value_table(self) -> NDArray[np.float32]:
        """float32 [3, 256]: as torchvision computes it, all in float32."""
        values = np.arange(256, dtype=np.float32) / np.float32(255)
        mean, std = np.array([self.image_mean, self.image_std], np.float32)[:, :, None]
        table: NDArray[np.float32] = (np.tile(values, (3, 1)) - mean) / std
        return table

    def _resized(self, image: Any, name: str) -> NDArray[np.uint8]:
        picture = _as_stored(image, name, self.decoding)
        if not self.as_stored:
            picture = picture.convert("RGB")
        try:
            picture = _resize(picture, self.resized, self.squash, self.resample)
        except ValueError as error:  # of modes that Pillow cannot resize
            raise InputError(
                f"{name} is of mode {picture.mode}, which Pillow does not resize ({error}): make it RGB"
            ) from None
        left, top = (round((side - self.height) / 2.0) for side in picture.size)
        if picture.size != (self.width, self.height):
            picture = picture.crop((left, top, left + self.width, top + self.height))
        return np.array(picture.convert("RGB"))


def _as_stored(image: Any, name: str, decoding: Decoding) -> Image.Image:
    """A picture in its own mode; an array is RGB."""
    with deferred():
        from PIL import Image

    if isinstance(image, str | os.PathLike) or is_content(image):
        return load_image(image, decoding, name, convert=False)
    rgb = to_rgb(image, name, decoding=decoding)  # for its checks, and its words for what cannot be decoded
    return of_eight_bits(image, name, decoding) if isinstance(image, Image.Image) else rgb


def _resize(picture: Image.Image, size: int, squash: bool, resample: int) -> Image.Image:
    width, height = picture.size
    if squash:
        width = height = size
    elif width <= height:
        width, height = size, int(size * height / width)
    else:
        width, height = int(size * width / height), size
    return picture if picture.size == (width, height) else picture.resize((width, height), resample)


def _numbers(config: Mapping[str, Any], key: str, default: tuple[float, ...], where: str) -> tuple[float, ...]:
    value = config.get(key)
    value = default if value is None else value
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    if len(numbers) != 3 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise CheckpointError(f"{where}: {key} must be one number for each of R, G and B; got {value!r:.80}")
    return tuple(map(float, numbers))


def _interpolation(value: object, where: str) -> int:
    if value == "random":  # of training; these libraries take bicubic otherwise
        return BICUBIC
    if not isinstance(value, str) or value not in _RESAMPLE:
        raise CheckpointError(f"{where}: interpolation must be bicubic or bilinear, got {value!r}")
    return _RESAMPLE[value]


def _make(config: Mapping[str, Any], size: int, where: str, defaults: Any, **options: Any) -> CropProcessor:
    mean, std = (_numbers(config, key, default, where) for key, default in zip(("mean", "std"), defaults, strict=True))
    return CropProcessor(
        height=size,
        width=size,
        image_mean=(mean[0], mean[1], mean[2]),
        image_std=(std[0], std[1], std[2]),
        resample=_interpolation(config.get("interpolation") or "bicubic", where),
        **options,
    )


def openclip_processor(folder: Path, form: str, size: int) -> CropProcessor:
    """What a folder of open_clip or timm says of its images, of `size` pixels along a side.

    Raises:
        CheckpointError: steps that are left out here, or settings that cannot be.
    """
    if form == OPEN_CLIP:
        where = str(folder / OPEN_CLIP_CONFIG)
        config = read_object(folder / OPEN_CLIP_CONFIG).get("preprocess_cfg") or {}
        mode = config.get("resize_mode") or "shortest" if isinstance(config, dict) else config
        if mode not in ("squash", "shortest") or config.get("mode", "RGB") != "RGB":
            raise CheckpointError(f"{where}: preprocess_cfg must have resize_mode squash or shortest, got {mode!r:.80}")
        defaults = _OPENAI_MEAN, _OPENAI_STD
        return _make(config, size, where, defaults, resized=size, squash=mode == "squash", as_stored=True)
    where = str(folder / "config.json")
    config = read_object(folder / "config.json").get("pretrained_cfg") or {}
    mode, crop = config.get("crop_mode") or "center", config.get("crop_pct") or _DEFAULT_CROP
    if mode not in ("center", "squash"):
        raise CheckpointError(f"{where}: crop_mode must be center or squash, got {mode!r}")
    if not isinstance(crop, int | float) or isinstance(crop, bool) or not 0 < crop <= 1:
        raise CheckpointError(f"{where}: crop_pct must be above 0 and at most 1, got {crop!r}")
    defaults = _IMAGENET_MEAN, _IMAGENET_STD
    return _make(config, size, where, defaults, resized=math.floor(size / crop), squash=mode == "squash")


def openclip_settings(processor: PixelSettings, timm: bool) -> dict[str, Any]:
    """What open_clip's `preprocess_cfg`, or timm's `pretrained_cfg`, says of an image processor.

    Raises:
        CheckpointError: a processor whose pixels these libraries cannot make.
    """
    squash, resized = getattr(processor, "squash", True), getattr(processor, "resized", None)
    size = getattr(processor, "height", None)
    crop = (size or 1) / (resized or size or 1)
    name = {number: word for word, number in _RESAMPLE.items()}.get(processor.resample)
    usual = processor.do_resize and processor.do_rescale and processor.do_normalize and processor.do_convert_rgb
    if name is None or not usual or abs(processor.rescale_factor * 255 - 1) > 1e-6 or (not timm and crop != 1):
        raise CheckpointError(
            f"the image processor ({processor}) has steps that {'timm' if timm else 'open_clip'} has no words for"
        )
    settings: dict[str, Any] = {
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "interpolation": name,
    }
    if timm:
        return settings | {"crop_pct": crop, "crop_mode": "squash" if squash else "center"}
    return settings | {"resize_mode": "squash" if squash else "shortest"}
