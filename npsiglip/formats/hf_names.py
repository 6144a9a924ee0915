"""Hugging Face's tensors and our parameters: which is which, and how one lies inside the other.

One table serves both directions: `layout(name, shape)` gives the stored tensor's key and shape, and a view of it
that has our axes; reading takes the view's values, writing fills the view.

Source: the state dict of Hugging Face's `SiglipModel`. Its conversion from big_vision says that a linear weight is
[out, in], the patch embedding a convolution [D, 3, P, P], and the MAP head's q, k and v one tensor.

With NaFlex the patch embedding is a linear layer, whose weight is [D, 3 P P].
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import isqrt

from npsiglip.config import SigLIPConfig
from npsiglip.formats.stored import Layout
from npsiglip.params import Shape, param_shapes

TOWERS = {"image": "vision_model", "text": "text_model"}

_LEAVES = {"w": "weight", "b": "bias", "scale": "weight"}

# What has a weight and a bias, in every block ...
_BLOCK = {
    "ln1": "layer_norm1",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "ln2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}

# ... and around the blocks; q, k and v of the MAP head are the three thirds of one tensor.
_AROUND = {
    "image.patch_embed": "vision_model.embeddings.patch_embedding",
    "image.final_ln": "vision_model.post_layernorm",
    "image.map_head.attn.out": "vision_model.head.attention.out_proj",
    "image.map_head.ln": "vision_model.head.layernorm",
    "image.map_head.mlp.fc1": "vision_model.head.mlp.fc1",
    "image.map_head.mlp.fc2": "vision_model.head.mlp.fc2",
    "text.final_ln": "text_model.final_layer_norm",
    "text.head": "text_model.head",
    "classifier": "classifier",
}

_SINGLE = {
    "image.pos_embed": "vision_model.embeddings.position_embedding.weight",
    "image.map_head.probe": "vision_model.head.probe",
    "text.token_embed": "text_model.embeddings.token_embedding.weight",
    "text.pos_embed": "text_model.embeddings.position_embedding.weight",
    "t_prime": "logit_scale",
    "bias": "logit_bias",
}

_MAP_THIRDS = {
    f"image.map_head.attn.{part}.{leaf}": (third, f"vision_model.head.attention.in_proj_{_LEAVES[leaf]}")
    for third, part in enumerate("qkv")
    for leaf in ("w", "b")
}

# Prefixes that training wrappers put before every key; others are found by the first tensor of a tower.
_WRAPPERS = ("siglip.", "model.", "module.")

FIRST = {
    "image": "vision_model.embeddings.patch_embedding.weight",
    "text": "text_model.embeddings.token_embedding.weight",
}


def prefixes(stored: Iterable[str], name: str) -> list[str]:
    """What stands before `name`, a whole number of its parts, in stored keys that end so; sorted."""
    ends = (key.removesuffix(name) for key in stored if key.endswith(name))
    return sorted(prefix for prefix in ends if not prefix or prefix.endswith("."))


def hf_key(name: str) -> str:
    """Hugging Face's key, in full form, of the tensor that holds our parameter `name`.

    `image.blocks.03.attn.q.w` -> `vision_model.encoder.layers.3.self_attn.q_proj.weight`
    """
    if name in _MAP_THIRDS:
        return _MAP_THIRDS[name][1]
    if name in _SINGLE:
        return _SINGLE[name]
    module, _, leaf = name.rpartition(".")
    if ".blocks." in module:
        tower, _, number, part = module.split(".", 3)
        return f"{TOWERS[tower]}.encoder.layers.{int(number)}.{_BLOCK[part]}.{_LEAVES[leaf]}"
    return f"{_AROUND[module]}.{_LEAVES[leaf]}"


def layout(name: str, shape: Shape, naflex: bool = False) -> Layout:
    """Where Hugging Face stores our parameter `name` of `shape`."""
    key = hf_key(name)
    if name == "image.patch_embed.w" and not naflex:  # [P * P * 3, D] <- [D, 3, P, P]
        rows, width = shape
        side = isqrt(rows // 3)
        return Layout(key, (width, 3, side, side), lambda x: x.transpose(2, 3, 1, 0))
    if name in _MAP_THIRDS:  # [D, D] or [D] <- rows of [3D, D] or [3D]
        start, width = _MAP_THIRDS[name][0] * shape[-1], shape[-1]
        return Layout(key, (3 * width, *shape[1:]), lambda x: x[start : start + width].T)
    if name == "image.map_head.probe":
        return Layout(key, (1, 1, *shape), lambda x: x)
    if not shape:  # t_prime and bias
        return Layout(key, (1,), lambda x: x)
    if name.endswith(".w"):  # [in, out] <- [out, in]
        return Layout(key, shape[::-1], lambda x: x.T)
    return Layout(key, shape, lambda x: x)


def layouts(config: SigLIPConfig) -> dict[str, Layout]:
    """Name -> place of every parameter of the model."""
    naflex = bool(config.image and config.image.naflex)
    return {name: layout(name, shape, naflex) for name, shape in param_shapes(config).items()}


def buffer_keys(config: SigLIPConfig) -> list[str]:
    """Keys that old checkpoints have though they hold no parameter: the numbers 0, 1, 2 ... of the positions."""
    towers = {"image": config.image, "text": config.text}
    return [f"{TOWERS[name]}.embeddings.position_ids" for name, tower in towers.items() if tower]


def bare_prefix(config: SigLIPConfig) -> str:
    """What a stand-alone tower's keys lose: transformers 5 saves them without the tower's name, if nothing is on it."""
    if (config.image and config.text) or config.classifier:
        return ""
    return f"{TOWERS['image' if config.image else 'text']}."


def match_keys(config: SigLIPConfig, keys: Iterable[str], stored: Collection[str]) -> dict[str, str]:
    """Full-form key -> the key in a file, in whichever form most of the `stored` keys have.

    Forms: full, bare (a stand-alone tower without its name, see `bare_prefix`), and either of them behind a prefix,
    which a training wrapper or a larger model puts before every key: whatever stands before a tower's first tensor.
    """
    keys = list(keys)
    first = FIRST["image" if config.image else "text"]
    forms = (
        {key: wrapper + key.removeprefix(prefix) for key in keys}
        for prefix in dict.fromkeys(("", bare_prefix(config)))
        for wrapper in ("", *_WRAPPERS, *prefixes(stored, first.removeprefix(prefix)))
    )
    return max(forms, key=lambda form: sum(key in stored for key in form.values()))
