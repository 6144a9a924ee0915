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
from npsiglip.element_types import ELEMENT_TYPES, LANES, STEP_SIZE
from npsiglip.formats.quantized import stored_layers
from npsiglip.params import param_shapes


def packed_bytes(config: SigLIPConfig, dtype: str) -> int:
    """The size of all packed weights of a model that computes in `dtype`: "float32", "bfloat16" or "int8"."""
    total = 0
    for layer, (k, n) in stored_layers(param_shapes(config)).items():
        own = ELEMENT_TYPES[dtype if ".blocks." in layer else ELEMENT_TYPES[dtype].outer]
        total += STEP_SIZE * LANES * -(-n // LANES) * own.steps(k)
        total += 8 * n if own.scaled else 0
    return total
