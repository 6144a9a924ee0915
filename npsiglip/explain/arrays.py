"""Arrays in a page: base64 of float32, or of 8 bits where there are many, which are for pictures only."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
MOST_EXACT = 60_000  # numbers that are kept as float32
LEVELS = 255


def stored(x: Array) -> dict[str, Any]:
    """An array as the page has it: `shape`, `kind` and `data`.

    Up to 60,000 numbers are float32. Of more, a row (the last axis) is 8 bits between 0 and its largest number, which
    is in `top`, float32: only what is not negative may be so large.
    """
    x = np.asarray(x, np.float64)
    if x.size <= MOST_EXACT:
        return {"shape": list(x.shape), "kind": "f4", "data": _base64(x.astype("<f4"))}
    assert x.min() >= 0, "numbers below zero have no 8 bits"
    top = x.max(axis=-1, keepdims=True)
    bits = np.rint(x / np.where(top > 0, top, 1) * LEVELS).astype(np.uint8)
    return {"shape": list(x.shape), "kind": "u1", "data": _base64(bits), "top": _base64(top.astype("<f4"))}


def restored(entry: dict[str, Any]) -> Array:
    """What `stored` has kept of an array, float64."""
    data = base64.b64decode(entry["data"])
    if entry["kind"] == "f4":
        return np.frombuffer(data, "<f4").reshape(entry["shape"]).astype(np.float64)
    top = np.frombuffer(base64.b64decode(entry["top"]), "<f4").reshape([*entry["shape"][:-1], 1])
    return np.frombuffer(data, np.uint8).reshape(entry["shape"]) / LEVELS * top.astype(np.float64)


def _base64(x: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()


def png(bytes_: Array) -> str:
    """A picture, uint8 [H, W, 3] or [H, W, 4], as the URL of a PNG that holds all of it."""
    file = BytesIO()
    Image.fromarray(np.asarray(bytes_, np.uint8)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def jpeg(bytes_: Array, quality: int = 88) -> str:
    """A picture to look at, uint8 [H, W, 3], as the URL of a JPEG."""
    file = BytesIO()
    Image.fromarray(np.asarray(bytes_, np.uint8)).save(file, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
