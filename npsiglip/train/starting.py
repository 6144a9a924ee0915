"""The model that a run starts from: its shapes, where the settings leave them out, and its vocabulary.

`train.init` names it as everything else does that takes a model: a folder of Hugging Face or open_clip, big_vision's
npz, a released name, "builtin". Headers alone are read here; `npsiglip.train.initial.params_of` reads the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import LAYER_NORM_EPS, ImageConfig, TextConfig
from npsiglip.errors import InputError
from npsiglip.texts.siglip import MODEL_FILE

TOWERS = ("image", "text")
SHAPES = {
    "image": ("width", "depth", "num_heads", "mlp_dim", "image_size", "patch_size"),
    "text": ("width", "depth", "num_heads", "mlp_dim", "seq_len", "vocab_size"),
}


def other(tower: str) -> str:
    """The tower beside this one; none beside none."""
    return {"image": "text", "text": "image"}.get(tower, "")


def tower_of(checkpoint: Checkpoint, tower: str) -> ImageConfig | TextConfig:
    """A tower that training can go on with.

    Raises:
        InputError: there is none, or it is one that training does not compute.
    """
    found = checkpoint.config.image if tower == "image" else checkpoint.config.text
    where = checkpoint.source
    if found is None:
        raise InputError(
            f"{where} has no {tower} tower to start from: give the shapes of a new one as [model.{tower}], and "
            f'train.new = "{tower}"'
        )
    if isinstance(found, ImageConfig) and (found.naflex or not found.head):
        what = "takes images of any aspect ratio (NaFlex)" if found.naflex else "has no MAP head"
        raise InputError(f"the image tower of {where} {what}, which training has not: start from another model")
    if isinstance(found, TextConfig) and found.is_siglip2:
        raise InputError(
            f"the text tower of {where} has SigLIP 2's vocabulary, and training cuts texts with SigLIP's alone: start "
            'from its image tower, with a new text tower ([model.text], train.new = "text")'
        )
    if found.layer_norm_eps != LAYER_NORM_EPS:
        raise InputError(
            f"the {tower} tower of {where} has layer_norm_eps {found.layer_norm_eps:g}, and training computes with "
            f"SigLIP's {LAYER_NORM_EPS:g}: start from another model"
        )
    return found


def with_shapes(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings with the shapes of `train.init` for each tower that [model] leaves out.

    A tower whose shapes come from there starts with its parameters, too: then `new` says so, unless it is set.

    Args:
        content: section -> settings, as they were read.

    Raises:
        InputError, CheckpointError: the model cannot be used to start from.
    """
    train, model = content.get("train", {}), content.get("model", {})
    if not isinstance(train, Mapping) or not isinstance(model, Mapping):
        return content  # which is refused where types are checked
    init, new = train.get("init"), train.get("new")
    missing = [tower for tower in TOWERS if tower not in model]
    if not isinstance(init, str) or not init or not missing:
        return content
    if new in missing:
        raise InputError(f"train.new {new!r} is a tower that starts anew: give its shapes as [model.{new}]")
    checkpoint = Checkpoint.open(init)
    shapes = {}
    for tower in missing:
        found = tower_of(checkpoint, tower)
        shapes[tower] = {key: getattr(found, key) for key in SHAPES[tower]}
    if new is None and other(str(train.get("lock", ""))) in missing:
        train = {**train, "new": ""}
    return {**content, "model": {**model, **shapes}, "train": train}


def vocabulary_of(init: str) -> Path:
    """The SentencePiece model of the model to start from.

    Raises:
        InputError: it has none.
    """
    folder = Checkpoint.open(init).folder
    path = folder / MODEL_FILE
    if not path.exists():
        raise InputError(
            f"{folder} has no {MODEL_FILE}, SigLIP's vocabulary, which its text tower was trained with: put the file "
            "of the original checkpoint there, or name it as data.tokenizer"
        )
    return path
