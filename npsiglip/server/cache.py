"""What was computed lately, by its content."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cache(Generic[T]):
    """The values that were used last, as many as fit. Safe in several threads.

    Args:
        size: bytes, of values and an allowance for each key.
    """

    PER_KEY = 300

    def __init__(self, size: int) -> None:
        self.size, self.used = size, 0
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        """The value, None if it is not there."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: T, size: int) -> None:
        """Keep a value of `size` bytes; those used least recently make room."""
        size += self.PER_KEY
        with self._lock:
            if key in self._values:
                self.used -= self._values.pop(key)[1]
            self._values[key] = value, size
            self.used += size
            while self.used > self.size and self._values:
                self.used -= self._values.popitem(last=False)[1][1]

    def __len__(self) -> int:
        return len(self._values)
