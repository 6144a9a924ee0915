"""Hugging Face's SigLIP on PyTorch: the towers themselves, without the tokenizer, the processor and the logits."""

from __future__ import annotations

import platform
from typing import Any

import torch
import transformers

from npsiglip.bench.worker import Run, Say


class Transformers:
    """`SiglipModel`, or one of its towers."""

    def __init__(self, folder: str, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        # SDPA is the default and the fastest; PyTorch has no faster attention for these lengths on a CPU
        self.model = transformers.AutoModel.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
        ).eval()
        self.about = {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "attention": "sdpa",
            "python": platform.python_version(),
        }

    def prepare(self, case: str, inputs: Any) -> Run:
        """Turn the inputs into tensors."""
        name, argument = ("vision_model", "pixel_values") if case.startswith("image") else ("text_model", "input_ids")
        tower = getattr(self.model, name, self.model)
        tensor = torch.from_numpy(inputs)
        if tensor.is_floating_point():
            tensor = tensor.to(self.model.dtype)

        def run() -> Any:
            with torch.inference_mode():
                return tower(**{argument: tensor}).pooler_output.float().numpy()

        return Run(run)


def load(folder: str, dtype: str, threads: int, say: Say) -> Transformers:
    """Load a model folder; nothing is downloaded."""
    return Transformers(folder, dtype, threads)
