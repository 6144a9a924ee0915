"""NaFlex of SigLIP 2: images that keep their aspect ratio -> patches, of which each image has at most so many.

An image is resized to whole patches, as many as fit into `max_num_patches` at its own aspect ratio; what is left of
that number is filled with zeros and masked.

Source of truth: transformers 5.x, `Siglip2ImageProcessorPil`, bit for bit (tests/parity); NaFlex: arXiv:2502.14786.
Leaves out: the torchvision backend's arithmetic.
Dimensions: N images, M patches of the largest, P x P pixels of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.describe import describe_fields
from npsiglip.errors import CheckpointError, InputError
from npsiglip.images.decode import to_rgb
from npsiglip.images.settings import BILINEAR, PixelSettings, common_options, is_count, named_images, read_config

_PROCESSOR_TYPES = ("Siglip2ImageProcessor", "Siglip2ImageProcessorFast", "Siglip2ImageProcessorPil")
_KEYS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
_SMALLEST, _LARGEST, _APART = 1e-6, 100.0, 1e-5  # of the scale that is searched for


@dataclass(frozen=True, repr=False)
class PatchBatch:
    """Images as patches; the same arrays have other names in Hugging Face."""

    patches: NDArray[np.float32]
    """[N, M, P * P * 3], each ordered (row, column, channel); zeros where there is none. `pixel_values`."""
    mask: NDArray[np.bool_]
    """[N, M], whether there is a patch. `pixel_attention_mask`."""
    shapes: NDArray[np.int64]
    """[N, 2], rows and columns of each image's grid of patches. `spatial_shapes`."""

    __repr__ = describe_fields


def naflex_size(height: int, width: int, patch_size: int, max_num_patches: int) -> tuple[int, int]:
    """The height and width in pixels that an image is resized to.

    By bisection for the largest scale at which the patches that cover the scaled image are no more than
    `max_num_patches`. Sides are rounded up to whole patches, so the aspect ratio changes a little.

    Raises:
        InputError: numbers that are not positive.
    """
    if min(height, width, patch_size, max_num_patches) < 1:
        raise InputError(
            "sizes must be positive whole numbers, got "
            f"height {height}, width {width}, patch_size {patch_size}, max_num_patches {max_num_patches}"
        )

    def patches(scale: float, side: int) -> int:
        return max(1, math.ceil(side * scale / patch_size))

    low, high = _SMALLEST, _LARGEST
    while high - low >= _APART:
        middle = (low + high) / 2
        if patches(middle, height) * patches(middle, width) <= max_num_patches:
            low = middle
        else:
            high = middle
    return patches(low, height) * patch_size, patches(low, width) * patch_size


