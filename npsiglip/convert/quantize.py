"""From a model folder to one in 8 bits, which is a quarter of the size and needs no packing.

What is written is what a model of `dtype="int8"` packs when it is used, bit for bit, so both give the same results.
The folder's tensors are described in `npsiglip.formats.quantized`.

Left out: calibration (each token has a scale of its own at run time), other element types.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from npsiglip import __version__
from npsiglip.atomic import write_all
from npsiglip.checkpoint import Checkpoint
from npsiglip.config import SigLIPConfig, host_of
from npsiglip.convert.files import check_target, copies
from npsiglip.errors import CheckpointError
from npsiglip.formats.quantized import DTYPE, MARKER, QUERY, TABLE, marker, quantize_table, quantized_specs
from npsiglip.formats.safetensors import SINGLE, json_writer, write_tensors
from npsiglip.formats.told import HUGGING_FACE
from npsiglip.images.settings import has_settings
from npsiglip.kernels.jit import computing
from npsiglip.texts.generation import NAME_KEY, telling_name
from npsiglip.towers.image import Classifier, ImageTower
from npsiglip.towers.layers import Linear
from npsiglip.towers.text import TextTower

ROWS = 1024  # of the table at once

Say = Callable[[str, int, int], None]


class Sizes(NamedTuple):
    """Of the files with weights, in bytes."""

    before: int
    after: int


class _Tensors:
    """What is written, tensor by tensor: packed when its turn comes."""

    def __init__(self, checkpoint: Checkpoint, say: Say) -> None:
        config = checkpoint.config
        self.checkpoint, self.say, self.done = checkpoint, say, 0
        self.specs = quantized_specs(config)
        self.small: dict[str, NDArray[Any]] = {}
        self.linears: dict[str, Linear] = {}
        with computing(None):
            if config.image:
                image = ImageTower(checkpoint, config.image, DTYPE)
                self.linears |= image.linears
                if image.map_head:
                    self.small[QUERY] = image.map_head.q
            if config.classifier:
                self.linears |= Classifier(checkpoint, config, DTYPE).linears
            if config.text:
                self.linears |= TextTower(checkpoint, config.text, DTYPE).linears

    def __call__(self, name: str) -> Iterator[NDArray[Any]]:
        """The values in parts, valid until the next is asked for; panels go first, the table last."""
        self.done += 1
        layer, _, part = name.rpartition(".")
        self.say(layer or name, self.done, len(self.specs))
        if name in self.small:
            yield self.small.pop(name)
        elif part == "panels":
            yield self._panels(layer)
        elif layer == TABLE:
            yield from self._table(part)
        else:
            yield np.asarray(self.checkpoint[name], np.float32)

    def _panels(self, layer: str) -> NDArray[Any]:
        linear = self.linears[layer]
        with computing(None):
            _, panels, scale, total = linear.packed(keep=False)
        self.small |= {f"{layer}.scale": scale, f"{layer}.total": total, f"{layer}.b": linear.b}
        return panels.view(np.int8 if linear.dtype == DTYPE else ml_dtypes.bfloat16)

    def _table(self, part: str) -> Iterator[NDArray[Any]]:
        """The table's scales, then its rows."""
        table = self.checkpoint[TABLE]
        for start in range(0, len(table), ROWS):
            q, scale = quantize_table(table[start : start + ROWS])
            yield scale if part == "scale" else q
            self.checkpoint.release(TABLE)


def _forget(name: str, done: int, count: int) -> None:
    pass


def quantize_folder(
    model: str | Path, folder: str | Path, say: Say = _forget, adapter: str | Path | None = None
) -> Sizes:
    """Write a folder with the weights in 8 bits, which `SigLIP.from_pretrained` loads.

    All files appear when all are complete, config.json last; when anything fails, none does. In memory is one layer at
    a time. A channel of zeros is stored with the scale 0, and its results stay exact.

    Args:
        model: the folder of the original, in Hugging Face's format, which stays as it is.
        folder: created if it does not exist; must hold no model.
        say: told of what is written next, its number and the count of all.
        adapter: the folder of a LoRA adapter that is merged into the model.

    Raises:
        CheckpointError: the original cannot be used, has values that are not finite, or is quantised already; the
            folder cannot be written, or holds a model.
    """
    checkpoint, folder = Checkpoint.open(model, adapter=adapter), Path(folder)
    source, config = checkpoint.folder, checkpoint.config
    if checkpoint.is_npz or checkpoint.form != HUGGING_FACE:
        raise CheckpointError(f"{checkpoint.source} has to become a folder first: npsiglip convert {model} FOLDER")
    if checkpoint.quantized:
        raise CheckpointError(f"{source} is quantised already: expected the original model, in a float type")
    content = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if (not config.classifier and SigLIPConfig.from_hf(content) != config) or host_of(content):
        content = config.to_hf()  # of the tower that was found in a larger model
    if not has_settings(source) and (name := telling_name(source)):
        content[NAME_KEY] = name  # it decides on the filter of images, and the new folder may have another
    created = False
    try:
        check_target(source, folder)
        created = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        tensors = _Tensors(checkpoint, say)
        weights = {SINGLE: lambda path: write_tensors(path, tensors.specs, tensors)}
        last = {"config.json": json_writer(content | {MARKER: marker(__version__)})}
        write_all(folder, copies(source) | weights | last)
    except BaseException as error:
        if created:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise CheckpointError(f"{folder} cannot be written: {error}") from None
        raise
    return Sizes(checkpoint.nbytes, (folder / SINGLE).stat().st_size)
