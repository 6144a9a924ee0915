"""What the timings were taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from npsiglip.errors import InputError


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int) -> None:
    """Refuse more threads than cores: they would wait for each other, and the times say nothing.

    Raises:
        InputError: more threads than cores, or fewer than one.
    """
    if not 1 <= threads <= cores():
        raise InputError(f"threads must be from 1 to {cores()}, the cores that there are; got {threads}")


def cpu_name() -> str:
    """The name that the CPU gives itself, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()


def load_average() -> float | None:
    """How many processes were running or ready to run over the last minute, where the system tells it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe() -> dict[str, str | int | float | None]:
    """The machine, before anything runs."""
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": load_average(),
    }
