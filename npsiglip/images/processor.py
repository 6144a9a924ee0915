"""Images -> the float32 pixels [N, 3, H, W] that the image tower takes: RGB, squashed to H x W, scaled, normalised.

Source of truth: transformers 5.x, `SiglipImageProcessorPil`, bit for bit (tests/parity, golden/pixels.npz). The models
were trained on big_vision's preprocessing, which resizes otherwise; docs/divergences.md has the differences.
Leaves out: the torchvision backend's arithmetic; NaFlex of SigLIP 2 is in `npsiglip.images.naflex`.
Dimensions: N images, H x W pixels of the model's input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import CheckpointError, InputError
from npsiglip.images.decode import flatten_images, to_rgb
from npsiglip.images.files import load_image
from npsiglip.images.settings import PixelSettings, common_options, is_count, named_images, read_config

__all__ = ["ImageProcessor", "check_pixels", "flatten_images", "load_image"]

_PROCESSOR_TYPES = ("SiglipImageProcessor", "SiglipImageProcessorFast", "SiglipImageProcessorPil")


@dataclass(frozen=True)
class ImageProcessor(PixelSettings):
    """What preprocessor_config.json says, as a function: `processor(images) -> float32 [N, 3, height, width]`.

    Settings beside the size are `npsiglip.images.settings.PixelSettings`: 3 of `resample` is bicubic, SigLIP's; 2
    bilinear, SigLIP 2's.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if not (is_count(self.height) and is_count(self.width)):
            raise CheckpointError(f"image size {self.height} x {self.width}: expected positive whole numbers of pixels")
        super().__post_init__()

    @classmethod
    def from_folder(cls, folder: str | Path, image_size: int) -> ImageProcessor:
        """Read a model folder's preprocessor_config.json, as transformers 5.x does; what it leaves out is SigLIP's.

        A processor_config.json with an `image_processor` entry, where transformers 5.x saves it, goes first. A folder
        with neither file gets bicubic, mean and std 0.5, at `image_size` (the side that the model's config.json tells).

        Raises:
            CheckpointError: a malformed file, another family's processor, a size other than the model's.
        """
        source, config = read_config(Path(folder))
        try:
            _check_size(config, image_size)
            return cls(height=image_size, width=image_size, **common_options(config, _PROCESSOR_TYPES))
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from None

    def _resized(self, image: Any, name: str) -> NDArray[np.uint8]:
        rgb = to_rgb(image, name, self.do_convert_rgb, self.decoding)
        if self.do_resize:
            rgb = rgb.resize((self.width, self.height), resample=self.resample)
        elif rgb.size != (self.width, self.height):
            raise InputError(
                f"{name} is {rgb.height} x {rgb.width} (height x width), expected {self.height} x {self.width}: the "
                "model's preprocessor_config.json switches resizing off (do_resize), so resize it first"
            )
        return np.array(rgb)

    def resize(self, image: Any) -> NDArray[np.uint8]:
        """One image -> uint8 [height, width, 3], with its aspect ratio squashed: the last step in whole numbers.

        Raises:
            InputError: an image that cannot be used, see `__call__`.
        """
        return self._resized(image, "the image")

    def __call__(self, images: Any, first: int | None = 0) -> NDArray[np.float32]:
        """Images -> float32 [N, 3, height, width], C-contiguous; each image's bits do not depend on the others.

        Args:
            images: one of, or a list or generator of: a path, or a file's content as bytes or as an open file (turned
                upright by its EXIF orientation, alpha dropped); a PIL image of any mode (orientation as it lies,
                transparency on white); an integer array of 0..255, [H, W, C] or [C, H, W] with 1, 3 or 4 channels (4
                are RGBA, on white), or [N, ...] of these.
            first: the number that errors give the first image; None for no numbers.

        Raises:
            InputError: naming the path or the index of what cannot be used, and why.
        """
        named, table = named_images(images, first), self.value_table()
        out = np.empty((len(named), 3, self.height, self.width), np.float32)
        for n, (name, image) in enumerate(named):
            resized = self._resized(image, name)
            for channel in range(3):
                np.take(table[channel], resized[:, :, channel], out=out[n, channel], mode="clip")
        return out


def _check_size(config: Mapping[str, Any], image_size: int) -> None:
    size = config.get("size")
    if size is not None and size != {"height": image_size, "width": image_size}:
        raise CheckpointError(
            f"size is {json.dumps(size)}, but the model's config.json says image_size {image_size}; expected "
            f"{json.dumps({'height': image_size, 'width': image_size})}"
        )


def check_pixels(pixels: NDArray[Any], image_size: int | tuple[int, int]) -> NDArray[np.float32]:
    """Pixels that are resized and normalised already: float32 [N, 3, H, W], finite -> the same, C-contiguous.

    Args:
        pixels: what `ImageProcessor` or any other preprocessing made.
        image_size: the model's H and W, or the one number that is both.

    Raises:
        InputError: another dtype or shape, no image, NaN or infinity (with the index of the first).
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    expected = f"`pixels` must be float32 [N, 3, {height}, {width}] for this model"
    shape = list(pixels.shape)
    if pixels.ndim != 4 or shape[1:] != [3, height, width]:
        hint = ""
        if shape[-3:] == [height, width, 3]:
            hint = (
                ": looks channels-last, try `.transpose(0, 3, 1, 2)`"
                if pixels.ndim == 4
                else (": looks like one image, channels last, try `.transpose(2, 0, 1)[None]`")
            )
        elif shape == [3, height, width]:
            hint = ": looks like one image, try `[None]`"
        elif pixels.ndim == 4 and shape[1] == 3:
            hint = ": another size, resize with the model's ImageProcessor"
        raise InputError(f"{expected}; got {shape}{hint}")
    if pixels.dtype != np.float32:
        fix = (
            "try `.astype(np.float32)`"
            if np.issubdtype(pixels.dtype, np.floating)
            else "raw images go through the model's ImageProcessor"
        )
        raise InputError(f"{expected}; got {pixels.dtype}: {fix}")
    if not len(pixels):
        raise InputError(f"{expected}; got {shape}: no image in it")
    finite = np.isfinite(pixels)
    if not finite.all():
        index = tuple(int(i) for i in np.unravel_index(np.argmin(finite), pixels.shape))
        raise InputError(
            f"{expected}, all finite; got {pixels[index]} at index {list(index)}, one of {np.sum(~finite)}: "
            "look for a division by zero in the preprocessing"
        )
    return np.ascontiguousarray(pixels)
