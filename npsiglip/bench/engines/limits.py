"""The machine itself: cases are "multiply_add:THREADS", whose work is in operations, and "read:THREADS", in bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from npsiglip.bench import limit_kernels
from npsiglip.bench.worker import Run, Say
from npsiglip.dtypes import check_dtype
from npsiglip.kernels.jit import thread_count

STEPS = 1 << 20  # 3 ms at two vectors a cycle
BLOCKS = 1 << 10  # 268 MB: beyond any cache


class Limits:
    """Loops of `npsiglip.bench.limit_kernels`."""

    about: dict[str, str] = {}  # noqa: RUF012  never changed

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def prepare(self, case: str, inputs: Any) -> Run:
        """Compile a loop, and touch the memory that it reads."""
        name, threads = case.split(":")
        if name == "multiply_add":
            out = np.empty(int(threads), np.int32)
            steps = limit_kernels.STEPS[self.dtype]

            def run() -> None:
                with thread_count(len(out)):
                    steps(0, STEPS, out)

            work = limit_kernels.operations_per_step(self.dtype) * STEPS * len(out)
        else:
            x, sums = np.ones(BLOCKS * limit_kernels.BLOCK, np.float32), np.empty(BLOCKS, np.float32)

            def run() -> None:
                with thread_count(int(threads)):
                    limit_kernels.read(x, sums)

            work = x.nbytes
        run()
        return Run(run, work)


def load(folder: str, dtype: str, threads: int, say: Say) -> Limits:
    """Nothing is read from the folder.

    Raises:
        InputError: a dtype that kernels do not compute in.
    """
    check_dtype(dtype)
    return Limits(dtype)
