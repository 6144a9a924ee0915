"""From a model folder to its tokenizer: SigLIP's or SigLIP 2's, whichever its files are, checked against the model."""

from __future__ import annotations

import os
from pathlib import Path

from npsiglip.config import TextConfig
from npsiglip.errors import CheckpointError
from npsiglip.formats.told import OPEN_CLIP, OPEN_CLIP_CONFIG, folder_form, read_object
from npsiglip.json_files import read_json
from npsiglip.texts import siglip2 as gemma  # SigLIP 2's tokenizer is Gemma's
from npsiglip.texts.base import CONFIG_FILE, BaseTokenizer
from npsiglip.texts.openclip import OpenClipTokenizer
from npsiglip.texts.siglip import MODEL_FILE, Tokenizer
from npsiglip.texts.siglip2 import Siglip2Tokenizer

VOCABULARIES = (MODEL_FILE, gemma.JSON_FILE, gemma.MODEL_FILE)


def has_tokenizer(folder: Path) -> bool:
    """Whether there is a vocabulary in a folder."""
    return any((folder / name).exists() for name in VOCABULARIES)


def files_of_tokenizer(config: TextConfig) -> str:
    """For a message: which files a model of this text tower has."""
    siglip2 = f"{gemma.JSON_FILE} and {CONFIG_FILE}"
    return siglip2 if config.is_siglip2 else f"{MODEL_FILE} (SigLIP) or {siglip2} (SigLIP 2)"


def vocabulary_of(folder: Path) -> tuple[bool, str]:
    """Whether a folder's tokenizer is SigLIP 2's, and the name of the file that tells; empty if none does."""
    try:
        if read_json(folder / CONFIG_FILE).get("tokenizer_class") in gemma.CLASSES:
            return True, CONFIG_FILE
    except CheckpointError:  # which is told when a text needs it
        pass
    told = {MODEL_FILE: False, gemma.MODEL_FILE: True}
    return next(((siglip2, name) for name, siglip2 in told.items() if (folder / name).exists()), (False, ""))


def find_tokenizer(folder: Path, config: TextConfig) -> BaseTokenizer | None:
    """The tokenizer of a checkpoint folder, see `load_tokenizer`; None where there is no vocabulary."""
    return load_tokenizer(folder, config) if has_tokenizer(folder) else None


def load_tokenizer(folder: str | os.PathLike[str], config: TextConfig) -> BaseTokenizer:
    """The tokenizer of a checkpoint folder.

    SigLIP 2's if tokenizer_config.json names its class or the model has as many tokens as Gemma, or else by the
    vocabulary that is there: spiece.model is SigLIP's. model_type does not tell: SigLIP 2's models of one size call
    themselves "siglip". Folders of open_clip have texts cleaned as open_clip does (`npsiglip.texts.openclip`).

    Args:
        folder: in Hugging Face's format.
        config: of the text tower that the ids are for.

    Raises:
        CheckpointError: no vocabulary, one that cannot be used, or one that is larger than the model's token table.
    """
    folder = Path(folder)
    found = [name for name in VOCABULARIES if (folder / name).exists()]
    if not found:
        raise CheckpointError(
            f"{folder} has no tokenizer: {MODEL_FILE} does not exist, nor does {gemma.JSON_FILE} of SigLIP "
            "2: check the folder, or download the file of the checkpoint into it"
        )
    siglip2 = (
        MODEL_FILE not in found
        or config.is_siglip2
        or read_json(folder / CONFIG_FILE).get("tokenizer_class") in gemma.CLASSES
    )
    tokenizer: BaseTokenizer
    if folder_form(folder) == OPEN_CLIP:
        text_cfg = read_object(folder / OPEN_CLIP_CONFIG).get("model_cfg", {}).get("text_cfg")
        tokenizer = OpenClipTokenizer.from_folder(folder, config.seq_len, text_cfg)
    else:
        tokenizer = (Siglip2Tokenizer if siglip2 else Tokenizer).from_folder(folder, config.seq_len)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size} pieces, but the model only {config.vocab_size} rows "
            "for them (vocab_size in config.json): use the tokenizer that belongs to the checkpoint"
        )
    return tokenizer
