"""npsiglip itself, as its users call it, on pixels and ids."""

from __future__ import annotations

import platform
from typing import Any

import numba
import numpy as np

from npsiglip import __version__
from npsiglip.bench.worker import Run, Say
from npsiglip.checkpoint import Checkpoint
from npsiglip.kernels.jit import on_compile
from npsiglip.model import SigLIP


class Own:
    """SigLIP on Numba kernels."""

    def __init__(self, folder: str, dtype: str, threads: int, say: Say) -> None:
        checkpoint = Checkpoint.open(folder)
        self.say = say
        with on_compile(self._compiling):
            self.model = SigLIP(checkpoint.config, checkpoint, threads=threads, dtype=dtype)
        self.about = {
            "npsiglip": __version__,
            "numba": numba.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        }

    def _compiling(self, kernel: str) -> None:
        self.say(f"compiling {kernel}")

    def prepare(self, case: str, inputs: Any) -> Run:
        """Compile what this case needs."""
        encode = self.model.encode_image if case.startswith("image") else self.model.encode_text

        def run() -> Any:
            return encode(inputs, normalize=False)

        with on_compile(self._compiling):
            run()
            run()  # the second pass packs the weights for good
        return Run(run)


def load(folder: str, dtype: str, threads: int, say: Say) -> Own:
    """Load a model folder; only its config and weights are read.

    Raises:
        InputError: a dtype that kernels do not compute in.
    """
    return Own(folder, dtype, threads, say)
