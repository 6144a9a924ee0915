"""What open_clip_config.json and timm's config.json tell of a model, with the shapes of its tensors.

Widths, depths and sizes are the tensors'. The heads of the image tower and the form of its GELU are in neither: they
are known by timm's name of it (`npsiglip.formats.openclip_arch`), or have to be told.

Source: open_clip 3.3 `model.py` and `factory.py`, timm 1.0 `models/_hub.py`.

Leaves out: everything that these libraries can build and that is no SigLIP; it is refused by name. NaFlex of timm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

from npsiglip.config import GELU_ERF, GELU_TANH, ClassifierConfig, ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats.openclip_arch import architecture
from npsiglip.formats.openclip_names import PROJECTION, TEXT, TRUNK
from npsiglip.formats.told import OPEN_CLIP, OPEN_CLIP_CONFIG, Told, read_object
from npsiglip.params import Shape

_TORCH_NORM_EPS = 1e-5  # of a LayerNorm that is not told another

# Settings that must have one of these values, the first being the library's default; with any other, the model computes
# something else. Those of training alone are in none of these lists and are not looked at.
_MODEL = {"custom_text": (True,), "quick_gelu": (False,), "multimodal_cfg": (None,)}
_VISION = {"timm_pool": ("map",), "timm_proj": ("none",)}
_TEXT = {
    "hf_model_name": (None, ""),
    "ls_init_value": (None,),
    "embed_cls": (False,),
    "no_causal_mask": (True,),
    "final_ln_after_pool": (False,),
    "pool_type": ("last",),
    "proj_type": ("linear", "none"),
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
}
_REQUIRED = ("custom_text", "timm_pool", "timm_proj", "no_causal_mask", "pool_type")  # the default is another
_TIMM_ARGS = {
    "in_chans": (3,),
    "class_token": (False,),
    "fc_norm": (False, None),
    "qkv_bias": (True,),
    "qk_norm": (False,),
    "init_values": (None,),
    "no_embed_class": (False,),
    "reg_tokens": (0,),
    "pre_norm": (False,),
    "final_norm": (True,),
    "pos_embed": ("learn",),
    "proj_bias": (True,),
    "dynamic_img_size": (False, True),
    "dynamic_img_pad": (False,),
}
_TIMM_READ = ("num_classes", "global_pool", "img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio",
              "act_layer", "drop_rate", "drop_path_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate",
              "attn_drop_rate", "weight_init", "fix_init")  # fmt: skip
_TIMM_GELU = {"gelu_tanh": GELU_TANH, "gelu": GELU_ERF}


def _check(where: str, section: Mapping[str, Any], allowed: Mapping[str, tuple[object, ...]]) -> None:
    for key, values in allowed.items():
        value = section.get(key, None if key in _REQUIRED else values[0])
        if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values):
            raise CheckpointError(
                f"{where}: {key} is {json.dumps(value)}, expected {' or '.join(json.dumps(v) for v in values)}, as "
                "SigLIP has it: a model with another setting computes something that is not supported"
            )


def _section(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    section = content.get(key)
    if not isinstance(section, dict):
        raise CheckpointError(f"{where}: {key} must be an object, got {section!r:.80}")
    return section


def _count(section: Mapping[str, Any], key: str, default: int | None, where: str) -> int:
    value = section.get(key, default)
    value = value[0] if isinstance(value, list) and len(set(map(str, value))) == 1 else value  # a side, twice
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{where}: {key} must be a positive whole number, got {section.get(key, default)!r}")
    return value


class _Shapes:
    """The shapes of a file's tensors, by name."""

    def __init__(self, where: str, shapes: Mapping[str, Shape]) -> None:
        self.where, self.by_name = where, shapes

    def __call__(self, name: str, ndim: int) -> Shape:
        if name not in self.by_name:
            raise CheckpointError(f"{self.where} has no {name}: part of the model is missing, download the file again")
        shape = self.by_name[name]
        if len(shape) != ndim:
            raise CheckpointError(f"{self.where}: {name} must have {ndim} dimensions, got the shape {list(shape)}")
        return shape

    def depth(self, blocks: str) -> int:
        numbers = {name[len(blocks) :].partition(".")[0] for name in self.by_name if name.startswith(blocks)}
        depth = 0
        while str(depth) in numbers:
            depth += 1
        return depth


