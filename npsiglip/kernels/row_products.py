"""Inner products of stored rows with a few queries: some of each at once, in registers, over the whole width.

    sums [queries, rows]  =  queries [Q, D] @ rows [R, D]^T

Rows are read as they lie, in a mapped file perhaps, once: nothing is packed. The 16 lanes of a vector are 16 numbers of
a row beside each other; each lane adds up every 16th product, with fused multiply-adds, and the lanes are folded at the
end, the upper half on the lower one. That order is the same for every number of queries, rows and threads, and so are
the bits. (tile.py has columns in the lanes, which needs packed ones, and the order of that sum is another.)

Rows are float32, float16 (their bits in uint16) or int8; they are widened to float32 in registers, exactly.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from npsiglip.element_types import LANES
from npsiglip.kernels.llvm import F32, I8, I16, I32, I64, call, constant, has, mask_of_first, suffix

# Rows and queries that are multiplied at once. For one query, memory is what takes time: a CPU is best at bringing in a
# single row after the other. For several, as many as the registers hold.
FEW = 1, 1
if has("avx512f"):
    MANY = 4, 6
elif has("avx2", "fma") or has("neon"):
    MANY = 2, 3
else:
    MANY = 1, 3

UNROLL = 4  # steps of a round of the loop, so that more than one row is under way
LINE = 64  # bytes of a cache line
_STORED = {types.float32: (F32, 4), types.uint16: (I16, 2), types.int8: (I8, 1)}


def _widen_half(builder, bits):
    """The bits of float16, <16 x i16>, to <16 x float>, exactly; one instruction where the CPU has it.

    Without it LLVM would call a function of the compiler's library that is not there. 2^112 times the number that the
    same bits are in float32 is right for normal and subnormal ones; infinity and NaN need their exponent.
    """
    if has("avx512f") or has("f16c") or has("neon"):
        return builder.fpext(builder.bitcast(bits, ir.VectorType(ir.HalfType(), LANES)), ir.VectorType(F32, LANES))
    wide = builder.zext(bits, ir.VectorType(I32, LANES))
    sign = builder.shl(builder.and_(wide, constant(I32, 0x8000)), constant(I32, 16))
    size = builder.shl(builder.and_(wide, constant(I32, 0x7FFF)), constant(I32, 13))
    single = ir.VectorType(F32, LANES)
    finite = builder.bitcast(builder.fmul(builder.bitcast(size, single), constant(F32, 2.0**112)), size.type)
    strange = builder.icmp_unsigned(">=", size, constant(I32, 0x7C00 << 13))
    value = builder.select(strange, builder.or_(size, constant(I32, 0x7F800000)), finite)
    return builder.bitcast(builder.or_(value, sign), single)


def _widen(builder, lanes, stored):
    if stored == types.uint16:
        return _widen_half(builder, lanes)
    return builder.sitofp(lanes, ir.VectorType(F32, LANES)) if stored == types.int8 else lanes


class _At(NamedTuple):
    """Addresses: of rows, queries, and what is prefetched, if anything is; the bytes from place to place of that."""

    rows: list
    queries: list
    ahead: object
    pace: object


def _load(builder, address, kind, size):
    lanes = builder.load(builder.inttoptr(address, ir.VectorType(kind, LANES).as_pointer()))
    lanes.align = size
    return lanes


def _load_first(builder, address, kind, size, count):
    """The first `count` lanes, the others zero."""
    vector = ir.VectorType(kind, LANES)
    pointer, mask = builder.inttoptr(address, vector.as_pointer()), mask_of_first(builder, count)
    name = f"llvm.masked.load.{suffix(vector)}.p0"
    return call(builder, name, vector, [pointer, I32(size), mask, ir.Constant(vector, None)])


def _emit_step(builder, load_row, at, step, size, sums):
    """16 numbers of every row times those of every query."""
    row_place, query_place = builder.mul(step, I64(size * LANES)), builder.mul(step, I64(4 * LANES))
    rows = [load_row(builder.add(row, row_place)) for row in at.rows]
    new = []
    for query, of_query in zip(at.queries, sums, strict=True):
        q = _load(builder, builder.add(query, query_place), F32, 4)
        pairs = zip(rows, of_query, strict=True)
        new.append([call(builder, f"llvm.fma.v{LANES}f32", q.type, [q, x, s]) for x, s in pairs])
    return new


@register_jitable
def lines_of_step(height, size):
    """How many places are prefetched in a step: as many as there are cache lines in its numbers of `height` rows."""
    return max(1, height * size * LANES // LINE)


def _prefetch(builder, at, step, places):
    for i in range(places):
        place = builder.add(builder.mul(step, I64(places)), I64(i))
        pointer = builder.inttoptr(builder.add(at.ahead, builder.mul(place, at.pace)), I8.as_pointer())
        call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, I32(0), I32(2), I32(1)])  # to read, second level


def _emit_loop(builder, stored, at, first, end, stride, sums):
    """Whole steps from `first` to `end`, a multiple of `stride` of them, so many in each round."""
    kind, size = _STORED[stored]
    entry, loop, done = builder.block, builder.append_basic_block("steps"), builder.append_basic_block("stepped")
    builder.cbranch(builder.icmp_signed("<", first, end), loop, done)
    builder.position_at_end(loop)
    step = builder.phi(I64)
    before = [s for of_query in sums for s in of_query]
    carried, width = [builder.phi(s.type) for s in before], len(at.rows)
    new = [carried[i : i + width] for i in range(0, len(carried), width)]
    for i in range(stride):
        here = builder.add(step, I64(i))
        new = _emit_step(builder, lambda a: _widen(builder, _load(builder, a, kind, size), stored), at, here, size, new)
        if at.ahead is not None:
            _prefetch(builder, at, here, lines_of_step(len(at.rows), size))
    after, following = [s for of_query in new for s in of_query], builder.add(step, I64(stride))
    builder.cbranch(builder.icmp_signed("<", following, end), loop, done)
    step.add_incoming(first, entry)
    step.add_incoming(following, loop)
    builder.position_at_end(done)
    results = []
    for phi, start, ended in zip(carried, before, after, strict=True):
        phi.add_incoming(start, entry)
        phi.add_incoming(ended, loop)
        results.append(builder.phi(start.type))
        results[-1].add_incoming(start, entry)
        results[-1].add_incoming(ended, loop)
    return [results[i : i + width] for i in range(0, len(results), width)]


def _emit_rest(builder, stored, at, steps, left, sums):
    """The last numbers of a row that do not fill a step; queries are padded with zeros."""
    kind, size = _STORED[stored]
    entry, rest, done = builder.block, builder.append_basic_block("rest"), builder.append_basic_block("whole")
    builder.cbranch(builder.icmp_signed(">", left, I64(0)), rest, done)
    builder.position_at_end(rest)

    def load_row(address):
        return _widen(builder, _load_first(builder, address, kind, size, left), stored)

    new, end = _emit_step(builder, load_row, at, steps, size, sums), builder.block
    builder.branch(done)
    builder.position_at_end(done)
    results = []
    for before, after in zip(sums, new, strict=True):
        results.append([])
        for s, t in zip(before, after, strict=True):
            results[-1].append(builder.phi(s.type))
            results[-1][-1].add_incoming(s, entry)
            results[-1][-1].add_incoming(t, end)
    return results


def _shuffle(builder, a, b, places):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(places)), places))


def _fold(builder, vectors):
    """The sums of the lanes of up to 16 vectors, in the first lanes of one, each lane i with lane i + half, to the end.

    Two vectors are folded at once, into the two halves of one: a third of the work of folding each by itself.
    """
    vectors, half = list(vectors), LANES // 2
    while half:
        pairs = []
        for i in range(0, len(vectors), 2):
            a, b = vectors[i], vectors[min(i + 1, len(vectors) - 1)]
            blocks = range(0, LANES, 2 * half)  # each has the lanes of one sum
            low = [s + block + j for s in (0, LANES) for block in blocks for j in range(half)]
            pairs.append(builder.fadd(_shuffle(builder, a, b, low), _shuffle(builder, a, b, [j + half for j in low])))
        vectors, half = pairs, half // 2
    return vectors[0]


def _emit(builder, stored, shape, args):
    rows, row, stride, query, query_stride, steps, left, out, out_stride, ahead, pace = args
    height, width = shape
    last = builder.sub(rows, I64(1))
    numbers = [builder.select(builder.icmp_signed("<", I64(r), last), I64(r), last) for r in range(height)]
    at = _At(
        [builder.add(row, builder.mul(stride, number)) for number in numbers],
        [builder.add(query, builder.mul(query_stride, I64(q))) for q in range(width)],
        ahead if shape == MANY else None,  # the CPU itself sees what comes when rows are read one after the other
        pace,
    )
    sums = [[constant(F32, 0.0)] * height for _ in range(width)]
    rounds = builder.sub(steps, builder.srem(steps, I64(UNROLL)))
    sums = _emit_loop(builder, stored, at, I64(0), rounds, UNROLL, sums)
    sums = _emit_loop(builder, stored, at, rounds, steps, 1, sums)
    sums = _emit_rest(builder, stored, at, steps, left, sums)
    for first in range(0, width, LANES // height):
        some = sums[first : first + LANES // height]
        folded = _fold(builder, [s for of_query in some for s in of_query])
        for i in range(len(some)):
            lanes = _shuffle(builder, folded, folded, [i * height + r for r in range(height)])
            place = builder.add(out, builder.mul(out_stride, I64(first + i)))
            builder.store(lanes, builder.inttoptr(place, lanes.type.as_pointer())).align = 4


def _products(shape):
    @intrinsic
    def products(typingctx, like, rows, row, stride, query, query_stride, steps, left, out, out_stride, ahead, pace):
        def codegen(context, builder, signature, args):
            _emit(builder, signature.args[0], shape, args[1:])
            return context.get_dummy_value()

        return types.void(like, *[types.intp] * 11), codegen

    return products


# out[q, r] = the sum of query q times row r, for all rows and queries that are multiplied at once (FEW, MANY).
#
# `like` has the type that rows are stored in. Everything else is an address or a number, strides are bytes, nothing is
# checked: how many rows, the first one, their stride; the first query and their stride, zeros behind a query's numbers;
# whole steps of 16 numbers, and numbers that are left; out, and its stride from query to query; where what is brought
# into the cache begins (`ahead`), and how far its places, some in each step, are from each other (`pace`). What lies
# beyond the last row is the last row again.
products_few, products_many = _products(FEW), _products(MANY)


@intrinsic
def lanes_above(typingctx, v, threshold):
    """Bit i of the result: whether lane i is above a number. Not, if either is NaN."""

    def codegen(context, builder, signature, args):
        lanes = builder.insert_element(ir.Constant(args[0].type, ir.Undefined), args[1], I32(0))
        spread = _shuffle(builder, lanes, lanes, [0] * LANES)
        bits = builder.fcmp_ordered(">", args[0], spread)
        return builder.zext(builder.bitcast(bits, ir.IntType(LANES)), I64)

    return types.int64(v, types.float32), codegen
