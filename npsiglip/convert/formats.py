"""Between big_vision's npz and the folders of Hugging Face, open_clip and timm: the same numbers in another order.

Source: docs/formats.md has both formats and what the mapping is held to.

Leaves out: what a format cannot tell (tokenizer, classes), which has to come from elsewhere or is refused. The form of
GELU follows the format where it has no place for it; configurations tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import SigLIPConfig
from npsiglip.convert.files import TOKENIZER, check_target, copies
from npsiglip.convert.openclip import save_openclip
from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats.big_vision_names import ROOT
from npsiglip.formats.npz import SUFFIX
from npsiglip.formats.safetensors import json_writer
from npsiglip.formats.told import HUGGING_FACE, NOTHING_TOLD, OPEN_CLIP, OPEN_CLIP_CONFIG, TIMM, Told
from npsiglip.images.openclip import openclip_settings
from npsiglip.images.settings import FILES, PROCESSOR
from npsiglip.processors import folder_processor, preprocessor_config
from npsiglip.save import save_folder, save_npz
from npsiglip.texts.load import has_tokenizer, load_tokenizer
from npsiglip.texts.openclip import OpenClipTokenizer

CHECKED_ROWS = 1 << 16  # of a table at once

Say = Callable[[str], None]


def _forget(text: str) -> None:
    pass


def check_equal(first: Checkpoint, second: Checkpoint) -> None:
    """Compare all parameters of two checkpoints, bit for bit; in types that hold the same values.

    Raises:
        CheckpointError: naming the first that differs.
    """
    names = [name for name in first if name not in second] + [name for name in second if name not in first]
    for name in names or first:
        equal = not names and first[name].shape == second[name].shape
        parts = range(0, max(1, len(first[name]) if first[name].ndim else 1), CHECKED_ROWS) if equal else ()
        for start in parts:
            rows = slice(start, start + CHECKED_ROWS) if first[name].ndim else ()
            a, b = (np.asarray(c[name][rows]) for c in (first, second))
            kind = np.result_type(a, b)
            equal = equal and np.array_equal(_bits(a.astype(kind)), _bits(b.astype(kind)))
        if not equal:
            raise CheckpointError(f"{name} of {second.source} is not that of {first.source}: the disk or memory is bad")
        for checkpoint in (first, second):
            checkpoint.release(name)


def _bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.itemsize}")


def _with_image_size(config: SigLIPConfig, image_size: int | None) -> SigLIPConfig:
    if image_size is None:
        return config
    image = config.image
    if image is None or image.naflex or image_size // image.patch_size != image.grid_size:
        grid = f"{image.grid_size} patches of {image.patch_size} along a side" if image else "no image tower"
        raise InputError(f"image_size {image_size} does not fit: the model has {grid}")
    return replace(config, image=replace(image, image_size=image_size))


def _tokenizer_files(config: SigLIPConfig, tokenizer: Path, target_form: str) -> dict[str, Callable[[Path], object]]:
    """Those that a reader of the target can use; open_clip's Unigram file means nothing to Hugging Face's SigLIP."""
    if config.text is None or not has_tokenizer(tokenizer):
        return {}
    found = load_tokenizer(tokenizer, config.text)  # or the new folder could not be loaded either
    if target_form == HUGGING_FACE and isinstance(found, OpenClipTokenizer) and found.is_unigram:
        return {}
    return copies(tokenizer, TOKENIZER)


def _folder_files(checkpoint: Checkpoint, config: SigLIPConfig, tokenizer: Path) -> dict[str, Callable[[Path], object]]:
    """What a folder in Hugging Face's format has beside configuration and weights, from the source or as is usual."""
    files = _tokenizer_files(config, tokenizer, HUGGING_FACE)
    if config.image:
        processor = folder_processor(checkpoint.source, config)
        own = copies(checkpoint.folder, FILES) if checkpoint.form == HUGGING_FACE else {}
        files |= own or {PROCESSOR: json_writer(preprocessor_config(processor))}
    return files


def _openclip_pixels(checkpoint: Checkpoint, config: SigLIPConfig) -> dict[str, Any]:
    """How images are prepared, in open_clip's words, or in timm's for an image tower alone."""
    processor = folder_processor(checkpoint.source, config)
    return openclip_settings(processor, timm=config.text is None)


