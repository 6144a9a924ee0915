"""Rows of an embedding in 8 bits: one scale for each row, as linear layers have one for each column.

    row = scale q,   q in -127 .. 127,   scale = max |row| / 127
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from npsiglip.params import Params

MOST = np.float32(127)


def quantize_table(rows: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rows [..., D] of any float type -> q int8 [..., D] and scale float32 [...]; a row of zeros has the scale 0."""
    values = np.asarray(rows, np.float32)
    largest = np.abs(values).max(-1)
    inverse = np.divide(MOST, largest, out=np.zeros_like(largest), where=largest > 0)
    return np.rint(values * inverse[..., None]).astype(np.int8), largest / MOST


def gather_rows(params: Params, name: str, ids: NDArray[np.integer], dtype: str) -> NDArray[np.float32]:
    """Rows of the table `name` as a model of `dtype` sees them, float32 [*ids.shape, D]; the table stays as stored."""
    if f"{name}.q" in params:
        q, scale = params[f"{name}.q"][ids], np.asarray(params[f"{name}.scale"][ids], np.float32)
    elif dtype == "int8":
        q, scale = quantize_table(params[name][ids])
    else:
        return np.asarray(params[name][ids], np.float32)
    return q.astype(np.float32) * scale[..., None]
