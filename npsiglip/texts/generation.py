"""SigLIP or SigLIP 2: what a checkpoint shows of it, where no file says it.

It decides on the filter that images are resized with: bicubic for SigLIP, bilinear for SigLIP 2, as the released
preprocessor_config.json files have it. model_type does not tell: SigLIP 2's models of one size are of type "siglip".
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from npsiglip.config import ImageConfig, SigLIPConfig
from npsiglip.errors import CheckpointError
from npsiglip.json_files import read_json
from npsiglip.texts.load import vocabulary_of
from npsiglip.variants import VARIANTS

_NAME = re.compile(r"siglip-?_?2(?!\d)", re.IGNORECASE)
NAME_KEY = "_name_or_path"  # in config.json, of transformers 4
_CACHED = "models--"  # what folders in the Hub's cache begin with, three above the files


class Generation(NamedTuple):
    """Which of the two, and what shows it; empty if nothing does, and SigLIP is a guess."""

    siglip2: bool
    reason: str


def _families(image: ImageConfig) -> set[str]:
    """Of the released checkpoints whose image tower has these shapes."""
    return {
        variant.family
        for variant in VARIANTS.values()
        if variant.config.image and replace(variant.config.image, head=image.head) == image
    }


def telling_name(source: Path) -> str:
    """A name of a checkpoint that says SigLIP 2: of its folder or file, of its repository in the Hub's cache, or of
    what its config.json says that it came from; empty if none does.
    """
    names = [source.name, *(part.name for part in source.parents if part.name.startswith(_CACHED))]
    with contextlib.suppress(CheckpointError):
        names.append(str(read_json((source if source.is_dir() else source.parent) / "config.json").get(NAME_KEY)))
    return next(filter(_NAME.search, names), "")


def generation_of(config: SigLIPConfig, source: Path | None = None) -> Generation:
    """Which SigLIP a checkpoint is of: by NaFlex, its vocabulary, its tokenizer, its name, or its shapes.

    Args:
        config: the shapes.
        source: the folder or file that it was read from, if there is one.
    """
    if config.image and config.image.naflex:
        return Generation(True, "NaFlex is SigLIP 2's")
    known_sizes = {variant.vocab_size: variant.family for variant in VARIANTS.values()}
    if config.text and config.text.vocab_size in known_sizes:
        siglip2 = config.text.is_siglip2
        return Generation(siglip2, f"a vocabulary of {config.text.vocab_size:,} is SigLIP{' 2' if siglip2 else ''}'s")
    if source and config.text:
        siglip2, file = vocabulary_of(source if source.is_dir() else source.parent)
        if file:
            return Generation(siglip2, f"{file} is SigLIP{' 2' if siglip2 else ''}'s")
    if source and (name := telling_name(source)):
        return Generation(True, f"its name is {name}")
    if config.text:
        return Generation(False, f"its vocabulary of {config.text.vocab_size:,} is not SigLIP 2's")
    if config.image and len(families := _families(config.image)) == 1:
        siglip2 = families == {"siglip2"}
        return Generation(siglip2, f"of the released models only SigLIP{' 2' if siglip2 else ''}'s have these shapes")
    return Generation(False, "")
