"""Which part of a tensor is wrong: some tokens, a head, a band of channels, an image; or all of it, in one way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import SigLIPConfig
from npsiglip.verify.operations import IDS, PIXELS, Op

Array = NDArray[Any]
MOST = 0.99  # of the squared error is in a part that is named
HEAD_AXES = (".attn.q", ".attn.k", ".attn.v", ".attn.mix")


class Fit(NamedTuple):
    """found = scale * expected + offset, as well as two numbers can say it; `left` is what they leave, relative."""

    scale: float
    offset: float
    left: float


def best_fit(found: Array, expected: Array) -> Fit:
    """The scale and the offset that explain most of a tensor."""
    x, y = expected.ravel(), np.asarray(found, np.float64).ravel()
    if not np.isfinite(y).all():
        return Fit(float("nan"), float("nan"), float("inf"))
    centred, mean = x - x.mean(), y.mean()
    size = float(centred @ centred)
    scale = float(centred @ (y - mean)) / size if size else 1.0
    offset = float(mean - scale * x.mean())
    left = float(np.linalg.norm(y - scale * x - offset) / (np.linalg.norm(x) or 1.0))
    return Fit(scale, offset, left)


def _span(places: Array) -> str:
    """3, or 3 to 7, or 3, 5, 9."""
    if len(places) == 1:
        return str(int(places[0]))
    if int(places[-1] - places[0]) == len(places) - 1:
        return f"{int(places[0])} to {int(places[-1])}"
    shown = ", ".join(str(int(place)) for place in places[:4])
    return shown + (" ..." if len(places) > 4 else "")


def _few(energy: Array) -> Array | None:
    """The fewest places that hold nearly all of it, if that is no more than a third of them."""
    order = np.argsort(energy)[::-1]
    held = np.cumsum(energy[order]) / energy.sum()
    number = int(np.searchsorted(held, MOST)) + 1
    return np.sort(order[:number]) if number <= max(1, len(energy) // 3) and len(energy) > 1 else None


def _token_sets(op: Op, length: int, inputs: Mapping[str, Array], config: SigLIPConfig) -> Iterator[tuple[str, Array]]:
    if op.tower == "text" and IDS in inputs and inputs[IDS].shape[1] == length:
        ids = inputs[IDS]
        padded = (ids == ids[:, -1:]).all(axis=0)
        if padded.any() and not padded.all():
            yield "padding", padded
    if op.tower == "image" and PIXELS in inputs and config.image is not None:
        rows, columns = (side // config.image.patch_size for side in inputs[PIXELS].shape[2:])
        if rows * columns == length:
            place = np.arange(length)
            yield "the last row of patches", place // columns == rows - 1
            yield "the last column of patches", place % columns == columns - 1
            edge = (place % columns) * (place // columns) == 0
            yield "the edge of the picture", edge | (place % columns == columns - 1) | (place // columns == rows - 1)


def where(error: Array, op: Op, config: SigLIPConfig, inputs: Mapping[str, Array]) -> str:
    """Where in a tap the error sits, in words; "everywhere" if it is in no part that has a name."""
    bad = ~np.isfinite(error)
    if bad.any():
        first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), error.shape))
        return f"{int(bad.sum()):,} of {error.size:,} values are not finite, the first at {list(first)}"
    energy = error * error
    if not energy.any() or error.ndim < 2:
        return "everywhere"
    parts = []
    by_input = energy.reshape(len(energy), -1).sum(axis=1)
    if (few := _few(by_input)) is not None:
        parts.append(f"{'text' if op.tower == 'text' else 'image'} {_span(few)}")
    if error.ndim == 3:
        by_token = energy.sum(axis=(0, 2))
        named = [
            name for name, places in _token_sets(op, error.shape[1], inputs, config)
            if by_token[places].sum() >= MOST * by_token.sum()
        ]  # fmt: skip
        if named:
            parts.append(f"only {named[0]}")
        elif (few := _few(by_token)) is not None:
            parts.append(f"token {_span(few)}")
    if error.ndim == 4:
        by_head = energy.sum(axis=(0, 2, 3))
        if (few := _few(by_head)) is not None:
            parts.append(f"head {_span(few)}")
    elif error.shape[-1] > 1:
        by_channel = energy.reshape(-1, error.shape[-1]).sum(axis=0)
        tower = config.image if op.tower == "image" else config.text
        few = None
        if op.tap.endswith(HEAD_AXES) and tower is not None:
            few = _few(by_channel.reshape(tower.num_heads, -1).sum(axis=1))
            parts += [f"head {_span(few)}"] if few is not None else []
        if few is None and (few := _few(by_channel)) is not None:
            parts.append(f"channel {_span(few)}")
    return ", ".join(parts) or "everywhere"
