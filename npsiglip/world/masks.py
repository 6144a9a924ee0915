"""Tables that drawing takes cuttings from: ramps, stripes, dots, checks, specks, clouds and noise.

They depend on the picture's size alone, are made once in a process, and by whole-number arithmetic wherever rounding
could decide, so that they are the same everywhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DIRECTIONS: Final = 16
NOISE_LEVELS: Final = 8
NOISE_STEP: Final = 2.0  # standard deviation between levels

Coordinates = NDArray[np.float64]


def _random_bytes(seed: int, count: int) -> NDArray[np.uint8]:
    """Bytes that no version of NumPy will change: raw words of a generator with a published sequence."""
    words = np.random.PCG64(seed).random_raw((count + 7) // 8)
    return np.asarray(words, "<u8").view(np.uint8)[:count]


def _gaussian(seed: int, count: int) -> NDArray[np.int16]:
    """Sums of eight bytes around zero: nearly Gaussian, standard deviation 209."""
    sums: NDArray[np.int16] = _random_bytes(seed, count * 8).reshape(count, 8).sum(axis=1, dtype=np.int16)
    return sums - np.int16(1020)


def _mask(values: NDArray[np.bool_], fine: int) -> Image.Image:
    """Mode L, from a picture `fine` times as large."""
    mask = Image.fromarray(values.astype(np.uint8) * np.uint8(255))
    return mask.reduce(fine) if fine > 1 else mask


class Tables:
    """The tables for pictures of one size; `side` is the tables' own, of which any cutting may be taken."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.side = size + size // 2
        scale = size / 64
        fine = 3 if size < 128 else 1  # drawn this much larger, then averaged
        y, x = np.mgrid[: self.side * fine, : self.side * fine] / fine

        def tables(
            periods: tuple[float, ...], inside: Callable[[Coordinates, Coordinates], object]
        ) -> list[Image.Image]:
            """`inside` of both coordinates, in turned axes, in periods, around 0."""
            made = []
            for period in periods:
                for k in range(6):
                    c, s = math.cos(math.pi * k / 6 + 0.2), math.sin(math.pi * k / 6 + 0.2)
                    u, v = (x * c + y * s) / (period * scale), (y * c - x * s) / (period * scale)
                    made.append(_mask(np.asarray(inside(u - np.round(u), v - np.round(v))), fine))
            return made

        self.textures = {
            "striped": tables((5.0, 6.0, 7.0, 8.5), lambda u, v: np.abs(u) < 0.21),
            "dotted": tables((5.0, 5.5, 6.5, 7.5), lambda u, v: u * u + v * v < 0.095),
            "checkered": tables((7.5, 8.5, 10.0, 12.0), lambda u, v: (u > 0) ^ (v > 0)),
        }
        self.wide_stripes = tables((7.0, 11.0, 16.0), lambda u, v: np.abs(u) < 0.25)
        self.ramps = [self._ramp(k) for k in range(DIRECTIONS)]
        self.small_ramps = [ramp.resize((16, 16), Image.Resampling.BOX) for ramp in self.ramps]
        self.specks = [self._specks(seed, share) for seed in range(3) for share in (3, 7)]
        self.clouds = [self._clouds(seed) for seed in range(4)]
        noise = _gaussian(7, self.side * self.side * 3).reshape(self.side, self.side, 3).astype(np.float64)
        self.noise = [np.rint(noise * (NOISE_STEP * k / 209)).astype(np.int16) for k in range(NOISE_LEVELS)]
        self.jitter = (_gaussian(11, 2048) / 209).astype(np.float32).reshape(1024, 2)

    def _ramp(self, k: int) -> Image.Image:
        """From 0 to 255 across the picture; every fourth from its middle to its corners."""
        y, x = np.mgrid[: self.size, : self.size] * (2 / max(1, self.size - 1)) - 1
        angle = 2 * math.pi * k / DIRECTIONS + 0.1
        c, s = math.cos(angle), math.sin(angle)
        t = (x * c + y * s) / (abs(c) + abs(s)) / 2 + 0.5 if k % 4 else np.sqrt((x * x + y * y) / 2)
        return Image.fromarray((t * 255).astype(np.uint8))

    def _specks(self, seed: int, share: int) -> Image.Image:
        """`share` percent of the pixels."""
        return Image.fromarray(
            np.where(_random_bytes(20 + seed, self.side**2) < share * 2.56, 255, 0)
            .astype(np.uint8)
            .reshape(self.side, -1)
        )

    def _clouds(self, seed: int) -> Image.Image:
        small = Image.fromarray(_random_bytes(40 + seed, 144).reshape(12, 12))
        return small.resize((self.side, self.side), Image.Resampling.BICUBIC)


@functools.cache
def tables(size: int) -> Tables:
    """The tables for pictures of this size."""
    return Tables(size)
