"""How much memory a model takes, from its shapes alone.

What counts are the weights of the linear layers as kernels read them, in panels of 16 columns
(`npsiglip.kernels.pack`): nearly all of a model that is in use. A text's table of rows stays in its file, of which a
text reads a few; in blocks int8 has a scale and a sum for each column, outside of them it is bfloat16
(`npsiglip.formats.quantized`).

Leaves out: biases, LayerNorms and positions, less than a hundredth; work arrays, which grow with the batch; Python and
the compiled kernels. docs/benchmarks.md has what was measured of all of it.
"""

from __future__ import annotations

from npsiglip.config import SigLIPConfig
from npsiglip.formats.quantized import COLUMNS, stored_layers
from npsiglip.params import param_shapes

PER_LANE = {"float32": 1, "bfloat16": 2, "int8": 4}  # numbers in four bytes


def packed_bytes(config: SigLIPConfig, dtype: str) -> int:
    """The size of all packed weights of a model that computes in `dtype`: "float32", "bfloat16" or "int8"."""
    total = 0
    for layer, (k, n) in stored_layers(param_shapes(config)).items():
        own = dtype if dtype != "int8" or ".blocks." in layer else "bfloat16"
        total += 4 * COLUMNS * -(-n // COLUMNS) * -(-k // PER_LANE[own])
        total += 8 * n if own == "int8" else 0
    return total
