"""Hugging Face's towers in ONNX, for the peers that load that: `image.onnx`, `text.onnx`, their weights beside them.

Pixels or ids in, pooled embeddings out, for any batch: the peers fix the batch when they load the file. Eager attention
and SDPA, `torch.export` and TorchScript, operator sets 18, 20 and 23, any batch and a fixed one were tried with one and
eight images of B/16-224: the times of either peer differed by no more than the noise (3 %). This is the form that has
the fewest operators around attention; operator set 20 is the first with GELU as one operator.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import onnx
import onnxscript
import torch
import transformers

from npsiglip.bench.engines.peer_transformers import INPUTS, load_model, tower_of
from npsiglip.bench.worker import Say

OPERATORS = 20


class Tower(torch.nn.Module):  # type: ignore[misc]  # Any, where torch is not installed
    """A tower, from its one input to its embeddings."""

    def __init__(self, tower: Any, argument: str) -> None:
        super().__init__()
        self.tower, self.argument = tower, argument

    def forward(self, inputs: torch.Tensor) -> Any:
        """Run it."""
        return self.tower(**{self.argument: inputs}).pooler_output


def example(tower: str, config: Any) -> torch.Tensor:
    """Zeros of the tower's shape; two of them, because a batch of one is taken for a fixed one."""
    if tower == "image":
        return torch.zeros(2, config.num_channels, config.image_size, config.image_size)
    return torch.zeros(2, config.max_position_embeddings, dtype=torch.int64)


class ExportONNX:
    """Loads the model anew for each tower: its weights are not kept while others are timed."""

    def __init__(self, folder: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.folder = folder
        self.about = {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxscript": onnxscript.__version__,
            "python": platform.python_version(),
        }

    def export(self, tower: str, folder: str) -> None:
        """Write `image.onnx` or `text.onnx`."""
        module = tower_of(load_model(self.folder, "float32", attn_implementation="eager"), tower)
        torch.onnx.export(
            Tower(module, INPUTS[tower]),
            (example(tower, module.config),),
            str(Path(folder) / f"{tower}.onnx"),
            input_names=["inputs"],
            output_names=["embeddings"],
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPERATORS,
            external_data=True,  # a file of protobuf may not be larger than 2 GB
        )


def load(folder: str, dtype: str, threads: int, say: Say) -> ExportONNX:
    """Export in float32, whatever the dtype; nothing is downloaded."""
    return ExportONNX(folder, threads)
