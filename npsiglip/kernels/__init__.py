"""Numba kernels: arrays and scalars in, `out` filled; never a configuration, never a file.

From the bottom up: `settings` (Numba, imported), `cache` and `threads` (machine code between processes, threads and
forks), `jit` (how everything is compiled), `llvm` and `vector` (16 lanes in registers), `vector_math` (exp, GELU),
`steps` and `tile` (the innermost product), `rows` and `tasks` (what an operation is told, and how threads share it),
then one file for each piece of the model.
"""

from npsiglip.kernels.settings import load

load()
