"""Models written to files, atomically: Hugging Face's folders and big_vision's npz.

Source: what Hugging Face's `save_pretrained` and big_vision's `utils.save_checkpoint` write (docs/formats.md).

Leaves out: the other files of a folder, and open_clip's format; those are in `npsiglip.convert`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from npsiglip.atomic import write_all
from npsiglip.checkpoint import Checkpoint
from npsiglip.config import LAYER_NORM_EPS, SigLIPConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.finite import all_finite, describe_non_finite
from npsiglip.formats.big_vision_names import BLOCKS, ROOT, npz_layouts
from npsiglip.formats.hf_names import bare_prefix, layouts
from npsiglip.formats.matching import check_names, users
from npsiglip.formats.npz import SUFFIX, write_npz
from npsiglip.formats.safetensors import write_folder
from npsiglip.formats.stored import Layout
from npsiglip.params import Params, Shape, param_shapes

SAVE_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def stored_values(
    names: list[str], places: Mapping[str, Layout], shapes: Mapping[str, Shape], params: Params, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The tensor that a file has for the parameters `names`, all of them or one."""
    tensor = np.empty(places[names[0]].shape, dtype)
    for name in names:
        values, view = np.asarray(params[name]), places[name].view(tensor)
        if values.shape != shapes[name]:
            raise CheckpointError(f"{name} must be {list(shapes[name])} by the configuration, got {list(values.shape)}")
        with np.errstate(over="ignore", invalid="ignore"):  # reported below, by name
            view[...] = values.reshape(view.shape)
        if not all_finite(view):
            largest = float(ml_dtypes.finfo(dtype).max)
            too_large = f"{dtype} ends at {largest:g}: save as float32"
            fix = too_large if np.isfinite(values).all() else "the parameters must be numbers"
            found = describe_non_finite(view.reshape(values.shape))
            raise CheckpointError(f"{name} as {dtype} has {found}; {fix}")
    return tensor


def target_dtype(names: list[str], params: Params, dtype: str | None) -> np.dtype[Any]:
    """What the tensor of the parameters `names` is stored in: as asked, or what holds all their values."""
    if dtype is not None:
        return SAVE_DTYPES[dtype]
    known = params.dtype_of if isinstance(params, Checkpoint) else lambda name: np.asarray(params[name]).dtype
    return np.result_type(*map(known, names))


def check_saving(where: object, config: SigLIPConfig, params: Params, dtype: str | None) -> dict[str, Shape]:
    """The shapes of what is saved, after a look at what is given."""
    if dtype is not None and dtype not in SAVE_DTYPES:
        raise InputError(f"dtype must be one of {', '.join(SAVE_DTYPES)}; got {dtype!r}")
    shapes = param_shapes(config)
    check_names(
        f"parameters for {where}",
        {name: "" for name in shapes if name not in params},
        sorted(set(params) - set(shapes)),
        "expected exactly those of npsiglip.params.param_shapes(config)",
    )
    return shapes


def save_folder(
    folder: str | Path,
    config: SigLIPConfig,
    params: Params,
    dtype: str | None = "float32",
    max_shard_bytes: int | None = None,
    others: Mapping[str, Callable[[Path], object]] = MappingProxyType({}),
) -> None:
    """Write config.json and model.safetensors with Hugging Face's names, which its SigLIP classes load.

    Values are rounded to the nearest of `dtype`. A stand-alone tower gets bare names, as transformers 5 writes them.
    Each file is complete or not there, also after a crash; when anything fails, all files stay as they were.

    Args:
        folder: created if it does not exist; files in it are replaced.
        config: of the model.
        params: exactly the parameters of `param_shapes(config)`; a `Checkpoint` will do.
        dtype: "float32", "float16" or "bfloat16"; None: what each parameter is in, so that nothing is rounded.
        max_shard_bytes: above this, weights go into several files with an index.
        others: further files by name, and what writes each to a path.

    Raises:
        InputError: for an unknown `dtype` or a limit that is not positive.
        CheckpointError: for parameters that are missing, left over, of a wrong shape, or not finite in `dtype`; if
            the folder cannot be written, or holds weights in the other form (one file, several files), which a
            reader could take for these.
    """
    folder = Path(folder)
    if max_shard_bytes is not None and max_shard_bytes < 1:
        raise InputError(f"max_shard_bytes must be positive (or None for one file), got {max_shard_bytes}")
    shapes, places = check_saving(folder, config, params, dtype), layouts(config)
    uses = {key.removeprefix(bare_prefix(config)): names for key, names in users(places).items()}
    dtypes = {key: target_dtype(names, params, dtype) for key, names in uses.items()}
    sizes = {key: prod(places[names[0]].shape) * dtypes[key].itemsize for key, names in uses.items()}
    write_folder(
        folder,
        config.to_hf(),
        sizes,
        lambda key: stored_values(uses[key], places, shapes, params, dtypes[key]),
        max_shard_bytes,
        others,
    )


def is_identity(params: Params) -> bool:
    """Whether the head of texts changes nothing."""
    w, b = np.asarray(params["text.head.w"]), np.asarray(params["text.head.b"])
    return w.shape[0] == w.shape[1] and not b.any() and bool((w == np.eye(len(w), dtype=w.dtype)).all())


def save_npz(
    path: str | Path,
    config: SigLIPConfig,
    params: Params,
    dtype: str | None = None,
    stacked: bool = False,
    root: str = ROOT,
) -> None:
    """Write a model as big_vision's npz, which its `utils.load_params` reads.

    A head of texts that is the identity is left out, as big_vision has none then. The file is complete or not there.

    Args:
        path: ends in .npz; must not exist.
        config: of the model. What an npz cannot tell, it must not have: a classifier, or another epsilon of LayerNorm.
        params: exactly the parameters of `param_shapes(config)`; a `Checkpoint` will do.
        dtype: "float32", "float16" or "bfloat16"; None: what each parameter is in, so that nothing is rounded.
        stacked: all blocks of a tower in one tensor, as `nn.scan` has them, instead of one by one.
        root: what all names begin with, "params/" or nothing.

    Raises:
        InputError: for an unknown `dtype` or root, or a path that does not end in .npz.
        CheckpointError: for a model that does not fit the format; for parameters that are missing, left over, of a
            wrong shape, or not finite in `dtype`; if the file exists or cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path} must end in {SUFFIX}")
    if root not in (ROOT, ""):
        raise InputError(f"root must be {ROOT!r} or nothing, got {root!r}")
    if path.exists():
        raise CheckpointError(f"{path} exists already: choose another name, or remove it first")
    if config.classifier:
        raise CheckpointError(
            "a classifier has no place in big_vision's npz: expected a SigLIP model or a tower of one"
        )
    for tower in (config.image, config.text):
        if tower and tower.layer_norm_eps != LAYER_NORM_EPS:
            raise CheckpointError(
                f"layer_norm_eps is {tower.layer_norm_eps}, and big_vision's npz has no place for it: its models have "
                f"{LAYER_NORM_EPS}"
            )
    shapes = check_saving(path, config, params, dtype)
    places = npz_layouts(config, BLOCKS if stacked else ())
    if config.text and is_identity(params):
        places = {name: place for name, place in places.items() if not name.startswith("text.head.")}
    uses = {f"{root}{key}": names for key, names in users(places).items()}

    def array(name: str) -> NDArray[Any]:
        return stored_values(uses[name], places, shapes, params, target_dtype(uses[name], params, dtype))

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_all(path.parent, {path.name: lambda temporary: write_npz(temporary, uses, array)})
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from None
