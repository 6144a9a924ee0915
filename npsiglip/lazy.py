"""What is read when it is first used, because most uses of a model never need it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Deferred(Generic[T]):
    """Stands for what `make` returns. What cannot be made is an error of whoever needs it, not of loading a model."""

    make: Callable[[], T]
