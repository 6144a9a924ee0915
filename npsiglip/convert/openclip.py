"""Writing folders that open_clip and timm read: both towers for the one, an image tower alone for the other.

The form of GELU of an image tower has no place in either: these libraries take it from timm's name of the architecture,
and so does whoever reads the folder here. That of a text tower has.

Source: open_clip 3.3 `push_to_hf_hub.py`, timm 1.0 `models/_hub.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import save_file

from npsiglip.atomic import write_all
from npsiglip.config import GELU_TANH, LAYER_NORM_EPS, ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import CheckpointError
from npsiglip.formats.matching import users
from npsiglip.formats.openclip_arch import name_of
from npsiglip.formats.openclip_names import TRUNK, openclip_layouts
from npsiglip.formats.safetensors import SINGLE, json_writer
from npsiglip.formats.told import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from npsiglip.params import Params
from npsiglip.save import check_saving, is_identity, stored_values, target_dtype

# Where open_clip finds the tokenizer of these vocabularies, if the folder is published without one.
_TOKENIZERS = {
    32_000: "timm/ViT-B-16-SigLIP",
    250_000: "timm/ViT-B-16-SigLIP-i18n-256",
    256_000: "timm/ViT-B-16-SigLIP2",
}


def _mlp_ratio(config: TextConfig) -> float:
    """With which open_clip, which cuts width * ratio, comes to this MLP."""
    short = round(config.mlp_dim / config.width, 4)
    choices = (short, short + 1e-4, (config.mlp_dim + 0.5) / config.width)
    return next(ratio for ratio in choices if int(config.width * ratio) == config.mlp_dim)


def _text_cfg(config: TextConfig, projects: bool) -> dict[str, Any]:
    section: dict[str, Any] = {
        "context_length": config.seq_len,
        "vocab_size": config.vocab_size,
        "hf_tokenizer_name": _TOKENIZERS.get(config.vocab_size, "local"),
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": config.width,
        "heads": config.num_heads,
        "layers": config.depth,
        "mlp_ratio": _mlp_ratio(config),
        "no_causal_mask": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": config.layer_norm_eps},
    }
    section |= {"proj_bias": True} if projects else {"proj_type": "none"}
    return section | ({"act_kwargs": {"approximate": "tanh"}} if config.activation == GELU_TANH else {})


def _architecture(config: ImageConfig, any_size: bool) -> str:
    if config.naflex:
        raise CheckpointError("NaFlex models have another form in timm, which is not supported")
    if config.layer_norm_eps != LAYER_NORM_EPS:
        raise CheckpointError(
            f"layer_norm_eps is {config.layer_norm_eps}, and timm's image towers have {LAYER_NORM_EPS}"
        )
    name = name_of(config, any_size)
    if name is None:
        raise CheckpointError(
            f"timm has no image tower of width {config.width}, depth {config.depth}, {config.num_heads} heads, an MLP "
            f"of {config.mlp_dim} and patches of {config.patch_size} for images of {config.image_size}: only the "
            "architectures of released SigLIP models can be written for open_clip and timm"
        )
    return name


def open_clip_content(config: SigLIPConfig, pixels: Mapping[str, Any], projects: bool) -> dict[str, Any]:
    """The content of open_clip_config.json.

    Args:
        config: of both towers.
        pixels: `preprocess_cfg`.
        projects: whether the text tower has a projection.

    Raises:
        CheckpointError: a model that open_clip cannot build.
    """
    assert config.image is not None and config.text is not None
    vision = {"image_size": config.image.image_size, "timm_model_name": _architecture(config.image, any_size=False)}
    vision |= {"timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none"}
    model = {"embed_dim": config.image.width, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision}
    return {"model_cfg": model | {"text_cfg": _text_cfg(config.text, projects)}, "preprocess_cfg": dict(pixels)}


def timm_content(config: SigLIPConfig, pixels: Mapping[str, Any]) -> dict[str, Any]:
    """The content of timm's config.json for an image tower alone; `pixels`: what its `pretrained_cfg` says of them.

    Raises:
        CheckpointError: a model that timm cannot build.
    """
    image, classes = config.image, config.classifier
    assert image is not None
    if classes and (classes.pooled != image.head or classes.multi_label):
        raise CheckpointError(
            "timm's classifiers stand on the MAP head's vector, or on the mean of the tokens of a tower without head, "
            "and one class is right: this one is another"
        )
    size, count = image.image_size, len(classes.labels) if classes else 0
    content: dict[str, Any] = {
        "architecture": _architecture(image, any_size=True),
        "num_classes": count,
        "num_features": image.width,
        "global_pool": "map" if image.head else "avg",
        "model_args": {"img_size": [size, size], "num_classes": count},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, size, size],
            "fixed_input_size": True,
            **pixels,
            "num_classes": count,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    return content | ({"label_names": list(classes.labels)} if classes else {})


def save_openclip(
    folder: str | Path,
    config: SigLIPConfig,
    params: Params,
    pixels: Mapping[str, Any],
    dtype: str | None = None,
    others: Mapping[str, Callable[[Path], object]] | None = None,
) -> None:
    """Write a folder of open_clip, or of timm for an image tower alone; complete or not there.

    A projection of texts that is the identity is left out, as open_clip's own model of that kind has none.

    Args:
        folder: created if it does not exist.
        config: of the model.
        params: exactly the parameters of `param_shapes(config)`; a `Checkpoint` will do.
        pixels: how images are prepared, in the library's own words.
        dtype: "float32", "float16" or "bfloat16"; None: what each parameter is in.
        others: further files by name, and what writes each to a path.

    Raises:
        InputError: for an unknown `dtype`.
        CheckpointError: a model that the library cannot build; parameters that are missing, left over, of a wrong
            shape, or not finite; the folder cannot be written.
    """
    folder = Path(folder)
    if config.image is None:
        raise CheckpointError("a text tower alone has no form in open_clip or timm: expected both towers, or images'")
    shapes = check_saving(folder, config, params, dtype)
    both = config.text is not None
    places = openclip_layouts(config, TRUNK if both else "")
    projects = both and not is_identity(params)
    if both and not projects:
        places = {name: place for name, place in places.items() if not name.startswith("text.head.")}
    content = open_clip_content(config, pixels, projects) if both else timm_content(config, pixels)
    uses = users(places)

    def write(path: Path) -> None:
        tensors = {
            key: stored_values(names, places, shapes, params, target_dtype(names, params, dtype))
            for key, names in uses.items()
        }
        save_file(tensors, path, metadata={"format": "pt"})

    weights, config_file = (OPEN_CLIP_WEIGHTS, OPEN_CLIP_CONFIG) if both else (SINGLE, "config.json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_all(folder, {**(others or {}), weights: write, config_file: json_writer(content)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from None
