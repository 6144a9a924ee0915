"""Hugging Face's SigLIP on PyTorch: the towers themselves, without the tokenizer, the processor and the logits.

Cases are run one after the other: each takes the attention that is the faster one for it, until the next.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

from npsiglip.bench.worker import Run, Say

ATTENTION = ("sdpa", "eager")  # its default, and what was seen to be up to 7 % faster with one image
TRIALS = 3

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

CLASSES = {  # by the model_type of config.json; AutoModel does not know the text tower
    "siglip": "SiglipModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip_text_model": "SiglipTextModel",
}
TOWERS = {"image": "vision_model", "text": "text_model"}
INPUTS = {"image": "pixel_values", "text": "input_ids"}


def load_model(folder: str, dtype: str, **options: Any) -> Any:
    """`SiglipModel`, or one of its towers."""
    kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    loader = getattr(transformers, CLASSES[kind])
    return loader.from_pretrained(folder, dtype=DTYPES[dtype], local_files_only=True, **options).eval()


def tower_of(model: Any, tower: str) -> Any:
    """A tower of a model, which may be that tower itself."""
    return getattr(model, TOWERS[tower], model)


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class Transformers:
    """The model on as many threads."""

    def __init__(self, folder: str, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = load_model(folder, dtype)
        self.about = {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }

    def prepare(self, case: str, inputs: Any) -> Run:
        """Turn the inputs into tensors, and take the attention that is the faster one here."""
        name = case.partition(":")[0]
        tower, argument = tower_of(self.model, name), INPUTS[name]
        tensor = torch.from_numpy(inputs)
        if tensor.is_floating_point():
            tensor = tensor.to(self.model.dtype)

        def run() -> Any:
            with torch.inference_mode():
                return tower(**{argument: tensor}).pooler_output.float().numpy()

        best = min(ATTENTION, key=lambda attention: self._try(attention, run))
        self.model.set_attn_implementation(best)
        return Run(run, setting=f"{best} attention")

    def _try(self, attention: str, run: Callable[[], Any]) -> float:
        self.model.set_attn_implementation(attention)
        run()
        return min(_seconds(run) for _ in range(TRIALS))


def load(folder: str, dtype: str, threads: int, say: Say) -> Transformers:
    """Load a model folder; nothing is downloaded."""
    return Transformers(folder, dtype, threads)
