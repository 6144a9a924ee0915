"""What `repr` says of models and of results: shapes and types, never values.

Leaves out: what a user is told of a model in messages.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from npsiglip.config import SigLIPConfig
from npsiglip.params import count_params


def describe_model(config: SigLIPConfig, dtype: str, source: str) -> str:
    """Two towers, or the one that there is, in a line or two."""
    parts = []
    if image := config.image:
        size = f"up to {image.seq_len} patches" if image.naflex else f"{image.image_size} x {image.image_size}"
        parts.append(f"images: {size}, patch {image.patch_size}, {image.depth} blocks of width {image.width}")
    if text := config.text:
        tokens = f"{text.seq_len} tokens of {text.vocab_size:,}"
        parts.append(f"texts: {tokens}, {text.depth} blocks of width {text.width}")
    if config.classifier:
        parts.append(f"{len(config.classifier.labels)} classes")
    return f"SigLIP({'; '.join(parts)};\n       {count_params(config) / 1e6:,.1f} M parameters, {dtype}, {source})"


def _shape(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, tuple) and value and all(isinstance(each, np.ndarray) for each in value):
        return f"{len(value)} x {_shape(value[0])}"
    return repr(value)


def describe_fields(result: Any) -> str:
    """A dataclass or a named tuple of arrays: their types and shapes by the names of the fields."""
    names = getattr(result, "_fields", None) or [field.name for field in fields(result)]
    return f"{type(result).__name__}({', '.join(f'{name}: {_shape(getattr(result, name))}' for name in names)})"
