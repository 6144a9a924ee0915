"""What a model computes in: as asked for, or as its weights are stored."""

from __future__ import annotations

from npsiglip.checkpoint import Checkpoint
from npsiglip.element_types import DTYPES
from npsiglip.errors import InputError
from npsiglip.formats.quantized import DTYPE as QUANTIZED
from npsiglip.params import Params


def check_dtype(dtype: str) -> None:
    """Raise an error unless the kernels can compute in `dtype`.

    Raises:
        InputError: another name than those of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")


def choose_dtype(dtype: str | None, params: Params) -> str:
    """What to compute in: as asked, or else what the weights are quantised to, or float32.

    Raises:
        InputError: an unknown dtype, or another than that of quantised weights.
    """
    if dtype is not None:
        check_dtype(dtype)
    if not isinstance(params, Checkpoint) or not params.quantized:
        return dtype or "float32"
    if dtype not in (None, QUANTIZED):
        raise InputError(
            f"{params.folder} holds weights quantised to {QUANTIZED}, which cannot be computed with in {dtype}: leave "
            f"dtype out, or load the original model in {dtype}"
        )
    return QUANTIZED
