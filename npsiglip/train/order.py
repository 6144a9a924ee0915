"""Which picture of a source comes as its number n: all before any comes again, in an order that is drawn anew.

A pure function of the seed and n, so that a batch can be made by itself. With classes, every class comes once a round,
and its pictures in turn: a class of two pictures is seen as often as one of two hundred, and a batch that takes no more
than there are classes hardly shows one twice. Neighbours among classes may come together: one o'clock and half past
one, which are hard negatives of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray


def _drawn(seed: int, name: str, epoch: int, count: int) -> NDArray[np.intp]:
    return np.random.default_rng([seed, crc32(name.encode()), epoch]).permutation(count)


_permutation = lru_cache(maxsize=16)(_drawn)  # of whole sources
_within_class = lru_cache(maxsize=16384)(_drawn)


@lru_cache(maxsize=4)
def _windowed(seed: int, name: str, epoch: int, count: int, window: int) -> NDArray[np.intp]:
    """Windows of neighbours in a drawn order, and a drawn order in each: large files are read nearly in order."""
    parts = []
    for block in _permutation(seed, f"{name}, windows", epoch, -(-count // window)):
        start = int(block) * window
        parts.append(start + _drawn(seed, f"{name}, window {block}", epoch, min(window, count - start)))
    return np.concatenate(parts)


@lru_cache(maxsize=16)
def _runs(seed: int, name: str, epoch: int, count: int, length: int) -> NDArray[np.intp]:
    """Runs of `length` neighbours in a drawn order. Where runs begin is drawn too, so any two neighbours meet."""
    starts = np.arange(_drawn(seed, f"{name}, runs begin", epoch, length)[0], count, length)
    parts = [part for part in np.split(np.arange(count), starts) if len(part)]
    return np.concatenate([parts[i] for i in _drawn(seed, f"{name}, runs", epoch, len(parts))])


class Order:
    """The order of one source.

    Args:
        seed: of the data.
        name: of the source.
        indices: of the pictures that may come.
        classes: of these, what each shows; None: of no class.
        window: see `SourceSettings`; for sources without classes.
        neighbours: see `SourceSettings`; for sources with classes.
    """

    def __init__(
        self,
        seed: int,
        name: str,
        indices: Sequence[int],
        classes: Sequence[str | None],
        window: int = 0,
        neighbours: int = 0,
    ) -> None:
        self._seed, self._name, self._window, self._neighbours = seed, name, window, neighbours
        members: dict[str, list[int]] = {}
        for index, kind in zip(indices, classes, strict=True):
            if kind is not None:
                members.setdefault(kind, []).append(index)
        self._classes = list(members.values()) if sum(map(len, members.values())) == len(indices) else []
        self._indices = list(indices)

    def whole(self, count: int) -> int:
        """The least number from `count` on after which the order may begin again: the end of a round of all classes.

        Without classes, the end of a round of all pictures; or `count` itself, if it lies within the first.
        """
        each = len(self._classes) or (len(self._indices) if count > len(self._indices) else 1)
        return -(-count // each) * each

    def _round(self, turn: int) -> NDArray[np.intp]:
        """The order of all classes in one round."""
        if self._neighbours:
            return _runs(self._seed, self._name, turn, len(self._classes), self._neighbours)
        return _permutation(self._seed, self._name, turn, len(self._classes))

    def __call__(self, n: int) -> int:
        """The index of the picture that comes as number n, from 0."""
        if self._classes:
            turn, place = divmod(n, len(self._classes))
            number = int(self._round(turn)[place])
            members = self._classes[number]
            epoch, place = divmod(turn, len(members))
            return members[int(_within_class(self._seed, f"{self._name}, class {number}", epoch, len(members))[place])]
        epoch, place = divmod(n, len(self._indices))
        if self._window:
            return self._indices[int(_windowed(self._seed, self._name, epoch, len(self._indices), self._window)[place])]
        return self._indices[int(_permutation(self._seed, self._name, epoch, len(self._indices))[place])]
