"""What timm's names of SigLIP image towers say that no tensor does: the heads, and the form of GELU.

Source: timm 1.0 `models/vision_transformer.py`, all functions `vit_*_siglip_*`. Heads and activation are the same for a
model that ends with the MAP head and for its twin that ends with the mean of the tokens (`_gap_`).

Leaves out: timm's NaFlex models.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from npsiglip.config import GELU_ERF, GELU_TANH, ImageConfig
from npsiglip.variants import SHAPES

_FAMILIES = {"base": "B", "large": "L", "so400m": "So400m", "giantopt": "g-opt"}
_SIZES = {  # family, patch -> the image sizes that there are, and those that there are with the mean of tokens alone
    ("base", 16): ((224, 256, 384, 512), ()),
    ("base", 32): ((256,), ()),
    ("large", 16): ((256, 384, 512), ()),
    ("so400m", 14): ((224, 378, 384), (448, 896)),
    ("so400m", 16): ((256, 384, 512), ()),
    ("giantopt", 16): ((256, 384), ()),
}
_TANH = {("base", 32), ("so400m", 16), ("giantopt", 16)}  # of every image size, and of one more:
_TANH_SIZE = ("large", 16, 512)

_NAME = re.compile(r"vit_(base|large|so400m|giantopt)_patch(\d+)_siglip_(gap_)?(\d+)")


class Architecture(NamedTuple):
    """What a name says; `mean`: it ends with the mean of the tokens."""

    family: str
    patch_size: int
    image_size: int
    mean: bool
    num_heads: int
    activation: str


def architecture(name: str) -> Architecture | None:
    """What timm builds under this name; a tag behind a point, of the weights, is not looked at. None: no SigLIP's."""
    found = _NAME.fullmatch(name.partition(".")[0])
    if found is None:
        return None
    family, patch, size, gap = found[1], int(found[2]), int(found[4]), bool(found[3])
    sizes, only_mean = _SIZES.get((family, patch), ((), ()))
    if size not in sizes and not (gap and size in only_mean):
        return None
    tanh = (family, patch) in _TANH or (family, patch, size) == _TANH_SIZE
    heads = SHAPES[_FAMILIES[family]]["num_heads"]
    return Architecture(family, patch, size, gap, heads, GELU_TANH if tanh else GELU_ERF)


def known_names() -> list[str]:
    """All names, for messages and tests."""
    return [
        f"vit_{family}_patch{patch}_siglip_{gap}{size}"
        for (family, patch), (sizes, only_mean) in _SIZES.items()
        for gap in ("", "gap_")
        for size in (*sizes, *(only_mean if gap else ()))
    ]


def name_of(config: ImageConfig, any_size: bool = False) -> str | None:
    """The name that timm has for an image tower of these shapes, or None.

    Args:
        config: of the tower; its activation is not looked at, since a name has one of its own.
        any_size: take a name of another image size where there is none of this one; timm's folders can tell the size.
    """
    names = []
    for name in known_names():
        known = architecture(name)
        assert known is not None
        shapes = SHAPES[_FAMILIES[known.family]]
        same = all(getattr(config, key) == value for key, value in shapes.items())
        if same and (known.patch_size, known.mean) == (config.patch_size, not config.head):
            names.append((known.image_size != config.image_size, known.activation != config.activation, name))
    if not names:
        return None
    other_size, _, name = min(names)
    return name if any_size or not other_size else None
