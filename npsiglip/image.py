"""Images -> the float32 pixels [N, 3, H, W] that the image tower takes: RGB, squashed to H x W, scaled, normalised.

Source of truth: transformers 5.x, `SiglipImageProcessorPil`, bit for bit (tests/parity, golden/pixels.npz). The models
were trained on big_vision's preprocessing, which resizes otherwise; docs/divergences.md has the differences.
Leaves out: crops and padding (no SigLIP model has them), the torchvision backend's arithmetic; NaFlex of SigLIP 2 is in
`npsiglip.naflex`.
Dimensions: N images, H x W pixels of the model's input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import CheckpointError, InputError
from npsiglip.image_decode import flatten_images, load_image, to_rgb

__all__ = ["ImageProcessor", "check_pixels", "flatten_images", "load_image"]

# PIL.Image.Resampling, by number as preprocessor_config.json writes it
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_PROCESSOR_TYPES = ("SiglipImageProcessor", "SiglipImageProcessorFast", "SiglipImageProcessorPil")
_UNSUPPORTED_STEPS = ("do_center_crop", "do_pad", "input_data_format")
_SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")


def _is_number(value: object) -> bool:
    """A finite number; JSON in Python also knows NaN, Infinity and whole numbers of any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class Settings(Protocol):
    """What processors of images of one size and of any size have in common."""

    @property
    def resample(self) -> int: ...
    @property
    def image_mean(self) -> tuple[float, float, float]: ...
    @property
    def image_std(self) -> tuple[float, float, float]: ...
    @property
    def rescale_factor(self) -> float: ...
    @property
    def do_resize(self) -> bool: ...
    @property
    def do_rescale(self) -> bool: ...
    @property
    def do_normalize(self) -> bool: ...
    @property
    def do_convert_rgb(self) -> bool: ...


def value_table(settings: Settings) -> NDArray[np.float32]:
    """float32 [3, 256]: what each value of a byte becomes in each channel.

    ((u8 * rescale_factor) - mean) / std, the product in float64, the rest in float32.
    """
    values: NDArray[Any] = np.arange(256)
    if settings.do_rescale:
        values = values * np.float64(settings.rescale_factor)
    table = np.tile(values.astype(np.float32), (3, 1))
    if settings.do_normalize:
        mean, std = np.array([settings.image_mean, settings.image_std], np.float32)[:, :, None]
        table = (table - mean) / std
    return table


def check_settings(settings: Settings) -> None:
    """Refuse settings of other types, and those that no pixel survives.

    Raises:
        CheckpointError: naming the first.
    """
    if not _is_number(settings.resample) or settings.resample not in RESAMPLING:
        known = ", ".join(f"{number} ({name})" for number, name in RESAMPLING.items())
        raise CheckpointError(f"unknown resample {settings.resample!r}; expected one of {known}")
    for key in ("image_mean", "image_std"):
        value = getattr(settings, key)
        if not (isinstance(value, tuple) and len(value) == 3 and all(map(_is_number, value))):
            raise CheckpointError(f"{key} must be one number for each of R, G and B; got {value!r}")
    if not _is_number(settings.rescale_factor):
        raise CheckpointError(f"rescale_factor must be a number; got {settings.rescale_factor!r}")
    for key in _SWITCHES:
        if not isinstance(getattr(settings, key), bool):
            raise CheckpointError(f"{key} must be true or false; got {getattr(settings, key)!r}")
    with np.errstate(all="ignore"):
        finite = np.isfinite(value_table(settings)).all()
    if not finite:
        raise CheckpointError(
            f"image_mean {settings.image_mean}, image_std {settings.image_std} and rescale_factor "
            f"{settings.rescale_factor} give pixels that are not finite; SigLIP has 0.5, 0.5 and 1/255"
        )


@dataclass(frozen=True)
class ImageProcessor:
    """What preprocessor_config.json says, as a function: `processor(images) -> float32 [N, 3, height, width]`.

    `resample` is a number of `PIL.Image.Resampling` (3 is bicubic, SigLIP's; 2 bilinear, SigLIP 2's).
    """

    height: int
    width: int
    resample: int = 3
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale_factor: float = 1 / 255
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    do_convert_rgb: bool = True

    def __post_init__(self) -> None:
        if not (_is_side(self.height) and _is_side(self.width)):
            raise CheckpointError(f"image size {self.height} x {self.width}: expected positive whole numbers of pixels")
        check_settings(self)

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
        rgb = to_rgb(image, name, self.do_convert_rgb)
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
            images: one of, or a list of: a path (turned upright by its EXIF orientation, alpha dropped); a PIL image of
                any mode (orientation as it lies, transparency on white); an integer array of 0..255, [H, W, C] or
                [C, H, W] with 1, 3 or 4 channels (4 are RGBA, on white), or [N, ...] of these.

            first: the number that errors give the first image; None for no numbers.

        Raises:
            InputError: naming the path or the index of what cannot be used, and why.
        """
        flat = list(flatten_images(images))
        if not flat:
            raise InputError("`images` is empty; expected at least one image")
        table = value_table(self)
        out = np.empty((len(flat), 3, self.height, self.width), np.float32)
        alone = first is None or (first == 0 and len(flat) == 1)
        for n, image in enumerate(flat):
            resized = self._resized(image, "the image" if alone else f"images[{(first or 0) + n}]")
            for channel in range(3):
                np.take(table[channel], resized[:, :, channel], out=out[n, channel], mode="clip")
        return out


def read_config(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """Where the image processor's settings are, and the settings; a folder without any is given empty ones."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; expected a model folder in Hugging Face's format")
    for path in (folder / "processor_config.json", folder / "preprocessor_config.json"):
        if not path.exists():
            continue
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
        if path.name == "processor_config.json" and isinstance(config, dict):
            if "image_processor" not in config:
                continue  # transformers 4.x keeps other settings in a file of this name
            config = config["image_processor"]
        if not isinstance(config, dict):
            raise CheckpointError(f"{path} must hold a JSON object, got {type(config).__name__}")
        return str(path), config
    return str(folder), {}


def common_options(config: Mapping[str, Any], types: tuple[str, ...]) -> dict[str, Any]:
    """Settings of Hugging Face -> arguments of a processor; null and absent both stand for the default.

    Raises:
        CheckpointError: a processor of none of these types, or a step that SigLIP has not.
    """
    kind = config.get("image_processor_type")
    if kind is not None and kind not in types:
        raise CheckpointError(f"image_processor_type {kind!r}: expected {types[0]!r}, another family's pixels")
    for key in _UNSUPPORTED_STEPS:
        if config.get(key):
            raise CheckpointError(
                f"{key} is {config[key]!r}: SigLIP squashes the whole image and has no such step, is this the "
                "processor of another family, such as CLIP?"
            )
    keys = ("resample", "image_mean", "image_std", "rescale_factor", *_SWITCHES)
    options = {key: config[key] for key in keys if config.get(key) is not None}
    for key in {"image_mean", "image_std"} & options.keys():
        value = options[key]
        options[key] = (value,) * 3 if _is_number(value) else tuple(value) if isinstance(value, list) else value
    return options


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
