"""Shapes of a SigLIP model, and the shapes that were released.

Source: section 3 and table 1 of arXiv:2303.15343 and big_vision's `models/vit.py` for the variants' widths and
depths; Hugging Face's `configuration_siglip.py` for the keys and defaults of config.json, from which released
files leave out whatever equals the default.

Leaves out: SigLIP 2 NaFlex (another model type), image towers without MAP head, dropout (training only).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npsiglip.errors import CheckpointError

LAYER_NORM_EPS = 1e-6


@dataclass(frozen=True)
class ImageConfig:
    """The image tower: a ViT without class token, pooled by attention (MAP).

    `image_size` and `patch_size` in pixels; what the patch does not divide is cropped at the right and bottom.
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    image_size: int
    patch_size: int
    layer_norm_eps: float = LAYER_NORM_EPS

    @property
    def grid_size(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def seq_len(self) -> int:
        """L, the number of patches and so of tokens."""
        return self.grid_size**2


@dataclass(frozen=True)
class TextConfig:
    """The text tower: a transformer without mask, whose last position is the pooled output."""

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    seq_len: int
    vocab_size: int
    projection_dim: int
    layer_norm_eps: float = LAYER_NORM_EPS


@dataclass(frozen=True)
class SigLIPConfig:
    """Both towers, or one of them alone (None for the other), as stand-alone checkpoints have it.

    The text projection must end in the width of the image tower, where the two embeddings meet.
    """

    image: ImageConfig | None
    text: TextConfig | None

    def __post_init__(self) -> None:
        if not self.image and not self.text:
            raise CheckpointError("a model needs at least one tower, image or text")
        for name, tower in (("image", self.image), ("text", self.text)):
            if tower is None:
                continue
            sizes = {k: v for k, v in vars(tower).items() if k != "layer_norm_eps"}
            bad = {k: v for k, v in sizes.items() if not isinstance(v, int) or isinstance(v, bool) or v < 1}
            if bad:
                raise CheckpointError(f"the {name} tower's sizes must be positive whole numbers; got {bad}")
            if not isinstance(tower.layer_norm_eps, float) or not 0 < tower.layer_norm_eps < 1:
                raise CheckpointError(
                    f"the {name} tower's layer_norm_eps must be a small positive number, SigLIP's is 1e-6; "
                    f"got {tower.layer_norm_eps!r}"
                )
            if tower.width % tower.num_heads:
                raise CheckpointError(
                    f"the {name} tower's width {tower.width} is not a multiple of its {tower.num_heads} heads"
                )
        if self.image and self.image.patch_size > self.image.image_size:
            raise CheckpointError(
                f"patch_size {self.image.patch_size} is larger than image_size {self.image.image_size}"
            )
        if self.image and self.text and self.text.projection_dim != self.image.width:
            raise CheckpointError(
                f"the text projection ends in {self.text.projection_dim} dimensions but the image tower in "
                f"{self.image.width}: their embeddings cannot be compared (see `projection_size` in config.json)"
            )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], source: str = "config.json") -> SigLIPConfig:
        """Read the content of a Hugging Face config.json.

        Raises:
            CheckpointError: for another model family or an option that this implementation does not compute.
        """
        kind = config.get("model_type")
        if kind == "siglip":
            image, text = (_hf_section(config.get(f"{t}_config"), f"{source}: {t}_config") for t in ("vision", "text"))
            return cls(_image_from_hf(image, source), _text_from_hf(text))
        if kind == "siglip_vision_model":
            return cls(_image_from_hf(_hf_section(config, source), source), None)
        if kind == "siglip_text_model":
            return cls(None, _text_from_hf(_hf_section(config, source)))
        reason = (
            "SigLIP 2 NaFlex checkpoints are not supported yet, fixed-resolution ones are"
            if kind == "siglip2"
            else "this is another model family"
        )
        raise CheckpointError(f"{source}: expected model_type 'siglip', got {kind!r}: {reason}")

    @classmethod
    def from_folder(cls, folder: str | Path) -> SigLIPConfig:
        """Read `folder`/config.json."""
        path = Path(folder) / "config.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} does not exist; a model folder in Hugging Face's format has config.json, "
                "model.safetensors and spiece.model"
            ) from None
        except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number or nesting too long
            raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} must hold a JSON object, got {type(content).__name__}")
        return cls.from_hf(content, str(path))

    def to_hf(self) -> dict[str, Any]:
        """The content of a config.json that Hugging Face's SigLIP classes read back as this model."""
        text = self.text and {
            "model_type": "siglip_text_model",
            **_to_hf_tower(self.text),
            "max_position_embeddings": self.text.seq_len,
            "vocab_size": self.text.vocab_size,
            "projection_size": self.text.projection_dim,
        }
        image = self.image and {
            "model_type": "siglip_vision_model",
            **_to_hf_tower(self.image),
            "image_size": self.image.image_size,
            "patch_size": self.image.patch_size,
            "num_channels": 3,
        }
        if text and image:
            both = {"architectures": ["SiglipModel"], "model_type": "siglip", "initializer_factor": 1.0}
            return both | {"text_config": text, "vision_config": image}
        return text or image or {}


