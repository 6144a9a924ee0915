"""big_vision's tensors and our parameters: which is which, and how one lies inside the other.

As `hf_names` has them for Hugging Face. Our linear weights are big_vision's kernels [in, out], but those of attention
have a dimension for the heads: query, key and value [D, H, d] with biases [H, d], out [H, d, D]. Blocks are stored one
by one (`encoderblock_0/...`), or, as `nn.scan` makes them, all in one tensor with a leading dimension
(`encoderblock/...`); each tower has its own way.

Source: big_vision `models/vit.py`, `models/proj/image_text/text_transformer.py` and `two_towers.py`, and the names that
Hugging Face's `convert_siglip_to_hf.py` and `convert_siglip2_to_hf.py` read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from numpy.typing import NDArray

from npsiglip.config import SigLIPConfig
from npsiglip.formats.stored import Layout
from npsiglip.params import Shape, param_shapes

ROOT = "params/"  # of most files
BLOCKS = {"image": "img/Transformer/encoderblock", "text": "txt/Encoder_0/encoderblock"}

_LEAVES = {"w": "kernel", "b": "bias", "scale": "scale"}

_ATTENTION = "MultiHeadDotProductAttention_0"
_PARTS = {
    "attn.q": f"{_ATTENTION}/query",
    "attn.k": f"{_ATTENTION}/key",
    "attn.v": f"{_ATTENTION}/value",
    "attn.out": f"{_ATTENTION}/out",
    "mlp.fc1": "MlpBlock_0/Dense_0",
    "mlp.fc2": "MlpBlock_0/Dense_1",
}
_BLOCK = _PARTS | {"ln1": "LayerNorm_0", "ln2": "LayerNorm_1"}
_MAP_HEAD = _PARTS | {"ln": "LayerNorm_0"}

_AROUND = {
    "image.patch_embed": "img/embedding",
    "image.final_ln": "img/Transformer/encoder_norm",
    "text.final_ln": "txt/Encoder_0/encoder_norm",
    "text.head": "txt/head",
} | {f"image.map_head.{ours}": f"img/MAPHead_0/{theirs}" for ours, theirs in _MAP_HEAD.items()}

_SINGLE = {
    "image.pos_embed": "img/pos_embedding",
    "image.map_head.probe": "img/MAPHead_0/probe",
    "text.token_embed": "txt/Embed_0/embedding",
    "text.pos_embed": "txt/pos_embedding",
    "t_prime": "t",
    "bias": "b",
}

EXTRA_POSITIONS = "txt/Encoder_0/pos_embedding"  # of some old files, to be added to the others


class Form(NamedTuple):
    """How a file is laid out: what its names begin with, and the towers whose blocks are stacked."""

    root: str
    stacked: frozenset[str]


def form_of(names: Collection[str]) -> Form:
    """The form of a file with these names; what does not begin with the root is no part of the model."""
    root = ROOT if any(name.startswith(ROOT) for name in names) else ""
    return Form(root, frozenset(tower for tower, path in BLOCKS.items() if _any_below(names, f"{root}{path}/")))


def _any_below(names: Collection[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def npz_key(name: str, stacked: bool) -> str:
    """big_vision's name, without root, of the tensor that holds our parameter `name`.

    `image.blocks.03.attn.q.w` -> `img/Transformer/encoderblock_3/MultiHeadDotProductAttention_0/query/kernel`
    """
    if name in _SINGLE:
        return _SINGLE[name]
    module, _, leaf = name.rpartition(".")
    if ".blocks." in module:
        tower, _, number, part = module.split(".", 3)
        block = BLOCKS[tower] if stacked else f"{BLOCKS[tower]}_{int(number)}"
        return f"{block}/{_BLOCK[part]}/{_LEAVES[leaf]}"
    return f"{_AROUND[module]}/{_LEAVES[leaf]}"


def _stored_shape(name: str, shape: Shape, config: SigLIPConfig) -> Shape:
    """The shape of one parameter in a file, without the dimension of stacked blocks."""
    if config.image and name == "image.patch_embed.w" and not config.image.naflex:
        return config.image.patch_size, config.image.patch_size, 3, shape[-1]
    if config.image and name == "image.pos_embed" and config.image.naflex:
        return config.image.grid_size, config.image.grid_size, shape[-1]
    if name.endswith(".pos_embed"):
        return (1, *shape)
    if name == "image.map_head.probe":
        return (1, 1, *shape)
    if not shape:  # t_prime and bias
        return (1,)
    tower = config.image if name.startswith("image.") else config.text
    assert tower is not None
    heads = tower.num_heads, tower.width // tower.num_heads
    if name.endswith((".attn.q.w", ".attn.k.w", ".attn.v.w")):
        return (shape[0], *heads)
    if name.endswith((".attn.q.b", ".attn.k.b", ".attn.v.b")):
        return heads
    if name.endswith(".attn.out.w"):
        return (*heads, shape[1])
    return shape


def _view(shape: Shape, block: int | None) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda x: (x if block is None else x[block]).reshape(shape)


def npz_layout(name: str, shape: Shape, config: SigLIPConfig, stacked: bool = False) -> Layout:
    """Where big_vision stores our parameter `name` of `shape`; `stacked`: its tower's blocks are in one tensor."""
    stored = _stored_shape(name, shape, config)
    if not stacked or ".blocks." not in name:
        return Layout(npz_key(name, stacked), stored, _view(shape, None))
    tower = config.image if name.startswith("image.") else config.text
    assert tower is not None
    return Layout(npz_key(name, True), (tower.depth, *stored), _view(shape, int(name.split(".")[2])))


def npz_layouts(config: SigLIPConfig, stacked: Collection[str]) -> dict[str, Layout]:
    """Name -> place of every parameter of the model; `stacked` names the towers whose blocks are."""
    return {
        name: npz_layout(name, shape, config, name.partition(".")[0] in stacked)
        for name, shape in param_shapes(config).items()
    }
