"""Image towers that stand in larger models, or were cut out of them: found by the structure of their tensors' names.

Vision-language models (LLaVA, PaliGemma, Gemma 3 and others) put prefixes of their own before SigLIP's names, and most
leave out the head. The tower is where a patch embedding with a bias lies beside an encoder; the rest is theirs.

Leaves out: towers whose tensors have other names, as those of timm.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from npsiglip.config import SigLIPConfig, host_of
from npsiglip.errors import CheckpointError
from npsiglip.formats.hf_names import FIRST, layouts, prefixes
from npsiglip.formats.stored import StoredTensor
from npsiglip.json_files import read_json

_TOWER = "vision_model."
_START = FIRST["image"].removeprefix(_TOWER)  # embeddings.patch_embedding.weight
_PARTS = ("embeddings.", "encoder.", "post_layernorm.", "head.")


def _complete(prefix: str, stored: Mapping[str, StoredTensor]) -> bool:
    """Whether what begins with this prefix has what any tower of SigLIP's has, and no class token."""
    names = ("embeddings.patch_embedding.bias", "embeddings.position_embedding.weight", "post_layernorm.weight")
    return all(f"{prefix}{name}" in stored for name in names) and f"{prefix}embeddings.class_embedding" not in stored


def _one_tower(folder: Path, host: str, stored: Mapping[str, StoredTensor]) -> str:
    """The prefix of the one tower of SigLIP's that there is."""
    found = [prefix for prefix in prefixes(stored, _START) if _complete(prefix, stored)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(
            f"{folder} is a {host!r} model with {len(found)} image towers like SigLIP's, at {', '.join(found)}; "
            "expected one: save the one that is meant in a folder of its own"
        )
    raise CheckpointError(
        f"{folder} is a {host!r} model whose config.json describes SigLIP's image tower, but its weights have none: no "
        f"...{_START} with a bias, positions and a post_layernorm beside it; the tower may have to be loaded from the "
        "model that it was taken from"
    )


def _shape(config: SigLIPConfig) -> str:
    image = config.image
    assert image is not None
    head = "" if image.head else ", without head: it gives tokens (`image_output`), no embeddings"
    return f"width {image.width}, {image.depth} blocks, images of {image.image_size} pixels{head}"


def find_tower(
    folder: Path, config: SigLIPConfig, stored: Mapping[str, StoredTensor]
) -> tuple[SigLIPConfig, Mapping[str, StoredTensor]]:
    """The configuration, with a head if one is stored, and the tensors of the tower; unchanged for other models.

    What was found is told in a warning.

    Args:
        folder: of the model.
        config: what its config.json says.
        stored: all of its tensors.

    Raises:
        CheckpointError: a larger model with no such tower, or with several.
    """
    if config.image is None or config.text or config.classifier:
        return config, stored
    host = host_of(read_json(folder / "config.json"))
    found = prefixes(stored, _START)
    if not host and len(found) != 1:
        return config, stored
    prefix = _one_tower(folder, host, stored) if host else found[0]
    head = any(key.startswith(f"{prefix}head.") for key in stored)
    said, config = config.image.head, replace(config, image=replace(config.image, head=head))
    if not host:
        if head != said:
            warnings.warn(
                f"{folder}: config.json says that the image tower has {'a' if said else 'no'} head (vision_use_head), "
                f"the weights have {'one' if head else 'none'}: {_shape(config)}",
                UserWarning,
                stacklevel=3,
            )
        return config, stored
    names = {key.removeprefix(_TOWER) for key in (place.key for place in layouts(config).values())}
    own = {
        key: tensor
        for key, tensor in stored.items()
        if key.startswith(prefix) and (key.removeprefix(prefix) in names or key.removeprefix(prefix).startswith(_PARTS))
    }
    warnings.warn(
        f"{folder} is a {host!r} model: its image tower, SigLIP's, was found at {prefix or 'the top'} "
        f"({_shape(config)}); {len(stored) - len(own):,} other tensors are left out",
        UserWarning,
        stacklevel=3,
    )
    return config, own
