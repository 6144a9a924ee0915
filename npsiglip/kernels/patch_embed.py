"""Patch embedding, first half: cut the image into rows of a matrix. The second half is a linear layer (gemm.py)."""

import functools

import numpy as np

from npsiglip.kernels.jit import callback
from npsiglip.kernels.tasks import array_at, launch, number, take, worker_address
from npsiglip.kernels.vector import LANES, load_n, store_n


@callback
def worker(op, threads):
    """Tasks of `patches_by_channel`, rows of patches, until none is left."""
    n, channels, height, width, size = number(op, 0), number(op, 1), number(op, 2), number(op, 3), number(op, 4)
    rows, columns = height // size, width // size
    pixels = array_at(number(op, 5), n * channels * height * width, np.float32(0))
    out = array_at(number(op, 6), n * rows * columns * channels * size * size, np.float32(0))
    task = take(op)
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
        task = take(op)


@functools.cache
def _worker():
    return worker_address(worker)


def patches_by_channel(pixels, patch_size, out):
    """Patches, row by row, of pixels [N, 3, H, W] -> out [N * L, 3 * P * P], each ordered (channel, row, column).

    What the patch does not divide is left out at the right and at the bottom, as a VALID convolution does. Float32.
    """
    n, channels, height, width = pixels.shape
    numbers = n, channels, height, width, patch_size, pixels.ctypes.data, out.ctypes.data
    launch(_worker(), n * (height // patch_size), numbers, (pixels, out))