def _hf_section(section: Any, source: str) -> dict[str, Any]:
    section = {} if section is None else section
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{source} must be an object, got {section!r}")
    activation = section.get("hidden_act", "gelu_pytorch_tanh")
    if activation != "gelu_pytorch_tanh":
        raise CheckpointError(
            f"{source}: hidden_act must be 'gelu_pytorch_tanh', SigLIP's activation; got {activation!r}"
        )
    return dict(section)


def _image_from_hf(section: Mapping[str, Any], source: str) -> ImageConfig:
    if section.get("vision_use_head", True) is not True:
        raise CheckpointError(f"{source}: image towers without a head (vision_use_head=false) are not supported")
    if section.get("num_channels", 3) != 3:
        raise CheckpointError(f"{source}: num_channels must be 3, got {section['num_channels']}")
    return ImageConfig(
        **_hf_tower(section),
        image_size=_square(section.get("image_size", 224), "image_size", source),
        patch_size=_square(section.get("patch_size", 16), "patch_size", source),
    )


def _text_from_hf(section: Mapping[str, Any]) -> TextConfig:
    return TextConfig(
        **_hf_tower(section),
        seq_len=section.get("max_position_embeddings", 64),
        vocab_size=section.get("vocab_size", 32000),
        projection_dim=section.get("projection_size") or section.get("hidden_size", 768),
    )


def _hf_tower(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "width": section.get("hidden_size", 768),
        "depth": section.get("num_hidden_layers", 12),
        "num_heads": section.get("num_attention_heads", 12),
        "mlp_dim": section.get("intermediate_size", 3072),
        "layer_norm_eps": section.get("layer_norm_eps", LAYER_NORM_EPS),
    }


def _to_hf_tower(tower: ImageConfig | TextConfig) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.num_heads,
        "intermediate_size": tower.mlp_dim,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": tower.layer_norm_eps,
        "attention_dropout": 0.0,
    }


def _square(value: Any, name: str, source: str) -> int:
    """config.json may give a side as a number or as [height, width]; SigLIP's are square."""
    sides = value if isinstance(value, list) else [value]
    if not sides or any(not isinstance(side, int) or side != sides[0] for side in sides):
        raise CheckpointError(f"{source}: {name} must be one number (SigLIP's images are square), got {value!r}")
    return int(sides[0])


# Widths and depths of section 3 of the paper ("B", "L", "So400m"); So400m is the shape-optimised ViT of
# arXiv:2305.13035, with heads of 72. The text tower has the shape of the image tower.
SHAPES: dict[str, dict[str, int]] = {
    "B": {"width": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072},
    "L": {"width": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096},
    "So400m": {"width": 1152, "depth": 27, "num_heads": 16, "mlp_dim": 4304},
}

# name -> shape, patch_size, image_size, text seq_len, vocab_size; the released SigLIP checkpoints
VARIANTS: dict[str, tuple[str, int, int, int, int]] = {
    "siglip-base-patch16-224": ("B", 16, 224, 64, 32_000),
    "siglip-base-patch16-256": ("B", 16, 256, 64, 32_000),
    "siglip-base-patch16-384": ("B", 16, 384, 64, 32_000),
    "siglip-base-patch16-512": ("B", 16, 512, 64, 32_000),
    "siglip-base-patch16-256-multilingual": ("B", 16, 256, 64, 250_000),
    "siglip-large-patch16-256": ("L", 16, 256, 64, 32_000),
    "siglip-large-patch16-384": ("L", 16, 384, 64, 32_000),
    "siglip-so400m-patch14-224": ("So400m", 14, 224, 16, 32_000),
    "siglip-so400m-patch14-384": ("So400m", 14, 384, 64, 32_000),
    "siglip-so400m-patch16-256-i18n": ("So400m", 16, 256, 64, 250_000),
}


def variant(name: str) -> SigLIPConfig:
    """The configuration of a released checkpoint, e.g. `variant("siglip-base-patch16-224")`."""
    if name not in VARIANTS:
        raise CheckpointError(f"unknown variant {name!r}; known are: {', '.join(VARIANTS)}")
    shape, patch_size, image_size, seq_len, vocab_size = VARIANTS[name]
    dims = SHAPES[shape]
    return SigLIPConfig(
        image=ImageConfig(**dims, image_size=image_size, patch_size=patch_size),
        text=TextConfig(**dims, seq_len=seq_len, vocab_size=vocab_size, projection_dim=dims["width"]),
    )
