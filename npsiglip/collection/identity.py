"""What a model is, so that rows of another are not mixed with its own: a manifest of it."""

from __future__ import annotations

import os
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import PIL

import npsiglip
from npsiglip.checkpoint import Checkpoint
from npsiglip.collection import calibrate
from npsiglip.collection.calibrate import Calibration
from npsiglip.collection.items import reason_of
from npsiglip.collection.manifest import FILE, SHARD_ROWS, Manifest
from npsiglip.collection.records import file_hash
from npsiglip.collection.where import IMAGE
from npsiglip.errors import InputError
from npsiglip.hub.resolve import BUILTIN, model_folder
from npsiglip.model import SigLIP

_LIMITS = ("max_megapixels",)  # decide whether a picture is taken, not what becomes of it


def _stamps(checkpoint: Checkpoint) -> dict[str, list[int]]:
    found = {path: path.stat() for path in checkpoint.files}
    return {path.name: [status.st_size, status.st_mtime_ns] for path, status in found.items()}


def _config(model: SigLIP) -> str:
    """A hash of the shapes and of what else decides on results beside the weights."""
    return sha256(repr(model.config).encode()).hexdigest()


def _hash(model: SigLIP) -> str:
    """SHA-256 of the files of a checkpoint, or of parameters in memory."""
    found = sha256()
    if isinstance(model.params, Checkpoint):
        for path in model.params.files:
            found.update(f"{path.name} {file_hash(path)}\n".encode())
    else:
        for name in sorted(model.params):
            value = np.ascontiguousarray(model.params[name])
            found.update(f"{name} {value.dtype} {value.shape}\n".encode())
            found.update(value.tobytes())
    found.update(_config(model).encode())
    return found.hexdigest()


def _name(model: SigLIP) -> str:
    """What loads the model again."""
    if not isinstance(model.params, Checkpoint):
        return "in memory"
    source = model.params.source.absolute()
    return BUILTIN if source == model_folder(BUILTIN).absolute() else str(source)


def width_of(model: SigLIP, kind: str) -> int:
    """Of an embedding."""
    if kind == IMAGE:
        side = model.config.image.image_size if model.config.image else 0
        probe = np.zeros((max(side, 1), max(side, 1), 3), np.uint8)
        return int(model.encode_image(probe).shape[1])
    return int(model.encode_text("a").shape[1])


def weights_of(model: SigLIP, known: Manifest | None = None) -> tuple[str, dict[str, Any]]:
    """The hash of a model's weights, and the sizes and times of their files.

    Args:
        model: loaded.
        known: a manifest that may be of the same model: if the files have the sizes and the times that it tells, they
            are not read to be hashed.

    Raises:
        InputError: the files cannot be read.
    """
    try:
        files: dict[str, Any] = _stamps(model.params) if isinstance(model.params, Checkpoint) else {}
        trusted = known is not None and files and dict(known.files) == files and known.config == _config(model)
        return (known.weights if known and trusted else _hash(model)), files
    except OSError as error:
        raise InputError(f"the files of the model cannot be read: {reason_of(error)}") from None


def manifest_of(
    model: SigLIP,
    kind: str = IMAGE,
    rows: str = "float32",
    fast_decode: bool = False,
    name: str | None = None,
    shard_rows: int = SHARD_ROWS,
    known: Manifest | None = None,
) -> Manifest:
    """The manifest of an index that this model makes.

    Args:
        model: with the tower that is needed.
        kind: "image" or "text".
        rows: the type of rows.
        fast_decode: whether JPEGs are decoded at a fraction of their size.
        name: that loads the model again; None: its folder.
        shard_rows: of a shard.
        known: a manifest that may be of the same model, see `weights_of`.

    Raises:
        InputError: no such tower; files of the model that cannot be read.
    """
    weights, files = weights_of(model, known)
    if kind == IMAGE:
        processor = model.processor
        preprocessing = {} if processor is None else asdict(processor)
        preprocessing = {key: value for key, value in preprocessing.items() if key not in _LIMITS}
        preprocessing = {
            key: list(value) if isinstance(value, tuple) else value for key, value in preprocessing.items()
        }
        preprocessing |= {"processor": type(processor).__name__, "fast_decode": fast_decode}
    else:
        preprocessing = {"tokenizer": type(model.tokenizer).__name__}
    if isinstance(model.params, Checkpoint) and model.params.adapter is not None:
        preprocessing["adapter"] = str(Path(model.params.adapter))
    return Manifest(
        kind=kind,
        model=name or _name(model),
        weights=weights,
        dtype=model.dtype,
        preprocessing=preprocessing,
        width=width_of(model, kind),
        rows=rows,
        shard_rows=shard_rows,
        files=files,
        config=_config(model),
        versions={"npsiglip": npsiglip.__version__, "numpy": np.__version__, "pillow": PIL.__version__},
    )


def calibration_at(place: str | os.PathLike[str], model: SigLIP) -> Calibration:
    """What `npsiglip calibrate` stored with an index, for use with a model elsewhere.

    Args:
        place: the index, or its calibration.json.
        model: the one that it is of.

    Raises:
        InputError: nothing is stored there, it is damaged, or of other weights.
    """
    path = Path(place)
    stored = calibrate.read(path)
    if stored is None:
        what = "has no calibration" if path.is_dir() else "is no calibration: there is no such file"
        raise InputError(f"{str(path)!r} {what}; `npsiglip calibrate` stores one with an index")
    folder = path if path.is_dir() else path.parent
    known = Manifest.read(folder) if (folder / FILE).is_file() else None
    if stored[1] != weights_of(model, known)[0]:
        raise InputError(
            f"the calibration of {str(path)!r} is of other weights than the model's: name the model of that index, or "
            "calibrate an index of this one"
        )
    return stored[0]
