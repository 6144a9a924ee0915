"""What a measurement gives; `dataclasses.asdict` of a `Report` is what `npsiglip bench --json` prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from npsiglip.bench.stats import Ratio, Summary


@dataclass(frozen=True)
class Timing:
    """One engine in one case."""

    engine: str
    setting: str
    """What the engine chose for this case."""
    seconds: Summary
    gflops: float
    """The case's arithmetic by the median time, in GFLOP/s."""
    of_limit: float
    """That, as a fraction of the limit of as many threads, measured in the same rounds."""
    agreement: float | None
    """The relative L2 of its embeddings to ours in float32; None for ours in float32."""
    ratio: Ratio | None
    """Our time to its time; None for ours."""
    runs: list[float]
    """Every time, in the order of the rounds."""


@dataclass(frozen=True)
class CaseResult:
    """All engines in one case, ours first, and what the machine could do between their runs."""

    case: str
    inputs: list[int]
    """The shape of the pixels or ids."""
    gflop: float
    timings: list[Timing]
    limits: dict[str, Summary]
    """"multiply_add:2": GFLOP/s of 2 threads, in the report's dtype; "read:2": GB/s."""


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and on what."""

    machine: dict[str, Any]
    model: dict[str, Any]
    dtype: str
    threads: int
    rounds: int
    engines: dict[str, dict[str, str]]
    """Versions and settings of every engine."""
    left_out: dict[str, str]
    """The peers that were asked for by "all" and could not be timed, and why."""
    cases: list[CaseResult]
