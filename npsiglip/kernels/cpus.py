"""How many CPUs this process may use: its affinity, and the quota of its control group, which containers have."""

import functools
import math
import os
from pathlib import Path

ROOT = Path("/")


def _read(path):
    try:
        return path.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []


def _quota_of(folder):
    """CPUs that the control group in a folder of either version's tree may use at once; infinite without a limit."""
    limit = _read(folder / "cpu.max") or _read(folder / "cpu.cfs_quota_us") + _read(folder / "cpu.cfs_period_us")
    try:
        quota, period = map(float, limit)
    except ValueError:  # no such file, "max 100000", or what we do not know
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf  # version 1 says -1 for no limit


def quota(root=ROOT):
    """The least quota of this process's control group and those above it, in CPUs; infinite without a limit.

    A container sees its own group either as the root of the tree, or by the path that the host gave it, which it cannot
    see: then the root is looked at all the same.
    """
    least = math.inf
    for line in _read(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mounts = ["", "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [controllers, "cpu"]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in mounts:
            folder = root / "sys/fs/cgroup" / mount
            for depth in range(len(parts) + 1):
                least = min(least, _quota_of(folder.joinpath(*parts[:depth])))
    return least


_own_quota = functools.cache(quota)


def available():
    """CPUs that this process may use, at least 1: its affinity now, and the quota as it was at first, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, math.ceil(min(_own_quota(), allowed))))
