"""The few LLVM vector operations that Numba lacks, as functions that kernels call like any other.

A `Vector` is a Numba type for LLVM's `<16 x float>`, `<16 x double>` or `<16 x i32>`: a value in registers, made by
`load` or `splat`, combined with + - * / and `fma`, stored with `store`. It always has 16 lanes, whatever the CPU has:
LLVM splits it into 1, 2 or 4 registers. So the order of every sum is the same on every CPU, and so are the bits
wherever the CPU has a fused multiply-add.

    v = load(x, i)            lanes x.flat[i : i + 16]
    v = load_n(x, i, n)       lanes x.flat[i : i + n], the others zero (the ragged end of a row); all for n >= 16

Narrow numbers exist in memory only. NumPy has no bfloat16, so an array of uint16 holds its bits: `load` widens them to
float32 lanes, `store` rounds float32 lanes to them, to nearest, halves to even. `store` into an array of uint8 keeps
the low byte of int32 lanes.

Arrays must be C-contiguous; indices are flat and are not checked: the thin public functions above the kernels do that.
Numba has no vectorised exp of its own without Intel's SVML: `npsiglip.kernels.vector_math` has ours.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core.extending import models, register_model
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic

from npsiglip.element_types import LANES
from npsiglip.kernels.llvm import (
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    call,
    call_on_vectors,
    constant,
    has,
    mask_of_first,
    power_of_two,
    round_to_bf16,
    spread,
    suffix,
    widen_bf16,
)


class Vector(types.Type):
    """`LANES` lanes of one element type, in registers."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype}, {LANES})")


F32X, F64X, I32X = Vector(types.float32), Vector(types.float64), Vector(types.int32)
_BY_DTYPE = {types.float32: F32X, types.float64: F64X, types.int32: I32X}
_IN_MEMORY = {**_BY_DTYPE, types.uint16: F32X}  # what `load` makes of an array's elements


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """LLVM's own vector type."""

    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.VectorType(dmm.lookup(fe_type.dtype).get_value_type(), LANES))


def _as_vector(context, builder, value, kind, target):
    """A vector as it is; a number spread over all lanes."""
    if isinstance(kind, Vector):
        return value
    return spread(builder, context.cast(builder, value, kind, target.dtype))


def _vector_type(*kinds):
    """The one vector type among the operands' types, or None: numbers take it over, two different ones do not mix."""
    found = {kind for kind in kinds if isinstance(kind, Vector)}
    others = [kind for kind in kinds if not isinstance(kind, (Vector, types.Number))]
    return found.pop() if len(found) == 1 and not others else None


def _pointer(context, builder, array_type, array, index):
    struct = context.make_array(array_type)(context, builder, array)
    element = builder.gep(struct.data, [index])
    return builder.bitcast(element, ir.VectorType(struct.data.type.pointee, LANES).as_pointer())


def _from_memory(builder, lanes, dtype):
    return widen_bf16(builder, lanes) if dtype == types.uint16 else lanes


def _to_memory(builder, lanes, dtype):
    if dtype == types.uint16:
        return round_to_bf16(builder, lanes)
    return builder.trunc(lanes, ir.VectorType(I8, LANES)) if dtype == types.uint8 else lanes


def _check_store(dtype, kind):
    expected = {types.uint16: F32X, types.uint8: I32X}.get(dtype) or _BY_DTYPE[dtype]
    if kind != expected:
        raise TypeError(f"an array of {dtype} stores {expected}, got {kind}")


# -- memory -------------------------------------------------------------------------------------------------------


@intrinsic
def load(typingctx, a, i):
    """Lanes a.flat[i : i + 16]."""

    def codegen(context, builder, signature, args):
        lanes = builder.load(_pointer(context, builder, signature.args[0], args[0], args[1]))
        lanes.align = a.dtype.bitwidth // 8
        return _from_memory(builder, lanes, a.dtype)

    return _IN_MEMORY[a.dtype](a, types.intp), codegen


@intrinsic
def store(typingctx, a, i, v):
    """a.flat[i : i + 16] = v."""
    _check_store(a.dtype, v)

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        builder.store(_to_memory(builder, args[2], a.dtype), pointer).align = a.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(a, types.intp, v), codegen


