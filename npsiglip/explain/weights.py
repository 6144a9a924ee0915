"""A model's weights in a page: exact, small, and quick to read for `live/weights.js`.

All parameters one after the other, in bfloat16 where that loses nothing and in float32 otherwise. The bytes of one
rank lie together (all lowest bytes, ..., all highest), since high bytes are much alike; then zlib, then base64.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def gzipped(data: bytes) -> str:
    """Bytes as base64 of gzip; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def pack(params: Mapping[str, Array]) -> tuple[list[tuple[str, list[int]]], int, str]:
    """Names and shapes in order, bytes for each number (2 or 4), and the text."""
    names = [(name, list(params[name].shape)) for name in params]
    bits = np.concatenate([np.asarray(params[name], np.float32).ravel() for name in params]).view(np.uint32)
    width = 2 if not (bits & 0xFFFF).any() else 4
    planes = [((bits >> (8 * rank)) & 0xFF).astype(np.uint8) for rank in range(4 - width, 4)]
    return names, width, gzipped(np.concatenate(planes).tobytes())


def unpack(names: list[tuple[str, list[int]]], width: int, text: str) -> dict[str, Array]:
    """The parameters, float32."""
    planes = np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape(width, -1)
    bits = np.zeros(planes.shape[1], np.uint32)
    for rank, plane in enumerate(planes, 4 - width):
        bits |= plane.astype(np.uint32) << np.uint32(8 * rank)
    values, found, at = bits.view(np.float32), {}, 0
    for name, shape in names:
        count = int(np.prod(shape))
        found[name] = values[at : at + count].reshape(shape)
        at += count
    return found