def _image(
    find: _Shapes, trunk: str, name: str, image_size: int, heads: int | None, activation: str | None, told: Told
) -> ImageConfig:
    """The image tower; `heads` and `activation` as far as the configuration says more than timm's name."""
    if f"{trunk}embeds.proj.weight" in find.by_name:
        raise CheckpointError(
            f"{find.where} is timm's NaFlex model, which is not supported: use the original's weights"
        )
    width, _, patch, _ = find(f"{trunk}patch_embed.proj.weight", 4)
    positions, known = find(f"{trunk}pos_embed", 3)[1], architecture(name)
    if (image_size // patch) ** 2 != positions:
        grid = isqrt(positions)
        raise CheckpointError(
            f"{find.where} has {positions} positions ({grid} x {grid} patches of {patch}), but the configuration says "
            f"an image size of {image_size}: correct it there, or use the weights that belong to it"
        )
    heads = heads or (known.num_heads if known else None)
    activation = activation or (known.activation if known else None)
    if heads is not None and told.image_heads not in (None, heads):
        raise InputError(f"image_heads is {told.image_heads}, but {name} has {heads} heads: leave it out")
    heads, activation = heads or told.image_heads, told.image_gelu or activation
    lacking = [("heads", "image_heads=N", "--image-heads N")] * (heads is None)
    lacking += [("form of GELU", "gelu='tanh' or 'erf'", "--gelu tanh or erf")] * (activation is None)
    if heads is None or activation is None:
        raise CheckpointError(
            f"{find.where}: the image tower is {name!r}, a name of timm that is not known here, and no file tells its "
            f"{' and its '.join(what for what, _, _ in lacking)}: give "
            f"{' and '.join(option for *_, option in lacking)} "
            f"({', '.join(argument for _, argument, _ in lacking)} in Python)"
        )
    return ImageConfig(
        width=width,
        depth=find.depth(f"{trunk}blocks."),
        num_heads=heads,
        mlp_dim=find(f"{trunk}blocks.0.mlp.fc1.weight", 2)[0],
        image_size=image_size,
        patch_size=patch,
        head=f"{trunk}attn_pool.latent" in find.by_name,
        activation=activation,
    )


def _text(find: _Shapes, section: Mapping[str, Any], where: str, out: int, told: Told) -> TextConfig:
    blocks = f"{TEXT}transformer.resblocks."
    vocab_size, width = find(f"{TEXT}token_embedding.weight", 2)
    seq_len = find(f"{TEXT}positional_embedding", 2)[0]
    for key, default, found in (("context_length", 77, seq_len), ("vocab_size", 49408, vocab_size)):
        if _count(section, key, default, where) != found:
            raise CheckpointError(
                f"{where}: {key} is {section.get(key, default)}, but the weights have {found}: they are of different "
                "models, download both again"
            )
    norm, act = section.get("norm_kwargs") or {}, section.get("act_kwargs") or {}
    if not isinstance(norm, dict) or set(norm) - {"eps"}:
        raise CheckpointError(f"{where}: norm_kwargs must be an object with eps alone, got {norm!r}")
    if (
        not isinstance(act, dict)
        or set(act) - {"approximate"}
        or act.get("approximate", "none") not in ("none", "tanh")
    ):
        raise CheckpointError(f"{where}: act_kwargs must be an object with approximate, none or tanh, got {act!r}")
    gelu = GELU_TANH if act.get("approximate") == "tanh" else GELU_ERF
    projects = PROJECTION in find.by_name or f"{PROJECTION}.weight" in find.by_name
    if projects != (section.get("proj_type", "linear") == "linear"):
        raise CheckpointError(
            f"{where}: proj_type is {section.get('proj_type', 'linear')!r}, the weights say otherwise"
        )
    return TextConfig(
        width=width,
        depth=find.depth(blocks),
        num_heads=_count(section, "heads", 8, where),
        mlp_dim=find(f"{blocks}0.mlp.c_fc.weight", 2)[0],
        seq_len=seq_len,
        vocab_size=vocab_size,
        projection_dim=out,
        layer_norm_eps=norm.get("eps", _TORCH_NORM_EPS),
        activation=told.text_gelu or gelu,
    )


def _open_clip_sections(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """`model_cfg`, `vision_cfg` and `text_cfg`, whose settings are all supported."""
    content = _section(read_object(path), "model_cfg", str(path))
    vision, text = (_section(content, f"{tower}_cfg", f"{path}: model_cfg") for tower in ("vision", "text"))
    name = vision.get("timm_model_name")
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"{path}: vision_cfg has no timm_model_name, as SigLIP's have: this is another model, such as CLIP"
        )
    _check(f"{path}: text_cfg", text, _TEXT)
    _check(f"{path}: vision_cfg", vision, _VISION)
    _check(f"{path}: model_cfg", content, _MODEL)
    return content, vision, text


def check_settings(folder: Path, form: str) -> None:
    """Refuse a folder of open_clip or timm by its configuration alone, before weights are downloaded.

    Raises:
        CheckpointError: this is no SigLIP model, or has a setting that is not computed here.
    """
    if form == OPEN_CLIP:
        _open_clip_sections(folder / OPEN_CLIP_CONFIG)
    else:
        _timm_content(folder / "config.json")


def open_clip_config(path: Path, weights: str, shapes: Mapping[str, Shape], told: Told) -> SigLIPConfig:
    """The configuration of an open_clip folder.

    Args:
        path: of its open_clip_config.json.
        weights: the file with the weights, for messages.
        shapes: of its tensors, by name.
        told: by the user.

    Raises:
        CheckpointError: this is no SigLIP model; a setting that is not computed here; what has to be told and was not;
            configuration and weights that do not belong together.
        InputError: other heads were told than the model has.
    """
    content, vision, text = _open_clip_sections(path)
    find = _Shapes(weights, shapes)
    if "logit_bias" not in shapes:
        raise CheckpointError(f"{weights} has no logit_bias: this model was not trained with SigLIP's loss")
    size = _count(vision, "image_size", 224, f"{path}: vision_cfg")
    image = _image(find, TRUNK, vision["timm_model_name"], size, None, None, told)
    return SigLIPConfig(
        image, _text(find, text, f"{path}: text_cfg", _count(content, "embed_dim", None, str(path)), told)
    )


def _labels(content: Mapping[str, Any], classes: int, where: str) -> tuple[str, ...]:
    names = content.get("label_names") or [f"LABEL_{i}" for i in range(classes)]
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{where}: label_names must be {classes} names, got {names!r:.80}")
    return tuple(names)


def _timm_content(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """timm's config.json, its `model_args` and its `pretrained_cfg`, whose settings are all supported."""
    content = read_object(path)
    name, args, pretrained = (
        content["architecture"],
        content.get("model_args") or {},
        content.get("pretrained_cfg") or {},
    )
    if not isinstance(args, dict) or not isinstance(pretrained, dict):
        raise CheckpointError(f"{path}: model_args and pretrained_cfg must be objects")
    if "siglip" not in name:
        raise CheckpointError(f"{path}: architecture is {name!r}, a model of timm that is no SigLIP's image tower")
    _check(f"{path}: model_args", args, _TIMM_ARGS)
    unknown = sorted(set(args) - set(_TIMM_ARGS) - set(_TIMM_READ))
    if unknown:
        raise CheckpointError(f"{path}: model_args has {', '.join(unknown)}, which SigLIP's towers do not have")
    if args.get("act_layer") not in (None, *_TIMM_GELU):
        raise CheckpointError(f"{path}: act_layer must be gelu or gelu_tanh, got {args['act_layer']!r}")
    return content, args, pretrained


def timm_config(path: Path, weights: str, shapes: Mapping[str, Shape], told: Told) -> SigLIPConfig:
    """The configuration of timm's folder of an image tower alone, see `open_clip_config`.

    A model with classes is a classifier, on the MAP head's vector or on the mean of the tokens.
    """
    content, args, pretrained = _timm_content(path)
    name = content["architecture"]
    find, known = _Shapes(weights, shapes), architecture(name)
    size = _timm_size(path, args, pretrained, known.image_size if known else None)
    heads = _count(args, "num_heads", None, f"{path}: model_args") if args.get("num_heads") else None
    image = _image(find, "", name, size, heads, _TIMM_GELU.get(args.get("act_layer") or ""), told)
    pool = args.get("global_pool", content.get("global_pool", "avg" if known and known.mean else "map"))
    if pool not in ("map", "avg") or (pool == "map") != image.head:
        raise CheckpointError(
            f"{path}: global_pool is {pool!r}, expected {'map' if image.head else 'avg'!r} with these weights"
        )
    image = replace(image, mean=not image.head)
    if "head.weight" not in shapes:
        return SigLIPConfig(image, None)
    labels = _labels(content, find("head.weight", 2)[0], str(path))
    return SigLIPConfig(image, None, ClassifierConfig(labels, pooled=image.head))


def _timm_size(path: Path, args: Mapping[str, Any], pretrained: Mapping[str, Any], by_name: int | None) -> int:
    if args.get("img_size"):
        return _count(args, "img_size", None, f"{path}: model_args")
    size = pretrained.get("input_size")
    if isinstance(size, list) and len(size) == 3:
        return _count({"input_size": size[1:]}, "input_size", None, f"{path}: pretrained_cfg")
    if by_name is None:
        raise CheckpointError(
            f"{path}: neither model_args (img_size) nor pretrained_cfg (input_size) tells the image size"
        )
    return by_name
