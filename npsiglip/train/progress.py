"""What a run tells of itself: where it is after each step, to a watcher; and how it ended.

Leaves out: what is written to files (`metrics_log`, `plot`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    step: int
    steps: int
    loss: float
    rate: float
    norm: float
    t: float
    bias: float
    pairs_per_second: float
    seconds: float
    """Of all runs together."""
    seconds_left: float
    waiting: float
    """The part of the time in which the trainer waits for pictures."""
    evaluation: dict[str, float]
    """The last one, empty before it."""


class Watcher(Protocol):
    """Who is told."""

    def step(self, progress: Progress, logged: bool) -> None:
        """After every step; `logged` when a line of metrics was written."""

    def say(self, text: str) -> None:
        """What is being done."""

    def tell(self, text: str) -> None:
        """What should be known, and stays to be read."""


class Silent:
    """A watcher that keeps it to itself."""

    def step(self, progress: Progress, logged: bool) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def tell(self, text: str) -> None:
        """Nothing."""


class Pace:
    """Seconds that a step takes, as the last ones did; the first few compile and wait, and are forgotten."""

    def __init__(self) -> None:
        self.seconds, self._count = 0.0, 0

    def add(self, seconds: float) -> None:
        """One more step."""
        self._count += 1
        self.seconds = seconds if self._count < 4 else self.seconds + 0.05 * (seconds - self.seconds)


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    step: int
    finished: bool
    signal: int
    """That stopped it, or 0."""
    summary: dict[str, Any]
    """Of a finished run: times, evaluations; what summary.json has."""
