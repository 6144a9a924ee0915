"""Shapes of a SigLIP or SigLIP 2 model, and how Hugging Face's config.json tells them.

Source: Hugging Face's `configuration_siglip.py` and `configuration_siglip2.py` for the keys and defaults of
config.json, from which released files leave out whatever equals the default.

Leaves out: dropout (training only), regression on images (a classifier of one class).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from npsiglip.errors import CheckpointError
from npsiglip.json_files import ERRORS, parse

LAYER_NORM_EPS = 1e-6
GELU_TANH, GELU_ERF = "gelu_tanh", "gelu_erf"  # SigLIP's, and the exact one, which open_clip computes in many models
_HF_GELU = {"gelu_pytorch_tanh": GELU_TANH, "gelu": GELU_ERF}
GEMMA_VOCABULARY = 256_000
_DEEPEST, _LARGEST = 1000, 2**31  # larger ones are damage, and would take for ever
FAMILIES = ("siglip", "siglip2")  # the first is also the type of SigLIP 2's models of one size
_IMAGE_TOWERS, _TEXT_TOWERS = ([f"{family}_{tower}_model" for family in FAMILIES] for tower in ("vision", "text"))


_NO_SIZES = ("layer_norm_eps", "head", "naflex", "activation", "mean")


@dataclass(frozen=True)
class ImageConfig:
    """The image tower: a ViT without class token, pooled by attention (MAP).

    `image_size` and `patch_size` in pixels; what the patch does not divide is cropped at the right and bottom.
    Without `head` the tower ends with its tokens. With `naflex` (SigLIP 2) images keep their aspect ratio, each has a
    grid of its own, and `image_size` is that of the grid whose positions are stored, to be interpolated.
    `activation` is that of all MLPs, the head's as well. With `mean` and no head, the mean of the tokens is the
    embedding (timm's "gap" models).
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    image_size: int
    patch_size: int
    layer_norm_eps: float = LAYER_NORM_EPS
    head: bool = True
    naflex: bool = False
    activation: str = GELU_TANH
    mean: bool = False

    @property
    def grid_size(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def seq_len(self) -> int:
        """L, the number of patches and so of tokens; with NaFlex, of the positions that are stored."""
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
    activation: str = GELU_TANH

    @property
    def is_siglip2(self) -> bool:
        """Whether texts are SigLIP 2's, with Gemma's vocabulary."""
        return self.vocab_size == GEMMA_VOCABULARY


@dataclass(frozen=True)
class ClassifierConfig:
    """A linear layer on the mean of an image's tokens, as Hugging Face's `SiglipForImageClassification` has it.

    `labels` are the names of the classes. With `multi_label` every class is a question of its own (sigmoid), otherwise
    one of them is right (softmax). `pooled`: on the MAP head's vector instead of the mean, as timm's classifiers are.
    """

    labels: tuple[str, ...]
    multi_label: bool = False
    pooled: bool = False


@dataclass(frozen=True)
class SigLIPConfig:
    """Both towers, or one of them alone (None for the other), as stand-alone checkpoints have it.

    The text projection must end in the width of the image tower, where the two embeddings meet. A classifier stands on
    an image tower alone.
    """

    image: ImageConfig | None
    text: TextConfig | None
    classifier: ClassifierConfig | None = None

    def __post_init__(self) -> None:
        if not self.image and not self.text:
            raise CheckpointError("a model needs at least one tower, image or text")
        if self.classifier and (not self.image or self.text):
            raise CheckpointError("a classifier needs an image tower, and no text tower beside it")
        if self.classifier and self.classifier.pooled and self.image and not self.image.head:
            raise CheckpointError("a classifier on the MAP head's vector needs an image tower with head")
        if self.classifier and len(self.classifier.labels) < 2:
            raise CheckpointError(
                f"a classifier needs at least two classes, got {len(self.classifier.labels)}: regression on images is "
                "not supported"
            )
        if self.image and self.image.mean and self.image.head:
            raise CheckpointError("an image tower has a head or the mean of its tokens (mean), not both")
        if self.image and self.text and not self.image.head:
            raise CheckpointError(
                "an image tower without head (vision_use_head=false) has no embedding to compare with texts: expected "
                "it alone, as model_type 'siglip_vision_model'"
            )
        for name, tower in (("image", self.image), ("text", self.text)):
            if tower is None:
                continue
            sizes = {k: v for k, v in vars(tower).items() if k not in _NO_SIZES}
            bad = {k: v for k, v in sizes.items() if not isinstance(v, int) or isinstance(v, bool) or v < 1}
            large = {k: v for k, v in sizes.items() if k not in bad and v > (_DEEPEST if k == "depth" else _LARGEST)}
            if large:
                raise CheckpointError(f"the {name} tower's sizes are beyond any model's: {large}")
            if bad:
                raise CheckpointError(f"the {name} tower's sizes must be positive whole numbers; got {bad}")
            if not isinstance(tower.layer_norm_eps, float) or not 0 < tower.layer_norm_eps < 1:
                raise CheckpointError(
                    f"the {name} tower's layer_norm_eps must be a small positive number, SigLIP's is 1e-6; "
                    f"got {tower.layer_norm_eps!r}"
                )
            if tower.activation not in _HF_GELU.values():
                raise CheckpointError(
                    f"the {name} tower's activation must be {GELU_TANH!r} or {GELU_ERF!r}, got {tower.activation!r}"
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

        Of a larger model, such as a vision-language model, this is the image tower, if it is SigLIP's.

        Raises:
            CheckpointError: for another model family or an option that this implementation does not compute.
        """
        kind = config.get("model_type")
        if kind is None:
            raise CheckpointError(f"{source} has no model_type: {_missing_type(config)}")
        family, separator, rest = kind.partition("_") if isinstance(kind, str) else ("", "", "")
        if family not in FAMILIES or f"{separator}{rest}" not in ("", "_vision_model", "_text_model"):
            if host_of(config):
                section = _sections(config, _IMAGE_TOWERS)[0]
                naflex = section["model_type"].startswith("siglip2_")
                return cls(_image_from_hf(_hf_section(section, source), naflex, source), None)
            raise CheckpointError(
                f"{source}: expected model_type 'siglip' or 'siglip2', got {kind!r}: this is another model family"
            )
        naflex = family == "siglip2"
        if rest == "vision_model":
            return cls(_image_from_hf(_hf_section(config, source), naflex, source), None)
        if rest == "text_model":
            return cls(None, _text_from_hf(_hf_section(config, source)))
        image, text = (_hf_section(config.get(f"{t}_config"), f"{source}: {t}_config") for t in ("vision", "text"))
        names = config.get("architectures") or []
        if not isinstance(names, list):
            raise CheckpointError(f"{source}: architectures must be a list, got {names!r:.80}")
        if any(str(name).endswith("ForImageClassification") for name in names):
            return cls(_image_from_hf(image, naflex, source), None, _classifier_from_hf(config, source))
        return cls(_image_from_hf(image, naflex, source), _text_from_hf(text))

    @classmethod
    def from_folder(cls, folder: str | Path) -> SigLIPConfig:
        """Read `folder`/config.json."""
        path = Path(folder) / "config.json"
        try:
            content = parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} does not exist; a model folder in Hugging Face's format has config.json, "
                "model.safetensors and spiece.model"
            ) from None
        except (OSError, *ERRORS) as error:
            raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} must hold a JSON object, got {type(content).__name__}")
        return cls.from_hf(content, str(path))

    def to_hf(self) -> dict[str, Any]:
        """The content of a config.json that Hugging Face's SigLIP classes read back as this model.

        Raises:
            CheckpointError: a classifier on the MAP head's vector, which they do not have.
        """
        if self.classifier and self.classifier.pooled:
            raise CheckpointError(
                "Hugging Face's classifiers stand on the mean of the tokens, and this one on the MAP head's vector: it "
                "cannot be written in that format"
            )
        family = "siglip2" if self.image and self.image.naflex else "siglip"
        text = self.text and {
            "model_type": f"{family}_text_model",
            **_to_hf_tower(self.text),
            "max_position_embeddings": self.text.seq_len,
            "vocab_size": self.text.vocab_size,
            "projection_size": self.text.projection_dim,
        }
        image = self.image and {
            "model_type": f"{family}_vision_model",
            **_to_hf_tower(self.image),
            **({"num_patches": self.image.seq_len} if self.image.naflex else {"image_size": self.image.image_size}),
            "patch_size": self.image.patch_size,
            "num_channels": 3,
        }
        if image and self.image and not self.image.head:
            image["vision_use_head"] = False
        name = family.capitalize()
        if self.classifier:
            return {
                "architectures": [f"{name}ForImageClassification"],
                "model_type": family,
                "id2label": {str(i): label for i, label in enumerate(self.classifier.labels)},
                "label2id": {label: i for i, label in enumerate(self.classifier.labels)},
                "problem_type": f"{'multi' if self.classifier.multi_label else 'single'}_label_classification",
                "vision_config": image,
            }
        if text and image:
            both = {"architectures": [f"{name}Model"], "model_type": family, "initializer_factor": 1.0}
            return both | {"text_config": text, "vision_config": image}
        return text or image or {}


def _sections(config: Mapping[str, Any], types: Collection[str], depth: int = 3) -> list[Mapping[str, Any]]:
    """The objects of these model types inside of a config.json."""
    inside = [value for value in config.values() if isinstance(value, Mapping)] if depth else []
    found = [section for section in inside if section.get("model_type") in types]
    return found + [section for value in inside for section in _sections(value, types, depth - 1)]


def host_of(config: Mapping[str, Any]) -> str:
    """The type of a larger model, such as a vision-language model, with one image tower of SigLIP's; or empty.

    Raises:
        CheckpointError: it has several such towers.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind.partition("_")[0] in FAMILIES or _sections(config, _TEXT_TOWERS):
        return ""
    found = len(_sections(config, _IMAGE_TOWERS))
    if found > 1:
        raise CheckpointError(f"config.json of a {kind!r} model has {found} image towers of SigLIP's, expected one")
    return kind if found else ""


def _missing_type(config: Mapping[str, Any]) -> str:
    """What to do about a config.json that does not say which model it is of."""
    keys = ", ".join(sorted(map(str, config))[:4]) or "nothing at all"
    vision = config.get("vision_config")
    if isinstance(vision, Mapping) or isinstance(config.get("text_config"), Mapping):
        kind = "siglip2" if isinstance(vision, Mapping) and "num_patches" in vision else "siglip"
    elif "hidden_size" in config and ("image_size" in config or "patch_size" in config):
        kind = "siglip2_vision_model" if "num_patches" in config else "siglip_vision_model"
    elif "hidden_size" in config and "vocab_size" in config:
        kind = "siglip_text_model"
    else:
        return (
            f"expected a config.json of Hugging Face's SigLIP, found {keys}: download the one that belongs to the "
            "weights"
        )
    return f'if this is a SigLIP model, which it looks like, add "model_type": "{kind}" to it, or download it again'


def _hf_section(section: Any, source: str) -> dict[str, Any]:
    section = {} if section is None else section
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{source} must be an object, got {section!r}")
    activation = section.get("hidden_act", "gelu_pytorch_tanh")
    if not isinstance(activation, str) or activation not in _HF_GELU:
        raise CheckpointError(
            f"{source}: hidden_act must be 'gelu_pytorch_tanh', SigLIP's activation, or 'gelu', its exact form by erf; "
            f"got {activation!r}"
        )
    return dict(section)


def _image_from_hf(section: Mapping[str, Any], naflex: bool, source: str) -> ImageConfig:
    head = section.get("vision_use_head", True)
    if not isinstance(head, bool):
        raise CheckpointError(f"{source}: vision_use_head must be true or false, got {head!r}")
    if section.get("num_channels", 3) != 3:
        raise CheckpointError(f"{source}: num_channels must be 3, got {section['num_channels']}")
    patch_size = _square(section.get("patch_size", 16), "patch_size", source)
    if naflex:
        patches = section.get("num_patches", 256)
        if not isinstance(patches, int) or patches < 1 or isqrt(patches) ** 2 != patches:
            raise CheckpointError(f"{source}: num_patches must be the square of a whole number, got {patches!r}")
        image_size = isqrt(patches) * patch_size
    else:
        image_size = _square(section.get("image_size", 224), "image_size", source)
    return ImageConfig(**_hf_tower(section), image_size=image_size, patch_size=patch_size, head=head, naflex=naflex)


def _classifier_from_hf(config: Mapping[str, Any], source: str) -> ClassifierConfig:
    """Labels by number; transformers writes them as an object with numbers for keys, or leaves out its own default."""
    labels = config.get("id2label")
    if labels is None:
        count = config.get("num_labels", 2)
        valid = isinstance(count, int) and not isinstance(count, bool) and 0 < count < _LARGEST // 2**10
        labels = {i: f"LABEL_{i}" for i in range(count if valid else 0)}
    by_number = {str(number): label for number, label in labels.items()} if isinstance(labels, Mapping) else {}
    kind = config.get("problem_type")
    if kind not in (None, "single_label_classification", "multi_label_classification"):
        raise CheckpointError(
            f"{source}: problem_type must be single_label_classification or multi_label_classification, "
            f"got {kind!r:.80}"
        )
    names = [by_number.get(str(i)) for i in range(len(by_number))]
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{source}: id2label must give names to the numbers 0, 1, 2 ..., got {labels!r:.80}")
    return ClassifierConfig(tuple(map(str, names)), kind == "multi_label_classification")


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
        "activation": _HF_GELU[section.get("hidden_act", "gelu_pytorch_tanh")],
    }


def _to_hf_tower(tower: ImageConfig | TextConfig) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.num_heads,
        "intermediate_size": tower.mlp_dim,
        "hidden_act": next(name for name, activation in _HF_GELU.items() if activation == tower.activation),
        "layer_norm_eps": tower.layer_norm_eps,
        "attention_dropout": 0.0,
    }


def _square(value: Any, name: str, source: str) -> int:
    """config.json may give a side as a number or as [height, width]; SigLIP's are square."""
    sides = value if isinstance(value, list) else [value]
    if not sides or any(not isinstance(side, int) or side != sides[0] for side in sides):
        raise CheckpointError(f"{source}: {name} must be one number (SigLIP's images are square), got {value!r}")
    return int(sides[0])