@dataclass(frozen=True)
class NaflexProcessor(PixelSettings):
    """What preprocessor_config.json says, as a function: `processor(images) -> PatchBatch`.

    The other settings are `npsiglip.images.settings.PixelSettings`.
    """

    patch_size: int = 16
    max_num_patches: int = 256
    resample: int = field(default=BILINEAR, kw_only=True)

    def __post_init__(self) -> None:
        for key in ("patch_size", "max_num_patches"):
            if not is_count(getattr(self, key)):
                raise CheckpointError(f"{key} must be a positive whole number; got {getattr(self, key)!r}")
        super().__post_init__()

    @classmethod
    def from_folder(cls, folder: str | Path, patch_size: int) -> NaflexProcessor:
        """Read a model folder's preprocessor_config.json; what it leaves out is SigLIP 2's.

        Raises:
            CheckpointError: a malformed file, another family's processor, another patch than the model's.
        """
        source, config = read_config(Path(folder))
        try:
            stored = config.get("patch_size")
            if stored not in (None, patch_size):
                raise CheckpointError(f"patch_size is {stored!r}, but the model's config.json says {patch_size}")
            options = common_options(config, _PROCESSOR_TYPES)
            if config.get("max_num_patches") is not None:
                options["max_num_patches"] = config["max_num_patches"]
            return cls(patch_size=patch_size, **options)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from None

    def _resized(self, image: Any, name: str, most: int) -> NDArray[np.uint8]:
        rgb = to_rgb(image, name, self.do_convert_rgb, self.decoding)
        size = self.patch_size
        if self.do_resize:
            height, width = naflex_size(rgb.height, rgb.width, size, most)
            return np.array(rgb.resize((width, height), resample=self.resample))
        whole = rgb.height % size == 0 and rgb.width % size == 0
        if not (whole and 1 <= (rgb.height // size) * (rgb.width // size) <= most):
            raise InputError(
                f"{name} is {rgb.height} x {rgb.width} (height x width), expected whole patches of {size} x {size}, at "
                f"most {most}: the model's preprocessor_config.json switches resizing off (do_resize), so resize it "
                "first"
            )
        return np.array(rgb)

    def __call__(self, images: Any, max_num_patches: int | None = None, first: int | None = 0) -> PatchBatch:
        """Images -> patches; each image's bits do not depend on the others.

        Args:
            images: as for `npsiglip.ImageProcessor`.
            max_num_patches: of each image, M; None: the processor's.
            first: the number that errors give the first image; None for no numbers.

        Raises:
            InputError: naming the path or the index of what cannot be used, and why.
        """
        most = self.max_num_patches if max_num_patches is None else max_num_patches
        if not is_count(most):
            raise InputError(f"max_num_patches must be a positive whole number, got {most!r}")
        named, table, size = named_images(images, first), self.value_table(), self.patch_size
        patches = np.zeros((len(named), most, 3 * size**2), np.float32)
        shapes = np.empty((len(named), 2), np.int64)
        for n, (name, image) in enumerate(named):
            resized = self._resized(image, name, most)
            rows, columns = shapes[n] = resized.shape[0] // size, resized.shape[1] // size
            cut = resized.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(rows * columns, -1, 3)
            values = patches[n, : rows * columns].reshape(*cut.shape)
            for channel in range(3):
                values[:, :, channel] = table[channel][cut[:, :, channel]]
        return PatchBatch(patches, np.arange(most) < shapes.prod(axis=1)[:, None], shapes)


def check_patches(batch: PatchBatch | Mapping[str, Any], patch_size: int) -> PatchBatch:
    """Patches that another processor made, as a `PatchBatch`.

    Args:
        batch: a `PatchBatch`, or a mapping with Hugging Face's keys `pixel_values` float32 [N, M, P * P * 3],
            `pixel_attention_mask` [N, M] and `spatial_shapes` [N, 2].
        patch_size: the model's P.

    Raises:
        InputError: keys, types, shapes or values that do not fit the model or each other.
    """
    if isinstance(batch, PatchBatch):
        batch = dict(zip(_KEYS, (batch.patches, batch.mask, batch.shapes), strict=True))
    missing = [key for key in _KEYS if key not in batch]
    if missing:
        raise InputError(f"patches need {', '.join(_KEYS)}, as Hugging Face's processor names them; missing: {missing}")
    patches, mask, shapes = (np.asarray(batch[key]) for key in _KEYS)
    width = 3 * patch_size**2
    if patches.dtype != np.float32 or patches.ndim != 3 or patches.shape[2] != width or not patches.size:
        raise InputError(
            f"pixel_values must be float32 [N, M, {width}] (patches of {patch_size} x {patch_size}), got "
            f"{patches.dtype} {list(patches.shape)}"
        )
    if mask.shape != patches.shape[:2]:
        raise InputError(f"pixel_attention_mask must be {list(patches.shape[:2])}, got {list(mask.shape)}")
    if shapes.shape != (len(patches), 2) or shapes.dtype.kind not in "iu":
        raise InputError(
            f"spatial_shapes must be whole numbers [{len(patches)}, 2], rows and columns of patches, got "
            f"{shapes.dtype} {list(shapes.shape)}"
        )
    shapes = shapes.astype(np.int64)
    counts = shapes.prod(axis=1)
    wrong = (shapes < 1).any(axis=1) | (counts > patches.shape[1])
    if wrong.any():
        i = int(np.argmax(wrong))
        raise InputError(
            f"spatial_shapes[{i}] is {shapes[i].tolist()}, expected rows and columns of at least 1, and no more than "
            f"{patches.shape[1]} patches together"
        )
    expected = np.arange(patches.shape[1]) < counts[:, None]
    if (mask != expected).any():
        i = int(np.argmax((mask != expected).any(axis=1)))
        raise InputError(
            f"pixel_attention_mask[{i}] must be 1 for the first {counts[i]} patches ({shapes[i][0]} x {shapes[i][1]}, "
            "by spatial_shapes) and 0 for the others"
        )
    finite = np.isfinite(patches).all(axis=(1, 2))
    if not finite.all():
        raise InputError(f"pixel_values[{int(np.argmin(finite))}] must be finite, got NaN or infinity in it")
    return PatchBatch(patches, expected, shapes)
