"""Filling the kernel cache ahead of time: for the image of a container, a shared cluster, the first user of the day.

Which kernels a model needs shows when it runs. So it runs: an image and a text of zeros, twice, since the first pass of
a tower packs its weights anew; and each kernel is compiled for one thread and for several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npsiglip.checkpoint import Checkpoint
from npsiglip.collection import exact
from npsiglip.config import SigLIPConfig
from npsiglip.element_types import DTYPES
from npsiglip.errors import InputError
from npsiglip.kernels import cache
from npsiglip.kernels.jit import compiling_both, on_compile
from npsiglip.model import SigLIP
from npsiglip.params import param_shapes

Say = Callable[[str], None]
PAIRS = 2  # of a training's step


class Warm(NamedTuple):
    """What is in the cache now."""

    folder: Path
    """Where it lies."""
    compiled: int
    """Kernels that were not there before."""
    files: int
    """All that is there."""
    size: int
    """Bytes of that."""


def warm_up(
    folder_or_name: str | Path = "builtin", dtypes: Sequence[str] = (), train: bool = False, say: Say | None = None
) -> Warm:
    """Compile what `encode_image`, `encode_text` and `classify` of a model and a search need, unless the cache has it.

    Args:
        folder_or_name: the model, see `SigLIP.from_pretrained`. Models of one kind and dtype need the same kernels,
            whatever their size.
        dtypes: what to compute in; none: all that the model can.
        train: compile what training needs, too.
        say: told what is being done.

    Raises:
        CheckpointError: a model that cannot be used.
        InputError: a dtype that it cannot compute in; a cache that cannot be written.
    """
    say = say or (lambda text: None)
    compiled: list[str] = []
    checkpoint = Checkpoint.open(folder_or_name)
    if not dtypes:
        dtypes = ("int8",) if checkpoint.quantized else DTYPES
    with on_compile(compiled.append), compiling_both():
        for dtype in dtypes:
            say(f"{dtype}: both towers")
            _use(SigLIP.from_checkpoint(checkpoint, dtype))
        say("search in float32 and float16")
        for dtype in ("float32", "float16"):
            exact.search([np.zeros((1, 1), dtype)], np.zeros((1, 1)), 1)
        if train:
            for dtype in ("float32", "bfloat16"):
                say(f"{dtype}: a step of training")
                _train(dtype)
    files = cache.entries()
    if cache.FOLDER is None or cache.failed():
        raise InputError(
            f"the kernel cache {cache.FOLDER or 'in the home folder'} cannot be written: set NUMBA_CACHE_DIR to a "
            "folder that can be written, here and where the kernels are used"
        )
    return Warm(cache.FOLDER, len(compiled), len(files), sum(path.stat().st_size for path in files))


def _use(model: SigLIP) -> None:
    image, text = model.config.image, model.config.text
    picture = np.zeros((64, 64, 3), np.uint8)
    for _ in range(2):
        if image and image.head:
            zimg = model.encode_image(picture)
        elif image:
            model.image_output(picture)
        if model.config.classifier:
            model.class_logits(picture)
        if text:
            ztxt = model.encode_text(np.zeros((1, text.seq_len), np.int64))
        if image and image.head and text:
            model.compare(zimg, ztxt)


def _train(dtype: str) -> None:
    from npsiglip.train.config import OptimizerSettings
    from npsiglip.train.flat import Flat
    from npsiglip.train.optimizer import AdamW
    from npsiglip.train.step import Gradients

    config = SigLIPConfig.from_folder(Checkpoint.open("builtin").folder)
    assert config.image is not None and config.text is not None
    shapes = param_shapes(config)
    params, grads = Flat(shapes), Flat(shapes)
    params.vector[:] = np.random.default_rng(0).normal(0, 0.02, params.vector.size)
    size, length = config.image.image_size, config.text.seq_len
    pixels, ids = np.zeros((PAIRS, 3, size, size), np.float32), np.zeros((PAIRS, length), np.int64)
    Gradients(config, PAIRS, length, dtype=dtype).step(params, pixels, ids, grads)
    optimizer = AdamW(shapes, OptimizerSettings())
    optimizer.step(params, grads, optimizer.norm(grads), 1.0)
