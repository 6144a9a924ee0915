"""What is measured on a model's taps: attention's reach, the residual stream, what a label owes to patches and words.

Dimensions: L tokens of a grid of rows x columns, H heads, D width, K texts, W windows that are made grey.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import ImageConfig
from npsiglip.model import SigLIP
from npsiglip.reference import backward
from npsiglip.reference.model import FORGET

Array = NDArray[Any]
MOST_WINDOWS = 36
AGREE = 0.7  # correlation of two ways to say what patches matter, from which on they tell the same


class Wide(Mapping[str, Array]):
    """Parameters in float64, each widened when it is read."""

    def __init__(self, params: Mapping[str, Array]) -> None:
        self._params = params

    def __getitem__(self, name: str) -> Array:
        return np.asarray(self._params[name], np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __len__(self) -> int:
        return len(self._params)


def entropy(probs: Array) -> Array:
    """How widely attention is spread, as a share of the most there can be: [..., Lq, L] -> [...], mean of queries.

    -sum p log p / log L: 0 on one token, 1 evenly on all.
    """
    safe = np.where(probs > 0, probs, 1.0)
    return np.asarray((-(probs * np.log(safe)).sum(axis=-1) / np.log(max(probs.shape[-1], 2))).mean(axis=-1))


def distances(rows: int, columns: int) -> Array:
    """From patch to patch, in patches: [L, L]."""
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(np.linalg.norm(places[:, None] - places[None], axis=-1))


def reach(probs: Array, rows: int, columns: int) -> Array:
    """How far attention looks on average, in patches: [..., L, L] -> [...]."""
    return np.asarray((probs * distances(rows, columns)).sum(axis=-1).mean(axis=-1))


def cosines(x: Array, y: Array) -> Array:
    """Cosines of rows: [A, D], [B, D] -> [A, B]."""
    x, y = (part / np.linalg.norm(part, axis=-1, keepdims=True) for part in (x, y))
    return np.asarray(x @ y.T)


def outliers(stream: Array, count: int = 5) -> tuple[list[int], list[float]]:
    """The channels of a stream [L, D] that are largest on average: how many times the median channel."""
    size = np.abs(stream).mean(axis=0)
    order = np.argsort(-size, kind="stable")[:count]
    return [int(i) for i in order], [float(size[i] / np.median(size)) for i in order]


class Windows(NamedTuple):
    """Squares of patches that are made grey one at a time: `of` [L], in which a patch is; their `number`."""

    of: Array
    number: int


def windows(rows: int, columns: int) -> Windows:
    """Single patches, or squares of 2 x 2, 3 x 3 ..., the smallest of which there are at most 36."""
    side = 1
    while -(-rows // side) * -(-columns // side) > MOST_WINDOWS:
        side += 1
    across = -(-columns // side)
    of = (np.arange(rows)[:, None] // side) * across + np.arange(columns)[None] // side
    return Windows(of.ravel(), -(-rows // side) * across)


def by_window(shares: Array, found: Windows) -> Array:
    """Sums over the patches of each window: [K, L] -> [K, W]."""
    sums = np.zeros((len(shares), found.number))
    np.add.at(sums.T, found.of, shares.T)
    return sums


def gradient_shares(
    params: Mapping[str, Array], config: ImageConfig, pixels: Array, trace: Mapping[str, Array], t: float
) -> Array:
    """What each logit owes to each patch by its exact gradient: [K, L], of one image's pixels [1, 3, S, S].

    The sum of d logit / d pixel times the pixel, over the patch. Grey is 0: this is how much a logit would fall if the
    patch were made grey, were the model linear.
    """
    size, wide = config.patch_size, Wide(params)
    rows, columns = pixels.shape[2] // size, pixels.shape[3] // size
    found = []
    for ztxt in trace["ztxt"]:
        d_pooled = backward.l2_normalize(trace["image.pooled"], t * ztxt[None])
        d_pixels = backward.image_tower(wide, config, pixels, trace, d_pooled, FORGET)
        product = (d_pixels * pixels)[0, :, : rows * size, : columns * size].sum(axis=0)
        found.append(product.reshape(rows, size, columns, size).sum(axis=(1, 3)).ravel())
    return np.stack(found)


def occlusion_shares(
    model: SigLIP, config: ImageConfig, pixels: Array, ztxt: Array, logits: Array, t: float, bias: float
) -> Array:
    """How much each logit falls when a window is made grey: [K, W]; pixels [1, 3, S, S], ztxt [K, D], logits [K].

    Each is a forward pass of its own, in float32.
    """
    size = config.patch_size
    columns = pixels.shape[3] // size
    found = windows(pixels.shape[2] // size, columns)
    covered = np.repeat(np.asarray(pixels, np.float32), found.number, axis=0)
    for patch, window in enumerate(found.of):
        y, x = patch // columns * size, patch % columns * size
        covered[window, :, y : y + size, x : x + size] = 0.0
    zimg = np.asarray(model.encode_image(covered), np.float64)
    return np.asarray(logits[:, None] - (t * ztxt @ zimg.T + bias))


def agreement(x: Array, y: Array) -> float:
    """The correlation of two rows; 0 where one is constant."""
    x, y = x - x.mean(), y - y.mean()
    length = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / length) if length > 0 else 0.0


def without_words(text: str) -> list[tuple[str, str]]:
    """Each word of a text, and the text without it; nothing where it has only one."""
    words = text.split()
    if len(words) < 2:
        return []
    return [(word, " ".join(words[:i] + words[i + 1 :])) for i, word in enumerate(words)]
