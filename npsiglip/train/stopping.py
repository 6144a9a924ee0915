"""SIGINT and SIGTERM end a run after the step they come in, so that it leaves a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Signals:
    """SIGINT and SIGTERM as a wish to stop; the second one is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
