"""Keeping what the forward pass computes: every intermediate of both towers under its name.

The model writes to a trace whether anybody listens or not, so that tracing never forks its code: `FORGET` keeps
nothing and costs nothing, `Trace` keeps copies. Names follow the grammar of `npsiglip.params`, and are the same in
`npsiglip.reference`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Forget:
    """A trace that keeps nothing."""

    def __setitem__(self, name: str, value: Array) -> None:
        pass

    def room(self, name: str, shape: tuple[int, ...]) -> Array:
        """Where a kernel should write an intermediate that it otherwise would not: nowhere."""
        return np.empty((0,) * len(shape), np.float32)


FORGET = Forget()


class Trace(Forget, Mapping[str, Array]):
    """An ordered mapping of tap name to array, in the order of the forward pass."""

    def __init__(self) -> None:
        self._taps: dict[str, Array] = {}

    def __setitem__(self, name: str, value: Array) -> None:
        self._taps[name] = np.array(value)  # a copy: work buffers are used again

    def room(self, name: str, shape: tuple[int, ...]) -> Array:
        """Where a kernel should write an intermediate that it otherwise would not."""
        self._taps[name] = np.empty(shape, np.float32)
        return self._taps[name]

    def reshape(self, name: str, *shape: int) -> None:
        """Give a tap that a kernel wrote as a matrix its own shape."""
        self._taps[name] = self._taps[name].reshape(shape)

    def __getitem__(self, name: str) -> Array:
        return self._taps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._taps)

    def __len__(self) -> int:
        return len(self._taps)
