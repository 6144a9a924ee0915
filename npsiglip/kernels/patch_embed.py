"""Patch embedding, first half: cut the image into rows of a matrix. The second half is a linear layer (gemm.py)."""

import functools
from typing import NamedTuple

import numpy as np

from npsiglip.element_types import LANES
from npsiglip.kernels.jit import callback
from npsiglip.kernels.rows import read
from npsiglip.kernels.tasks import array_at, launch, take, worker_address
from npsiglip.kernels.vector import load_n, store_n


class Row(NamedTuple):
    """What `patches_by_channel` is told; arrays by their addresses."""

    n: int
    channels: int
    height: int
    width: int
    size: int  # of a patch
    pixels: int
    out: int


@callback
def worker(address, threads):
    """Tasks of `patches_by_channel`, rows of patches, until none is left."""
    row = read(address, Row)
    n, channels, height, width, size = row.n, row.channels, row.height, row.width, row.size
    rows, columns = height // size, width // size
    pixels = array_at(row.pixels, n * channels * height * width, np.float32(0))
    out = array_at(row.out, n * rows * columns * channels * size * size, np.float32(0))
    task = take(address)
    while task < n * rows:
        image, top = task // rows, task % rows * size
        place = task * columns * channels * size * size
        for column in range(columns):
            for channel in range(channels):
                for y in range(size):
                    line = ((image * channels + channel) * height + top + y) * width + column * size
                    for x in range(0, size, LANES):
                        store_n(out, place + x, load_n(pixels, line + x, size - x), size - x)
                    place += size
        task = take(address)


@functools.cache
def _worker():
    return worker_address(worker)


def patches_by_channel(pixels, patch_size, out):
    """Patches, row by row, of pixels [N, 3, H, W] -> out [N * L, 3 * P * P], each ordered (channel, row, column).

    What the patch does not divide is left out at the right and at the bottom, as a VALID convolution does. Float32.
    """
    n, channels, height, width = pixels.shape
    row = Row(
        n=n, channels=channels, height=height, width=width, size=patch_size, pixels=pixels.ctypes.data,
        out=out.ctypes.data,
    )  # fmt: skip
    launch(_worker(), n * (height // patch_size), row, (pixels, out))
