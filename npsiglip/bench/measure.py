"""Who runs when: every engine in a process of its own, one run each in turn, round after round.

Before anything is timed, the outputs are compared: a fast engine that computes something else is not worth timing.
After each change of process there is a pause, in which the threads of the last one stop spinning and go to sleep.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.bench import machine
from npsiglip.bench.cases import Case, random_inputs
from npsiglip.bench.flop import case_flop
from npsiglip.bench.process import MissingModule, Worker, WorkerError, engine_command
from npsiglip.bench.stats import Ratio, Summary, ratio, summarize
from npsiglip.config import SigLIPConfig
from npsiglip.errors import InputError
from npsiglip.metrics import relative_l2

OWN, LIMITS = "npsiglip", "limits"
PAUSE = 0.03  # seconds; OpenMP's threads spin for a few milliseconds
WARMUP = 3

# The largest relative L2 of an engine's embeddings to ours that is still the same computation. Float32 engines were
# seen 1e-6 apart, 1e-5 with strong outliers in the weights; a swapped axis, a lost bias or another GELU makes 1e-3
# and more.
AGREEMENT = {"float32": 1e-4}

Say = Callable[[str, str], None]
"""Told what is being done: the stage, and a detail that changes often."""


@dataclass(frozen=True)
class Engine:
    """How an engine is started, and how its package is installed should it be missing."""

    name: str
    command: Sequence[str]
    install: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """One engine in one case. `ratio` is ours to it, `agreement` the relative L2 of its embeddings to ours."""

    engine: str
    seconds: Summary
    gflops: float
    of_limit: float
    agreement: float | None
    ratio: Ratio | None
    runs: list[float]


@dataclass(frozen=True)
class CaseResult:
    """All engines in one case, and what the machine can do, as measured between their runs."""

    case: str
    inputs: list[int]
    gflop: float
    timings: list[Timing]
    limits: dict[str, Summary]
    """GFLOP/s of float32 multiply-adds, GB/s read; the number behind the name is that of threads."""


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and on what."""

    machine: dict[str, Any]
    model: dict[str, Any]
    dtype: str
    threads: int
    engines: dict[str, dict[str, str]]
    cases: list[CaseResult]


# name -> module in `npsiglip.bench.engines`, how to install it, environment variables of its process
PEERS = {"transformers": ("peer_transformers", "pip install 'npsiglip[bench]'", {})}


def own_engine() -> Engine:
    """Npsiglip in this environment."""
    return Engine(OWN, engine_command("own", sys.executable))


def limits_engine() -> Engine:
    """The loops that measure the machine."""
    return Engine(LIMITS, engine_command("limits", sys.executable))


def peer_engine(name: str, python: str | None = None) -> Engine:
    """A peer, run by this Python or another.

    Raises:
        InputError: unknown.
    """
    if name not in PEERS:
        raise InputError(f"peer {name!r} is not known; known are: {', '.join(PEERS)}")
    module, install, environment = PEERS[name]
    return Engine(name, engine_command(module, python or sys.executable), install, environment)
