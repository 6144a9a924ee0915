"""Pictures that are the same, or nearly: a perceptual hash finds candidates, small colour pictures confirm them.

A picture is put on white, if it is a cut-out, and made small twice: to 9 x 8 greys, whose 64 signs of the difference of
neighbours are its hash (dHash), and to 16 x 16 colours. Two are the same if their hashes differ in few bits and their
colours little: drawings of thin lines and flags have hashes alike. Found so: the same file, at another size, saved
anew, a little brighter. Not found: mirrored, cropped or turned ones.

Measured: of 296 photographs that were halved in size, saved as JPEG of quality 30, squashed or made 5 % brighter, 293
to 296 are found, and none in another's place; of 1,720 line drawings 2 are taken for one of 3,440 others.

Source: N. Krawetz, "Kind of Like That", The Hacker Factor Blog (2013), for dHash.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.evaluation.measure import opaque
from npsiglip.interrupts import deferred
from npsiglip.pairs.base import Pairs

if TYPE_CHECKING:
    from PIL.Image import Image

BITS = 6  # of 64 that may differ
COLOURS = 8.0  # of 255, root mean square over 16 x 16 colours, that may differ
SIDE = 16
BLOCK = 2**22  # comparisons at once


def dhash(picture: Image) -> int:
    """The hash of an opaque picture, 64 bits: whether each of 8 x 8 places is darker than its right neighbour."""
    with deferred():
        from PIL import Image

    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


@dataclass(frozen=True)
class Looks:
    """What some pictures of a collection look like.

    Attributes:
        index: of each in the collection [N].
        hashes: uint64 [N].
        colours: uint8 [N, 16 * 16 * 3].
        looked: how many pictures were looked at, with those that could not be decoded.
        total: how many there were.
    """

    index: NDArray[np.intp]
    hashes: NDArray[np.uint64]
    colours: NDArray[np.uint8]
    looked: int
    total: int


def looks_of(pairs: Pairs, indices: Sequence[int], seconds: float = float("inf")) -> Looks:
    """Look at pictures in a random order, always the same one, until they or the seconds end.

    One that cannot be decoded is passed over. What is drawn anew each time is drawn in one way.
    """
    with deferred():
        from PIL import Image

    end = time.monotonic() + seconds
    kept: list[int] = []
    hashes: list[int] = []
    colours: list[NDArray[Any]] = []
    looked = 0
    for place in np.random.default_rng(0).permutation(len(indices)):
        if time.monotonic() > end:
            break
        looked += 1
        try:
            picture = opaque(pairs.read(indices[place], Random(0)))
        except Exception:  # damaged files raise almost anything, and whoever uses them names them
            continue
        kept.append(indices[place])
        hashes.append(dhash(picture))
        colours.append(np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)).ravel())
    stacked = np.array(colours, np.uint8).reshape(-1, SIDE * SIDE * 3)
    return Looks(np.array(kept, np.intp), np.array(hashes, np.uint64), stacked, looked, len(indices))


def same(first: Looks, second: Looks) -> list[tuple[int, int]]:
    """Each picture of `first` that is among `second`, with the one that is most like it: pairs of their indices."""
    found: list[tuple[int, int]] = []
    step = max(1, BLOCK // max(1, len(second.hashes)))
    for start in range(0, len(first.hashes), step):
        part = first.hashes[start : start + step]
        near = np.bitwise_count(part[:, None] ^ second.hashes[None, :]) <= BITS
        for row in np.flatnonzero(near.any(axis=1)):
            others = np.flatnonzero(near[row])
            apart = second.colours[others].astype(np.float32) - first.colours[start + row]
            distance = np.sqrt((apart * apart).mean(axis=1))
            best = int(distance.argmin())
            if distance[best] <= COLOURS:
                found.append((int(first.index[start + row]), int(second.index[others[best]])))
    return sorted(found)


def duplicates(pairs: Pairs, others: Pairs) -> dict[str, str]:
    """The name of each picture of a collection that is among others -> that of the other one."""
    first, second = (looks_of(found, range(len(found))) for found in (pairs, others))
    return {pairs.where(i): others.where(j) for i, j in same(first, second)}
