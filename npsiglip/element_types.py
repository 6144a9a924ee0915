"""The element types that linear layers compute in: one table, for all who lay out, pack, multiply or count numbers.

    float32     weights and what they multiply
    bfloat16    both; NumPy has no such type, so arrays of uint16 hold its bits
    int8        weights int8 with a scale for each column, what they multiply uint8 with a scale for each row

A *step* of a product is one lane of 32 bits of each column: one, two or four numbers, one after the other in K. Weights
lie in panels of `LANES` columns (`npsiglip.kernels.pack`).

Left out: how a step is multiplied, and the tiles of a CPU (`npsiglip.kernels.tile`). The table is no part of
`npsiglip.kernels`, which imports Numba: files are read, and memory is counted, without it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

LANES: Final = 16  # columns of a panel, lanes of a vector
STEP_SIZE: Final = 4  # bytes of a column in a step
DTYPES: Final = ("float32", "bfloat16", "int8")


class ElementType(NamedTuple):
    """An element type of weights, and of what they multiply where both are of one type."""

    name: str
    """One of `DTYPES`."""
    tensor: str
    """What safetensors files call it."""
    memory: type[np.generic]
    """Of the arrays that hold what weights multiply."""
    per_step: int
    """Numbers in a step."""
    chain: int
    """Steps that a product adds up from zero, before it adds the sum to those before (`npsiglip.kernels.gemm`)."""
    outer: str
    """The type at the edges of a model whose blocks have this one."""
    scaled: bool
    """Whether each column of weights has a scale and a sum of its numbers."""

    def steps(self, k: int) -> int:
        """The steps of K numbers."""
        return -(-k // self.per_step)

    def padded(self, k: int) -> int:
        """K numbers, rounded up to whole steps."""
        return self.steps(k) * self.per_step


# Chains: short ones bound the growth of float32's rounding error. bfloat16 rounds so much that longer ones add nothing,
# whole numbers not at all. At the edges of a model a rounding error is not averaged by what follows, and there is
# little to gain: bfloat16 instead of int8.
FLOAT32: Final = ElementType("float32", "F32", np.float32, 1, 64, "float32", False)
BFLOAT16: Final = ElementType("bfloat16", "BF16", np.uint16, 2, 2 * FLOAT32.chain, "bfloat16", False)
INT8: Final = ElementType("int8", "I8", np.uint8, 4, 1 << 30, "bfloat16", True)

ELEMENT_TYPES: Final = {kind.name: kind for kind in (FLOAT32, BFLOAT16, INT8)}
_BY_MEMORY: Final[dict[Any, ElementType]] = {np.dtype(kind.memory).char: kind for kind in ELEMENT_TYPES.values()}


def of_memory(char: str) -> ElementType:
    """The element type of what weights multiply, by the character of its array's dtype.

    Raises:
        TypeError: there is none in such arrays.
    """
    if char not in _BY_MEMORY:
        known = ", ".join(f"{np.dtype(char).name} ({kind.name})" for char, kind in _BY_MEMORY.items())
        raise TypeError(f"a product reads arrays of {known}; got {np.dtype(char).name}")
    return _BY_MEMORY[char]
