"""What preprocessor_config.json says of any image processor, of one size or of NaFlex: read, checked, applied.

Source of truth: transformers 5.x, `SiglipImageProcessorPil` and `Siglip2ImageProcessorPil`.
Leaves out: crops and padding, no SigLIP model has them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import host_of
from npsiglip.errors import CheckpointError, InputError
from npsiglip.images.decode import flatten_images
from npsiglip.images.files import Decoding
from npsiglip.json_files import ERRORS, parse, read_json

# PIL.Image.Resampling, by number as preprocessor_config.json writes it
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
BILINEAR, BICUBIC = 2, 3
_UNSUPPORTED_STEPS = ("do_center_crop", "do_pad", "input_data_format")
_SHARED = ("resample", "image_mean", "image_std", "rescale_factor")
_SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")


def _is_number(value: object) -> bool:
    """A finite number; JSON in Python also knows NaN, Infinity and whole numbers of any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_count(value: object) -> bool:
    """A positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@dataclass(frozen=True, kw_only=True)
class PixelSettings:
    """How bytes become pixels; `resample` is a number of `PIL.Image.Resampling`.

    The last two, `max_megapixels` and `sixteen_bit`, are a caller's and in no file: see
    `npsiglip.images.files.Decoding`.

    Raises:
        CheckpointError: settings of other types, and those that no pixel survives.
        InputError: a caller's setting that cannot be.
    """

    resample: int = BICUBIC
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale_factor: float = 1 / 255
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    do_convert_rgb: bool = True
    max_megapixels: float | None = None
    sixteen_bit: str = "clip"

    @property
    def decoding(self) -> Decoding:
        """How files and 16-bit values are read."""
        return Decoding(self.max_megapixels, self.sixteen_bit)

    def __post_init__(self) -> None:
        self.decoding.check()
        whole = isinstance(self.resample, int) and not isinstance(self.resample, bool)
        if not whole or self.resample not in RESAMPLING:
            known = ", ".join(f"{number} ({name})" for number, name in RESAMPLING.items())
            raise CheckpointError(f"unknown resample {self.resample!r}; expected one of {known}")
        for key in ("image_mean", "image_std"):
            value = getattr(self, key)
            if not (isinstance(value, tuple) and len(value) == 3 and all(map(_is_number, value))):
                raise CheckpointError(f"{key} must be one number for each of R, G and B; got {value!r}")
        if not _is_number(self.rescale_factor):
            raise CheckpointError(f"rescale_factor must be a number; got {self.rescale_factor!r}")
        for key in _SWITCHES:
            if not isinstance(getattr(self, key), bool):
                raise CheckpointError(f"{key} must be true or false; got {getattr(self, key)!r}")
        with np.errstate(all="ignore"):
            finite = np.isfinite(self.value_table()).all()
        if not finite:
            raise CheckpointError(
                f"image_mean {self.image_mean}, image_std {self.image_std} and rescale_factor {self.rescale_factor} "
                "give pixels that are not finite; SigLIP has 0.5, 0.5 and 1/255"
            )

    def value_table(self) -> NDArray[np.float32]:
        """float32 [3, 256]: what each value of a byte becomes in each channel.

        ((u8 * rescale_factor) - mean) / std, the product in float64, the rest in float32.
        """
        values: NDArray[Any] = np.arange(256)
        if self.do_rescale:
            values = values * np.float64(self.rescale_factor)
        table = np.tile(values.astype(np.float32), (3, 1))
        if self.do_normalize:
            mean, std = np.array([self.image_mean, self.image_std], np.float32)[:, :, None]
            table = (table - mean) / std
        return table


def named_images(images: Any, first: int | None) -> list[tuple[str, Any]]:
    """Each image with what errors call it: a number counted from `first`, or none if it is alone or `first` is None.

    Raises:
        InputError: no images.
    """
    flat = list(flatten_images(images))
    if not flat:
        raise InputError("`images` is empty; expected at least one image")
    if first is None or (first == 0 and len(flat) == 1):
        return [("the image", image) for image in flat]
    return [(f"images[{n}]", image) for n, image in enumerate(flat, first)]


PROCESSOR = "preprocessor_config.json"
FILES = ("processor_config.json", PROCESSOR)


def has_settings(folder: Path) -> bool:
    """Whether a folder says anything of its image processor."""
    return any((folder / name).exists() for name in FILES)


def read_config(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """Where the image processor's settings are, and the settings; a folder without any is given empty ones."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; expected a model folder in Hugging Face's format")
    for path in (folder / name for name in FILES):
        if not path.exists():
            continue
        try:
            config = parse(path.read_text(encoding="utf-8"))
        except (OSError, *ERRORS) as error:
            raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
        if path.name == "processor_config.json" and isinstance(config, dict):
            if "image_processor" not in config:
                continue  # transformers 4.x keeps other settings in a file of this name
            config = config["image_processor"]
        if not isinstance(config, dict):
            raise CheckpointError(f"{path} must hold a JSON object, got {type(config).__name__}")
        return str(path), config
    return str(folder), {}


def hosts_settings(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Of a larger model's folder: its image processor, if it is not SigLIP's, and what it shares with SigLIP's."""
    source, config = read_config(folder)
    kind = config.get("image_processor_type")
    if not isinstance(kind, str) or kind.startswith("Siglip") or not host_of(read_json(folder / "config.json")):
        return None
    shared = {key: config[key] for key in (*_SHARED, *_SWITCHES[1:]) if key in config}
    try:
        return kind, common_options(shared, ())
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None


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
    keys = (*_SHARED, *_SWITCHES)
    options = {key: config[key] for key in keys if config.get(key) is not None}
    for key in {"image_mean", "image_std"} & options.keys():
        value = options[key]
        options[key] = (value,) * 3 if _is_number(value) else tuple(value) if isinstance(value, list) else value
    return options
