"""The files of a model folder beside its configuration and weights, and folders that a model may be written to.

Leaves out: what is in them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from npsiglip.errors import CheckpointError
from npsiglip.formats.told import OPEN_CLIP_CONFIG
from npsiglip.images.settings import FILES as PROCESSORS
from npsiglip.texts.load import VOCABULARIES

TOKENIZER = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
WEIGHTS = ("config.json", OPEN_CLIP_CONFIG, "*.safetensors", "*.safetensors.index.json", "*.bin", "*.npz")


def check_target(source: Path, target: Path) -> None:
    """Refuse a folder that is, or could be taken for, another model.

    Raises:
        CheckpointError: the folder is the source, or holds a model.
    """
    if target.exists() and target.samefile(source):
        raise CheckpointError(f"{target} is the model itself, which stays as it is: choose another folder to write to")
    found = [path.name for pattern in WEIGHTS for path in sorted(target.glob(pattern))] if target.is_dir() else []
    if found:
        raise CheckpointError(
            f"{target} already holds a model ({', '.join(found[:3])}): choose another folder, or remove that model "
            "first"
        )


def copies(folder: Path, names: tuple[str, ...] = (*TOKENIZER, *PROCESSORS)) -> dict[str, Callable[[Path], object]]:
    """For `write_all`: what copies those of a folder's files that are there."""
    return {name: partial(shutil.copyfile, folder / name) for name in names if (folder / name).exists()}
