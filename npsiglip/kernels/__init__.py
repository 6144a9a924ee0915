"""Numba kernels: arrays and scalars in, `out` filled; never a configuration, never a file.

From the bottom up: `settings` (Numba, imported), `cache` and `threads` (machine code between processes, threads and
forks), `jit` (how everything is compiled), `vector` (16 lanes in registers), `vector_math` (exp, GELU), `tile` (the
innermost product), then one file for each piece of the model.
"""

from npsiglip.kernels.settings import load

load()
