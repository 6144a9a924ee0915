"""A trained model as an ordinary Hugging Face folder, which `SigLIP.from_pretrained` and transformers load.

Weights and config.json come from `npsiglip.save.save_folder`; here is what stands around them. config.json names
the ids of the vocabulary's special tokens, whose defaults in transformers are those of another vocabulary, and float32
to compute in, whatever type the weights are stored in: they are exact in it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from npsiglip.atomic import write_all
from npsiglip.config import SigLIPConfig
from npsiglip.errors import CheckpointError
from npsiglip.formats.safetensors import SINGLE, json_writer
from npsiglip.images.processor import ImageProcessor
from npsiglip.params import Params
from npsiglip.processors import preprocessor_config
from npsiglip.save import save_folder
from npsiglip.texts.base import CONFIG_FILE
from npsiglip.texts.siglip import MODEL_FILE

SPECIAL = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}


def tokenizer_config(seq_len: int) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    flags = {"special": True, "normalized": False, "single_word": False, "lstrip": True, "rstrip": True}
    added = {str(i): {"content": token, **flags} for i, token in ((1, "</s>"), (2, "<unk>"))}
    return {
        "tokenizer_class": "SiglipTokenizer",
        "processor_class": "SiglipProcessor",
        "do_lower_case": True,
        "model_max_length": seq_len,
        "model_input_names": ["input_ids"],
        "added_tokens_decoder": added,
        "additional_special_tokens": [],
        "clean_up_tokenization_spaces": True,
        "sp_model_kwargs": {},
        **SPECIAL,
    }


def _with_tokens(config: dict[str, Any]) -> dict[str, Any]:
    text = config["text_config"] | {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    return config | {"dtype": "float32", "text_config": text}


def export_model(
    folder: str | Path, config: SigLIPConfig, params: Params, tokenizer_file: str | Path, dtype: str = "bfloat16"
) -> None:
    """Write config.json, model.safetensors, spiece.model and the settings of tokenizer and processor.

    All files appear when all are complete, config.json last.

    Args:
        folder: created if it does not exist; files in it are replaced.
        config: of a model with both towers.
        params: exactly those of the model.
        tokenizer_file: a SentencePiece model, copied.
        dtype: what the weights are rounded to: "float32", "float16" or "bfloat16".

    Raises:
        CheckpointError: as `save_folder`.
    """
    assert config.image is not None and config.text is not None
    folder, size = Path(folder), config.image.image_size
    writers: dict[str, Callable[[Path], object]] = {
        MODEL_FILE: partial(shutil.copyfile, tokenizer_file),
        CONFIG_FILE: json_writer(tokenizer_config(config.text.seq_len)),
        "special_tokens_map.json": json_writer(SPECIAL),
        "preprocessor_config.json": json_writer(preprocessor_config(ImageProcessor(size, size))),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".npsiglip-", dir=folder) as temporary:
            save_folder(temporary, config, params, dtype)
            content = json.loads(Path(temporary, "config.json").read_text(encoding="utf-8"))
            writers[SINGLE] = partial(shutil.copyfile, Path(temporary, SINGLE))
            writers["config.json"] = json_writer(_with_tokens(content))
            write_all(folder, writers)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from None
