"""From a folder of open_clip or timm to a configuration and the place of each parameter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from npsiglip.config import SigLIPConfig
from npsiglip.errors import CheckpointError
from npsiglip.formats.matching import Entries, match, users
from npsiglip.formats.openclip_config import open_clip_config, timm_config
from npsiglip.formats.openclip_names import TRUNK, openclip_layouts, with_projection
from npsiglip.formats.safetensors import INDEX, SINGLE, open_file, open_folder
from npsiglip.formats.stored import StoredTensor
from npsiglip.formats.told import OPEN_CLIP, OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, Told

PICKLES = {OPEN_CLIP_WEIGHTS: "open_clip_pytorch_model.bin", SINGLE: "pytorch_model.bin"}


def _open(folder: Path, name: str) -> Mapping[str, StoredTensor]:
    """The tensors of a folder, whose weights should be in the file `name`."""
    if (folder / name).exists():
        return open_file(folder / name)
    if name == SINGLE and (folder / INDEX).exists():
        return open_folder(folder)
    pickle = folder / PICKLES[name]
    if pickle.exists():
        raise CheckpointError(
            f"{folder} has its weights only as {pickle.name}, a pickle, which could run any code when read; expected "
            f'{name}. Convert it once, where torch is installed: python -c "import torch, safetensors.torch; '
            f"safetensors.torch.save_file({{k: v.contiguous() for k, v in torch.load('{pickle}', weights_only=True, "
            f"map_location='cpu').items()}}, '{folder / name}')\""
        )
    raise CheckpointError(f"{folder} has no {name}: download the weights of the model")


def open_openclip(folder: Path, form: str, told: Told) -> tuple[SigLIPConfig, Entries]:
    """A folder of `form`, `OPEN_CLIP` or `TIMM`: its configuration, and each parameter in its files.

    Raises:
        CheckpointError: this is no SigLIP model, something is missing or damaged, or has to be told and was not.
        InputError: what was told contradicts the files.
    """
    name, trunk, read, config_file = (
        (OPEN_CLIP_WEIGHTS, TRUNK, open_clip_config, OPEN_CLIP_CONFIG)
        if form == OPEN_CLIP
        else (SINGLE, "", timm_config, "config.json")
    )
    stored = _open(folder, name)
    config = read(folder / config_file, str(folder / name), {key: t.shape for key, t in stored.items()}, told)
    places = openclip_layouts(config, trunk)
    there = with_projection(folder / name, config, stored, places)
    fix = f"{config_file} and the weights are of different models, or one is damaged: download both again"
    return config, match(folder, places, there, {key: key for key in users(places)}, config_file, fix)
