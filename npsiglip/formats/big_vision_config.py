"""The shapes of a model, told by the names and shapes of big_vision's tensors: an npz has no configuration.

Source: big_vision `models/vit.py` and `models/proj/image_text/text_transformer.py`.

Leaves out: what shapes do not tell. LayerNorm's epsilon is big_vision's 1e-6. An image size is a multiple of the patch,
unless a released model of these shapes has another (So400m/14 at 384 has 27 patches of 14 along a side, 378).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from typing import Any

from npsiglip.config import GELU_TANH, ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import CheckpointError
from npsiglip.formats.big_vision_names import BLOCKS, Form
from npsiglip.params import Shape
from npsiglip.variants import VARIANTS, Variant

_QUERY = "MultiHeadDotProductAttention_0/query/kernel"  # [D, H, d]
_FC1 = "MlpBlock_0/Dense_0/kernel"
_OLD_POSITIONS = ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding")


class _Shapes:
    """The shapes of a file's tensors, by their names without root."""

    def __init__(self, where: str, shapes: Mapping[str, Shape], form: Form) -> None:
        self.where, self.stacked = where, form.stacked
        self.by_name = {
            name.removeprefix(form.root): shape for name, shape in shapes.items() if name.startswith(form.root)
        }

    def any_below(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.by_name)

    def __call__(self, name: str, ndim: int) -> Shape:
        """The shape of a tensor that must be there, with so many dimensions."""
        if name not in self.by_name:
            raise CheckpointError(f"{self.where} has no {name}: {self._why_missing(name)}")
        shape = self.by_name[name]
        if len(shape) != ndim:
            raise CheckpointError(f"{self.where}: {name} must have {ndim} dimensions, got the shape {list(shape)}")
        return shape

    def _why_missing(self, name: str) -> str:
        """What a model without this tensor is."""
        tower = name.partition("/")[0]
        old = [other for other in _OLD_POSITIONS if f"{tower}/{other}" in self.by_name]
        if name.endswith("/pos_embedding") and old:
            return (
                f"its positions are {tower}/{old[0]}, where big_vision had them before 2022; load it with big_vision's "
                "models.vit.load, which renames them (fix_old_checkpoints), and save it again"
            )
        if name.endswith("/pos_embedding") and self.any_below(f"{tower}/"):
            return (
                "if it was trained with posemb='sincos2d', its positions are computed and not learned, which is not "
                "supported, SigLIP's are learned; otherwise part of the model is missing, download the file again"
            )
        return "part of the model is missing, download the file again"

    def refuse_projection(self) -> None:
        """Refuse an image tower that does not end with its head: SigLIP's embeddings have the tower's width."""
        kernel = self.by_name.get("img/head/kernel")
        if self.any_below("img/head/"):
            size = kernel[-1] if kernel else "?"
            raise CheckpointError(
                f"{self.where} has img/head/..., a projection of images to {size} dimensions (big_vision's "
                f"out_dim=({size}, {size})): SigLIP's models have none (out_dim=(None, D)), it is not computed"
            )

    def tower(self, tower: str) -> dict[str, Any]:
        """What both towers have: width, depth, heads and MLP."""
        path, stacked = BLOCKS[tower], tower in self.stacked
        first = f"{path}/" if stacked else f"{path}_0/"
        width, heads, _ = self(f"{first}{_QUERY}", 3 + stacked)[-3:]
        depth = self.by_name[f"{first}{_QUERY}"][0] if stacked else 0
        while not stacked and self.any_below(f"{path}_{depth}/"):
            depth += 1
        return {"width": width, "depth": depth, "num_heads": heads, "mlp_dim": self(f"{first}{_FC1}", 2 + stacked)[-1]}

    def image(self, head: bool) -> ImageConfig:
        naflex = len(self.by_name.get("img/embedding/kernel", ())) == 2
        if naflex:
            patch_size = isqrt(self("img/embedding/kernel", 2)[0] // 3)
            grid_size = self("img/pos_embedding", 3)[0]
        else:
            patch_size = self("img/embedding/kernel", 4)[0]
            patches = self("img/pos_embedding", 3)[1]
            grid_size = isqrt(patches)
            if grid_size**2 != patches:
                raise CheckpointError(
                    f"{self.where}: img/pos_embedding has {patches} positions, expected the square of a whole number"
                )
        return ImageConfig(
            **self.tower("image"), image_size=grid_size * patch_size, patch_size=patch_size, head=head, naflex=naflex
        )

    def text(self) -> TextConfig:
        vocab_size, width = self("txt/Embed_0/embedding", 2)
        return TextConfig(
            **self.tower("text"),
            seq_len=self("txt/pos_embedding", 3)[1],
            vocab_size=vocab_size,
            projection_dim=self("txt/head/kernel", 2)[1] if self.any_below("txt/head/") else width,
        )


def released(config: SigLIPConfig) -> Variant | None:
    """The released checkpoint that has these shapes, whatever its image size and GELU, if there is one."""
    config = replace(
        config,
        image=config.image and replace(config.image, activation=GELU_TANH),
        text=config.text and replace(config.text, activation=GELU_TANH),
    )
    for variant in VARIANTS.values():
        known = variant.config
        assert known.image is not None
        same_image = config.image is None or (
            replace(known.image, image_size=config.image.image_size) == config.image
            and known.image.grid_size == config.image.grid_size
        )
        if same_image and config.text in (None, known.text):
            return variant
    return None


def npz_config(where: str, shapes: Mapping[str, Shape], form: Form) -> SigLIPConfig:
    """The configuration of a model in an npz file.

    Args:
        where: the file, for messages.
        shapes: of its tensors, by name.
        form: of the file, see `big_vision_names.form_of`.

    Raises:
        CheckpointError: this is no SigLIP model, or a part that tells the shapes is missing.
    """
    find = _Shapes(where, shapes, form)
    has_image, has_text = find.any_below("img/"), find.any_below("txt/")
    if not has_image and not has_text:
        some = ", ".join(sorted(shapes)[:3]) or "nothing"
        raise CheckpointError(
            f"{where} is no SigLIP model of big_vision: expected tensors named img/... and txt/..., perhaps after "
            f"params/, got {some}"
        )
    if has_image != has_text and {"t", "b"} & find.by_name.keys():
        lacking = "txt/" if has_image else "img/"
        raise CheckpointError(f"{where} has a temperature t, but nothing of {lacking}: download the file again")
    find.refuse_projection()
    image = find.image(has_text or find.any_below("img/MAPHead_0/")) if has_image else None
    text = find.text() if has_text else None
    if image and text and image.width != text.projection_dim and find.any_below("txt/head/"):
        raise CheckpointError(
            f"{where}: txt/head/kernel takes texts to {text.projection_dim} dimensions, but the image tower has "
            f"{image.width}: their embeddings cannot be compared, and this is no SigLIP model (out_dim=(None, "
            f"{image.width}) in big_vision), or its towers are of different ones"
        )
    if image and text and image.width != text.projection_dim:
        raise CheckpointError(
            f"{where} has no txt/head/kernel, which takes texts of width {text.width} to images of {image.width}: "
            "part of the model is missing, download the file again"
        )
    config = SigLIPConfig(image, text)
    known = released(config)
    if known and known.config.image and config.image:
        image_size = known.config.image.image_size
        config = SigLIPConfig(replace(config.image, image_size=image_size), config.text)
    return config
