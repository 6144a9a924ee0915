"""What a matrix product does in one step, for each element type, and the largest tile of it that the registers hold.

A step is what one 32-bit lane holds: one float32, two bfloat16, or four 8-bit whole numbers (one float64 for 64-bit
lanes).

    element     a step of one lane                               with          without
    float32     c = fma(a, b, c)                                 any CPU
    float64     c = fma(a, b, c)                                 any CPU
    bfloat16    c = fma(a1, b1, c), then c = fma(a0, b0, c)      AVX512-BF16   two float32 multiply-adds
    int8        c += a0 b0 + a1 b1 + a2 b2 + a3 b3, a unsigned   AVX512-VNNI   shifts and 32-bit products

The bfloat16 instruction takes numbers below 2^-126 for zeros, float32 multiply-adds do not.

Left out: the loop over the steps (tile.py).
"""

from typing import NamedTuple

from llvmlite import ir

from npsiglip.element_types import LANES
from npsiglip.kernels.llvm import BF16, F32, F64, I8, I32, I64, call, constant, has

# rows and 16-lane units of the largest tile, by the bits of a lane
if has("avx512f"):
    ROWS, UNITS, ROWS_F64 = 8, 3, 8
elif has("avx2", "fma") or has("neon"):
    ROWS, UNITS, ROWS_F64 = 6, 1, 3
else:
    ROWS, UNITS, ROWS_F64 = 2, 1, 1
PANEL = UNITS * LANES


# -- one step, for each element type ----------------------------------------------------------------------------------


def _fma(builder, sums, a, b):
    suffix = "f32" if sums.type.element == F32 else "f64"
    return call(builder, f"llvm.fma.v{LANES}{suffix}", sums.type, [a, b, sums])


def _float_step(builder, sums, a, b):
    return _fma(builder, sums, builder.bitcast(a, sums.type), builder.bitcast(b, sums.type))


def _bf16_step(builder, sums, a, b):
    if has("avx512bf16"):
        pairs = ir.VectorType(BF16, 2 * LANES)
        operands = [sums, builder.bitcast(a, pairs), builder.bitcast(b, pairs)]
        return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", sums.type, operands)

    def upper(lanes):
        return builder.bitcast(builder.and_(lanes, constant(I32, 0xFFFF0000)), sums.type)

    def lower(lanes):
        return builder.bitcast(builder.shl(lanes, constant(I32, 16)), sums.type)

    return _fma(builder, _fma(builder, sums, upper(a), upper(b)), lower(a), lower(b))


def _int8_step(builder, sums, a, b):
    if has("avx512vnni"):
        bytes_ = ir.VectorType(I8, 4 * LANES)
        operands = [sums, builder.bitcast(a, bytes_), builder.bitcast(b, bytes_)]
        return call(builder, "llvm.x86.avx512.vpdpbusd.512", sums.type, operands)
    for byte in range(4):
        unsigned = builder.and_(builder.lshr(a, constant(I32, 8 * byte)), constant(I32, 0xFF))
        signed = builder.ashr(builder.shl(b, constant(I32, 24 - 8 * byte)), constant(I32, 24))
        sums = builder.add(sums, builder.mul(unsigned, signed))
    return sums


class Kind(NamedTuple):
    """An element type: lanes and sums as LLVM sees them, how a step is emitted, and the tile's most rows and units."""

    lane: ir.Type
    sum: ir.Type
    step: object
    rows: int
    units: int

    @property
    def size(self) -> int:
        """Bytes of a step."""
        return int(self.lane.width) // 8

    def add(self, builder, x, y):
        """x + y, of vectors of sums."""
        return builder.add(x, y) if isinstance(self.sum, ir.IntType) else builder.fadd(x, y)

    def zero(self):
        """A vector of zeros."""
        return constant(self.sum, 0 if isinstance(self.sum, ir.IntType) else 0.0)


KINDS = {
    "float32": Kind(I32, F32, _float_step, ROWS, UNITS),
    "bfloat16": Kind(I32, F32, _bf16_step, ROWS, UNITS),
    "int8": Kind(I32, I32, _int8_step, ROWS, UNITS),
    "float64": Kind(I64, F64, _float_step, ROWS_F64, 1),
}
