"""The few LLVM vector operations that Numba lacks, as functions that kernels call like any other.

A `Vector` is a Numba type for LLVM's `<16 x float>` or `<16 x double>`: a value in registers, made by `load` or
`splat`, combined with + - * / and `fma`, stored with `store`. It always has 16 lanes, whatever the CPU has: LLVM
splits it into 1, 2 or 4 registers. So the order of every sum is the same on every CPU, and so are the bits wherever
the CPU has a fused multiply-add.

    v = load(x, i)            lanes x.flat[i : i + 16]
    v = load_n(x, i, n)       lanes x.flat[i : i + n], the others zero (the ragged end of a row)

Arrays must be C-contiguous; indices are flat and are not checked: the thin public functions above the kernels do that.
Numba has no vectorised exp of its own without Intel's SVML: `npsiglip.kernels.vector_math` has ours.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import models, overload, register_model
from numba.extending import intrinsic

LANES = 16
I32, I64 = ir.IntType(32), ir.IntType(64)


class Vector(types.Type):
    """`LANES` lanes of one element type, in registers."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype}, {LANES})")


F32X, F64X = Vector(types.float32), Vector(types.float64)
_BY_DTYPE = {types.float32: F32X, types.float64: F64X}


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """LLVM's own vector type."""

    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.VectorType(dmm.lookup(fe_type.dtype).get_value_type(), LANES))


def _llvm(builder, name, result, operands):
    """Call an LLVM intrinsic that is overloaded on its vector type, e.g. llvm.fma.v16f32."""
    suffix = "f32" if operands[0].type.element == ir.FloatType() else "f64"
    kind = ir.FunctionType(result, [x.type for x in operands])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}{suffix}")
    return builder.call(function, operands)


def _splat(builder, scalar, lanes=LANES):
    vector = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def _as_vector(context, builder, value, kind, target):
    """A vector as it is; a number spread over all lanes."""
    if isinstance(kind, Vector):
        return value
    return _splat(builder, context.cast(builder, value, kind, target.dtype))


def _vector_type(*kinds):
    """The one vector type among the operands' types, or None: numbers take it over, two different ones do not mix."""
    found = {kind for kind in kinds if isinstance(kind, Vector)}
    others = [kind for kind in kinds if not isinstance(kind, (Vector, types.Number))]
    return found.pop() if len(found) == 1 and not others else None


def _pointer(context, builder, array_type, array, index, lanes=LANES):
    struct = context.make_array(array_type)(context, builder, array)
    element = builder.gep(struct.data, [index])
    return builder.bitcast(element, ir.VectorType(struct.data.type.pointee, lanes).as_pointer())


def _first_lanes(builder, count):
    """Mask <16 x i1> of the first `count` lanes."""
    lanes = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
    return builder.icmp_signed("<", lanes, _splat(builder, count))


# -- memory -------------------------------------------------------------------------------------------------------


@intrinsic
def load(typingctx, a, i):
    """Lanes a.flat[i : i + 16]."""
    kind = _BY_DTYPE[a.dtype]

    def codegen(context, builder, signature, args):
        vector = builder.load(_pointer(context, builder, signature.args[0], args[0], args[1]))
        vector.align = a.dtype.bitwidth // 8
        return vector

    return kind(a, types.intp), codegen


@intrinsic
def store(typingctx, a, i, v):
    """a.flat[i : i + 16] = v."""

    def codegen(context, builder, signature, args):
        instruction = builder.store(args[2], _pointer(context, builder, signature.args[0], args[0], args[1]))
        instruction.align = a.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(a, types.intp, v), codegen


@intrinsic
def load_n(typingctx, a, i, n):
    """Lanes a.flat[i : i + n], the others zero; 0 <= n <= 16, nothing beyond is touched."""
    kind = _BY_DTYPE[a.dtype]

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        vector = pointer.type.pointee
        zeros = ir.Constant(vector, [0.0] * LANES)
        operands = [pointer, I32(a.dtype.bitwidth // 8), _first_lanes(builder, args[2]), zeros]
        function_type = ir.FunctionType(vector, [x.type for x in operands])
        name = f"llvm.masked.load.v{LANES}f{a.dtype.bitwidth}.p0"
        return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), operands)

    return kind(a, types.intp, types.intp), codegen