def _load_n(context, builder, signature, args):
    """The first n lanes as they are in memory."""
    array = signature.args[0]
    pointer, size = _pointer(context, builder, array, args[0], args[1]), array.dtype.bitwidth // 8
    vector = pointer.type.pointee
    with builder.if_else(builder.icmp_signed(">=", args[2], I64(LANES))) as (whole, part):
        with whole:
            all_lanes = builder.load(pointer)
            all_lanes.align = size
            from_whole = builder.block
        with part:
            operands = [pointer, I32(size), mask_of_first(builder, args[2]), ir.Constant(vector, None)]
            some_lanes = call(builder, f"llvm.masked.load.{suffix(vector)}.p0", vector, operands)
            from_part = builder.block
    lanes = builder.phi(vector)
    lanes.add_incoming(all_lanes, from_whole)
    lanes.add_incoming(some_lanes, from_part)
    return lanes


@intrinsic
def load_n(typingctx, a, i, n):
    """Lanes a.flat[i : i + n], the others zero; nothing beyond is touched. All lanes for n >= 16."""

    def codegen(context, builder, signature, args):
        return _from_memory(builder, _load_n(context, builder, signature, args), a.dtype)

    return _IN_MEMORY[a.dtype](a, types.intp, types.intp), codegen


@intrinsic
def store_n(typingctx, a, i, v, n):
    """a.flat[i : i + n] = the first n lanes of v; all lanes for n >= 16."""
    _check_store(a.dtype, v)

    def codegen(context, builder, signature, args):
        pointer, size = _pointer(context, builder, signature.args[0], args[0], args[1]), a.dtype.bitwidth // 8
        lanes = _to_memory(builder, args[2], a.dtype)
        with builder.if_else(builder.icmp_signed(">=", args[3], I64(LANES))) as (whole, part):
            with whole:
                builder.store(lanes, pointer).align = size
            with part:
                operands = [lanes, pointer, I32(size), mask_of_first(builder, args[3])]
                call(builder, f"llvm.masked.store.{suffix(lanes.type)}.p0", ir.VoidType(), operands)
        return context.get_dummy_value()

    return types.void(a, types.intp, v, types.intp), codegen


@intrinsic
def store_pairs(typingctx, a, i, low, high):
    """The bits of bfloat16 of two vectors beside each other, lane by lane, into a.flat[i : i + 16] of uint32."""

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        wide = ir.VectorType(I32, LANES)
        low, high = (builder.zext(round_to_bf16(builder, lanes), wide) for lanes in args[2:])
        pairs = builder.or_(low, builder.shl(high, constant(I32, 16)))
        builder.store(pairs, pointer).align = 4
        return context.get_dummy_value()

    return types.void(a, types.intp, low, high), codegen


@intrinsic
def load_bits_n(typingctx, a, i, n):
    """As `load_n`, from uint16: the bits as whole numbers, int32."""

    def codegen(context, builder, signature, args):
        return builder.zext(_load_n(context, builder, signature, args), ir.VectorType(I32, LANES))

    return I32X(a, types.intp, types.intp), codegen


@intrinsic
def store_bits(typingctx, a, i, v):
    """a.flat[i : i + 16] = the bits of v; int32 lanes into uint32."""

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        builder.store(args[2], pointer).align = 4
        return context.get_dummy_value()

    return types.void(a, types.intp, v), codegen


@intrinsic
def first_lanes(typingctx, v, n, fill):
    """The first n lanes of v, `fill` in the others."""

    def codegen(context, builder, signature, args):
        return builder.select(mask_of_first(builder, args[1]), args[0], spread(builder, args[2]))

    return v(v, types.intp, v.dtype), codegen


# -- making and converting ------------------------------------------------------------------------------------------


@intrinsic
def splat(typingctx, x):
    """All lanes x; x is a float32, a float64 or an int32, which decides the vector's type."""
    return _BY_DTYPE[x](x), lambda context, builder, signature, args: spread(builder, args[0])


@intrinsic
def to_f64(typingctx, v):
    """Each lane of float32 as float64, exactly."""
    return F64X(v), lambda context, builder, signature, args: builder.fpext(args[0], ir.VectorType(F64, LANES))


@intrinsic
def to_f32(typingctx, v):
    """Each lane of float64 or int32 rounded to float32."""
    single = ir.VectorType(F32, LANES)

    def codegen(context, builder, signature, args):
        return builder.sitofp(args[0], single) if v == I32X else builder.fptrunc(args[0], single)

    return F32X(v), codegen


@intrinsic
def to_i32(typingctx, v):
    """Each lane of float32 as int32, what is behind the point cut off; within int32's range."""
    return I32X(v), lambda context, builder, signature, args: builder.fptosi(args[0], ir.VectorType(I32, LANES))


