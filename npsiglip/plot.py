"""The panels of `npsiglip explain` as figures of matplotlib, for notebooks and papers: arrays in, figure out.

One function a panel, in their order. Arrays are those of a trace (`npsiglip.verify.golden.Golden`, `SigLIP.trace`) or
any others of these shapes. Figures belong to no window: a notebook shows them, `figure.savefig` writes them.
Needs matplotlib, the extra `viz`.

Dimensions: L patches of a grid of rows x columns, H heads, D width, K labels, N pairs, S side of the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npsiglip.errors import InputError
from npsiglip.extras import library

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "attention", "loss", "patches", "pixels", "positions", "precision", "probabilities", "probe", "shares", "stream",
    "text", "training",
]  # fmt: skip

HEAT, SIGNED = "inferno", "RdYlGn"


def _figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, NDArray[Any]]:
    """A figure and its axes [rows, columns].

    Raises:
        InputError: matplotlib is missing.
    """
    figure = library("matplotlib.figure", "viz", "npsiglip.plot").Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _array(x: ArrayLike, name: str, ndim: int) -> NDArray[Any]:
    found = np.asarray(x)
    if found.ndim != ndim:
        raise InputError(f"`{name}` must have {ndim} axes; got the shape {list(found.shape)}")
    return found


def _grid(values: NDArray[Any]) -> NDArray[Any]:
    """[..., L] as a square [..., rows, columns]."""
    side = round(values.shape[-1] ** 0.5)
    if side * side != values.shape[-1]:
        raise InputError(f"{values.shape[-1]} patches are no square: give the patches of a square grid")
    return values.reshape(*values.shape[:-1], side, side)


def _map(axes: Any, values: NDArray[Any], title: str, picture: ArrayLike | None = None, **options: Any) -> Any:
    """Values [L] as a map of patches, over a picture where there is one."""
    extent = (0, 1, 1, 0)
    if picture is not None:
        axes.imshow(np.asarray(picture), extent=extent)
        options = {"alpha": 0.6} | options
    found = axes.imshow(_grid(values), extent=extent, interpolation="nearest", **options)
    axes.set(title=title, xticks=[], yticks=[])
    return found


def pixels(resized: ArrayLike, naive: ArrayLike) -> Figure:
    """Panel 1: a picture resized as the model needs it, another way, and their difference x 8; uint8 [S, S, 3]."""
    good, other = _array(resized, "resized", 3).astype(int), _array(naive, "naive", 3).astype(int)
    if good.shape != other.shape:
        raise InputError(f"the two pictures must have one shape; got {list(good.shape)} and {list(other.shape)}")
    figure, axes = _figure(8, 3, 3)
    shown = {"Pillow's": good, "naive": other, "difference x 8": np.minimum(255, 8 * np.abs(good - other))}
    for ax, (title, picture) in zip(axes[0], shown.items(), strict=True):
        ax.imshow(picture.astype(np.uint8))
        ax.set(title=title, xticks=[], yticks=[])
    return figure


def patches(embedded: ArrayLike, filters: ArrayLike, patch_size: int, picture: ArrayLike | None = None) -> Figure:
    """Panel 2: the lengths of embedded patches [L, D], and the filters [P * P * 3, D] whose answers differ most."""
    x, w = _array(embedded, "embedded", 2), _array(filters, "filters", 2)
    if w.shape != (3 * patch_size**2, x.shape[1]):
        raise InputError(f"`filters` must be [{3 * patch_size**2}, {x.shape[1]}]; got {list(w.shape)}")
    figure, axes = _figure(8, 4, 2)
    figure.colorbar(
        _map(axes[0, 0], np.linalg.norm(x, axis=1), "length of each patch", picture, cmap=HEAT), ax=axes[0, 0]
    )
    side = min(8, int(w.shape[1] ** 0.5))
    order = np.argsort(-x.std(axis=0), kind="stable")[: side * side]
    tiles = w.T[order].reshape(side, side, patch_size, patch_size, 3)
    tiles = 0.5 + 0.5 * tiles / np.abs(tiles).max(axis=(2, 3, 4), keepdims=True)
    axes[0, 1].imshow(tiles.transpose(0, 2, 1, 3, 4).reshape(side * patch_size, side * patch_size, 3))
    axes[0, 1].set(title="filters", xticks=[], yticks=[])
    return figure


def positions(table: ArrayLike, patch: int) -> Figure:
    """Panel 3: the cosines of a patch's position with all, of a table [L, D]."""
    x = _array(table, "table", 2).astype(np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    figure, axes = _figure(4.5, 4)
    figure.colorbar(_map(axes[0, 0], x @ x[patch], f"positions like that of patch {patch}", cmap=HEAT), ax=axes[0, 0])
    return figure


def attention(probs: ArrayLike, patch: int, picture: ArrayLike | None = None) -> Figure:
    """Panel 4: where a patch looks in each head; `probs` [H, L, L], a tap `image.blocks.i.attn.probs` of one image."""
    x = _array(probs, "probs", 3)
    figure, axes = _figure(2 * len(x), 2.4, len(x))
    for h, ax in enumerate(axes[0]):
        entropy = -(x[h] * np.log(np.maximum(x[h], 1e-300))).sum(axis=-1).mean() / np.log(x.shape[-1])
        _map(ax, x[h, patch], f"head {h + 1}\nentropy {entropy:.2f}", picture, cmap=HEAT, vmin=0)
    return figure


def probe(probs: ArrayLike, picture: ArrayLike | None = None) -> Figure:
    """Panel 5, above: where the probe looks in each head; `probs` [H, L], of `image.map_head.attn.probs`."""
    x = _array(probs, "probs", 2)
    figure, axes = _figure(2 * len(x), 2.3, len(x))
    for h, ax in enumerate(axes[0]):
        _map(ax, x[h], f"head {h + 1}", picture, cmap=HEAT, vmin=0)
    return figure


def shares(gradient: ArrayLike, occlusion: ArrayLike, picture: ArrayLike | None = None) -> Figure:
    """Panel 5, below: what a logit owes to each patch, by gradients and by making it grey; [L] both."""
    x, y = _array(gradient, "gradient", 1), _array(occlusion, "occlusion", 1)
    figure, axes = _figure(8, 3.6, 2)
    together = np.corrcoef(x, y)[0, 1]
    for ax, values, title in ((axes[0, 0], x, "gradient x pixel"), (axes[0, 1], y, "made grey")):
        most = float(np.abs(values).max()) or 1.0
        figure.colorbar(_map(ax, values, title, picture, cmap=SIGNED, vmin=-most, vmax=most), ax=ax)
    figure.suptitle(f"correlation {together:.2f}{'' if together >= 0.7 else ': they disagree'}")
    return figure


def stream(streams: ArrayLike) -> Figure:
    """Panel 6: the residual stream by depth, [depth + 1, L, D]: norms, mean cosine of two patches, largest channel."""
    x = _array(streams, "streams", 3).astype(np.float64)
    norms = np.linalg.norm(x, axis=-1)
    unit = x / norms[..., None]
    others = ~np.eye(x.shape[1], dtype=bool)
    alike = [(u @ u.T)[others].mean() for u in unit]
    size = np.abs(x).mean(axis=1)
    figure, axes = _figure(10, 3, 3)
    axes[0, 0].plot(norms.mean(axis=1), label="mean")
    axes[0, 0].plot(norms.max(axis=1), label="largest")
    axes[0, 0].legend()
    axes[0, 1].plot(alike)
    axes[0, 2].plot(size.max(axis=1) / np.median(size, axis=1))
    for ax, title in zip(axes[0], ("norm", "cosine of two patches", "largest channel / median"), strict=True):
        ax.set(title=title, xlabel="blocks")
    return figure


def text(words: Sequence[str], changes: ArrayLike) -> Figure:
    """Panel 7: what each word adds to a logit, [words]."""
    x = _array(changes, "changes", 1)
    figure, axes = _figure(6, 0.6 + 0.35 * len(x))
    axes[0, 0].barh(range(len(x)), x, color=np.where(x < 0, "tab:red", "tab:green"))
    axes[0, 0].set(yticks=range(len(x)), yticklabels=words, xlabel="logit with the word, less without")
    axes[0, 0].invert_yaxis()
    return figure


def probabilities(labels: Sequence[str], cosines: ArrayLike, t: float, bias: float) -> Figure:
    """Panel 8: labels on the sigmoid, by their cosines [K]; and the softmax beside it."""
    z = t * _array(cosines, "cosines", 1) + bias
    share = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    figure, axes = _figure(10, 3.4, 2)
    x = np.linspace(min(z.min(), -6) - 1, max(z.max(), 6) + 1, 400)
    axes[0, 0].plot(x, 1 / (1 + np.exp(-x)))
    p = 1 / (1 + np.exp(-z))
    axes[0, 0].plot(z, p, "o")
    for label, at, value in zip(labels, z, p, strict=True):
        axes[0, 0].annotate(label, (at, value), (4, 6), textcoords="offset points", fontsize=8)
    axes[0, 0].set(xlabel="logit", ylabel="probability")
    places = np.arange(len(z))
    axes[0, 1].barh(places - 0.2, p, 0.38, label="sigmoid")
    axes[0, 1].barh(places + 0.2, share, 0.38, label="softmax")
    axes[0, 1].set(yticks=places, yticklabels=labels, xlim=(0, 1))
    axes[0, 1].invert_yaxis()
    axes[0, 1].legend()
    return figure


def loss(logits: ArrayLike) -> Figure:
    """Panel 9: what each pair of N pictures and N texts adds to the sigmoid loss, of logits [N, N]."""
    z = _array(logits, "logits", 2).astype(np.float64)
    if z.shape[0] != z.shape[1]:
        raise InputError(f"`logits` must be [N, N], picture i belongs to text i; got {list(z.shape)}")
    signs = 2 * np.eye(len(z)) - 1
    cells = (np.maximum(-signs * z, 0) + np.log1p(np.exp(-np.abs(z)))) / len(z)
    figure, axes = _figure(5, 4.4)
    figure.colorbar(axes[0, 0].imshow(cells, cmap="Reds"), ax=axes[0, 0])
    axes[0, 0].set(title=f"loss {cells.sum():.4g}", xlabel="texts", ylabel="pictures")
    return figure


def precision(taps: Sequence[str], errors: Mapping[str, ArrayLike]) -> Figure:
    """Panel 10: relative errors by tap, of each dtype [taps]."""
    figure, axes = _figure(8, 3.6)
    for name, values in errors.items():
        axes[0, 0].semilogy(range(len(taps)), _array(values, name, 1), marker=".", label=name)
    axes[0, 0].set(ylabel="|x - float64| / |float64|", xticks=range(len(taps)))
    axes[0, 0].set_xticklabels(taps, rotation=60, ha="right", fontsize=7)
    axes[0, 0].legend()
    return figure


def training(
    curve: ArrayLike, probes: Mapping[int, ArrayLike] | None = None, picture: ArrayLike | None = None
) -> Figure:
    """Panel 11: the loss by steps, [points, 2]; and where the probe looked in a picture, step -> [L]."""
    points, shown = _array(curve, "curve", 2), probes or {}
    if not shown:
        figure, axes = _figure(7, 3.2)
        axes[0, 0].plot(points[:, 0], points[:, 1])
        axes[0, 0].set(xlabel="step", ylabel="loss")
        return figure
    figure, _ = _figure(max(7, 1.7 * len(shown)), 5)
    figure.clf()
    grid = figure.add_gridspec(2, len(shown), height_ratios=(1.6, 1))
    ax = figure.add_subplot(grid[0, :])
    ax.plot(points[:, 0], points[:, 1])
    ax.set(xlabel="step", ylabel="loss")
    for i, (step, values) in enumerate(sorted(shown.items())):
        _map(figure.add_subplot(grid[1, i]), _array(values, "probes", 1), f"step {step:,}", picture, cmap=HEAT, vmin=0)
    return figure
