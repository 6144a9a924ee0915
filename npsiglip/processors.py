"""Which image processor and which tokenizer a model has: what its folder says, or SigLIP's own.

They are found when an image or a text first needs them (`npsiglip.lazy`).
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import SigLIPConfig
from npsiglip.formats.told import HUGGING_FACE, folder_form
from npsiglip.images.files import Decoding
from npsiglip.images.naflex import NaflexProcessor
from npsiglip.images.openclip import openclip_processor
from npsiglip.images.processor import ImageProcessor
from npsiglip.images.settings import BICUBIC, BILINEAR, RESAMPLING, has_settings, hosts_settings, read_config
from npsiglip.lazy import Deferred
from npsiglip.texts.base import BaseTokenizer
from npsiglip.texts.generation import generation_of
from npsiglip.texts.load import find_tokenizer

Processor = ImageProcessor | NaflexProcessor


def default_processor(config: SigLIPConfig, source: Path | None = None) -> Processor:
    """The standard one for the model's size, or NaFlex's for its patches; SigLIP resizes bicubic, SigLIP 2 bilinear.

    Args:
        config: of a model with an image tower.
        source: what it was read from, whose name may tell which of the two it is.
    """
    assert config.image is not None
    if config.image.naflex:
        return NaflexProcessor(patch_size=config.image.patch_size, max_num_patches=config.image.seq_len)
    resample = BILINEAR if generation_of(config, source).siglip2 else BICUBIC
    return ImageProcessor(config.image.image_size, config.image.image_size, resample=resample)


def folder_processor(source: Path, config: SigLIPConfig) -> Processor:
    """What the preprocessor_config.json of a model folder says, or the standard one; a warning tells of a choice.

    Of a folder of open_clip or timm, what its configuration says.

    Args:
        source: the folder, or an .npz, beside which the file may lie.
        config: of a model with an image tower.

    Raises:
        CheckpointError: the file cannot be used, or is of another model.
    """
    assert config.image is not None
    folder = source if source.is_dir() else source.parent
    form = folder_form(folder) if source.is_dir() else HUGGING_FACE
    if form != HUGGING_FACE:
        return openclip_processor(folder, form, config.image.image_size)
    if not has_settings(folder):
        processor, (siglip2, reason) = default_processor(config, source), generation_of(config, source)
        if source.is_dir() or not reason:  # an .npz never has one
            warnings.warn(
                f"{folder} has no preprocessor_config.json: images are resized with the "
                f"{RESAMPLING[processor.resample]} filter, SigLIP{' 2' if siglip2 else ''}'s, because "
                f"{reason or 'nothing there speaks of SigLIP 2, which has bilinear'}; if that is wrong, put the "
                "model's own file there",
                UserWarning,
                stacklevel=2,
            )
        return processor
    if config.image.naflex:
        return NaflexProcessor.from_folder(folder, config.image.patch_size)
    if read_config(folder)[1].get("resample") is None and generation_of(config, source).siglip2:
        warnings.warn(
            f"{folder}: preprocessor_config.json says no filter (resample): bicubic, as in transformers, though "
            'SigLIP 2 has bilinear; add "resample": 2 to it if that was meant',
            UserWarning,
            stacklevel=2,
        )
    if (found := hosts_settings(folder)) is not None:
        kind, options = found
        size = config.image.image_size
        warnings.warn(
            f"{folder}: {kind} is the larger model's; its filter, mean and deviation are used, and each image is "
            f"squashed to {size} x {size} as SigLIP's are: crops, tiles and padding are left out",
            UserWarning,
            stacklevel=2,
        )
        return ImageProcessor(size, size, **options)
    return ImageProcessor.from_folder(folder, config.image.image_size)


def preprocessor_config(processor: Processor) -> dict[str, Any]:
    """The content of preprocessor_config.json that transformers and `folder_processor` read as this processor."""
    if isinstance(processor, NaflexProcessor):
        kind = "Siglip2"
        size: dict[str, Any] = {
            "patch_size": processor.patch_size,
            "max_num_patches": processor.max_num_patches,
        }
    else:
        kind, size = "Siglip", {"size": {"height": processor.height, "width": processor.width}}
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        "processor_class": f"{kind}Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        **size,
        "resample": processor.resample,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
    }


def _processor_of(source: Path, config: SigLIPConfig, decoding: Decoding) -> Processor:
    return replace(folder_processor(source, config), **decoding._asdict())


def deferred_processor(checkpoint: Checkpoint, decoding: Decoding) -> Deferred[Processor] | None:
    """Finds the image processor of a checkpoint; None without image tower."""
    if not checkpoint.config.image:
        return None
    return Deferred(partial(_processor_of, checkpoint.source.absolute(), checkpoint.config, decoding))


def deferred_tokenizer(checkpoint: Checkpoint) -> Deferred[BaseTokenizer | None] | None:
    """Finds the tokenizer of a checkpoint; None without text tower."""
    text = checkpoint.config.text
    return Deferred(partial(find_tokenizer, checkpoint.folder.absolute(), text)) if text else None
