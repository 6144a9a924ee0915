"""Whose format a model folder is in, and what a user says of a model whose files leave something open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from npsiglip.config import GELU_ERF, GELU_TANH, SigLIPConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.json_files import ERRORS, parse

OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
HUGGING_FACE, OPEN_CLIP, TIMM = "Hugging Face", "open_clip", "timm"

_GELUS = {"tanh": GELU_TANH, "erf": GELU_ERF}


@dataclass(frozen=True)
class Told:
    """What a user says of a model whose files leave it open, or do not decide it.

    `gelu`: "tanh" or "erf", or both with a comma, of the image and of the text tower. `image_heads`: of the image
    tower.

    Raises:
        InputError: other values.
    """

    gelu: str | None = None
    image_heads: int | None = None

    def __post_init__(self) -> None:
        parts = [] if self.gelu is None else self.gelu.split(",") if isinstance(self.gelu, str) else [self.gelu]
        if len(parts) > 2 or any(part not in _GELUS for part in parts):
            raise InputError(f"gelu must be tanh, erf, or one for each tower such as 'erf,tanh'; got {self.gelu!r}")
        heads = self.image_heads
        if heads is not None and (isinstance(heads, bool) or not isinstance(heads, int) or heads < 1):
            raise InputError(f"image_heads must be a positive whole number, got {heads!r}")

    @property
    def image_gelu(self) -> str | None:
        """The activation of the image tower, if it was told."""
        return _GELUS[self.gelu.split(",")[0]] if self.gelu else None

    @property
    def text_gelu(self) -> str | None:
        """The activation of the text tower, if it was told."""
        return _GELUS[self.gelu.split(",")[-1]] if self.gelu else None

    def apply(self, config: SigLIPConfig) -> SigLIPConfig:
        """The configuration of a model whose files say everything, with the activations that were told.

        Raises:
            InputError: other heads than it has.
        """
        image, text = config.image, config.text
        if self.image_heads is not None and (image is None or image.num_heads != self.image_heads):
            has = f"{image.num_heads} heads in its image tower" if image else "no image tower"
            raise InputError(f"image_heads is {self.image_heads}, but the model has {has}: leave it out")
        if self.gelu is None:
            return config
        return replace(
            config,
            image=image and replace(image, activation=self.image_gelu or image.activation),
            text=text and replace(text, activation=self.text_gelu or text.activation),
        )


NOTHING_TOLD = Told()


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: it cannot be read, or is none.
    """
    try:
        content = parse(path.read_bytes())
    except (OSError, *ERRORS) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def folder_form(folder: Path) -> str:
    """Whose format a folder is in: `HUGGING_FACE`, `OPEN_CLIP` or `TIMM`.

    A folder with the files of two is read as Hugging Face's if its config.json is SigLIP's. A config.json that cannot
    be read is Hugging Face's as well, whose reader says why.
    """
    try:
        content = read_object(folder / "config.json")
    except CheckpointError:
        content = {}
    if (folder / OPEN_CLIP_CONFIG).exists() and not str(content.get("model_type")).startswith("siglip"):
        return OPEN_CLIP
    return TIMM if isinstance(content.get("architecture"), str) and "model_type" not in content else HUGGING_FACE