# -- arithmetic -----------------------------------------------------------------------------------------------------


def _select(sign):
    """x where x < y (or >), else y: unlike LLVM's minnum this passes a NaN in y on, and is one instruction on x86."""

    def emit(builder, x, y):
        compare = builder.icmp_signed if isinstance(x.type.element, ir.IntType) else builder.fcmp_ordered
        return builder.select(compare(sign, x, y), x, y)

    return emit


def _binary(emit):
    """Code for two operands, of which one may be a number."""

    def codegen(context, builder, signature, args):
        kind = signature.return_type
        return emit(
            builder, *(_as_vector(context, builder, v, t, kind) for v, t in zip(args, signature.args, strict=True))
        )

    return codegen


def _elementwise(emit):
    """A function of two vectors, of which one may be a number."""

    @intrinsic
    def operation(typingctx, a, b):
        kind = _vector_type(a, b)
        return (kind(a, b), _binary(emit)) if kind else None

    return operation


minimum = _elementwise(_select("<"))
maximum = _elementwise(_select(">"))


def _overload_operator(symbol, of_floats, of_integers):
    """Let `symbol` stand for these LLVM instructions where one operand is a vector."""

    @infer_global(symbol)
    class Operator(AbstractTemplate):
        key = symbol

        def generic(self, args, kws):
            kind = _vector_type(*args)
            if kind is None or (of_integers is None and kind == I32X):
                return None
            return signature(kind, *args)

    def emit(builder, x, y):
        return getattr(builder, of_integers if isinstance(x.type.element, ir.IntType) else of_floats)(x, y)

    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(symbol, *kinds)(_binary(emit))


_overload_operator(operator.add, "fadd", "add")
_overload_operator(operator.sub, "fsub", "sub")
_overload_operator(operator.mul, "fmul", "mul")
_overload_operator(operator.truediv, "fdiv", None)


@intrinsic
def fma(typingctx, a, b, c):
    """a b + c with one rounding."""
    kind = _vector_type(a, b, c)

    def codegen(context, builder, signature, args):
        return call_on_vectors(
            builder,
            "fma",
            [_as_vector(context, builder, v, t, kind) for v, t in zip(args, signature.args, strict=True)],
        )

    return kind(a, b, c), codegen


@intrinsic
def rint(typingctx, v):
    """Each lane rounded to the nearest whole number, halves to even."""
    return v(v), lambda context, builder, signature, args: call_on_vectors(builder, "rint", list(args))


@intrinsic
def absolute(typingctx, v):
    """|v|."""
    return v(v), lambda context, builder, signature, args: call_on_vectors(builder, "fabs", list(args))


@intrinsic
def scale_by_power_of_two(typingctx, v, n):
    """v 2^n for whole n, rounded once if it is subnormal; |n| <= 250 for float32, 2,000 for float64."""

    def codegen(context, builder, signature, args):
        value, n = args
        if v == F32X and has("avx512f"):
            operands = [value, n, value, I16(-1), I32(4)]  # all lanes, the current rounding
            return call(builder, "llvm.x86.avx512.mask.scalef.ps.512", value.type, operands)
        # In two steps, since 2^n itself may be too large or too small; only the second can round.
        half = call_on_vectors(builder, "rint", [builder.fmul(n, constant(n.type.element, 0.5))])
        value = builder.fmul(value, power_of_two(builder, half))
        return builder.fmul(value, power_of_two(builder, builder.fsub(n, half)))

    return v(v, n), codegen


# -- from 16 lanes to one number --------------------------------------------------------------------------------------


def _reduction(emit):
    """Fold the upper half on the lower half, 16 -> 8 -> 4 -> 2 -> 1: one fixed order on every CPU."""

    @intrinsic
    def reduction(typingctx, v):
        def codegen(context, builder, signature, args):
            vector, lanes = args[0], LANES
            while lanes > 1:
                lanes //= 2
                halves = (
                    ir.Constant(ir.VectorType(I32, lanes), list(range(start, start + lanes))) for start in (0, lanes)
                )
                undefined = ir.Constant(vector.type, ir.Undefined)
                low, high = (builder.shuffle_vector(vector, undefined, half) for half in halves)
                vector = emit(builder, low, high)
            return builder.extract_element(vector, I32(0))

        return v.dtype(v), codegen

    return reduction


sum_lanes = _reduction(lambda builder, x, y: builder.fadd(x, y))
max_lanes = _reduction(_select(">"))
min_lanes = _reduction(_select("<"))
