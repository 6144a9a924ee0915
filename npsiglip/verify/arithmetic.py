"""Honest ways to compute the operations of a model, in the precision of a port.

The truth is `EXACT`: float64. Every other arithmetic is one that a correct port could have: another order of summation,
products of bfloat16 numbers, 8-bit weights. How far they are from the truth on the same input is the noise floor that a
port's own error is compared with.

    matmul   a product of matrices, of what the port would multiply, accumulated as it would
    store    what is left of a result where the port keeps it
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
F32 = np.float32
READ_BY_PRODUCTS = ("layer_norm", "mix", "gelu", "text_embed")  # kinds of operations

COLUMNS = 96  # of a product, at a time


def _same(x: Array) -> Array:
    return x


class Arithmetic(NamedTuple):
    """How numbers are multiplied, added up and kept."""

    name: str
    dtype: Any
    matmul: Callable[[Array, Array], Array]
    store: Callable[[Array], Array]
    weight: Callable[[Array], Array] = _same  # how parameters are held
    keeps: tuple[str, ...] = ()  # the kinds of operations whose results `store` is for; none: all
    one_pass: bool = False  # the variance of LayerNorm as E[x^2] - E[x]^2
    single: bool = False  # GELU by tanh in float32 from end to end: 1 + tanh loses digits where tanh is near -1


def _in_chains(length: int) -> Callable[[Array, Array], Array]:
    """Products whose sums are cut into chains of so many terms, added up in float32 in their order."""

    def columns(a: Array, b: Array) -> Array:
        total = np.asarray(a[..., :length] @ b[..., :length, :])
        part = np.empty_like(total)
        for start in range(length, a.shape[-1], length):
            np.matmul(a[..., start : start + length], b[..., start : start + length, :], out=part)
            total += part
        return total

    def matmul(a: Array, b: Array) -> Array:
        # a few columns at a time: their sums stay in the cache, and BLAS wakes no threads for so little
        starts = range(0, b.shape[-1], COLUMNS)
        return np.concatenate([columns(a, b[..., start : start + COLUMNS]) for start in starts], axis=-1)

    return matmul


def _backwards(a: Array, b: Array) -> Array:
    """Products summed from the end."""
    return np.asarray(np.ascontiguousarray(a[..., ::-1]) @ np.ascontiguousarray(b[..., ::-1, :]))


def rounded(dtype: Any) -> Callable[[Array], Array]:
    """Float32 numbers, rounded to a smaller type and widened again."""

    def store(x: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(np.asarray(x, F32).astype(dtype).astype(F32))

    return store


def _products_of(dtype: Any) -> Callable[[Array, Array], Array]:
    narrow = rounded(dtype)

    def matmul(a: Array, b: Array) -> Array:
        return np.asarray(narrow(a) @ narrow(b))

    return matmul


def _rows_in_8_bits(x: Array, axis: int | None) -> Array:
    """x rounded to 256 steps between its least and its largest number, by row or over all."""
    low = np.minimum(x.min(axis=axis, keepdims=True), 0)
    high = np.maximum(x.max(axis=axis, keepdims=True), 0)
    step = np.where(high > low, (high - low) / F32(255), F32(1))
    return np.asarray((np.round(x / step - np.round(low / step)) + np.round(low / step)) * step, F32)


def _columns_in_8_bits(w: Array) -> Array:
    """w [..., K, N] rounded to 255 steps around zero, by column."""
    step = np.abs(w).max(axis=-2, keepdims=True) / F32(127)
    step = np.where(step > 0, step, F32(1))
    return np.asarray(np.round(w / step) * step, F32)


def _in_8_bits(axis: int | None) -> Callable[[Array, Array], Array]:
    """Weights in 8 bits by column, what they multiply by row or over all; products of activations stay in float32."""

    def matmul(a: Array, b: Array) -> Array:
        if b.ndim > 2:  # attention
            return a @ b
        return _rows_in_8_bits(a, axis) @ _columns_in_8_bits(b)

    return matmul


EXACT = Arithmetic("float64", np.float64, np.matmul, _same)
BF16, F16 = rounded(ml_dtypes.bfloat16), rounded(np.float16)
HONEST: dict[str, tuple[Arithmetic, ...]] = {
    "float32": (
        Arithmetic("float32", F32, np.matmul, _same),
        Arithmetic("float32, chains of 16", F32, _in_chains(16), _same, one_pass=True, single=True),
        Arithmetic("float32, backwards", F32, _backwards, _same),
    ),
    "bfloat16": (
        Arithmetic("bfloat16", F32, _products_of(ml_dtypes.bfloat16), BF16, BF16),
        Arithmetic("bfloat16 products", F32, _products_of(ml_dtypes.bfloat16), _same),
    ),
    "float16": (
        Arithmetic("float16", F32, _products_of(np.float16), F16, F16),
        Arithmetic("float16 products", F32, _products_of(np.float16), _same),
    ),
    "int8": (
        Arithmetic("int8 by row", F32, _in_8_bits(-1), _same),
        Arithmetic("int8 over all", F32, _in_8_bits(None), _same),
        # as npsiglip has it: what a product reads, and the table of tokens, stay in 8 bits
        Arithmetic("int8, kept by row", F32, _in_8_bits(-1), partial(_rows_in_8_bits, axis=-1), keeps=READ_BY_PRODUCTS),
    ),
}
DTYPES = tuple(HONEST)
# One rounding of each number, relative: half a unit of the last place, evenly spread. No floor is lower.
ROUNDING = {
    dtype: 2.0**-bits / 3**0.5 for dtype, bits in {"float32": 24, "bfloat16": 9, "float16": 12, "int8": 24}.items()
}
