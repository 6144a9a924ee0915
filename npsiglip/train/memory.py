"""How much memory a run needs, known from its shapes, and whether this machine has it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from math import prod
from pathlib import Path

from npsiglip.errors import InputError
from npsiglip.params import param_shapes
from npsiglip.train.config import Config
from npsiglip.train.data import Batches
from npsiglip.train.initial import locked_params
from npsiglip.train.optimizer import AdamW
from npsiglip.train.pool import Pool
from npsiglip.train.step import Gradients

HEADROOM = 200_000_000  # bytes, for evaluations and all that is small


def available_memory() -> int | None:
    """Bytes that this process could still get; None where the system does not tell."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))))
    with contextlib.suppress(OSError, ValueError):  # of a container; "max" is no number
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        found.append(limit - used)
    if not found:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def memory_needed(config: Config) -> int:
    """Bytes that a run of this configuration needs."""
    shapes, locked, train = param_shapes(config.siglip), locked_params(config), config.train
    total = sum(prod(shape) for shape in shapes.values())
    trained = sum(prod(shape) for name, shape in shapes.items() if name not in locked)
    vectors = 8 * total + AdamW.memory(trained)
    copies = 4 * total + AdamW.memory(trained)  # for a checkpoint
    work = Gradients.memory(config.siglip, train.batch, config.model.text.seq_len, train.loss, train.blocks, train.lock)
    return vectors + copies + work + Batches.memory(config) + Pool.memory(config) + HEADROOM


def check_memory(config: Config, available: int | None = None) -> str:
    """Check that the batch fits memory, before anything is begun.

    Args:
        config: the settings.
        available: bytes; None: what the system says.

    Returns:
        What is needed, and what there is, in words.

    Raises:
        InputError: with what is needed, what there is, and a batch that would fit.
    """
    available = available_memory() if available is None else available
    needed = memory_needed(config)
    if available is None or needed <= available:
        there = "" if available is None else f", {available / 1e9:.1f} GB available"
        return f"memory: about {needed / 1e9:.1f} GB needed{there}"
    batch = config.train.batch // 2
    while batch >= 2 and memory_needed(replace(config, train=replace(config.train, batch=batch))) > available:
        batch //= 2
    fix = (
        f"a batch of {batch} would fit (train.batch)"
        if batch >= 2
        else "this model fits with no batch at all: take a smaller one, or train less of it (train.lock, train.blocks)"
    )
    if config.data.embedded:
        fix += f"; or embed fewer pictures (data.embedded takes {Pool.memory(config) / 1e9:.1f} GB of it)"
    raise InputError(
        f"a batch of {config.train.batch} needs about {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB "
        f"are available: {fix}"
    )
