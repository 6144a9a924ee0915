"""Position embeddings for a grid that they were not trained on: bicubic, or bilinear with antialiasing.

An output reads a window of neighbouring inputs, along the rows first and along the columns then. Where the windows
begin and what each input in them weighs depends on the two sizes alone. Both sizes cover the same length, so that
output i has its centre at (i + 1/2) n_in / n_out - 1/2, counted in inputs.

    fixed sizes    cubic convolution with a = -0.75 (Keys, 1981), four inputs however much the grid shrinks
    NaFlex         a triangle, as wide as an output where the grid shrinks, else as an input

These are the choices of PyTorch's `interpolate` (align_corners=False; antialias=True for NaFlex), which Hugging Face
calls. Computed in float64 and rounded once. The plain form is `npsiglip.reference.positions`.

Left out: grids that are not square as they are stored; no released model has one.

Dimensions: G side of the stored grid, D width, W inputs of a window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Wide = NDArray[np.float64]

CUBIC = -0.75  # Keys' a: the slope of the kernel at distance 1


class Windows(NamedTuple):
    """What each output reads: the inputs `first[i]`, `first[i]` + 1, ... with the weights `weight[i]`."""

    first: NDArray[np.intp]
    """[n_out]."""
    weight: Wide
    """[n_out, W]."""


def _windows(dense: Wide) -> Windows:
    """The windows that hold all weights of [n_out, n_in] that are not zero."""
    used, n_in = dense != 0, dense.shape[1]
    first = used.argmax(axis=1)
    length = int((n_in - used[:, ::-1].argmax(axis=1) - first).max())
    first = np.minimum(first, n_in - length)  # a window ends inside of the grid
    return Windows(first, np.take_along_axis(dense, first[:, None] + np.arange(length), axis=1))


def _centre(n_in: int, n_out: int) -> Wide:
    """[n_out]: where the outputs lie among the inputs."""
    return np.asarray((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, np.float64)


def cubic_windows(n_in: int, n_out: int) -> Windows:
    """Cubic convolution; an input beyond the border is the one at the border."""
    centre, outputs = _centre(n_in, n_out), np.arange(n_out)
    dense = np.zeros((n_out, n_in))
    left = np.floor(centre).astype(np.intp)
    for place in (left - 1, left, left + 1, left + 2):
        far = np.abs(centre - place)
        inner = ((CUBIC + 2) * far - (CUBIC + 3)) * far * far + 1  # up to distance 1
        outer = ((far - 5) * far + 8) * CUBIC * far - 4 * CUBIC  # from there to distance 2
        dense[outputs, place.clip(0, n_in - 1)] += np.where(far <= 1, inner, np.where(far < 2, outer, 0.0))
    return _windows(dense)


def triangle_windows(n_in: int, n_out: int) -> Windows:
    """Linear interpolation, antialiased; inputs beyond the border have no part, the others' weights add up to one."""
    reach = max(n_in / n_out, 1.0)
    offset = np.arange(n_in) - _centre(n_in, n_out)[:, None]
    dense = (1.0 - np.abs(offset / reach)).clip(min=0.0)
    dense /= dense.sum(axis=1, keepdims=True)
    return _windows(dense)


def _along_rows(grid: Wide, windows: Windows) -> Wide:
    """[n_in, n, D] -> [n_out, n, D]: the inputs of each window, weighed and added up in their order."""
    out = np.zeros((len(windows.first), *grid.shape[1:]))
    for row, first, weights in zip(out, windows.first, windows.weight, strict=True):  # each stays in the cache
        for place, weight in enumerate(weights, first):
            row += weight * grid[place]
    return out


def interpolated(stored: NDArray[np.floating], rows: int, columns: int, antialias: bool) -> NDArray[np.float32]:
    """The positions of another grid.

    Args:
        stored: [G * G, D], row by row.
        rows: of the other grid.
        columns: of the other grid.
        antialias: whether by triangles, as NaFlex was trained; else by cubic convolution.

    Returns:
        [rows * columns, D] float32, row by row.
    """
    make: Callable[[int, int], Windows] = triangle_windows if antialias else cubic_windows
    side = round(len(stored) ** 0.5)
    grid = np.asarray(stored, np.float64).reshape(side, side, -1)
    grid = _along_rows(grid, make(side, rows))
    grid = _along_rows(grid.transpose(1, 0, 2), make(side, columns)).transpose(1, 0, 2)
    return grid.reshape(rows * columns, -1).astype(np.float32)