def _to_openclip(checkpoint: Checkpoint, config: SigLIPConfig, target: Path, tokenizer: Path) -> None:
    files = _tokenizer_files(config, tokenizer, OPEN_CLIP)
    if config.image is None or config.image.naflex:
        pixels: dict[str, Any] = {}  # refused when it is written, with the reason
    else:
        pixels = _openclip_pixels(checkpoint, config)
    save_openclip(target, config, checkpoint, pixels, others=files)


def convert(
    source: str | Path,
    target: str | Path,
    stacked: bool = False,
    root: str = ROOT,
    tokenizer: str | Path | None = None,
    image_size: int | None = None,
    say: Say = _forget,
    to: str | None = None,
    told: Told = NOTHING_TOLD,
) -> Checkpoint:
    """Write a model in another format, read it again, and compare all parameters.

    Args:
        source: an .npz; or a folder of Hugging Face, open_clip or timm, or a name of one, see `Checkpoint.open`.
        target: a folder that holds no model; or an .npz, which must not exist.
        stacked: for an .npz: all blocks of a tower in one tensor.
        root: for an .npz: what its names begin with.
        tokenizer: for a folder: where the tokenizer's files are; None: beside the .npz.
        image_size: for a folder: pixels along a side of an image, which an .npz tells only up to a patch.
        say: told what is done next.
        to: for a folder: `HUGGING_FACE`; or `OPEN_CLIP`, which is timm's format for an image tower alone. None: Hugging
            Face's.
        told: of the source, see `Checkpoint.open`; its form of GELU is written where the format has a place for it.

    Returns:
        What was written.

    Raises:
        InputError: for an unknown root; a tokenizer or an image size for an npz, or a size of another grid.
        CheckpointError: the model cannot be used, or has what the other format cannot hold; the target exists or cannot
            be written; or another came out, which is removed.
    """
    target, checkpoint = Path(target), Checkpoint.open(source, told=told)
    if checkpoint.quantized:
        raise CheckpointError(f"{checkpoint.source} is quantised: expected the original model, in a float type")
    to_npz = target.suffix == SUFFIX
    if to not in (None, HUGGING_FACE, OPEN_CLIP):
        raise InputError(f"to must be {HUGGING_FACE!r} or {OPEN_CLIP!r}, got {to!r}")
    if to is not None and to_npz:
        raise InputError(f"{target} is an {SUFFIX}, and {to}'s format was asked for: name a folder to write to")
    form = HUGGING_FACE if to is None else TIMM if to == OPEN_CLIP and checkpoint.config.text is None else to
    if not to_npz and not checkpoint.is_npz and checkpoint.form == form:
        raise CheckpointError(
            f"{checkpoint.source} is a folder in {form}'s format already: name an {SUFFIX} to write to, or another "
            "format (--to)"
        )
    if to_npz and (tokenizer is not None or image_size is not None):
        raise InputError(f"a {'tokenizer' if tokenizer is not None else 'size'} has no place in {target}: leave it out")
    say("writing")
    if to_npz:
        save_npz(target, checkpoint.config, checkpoint, stacked=stacked, root=root)
        written = [target]
    else:
        check_target(checkpoint.source, target)
        config = _with_image_size(checkpoint.config, image_size)
        tokens, new = Path(tokenizer or checkpoint.folder), not target.exists()
        try:
            if form == HUGGING_FACE:
                others = _folder_files(checkpoint, config, tokens)
                save_folder(target, config, checkpoint, dtype=None, others=others)
            else:
                _to_openclip(checkpoint, config, target, tokens)
        except BaseException:
            if new:
                with contextlib.suppress(OSError):
                    target.rmdir()
            raise
        configs = [target / name for name in ("config.json", OPEN_CLIP_CONFIG)]
        written = [*(path for path in configs if path.exists()), *target.glob("*.safetensors")]
    say("comparing")
    try:
        result = Checkpoint.open(target)
        check_equal(checkpoint, result)
    except BaseException:
        for path in written:
            path.unlink()
        raise
    return result
