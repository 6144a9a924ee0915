"""open_clip's and timm's tensors and our parameters: which is which, and how one lies inside the other.

As `hf_names` has them for Hugging Face. open_clip has timm's image tower behind "visual.trunk." and its own text tower
behind "text."; timm's own folders have the image tower alone, without a prefix. q, k and v of a block are one tensor in
both, and so are k and v of the MAP head. A text tower may have no projection: to us an identity.

Source: the state dicts of open_clip 3.3 (`CustomTextCLIP`) and timm 1.0 (`VisionTransformer`, `AttentionPoolLatent`).

Leaves out: timm's NaFlex models.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from pathlib import Path

import numpy as np

from npsiglip.config import SigLIPConfig
from npsiglip.errors import CheckpointError
from npsiglip.formats.stored import Layout, MadeTensor, StoredTensor
from npsiglip.params import Shape, param_shapes

TRUNK, TEXT = "visual.trunk.", "text."
PROJECTION = "text.text_projection"  # a matrix [in, out] without bias, or a linear layer

_LEAVES = {"w": "weight", "b": "bias", "scale": "weight"}

# Of a block: modules with a weight and a bias, and where q, k and v are.
_IMAGE_BLOCK = {"ln1": "norm1", "ln2": "norm2", "attn.out": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_TEXT_BLOCK = {
    "ln1": "ln_1",
    "ln2": "ln_2",
    "attn.out": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}

_AROUND = {
    "image.patch_embed": "patch_embed.proj",
    "image.final_ln": "norm",
    "image.map_head.attn.q": "attn_pool.q",
    "image.map_head.attn.out": "attn_pool.proj",
    "image.map_head.ln": "attn_pool.norm",
    "image.map_head.mlp.fc1": "attn_pool.mlp.fc1",
    "image.map_head.mlp.fc2": "attn_pool.mlp.fc2",
    "text.final_ln": "ln_final",
    "text.head": "text_projection",
    "classifier": "head",
}
_SINGLE = {
    "image.pos_embed": "pos_embed",
    "image.map_head.probe": "attn_pool.latent",
    "text.token_embed": "token_embedding.weight",
    "text.pos_embed": "positional_embedding",
    "t_prime": "logit_scale",
    "bias": "logit_bias",
}
_POOL_PARTS = {"image.map_head.attn.k": 0, "image.map_head.attn.v": 1}


def _prefix(name: str, trunk: str) -> str:
    if name.startswith(("image.", "classifier.")):
        return trunk
    return TEXT if name.startswith("text.") else ""


def _part(key: str, shape: Shape, number: int, count: int) -> Layout:
    """[D, D] or [D] <- the rows of part `number` in [count D, D] or [count D]."""
    start, width = number * shape[-1], shape[-1]
    return Layout(key, (count * width, *shape[1:]), lambda x: x[start : start + width].T)


def openclip_layout(name: str, shape: Shape, trunk: str) -> Layout:
    """Where open_clip, or timm, stores our parameter `name` of `shape`; `trunk` is before the image tower's names.

    `image.blocks.03.attn.q.w` -> a third of `visual.trunk.blocks.3.attn.qkv.weight`
    """
    prefix = _prefix(name, trunk)
    if name in _SINGLE:
        key = prefix + _SINGLE[name]
        before = {"image.pos_embed": (1,), "image.map_head.probe": (1, 1)}.get(name, ())
        return Layout(key, (*before, *shape), lambda x: x)
    module, _, leaf = name.rpartition(".")
    if module in _POOL_PARTS:
        return _part(f"{prefix}attn_pool.kv.{_LEAVES[leaf]}", shape, _POOL_PARTS[module], 2)
    if ".blocks." in module:
        tower, _, number, part = module.split(".", 3)
        block = f"{prefix}{'blocks' if tower == 'image' else 'transformer.resblocks'}.{int(number)}"
        if part in ("attn.q", "attn.k", "attn.v"):
            stored = f"attn.qkv.{_LEAVES[leaf]}" if tower == "image" else f"attn.in_proj_{_LEAVES[leaf]}"
            return _part(f"{block}.{stored}", shape, "qkv".index(part[-1]), 3)
        key = f"{block}.{(_IMAGE_BLOCK if tower == 'image' else _TEXT_BLOCK)[part]}.{_LEAVES[leaf]}"
    else:
        key = f"{prefix}{_AROUND[module]}.{_LEAVES[leaf]}"
    if name == "image.patch_embed.w":  # [P * P * 3, D] <- [D, 3, P, P]
        rows, width = shape
        side = isqrt(rows // 3)
        return Layout(key, (width, 3, side, side), lambda x: x.transpose(2, 3, 1, 0))
    if name.endswith(".w"):  # [in, out] <- [out, in]
        return Layout(key, shape[::-1], lambda x: x.T)
    return Layout(key, shape, lambda x: x)


def openclip_layouts(config: SigLIPConfig, trunk: str) -> dict[str, Layout]:
    """Name -> place of every parameter of the model."""
    return {name: openclip_layout(name, shape, trunk) for name, shape in param_shapes(config).items()}


def with_projection(
    path: Path, config: SigLIPConfig, stored: Mapping[str, StoredTensor], places: dict[str, Layout]
) -> dict[str, StoredTensor]:
    """The stored tensors, with those made that stand for a projection of texts without bias, or for none.

    `places` is changed where the projection is a matrix.

    Raises:
        CheckpointError: no projection, and texts end in another width than images.
    """
    there = dict(stored)
    if config.text is None or f"{PROJECTION}.weight" in there:
        return there
    width, out = config.text.width, config.text.projection_dim
    if PROJECTION in there:
        places["text.head.w"] = Layout(PROJECTION, (width, out), lambda x: x)
    elif width == out:
        eye = np.eye(width, dtype=np.float32)
        there[f"{PROJECTION}.weight"] = MadeTensor(path, "F32", eye.shape, lambda: eye)
    else:
        raise CheckpointError(
            f"{path} has no {PROJECTION}.weight, which takes texts of width {width} to images of {out}: part of the "
            "model is missing, download the file again"
        )
    zeros = np.zeros(out, np.float32)
    there[f"{PROJECTION}.bias"] = MadeTensor(path, "F32", zeros.shape, lambda: zeros)
    return there
