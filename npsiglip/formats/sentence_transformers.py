"""Folders of the sentence-transformers library: which folder inside is the model, and what else it would compute.

Source: `modules.json` as that library writes it, a list of modules with their types and folders; "" is the root.

Leaves out: what its other modules compute; and its padding to the longest text of a batch, with which SigLIP was not
trained.
"""

from __future__ import annotations

import warnings
from pathlib import Path, PurePosixPath
from typing import Any

from npsiglip.errors import CheckpointError
from npsiglip.json_files import ERRORS, parse

MODULES = "modules.json"
_MODELS = ("Transformer", "CLIPModel")
_SAME = ("Normalize",)  # embeddings have unit norm here anyway
_TOLD = ("Pooling",)


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        content = parse(path.read_bytes())
    except (OSError, *ERRORS) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    valid = isinstance(content, list) and all(
        isinstance(m, dict) and isinstance(m.get("type"), str) and isinstance(m.get("path", ""), str) for m in content
    )
    if not valid or not content:
        raise CheckpointError(f"{path} must hold a list of modules, each with its type and path: download it again")
    return list(content)


def model_inside(folder: Path) -> Path:
    """The folder of the model in a folder of sentence-transformers; any other folder is itself.

    Raises:
        CheckpointError: modules.json cannot be read, points outside, or has modules that change the embeddings.
    """
    path = folder / MODULES
    if not path.is_file():
        return folder
    first, *others = _modules(path)
    kinds = [str(module["type"]).rpartition(".")[2] for module in (first, *others)]
    inside = PurePosixPath(first.get("path", ""))
    if kinds[0] not in _MODELS or inside.is_absolute() or ".." in inside.parts:
        raise CheckpointError(
            f"{path} begins with {first['type']!r} in {str(inside)!r}, expected a transformer in a folder inside: give "
            "the folder that has config.json of SigLIP"
        )
    changing = [kind for kind in kinds[1:] if kind not in (*_SAME, *_TOLD)]
    if changing:
        raise CheckpointError(
            f"{path} has {', '.join(changing)} after the model, which changes embeddings and is not computed here; "
            f"for the model alone, copy {folder / inside} without {MODULES}"
        )
    if any(kind in _TOLD for kind in kinds):
        warnings.warn(
            f"{path} has {', '.join(kind for kind in kinds if kind in _TOLD)} after the model, which is not looked at: "
            "embeddings are SigLIP's own",
            UserWarning,
            stacklevel=3,
        )
    return folder / inside
