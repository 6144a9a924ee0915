"""Keeping what the forward pass computes: every intermediate of both towers under its name.

The model writes to a trace whether anybody listens or not, so that tracing never forks its code: `FORGET` keeps
nothing and costs nothing, `Trace` keeps copies. Names follow the grammar of `npsiglip.params`, and are the same in
`npsiglip.reference`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def widen(bits: NDArray[np.uint16]) -> Array:
    """What the bits of bfloat16 stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Forget:
    """A trace that keeps nothing."""

    def __setitem__(self, name: str, value: Any) -> None:
        pass

    def room(self, name: str, shape: tuple[int, ...]) -> Array:
        """Where a kernel should write an intermediate that it otherwise would not: nowhere."""
        return np.empty((0,) * len(shape), np.float32)

    def parts(self, name: str, parts: str, matrix: Any) -> None:
        """Keep the columns of a matrix, cut into equal parts, under the names of the parts (letters)."""


FORGET = Forget()


class Trace(Forget, Mapping[str, Array]):
    """An ordered mapping of tap name to array, in the order of the forward pass."""

    def __init__(self) -> None:
        self._taps: dict[str, Array] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        value = np.array(value)  # a copy: work buffers are used again
        self._taps[name] = widen(value) if value.dtype == np.uint16 else value

    def room(self, name: str, shape: tuple[int, ...]) -> Array:
        """Where a kernel should write an intermediate that it otherwise would not."""
        self._taps[name] = np.empty(shape, np.float32)
        return self._taps[name]

    def parts(self, name: str, parts: str, matrix: Any) -> None:
        """Keep the columns of a matrix, cut into equal parts, under the names of the parts (letters)."""
        for part, letter in zip(np.split(matrix, len(parts), axis=1), parts, strict=True):
            self[f"{name}.{letter}"] = part

    def reshape(self, name: str, *shape: int) -> None:
        """Give a tap that a kernel wrote as a matrix its own shape."""
        self._taps[name] = self._taps[name].reshape(shape)

    def __getitem__(self, name: str) -> Array:
        return self._taps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._taps)

    def __len__(self) -> int:
        return len(self._taps)

    def __repr__(self) -> str:
        names = list(self._taps)
        return f"{type(self).__name__}({len(names)} taps{f', {names[0]} to {names[-1]}' if names else ''})"


class Selected(Trace):
    """A trace of the taps with these names, which forgets all others."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = frozenset(names)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self._names:
            super().__setitem__(name, value)

    def room(self, name: str, shape: tuple[int, ...]) -> Array:
        """Where a kernel should write an intermediate that it otherwise would not; nowhere if nobody asked for it."""
        return super().room(name, shape) if name in self._names else FORGET.room(name, shape)
