"""The machine itself: cases are "multiply_add:THREADS", whose work is in FLOP, and "read:THREADS", in bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from npsiglip.bench import limit_kernels
from npsiglip.bench.worker import Run, Say
from npsiglip.errors import InputError
from npsiglip.kernels.jit import thread_count

STEPS = 1 << 22  # 13 ms at 64 FLOP a cycle
BLOCKS = 1 << 10  # 268 MB: beyond any cache


class Limits:
    """Loops of `npsiglip.bench.limit_kernels`."""

    about: dict[str, str] = {}  # noqa: RUF012  never changed

    def prepare(self, case: str, inputs: Any) -> Run:
        """Compile a loop, and touch the memory that it reads."""
        name, threads = case.split(":")
        out = np.empty(int(threads), np.float32)
        if name == "multiply_add":

            def run() -> None:
                with thread_count(len(out)):
                    limit_kernels.multiply_add(np.float32(1e-3), np.float32(1e-3), STEPS, out)

            work = limit_kernels.FLOP_PER_STEP * STEPS * len(out)
        else:
            x, sums = np.ones(BLOCKS * limit_kernels.BLOCK, np.float32), np.empty(BLOCKS, np.float32)

            def run() -> None:
                with thread_count(len(out)):
                    limit_kernels.read(x, sums)

            work = x.nbytes
        run()
        return Run(run, work)


def load(folder: str, dtype: str, threads: int, say: Say) -> Limits:
    """Nothing is read from the folder.

    Raises:
        InputError: another dtype than float32.
    """
    if dtype != "float32":
        raise InputError(f"the arithmetic limit is measured for float32, got dtype {dtype!r}")
    return Limits()