@intrinsic
def store_n(typingctx, a, i, v, n):
    """a.flat[i : i + n] = the first n lanes of v."""

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
        operands = [args[2], pointer, I32(a.dtype.bitwidth // 8), _first_lanes(builder, args[3])]
        function_type = ir.FunctionType(ir.VoidType(), [x.type for x in operands])
        name = f"llvm.masked.store.v{LANES}f{a.dtype.bitwidth}.p0"
        builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), operands)
        return context.get_dummy_value()

    return types.void(a, types.intp, v, types.intp), codegen


@intrinsic
def first_lanes(typingctx, v, n, fill):
    """The first n lanes of v, `fill` in the others."""

    def codegen(context, builder, signature, args):
        return builder.select(_first_lanes(builder, args[1]), args[0], _splat(builder, args[2]))

    return v(v, types.intp, v.dtype), codegen


# -- making and converting ------------------------------------------------------------------------------------------


@intrinsic
def splat(typingctx, x):
    """All lanes x; x is a float32 or a float64, which decides the vector's type."""
    return _BY_DTYPE[x](x), lambda context, builder, signature, args: _splat(builder, args[0])


@intrinsic
def to_f64(typingctx, v):
    """Each lane as float64, exactly."""
    double = ir.VectorType(ir.DoubleType(), LANES)
    return F64X(v), lambda context, builder, signature, args: builder.fpext(args[0], double)


@intrinsic
def to_f32(typingctx, v):
    """Each lane rounded to float32."""
    single = ir.VectorType(ir.FloatType(), LANES)
    return F32X(v), lambda context, builder, signature, args: builder.fptrunc(args[0], single)


# -- arithmetic -----------------------------------------------------------------------------------------------------


def _elementwise(emit):
    """An intrinsic of two operands, of which one may be a number."""

    @intrinsic
    def operation(typingctx, a, b):
        kind = _vector_type(a, b)
        if kind is None:
            return None

        def codegen(context, builder, signature, args):
            x, y = (_as_vector(context, builder, v, t, kind) for v, t in zip(args, signature.args, strict=True))
            return emit(builder, x, y)

        return kind(a, b), codegen

    return operation


def _select(sign):
    """X where x < y (or >), else y: unlike LLVM's minnum this passes a NaN in y on, and is one instruction on x86."""
    return lambda builder, x, y: builder.select(builder.fcmp_ordered(sign, x, y), x, y)


_add = _elementwise(lambda builder, x, y: builder.fadd(x, y))
_sub = _elementwise(lambda builder, x, y: builder.fsub(x, y))
_mul = _elementwise(lambda builder, x, y: builder.fmul(x, y))
_div = _elementwise(lambda builder, x, y: builder.fdiv(x, y))
minimum = _elementwise(_select("<"))
maximum = _elementwise(_select(">"))


def _overload_operator(symbol, operation):
    """Let `symbol` stand for `operation` where one operand is a vector."""

    @overload(symbol)
    def typed(a, b):
        return (lambda a, b: operation(a, b)) if _vector_type(a, b) else None


_overload_operator(operator.add, _add)
_overload_operator(operator.sub, _sub)
_overload_operator(operator.mul, _mul)
_overload_operator(operator.truediv, _div)


@intrinsic
def fma(typingctx, a, b, c):
    """A b + c with one rounding."""
    kind = _vector_type(a, b, c)

    def codegen(context, builder, signature, args):
        operands = [_as_vector(context, builder, v, t, kind) for v, t in zip(args, signature.args, strict=True)]
        return _llvm(builder, "fma", operands[0].type, operands)

    return kind(a, b, c), codegen


@intrinsic
def rint(typingctx, v):
    """Each lane rounded to the nearest whole number, halves to even."""
    return v(v), lambda context, builder, signature, args: _llvm(builder, "rint", args[0].type, list(args))


@intrinsic
def absolute(typingctx, v):
    """|v|."""
    return v(v), lambda context, builder, signature, args: _llvm(builder, "fabs", args[0].type, list(args))


@intrinsic
def power_of_two(typingctx, n):
    """2^n for whole n within the exponents of normal numbers: the bits of the exponent are set, nothing is computed."""
    bits, bias, fraction = (I32, 127, 23) if n.dtype == types.float32 else (I64, 1023, 52)
    whole = ir.VectorType(bits, LANES)

    def codegen(context, builder, signature, args):
        exponent = builder.add(builder.fptosi(args[0], whole), ir.Constant(whole, [bias] * LANES))
        return builder.bitcast(builder.shl(exponent, ir.Constant(whole, [fraction] * LANES)), args[0].type)

    return n(n), codegen


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
