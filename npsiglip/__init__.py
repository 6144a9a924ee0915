"""npsiglip: a numerical reference implementation of SigLIP (arXiv:2303.15343).

NumPy for the truth (`npsiglip.reference`), Numba kernels for the speed, no deep-learning framework. Names are loaded
when they are first used, so that `import npsiglip` costs what NumPy costs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npsiglip import reference
    from npsiglip.checkpoint import Checkpoint
    from npsiglip.collection.index import Index
    from npsiglip.comparison.compare import Comparison, compare
    from npsiglip.config import ClassifierConfig, ImageConfig, SigLIPConfig, TextConfig
    from npsiglip.errors import CheckpointError, InputError, NpsiglipError
    from npsiglip.images.naflex import NaflexProcessor, PatchBatch
    from npsiglip.images.processor import ImageProcessor
    from npsiglip.loss import SigmoidLoss, sigmoid_loss
    from npsiglip.model import SigLIP
    from npsiglip.outputs import SigLIPOutput, TowerOutput
    from npsiglip.save import save_folder
    from npsiglip.texts.siglip import Tokenizer
    from npsiglip.texts.siglip2 import Siglip2Tokenizer
    from npsiglip.variants import variant

__version__ = "0.1.0"

_HOMES = {
    "Checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "ClassifierConfig": "config",
    "Comparison": "comparison.compare",
    "ImageConfig": "config",
    "ImageProcessor": "images.processor",
    "Index": "collection.index",
    "InputError": "errors",
    "NpsiglipError": "errors",
    "SigLIP": "model",
    "SigLIPConfig": "config",
    "NaflexProcessor": "images.naflex",
    "PatchBatch": "images.naflex",
    "SigLIPOutput": "outputs",
    "TowerOutput": "outputs",
    "Siglip2Tokenizer": "texts.siglip2",
    "SigmoidLoss": "loss",
    "TextConfig": "config",
    "Tokenizer": "texts.siglip",
    "compare": "comparison.compare",
    "save_folder": "save",
    "sigmoid_loss": "loss",
    "variant": "variants",
}

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ClassifierConfig",
    "Comparison",
    "ImageConfig",
    "ImageProcessor",
    "Index",
    "InputError",
    "NaflexProcessor",
    "NpsiglipError",
    "PatchBatch",
    "SigLIP",
    "SigLIPConfig",
    "SigLIPOutput",
    "Siglip2Tokenizer",
    "SigmoidLoss",
    "TextConfig",
    "Tokenizer",
    "TowerOutput",
    "compare",
    "reference",
    "save_folder",
    "sigmoid_loss",
    "variant",
]


def __getattr__(name: str) -> Any:
    from npsiglip.interrupts import deferred  # here: it would cost an import of `npsiglip` a sixth of its time

    with deferred():  # what is half imported may not be importable again
        if name == "reference":
            return importlib.import_module("npsiglip.reference")
        if name in _HOMES:
            return getattr(importlib.import_module(f"npsiglip.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
