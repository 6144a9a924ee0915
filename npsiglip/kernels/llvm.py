"""LLVM's words that kernels are emitted in: its types, what the CPU has, and calls of its vector operations.

All of it makes code with an LLVM `builder`; none is called from kernels.
"""

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils

from npsiglip.element_types import LANES

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()


class _BFloat(ir.types.Type):
    """LLVM's bfloat, which llvmlite does not know."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, _BFloat)

    def __hash__(self):
        return hash(_BFloat)


BF16 = _BFloat()


def has(*features: str) -> bool:
    """Whether the CPU that Numba compiles for (NUMBA_CPU_FEATURES, or the host) has all of these LLVM features."""
    asked = numba.config.CPU_FEATURES
    if asked is not None:
        return all(f"+{feature}" in asked.split(",") for feature in features)
    host = llvmlite.binding.get_host_cpu_features()
    return all(host.get(feature, False) for feature in features)


def call(builder, name, result, operands):
    """Call an LLVM intrinsic by its full name."""
    kind = ir.FunctionType(result, [x.type for x in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)


def suffix(vector):
    """How LLVM's overloaded intrinsics name a vector type, e.g. v16f32."""
    element = vector.element
    return f"v{vector.count}" + ("f32" if element == F32 else "f64" if element == F64 else f"i{element.width}")


def call_on_vectors(builder, name, operands):
    """Call an LLVM intrinsic that is overloaded on its vector type and gives the same type, e.g. llvm.fma.v16f32."""
    return call(builder, f"llvm.{name}.{suffix(operands[0].type)}", operands[0].type, operands)


def spread(builder, scalar):
    """An LLVM vector with the scalar in all lanes."""
    undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


def constant(element, number):
    """An LLVM constant with the number in all lanes."""
    return ir.Constant(ir.VectorType(element, LANES), [number] * LANES)


def round_to_bf16(builder, lanes):
    """<16 x float> to the bits of bfloat16, <16 x i16>: nearest, halves to even; one instruction with AVX512-BF16.

    Without it, LLVM would call a function of the compiler's library that is not there: the carry out of the lower half
    rounds the upper one.
    """
    if has("avx512bf16"):
        return builder.bitcast(builder.fptrunc(lanes, ir.VectorType(BF16, LANES)), ir.VectorType(I16, LANES))
    bits = builder.bitcast(lanes, ir.VectorType(I32, LANES))
    odd = builder.and_(builder.lshr(bits, constant(I32, 16)), constant(I32, 1))
    rounded = builder.add(bits, builder.add(odd, constant(I32, 0x7FFF)))
    quiet = builder.or_(bits, constant(I32, 0x400000))  # a NaN stays one
    chosen = builder.select(builder.fcmp_unordered("uno", lanes, lanes), quiet, rounded)
    return builder.trunc(builder.lshr(chosen, constant(I32, 16)), ir.VectorType(I16, LANES))


def widen_bf16(builder, bits):
    """The bits of bfloat16, <16 x i16>, to <16 x float>, exactly."""
    wide = builder.shl(builder.zext(bits, ir.VectorType(I32, LANES)), constant(I32, 16))
    return builder.bitcast(wide, ir.VectorType(F32, LANES))


def mask_of_first(builder, count):
    """Mask <16 x i1> of the first `count` lanes."""
    lanes = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
    return builder.icmp_signed("<", lanes, spread(builder, count))


def power_of_two(builder, n):
    """2^n for whole n within the exponents of normal numbers: the bits of the exponent are set, nothing is computed."""
    bits, bias, fraction = (I32, 127, 23) if n.type.element == F32 else (I64, 1023, 52)
    exponent = builder.add(builder.fptosi(n, ir.VectorType(bits, LANES)), constant(bits, bias))
    return builder.bitcast(builder.shl(exponent, constant(bits, fraction)), n.type)
