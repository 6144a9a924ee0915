"""The innermost loop of every matrix product: one tile of the result, kept in registers over the whole loop.

    tile [rows, 16 * units]  +=  A [rows, steps]  @  panels [units, steps, 16]

A step is what one 32-bit lane holds: one float32, two bfloat16, or four 8-bit whole numbers (one float64 for 64-bit
lanes). For each step, one vector of each of `units` panels is loaded and serves all rows, and one lane of each row of
A is spread over a vector: rows * units multiply-adds for rows + units loads. So the tile must be as large as the
registers hold: 8 x 48 on AVX-512 (24 of 32 registers hold results), 6 x 16 with half the vector or half the registers.
LLVM splits the 16-lane vectors into what the CPU has.

    element     a step of one lane                               with          without
    float32     c = fma(a, b, c)                                 any CPU
    float64     c = fma(a, b, c)                                 any CPU
    bfloat16    c = fma(a1, b1, c), then c = fma(a0, b0, c)      AVX512-BF16   two float32 multiply-adds
    int8        c += a0 b0 + a1 b1 + a2 b2 + a3 b3, a unsigned   AVX512-VNNI   shifts and 32-bit products

The bfloat16 instruction takes numbers below 2^-126 for zeros, float32 multiply-adds do not.

The order of the sum is the order of the steps for every element, whatever the tile: chains of `chain` steps, each from
zero, added up in order. So a row gives the same bits in a tile of 8 rows as in a tile of 1.
"""

import functools
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npsiglip.kernels.jit import address, callback, inline
from npsiglip.kernels.vector import BF16, F32, F64, I1, I8, I32, I64, LANES, call, constant, has, spread

UNROLL = 4  # steps of one round of the loop

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
        """X + y, of vectors of sums."""
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


# -- one tile ---------------------------------------------------------------------------------------------------------


class _Addresses(NamedTuple):
    """Of a tile: the rows of A and the bytes from step to step in them, the first panel and how far each unit's is from
    it, the rows of the result, and the panel to prefetch with the bytes from round to round.
    """

    rows: list
    a_step: object
    panel: object
    units: list
    results: list
    ahead: object
    pace: object


def _pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder, address, kind, size):
    lanes = builder.load(_pointer(builder, address, kind))
    lanes.align = size
    return lanes


def _emit_round(builder, kind, at, step, panel, count, sums):
    """`count` steps, unrolled: of A from `step` on, of the panels from the address `panel` of the first one."""
    vectors = ir.VectorType(kind.lane, LANES)
    for i in range(count):
        offset = builder.mul(builder.add(step, I64(i)), at.a_step)
        here = builder.add(panel, I64(kind.size * LANES * i))
        b = [_load(builder, builder.add(here, unit), vectors, kind.size) for unit in at.units]
        new = []
        for row, row_sums in zip(at.rows, sums, strict=True):
            a = spread(builder, _load(builder, builder.add(row, offset), kind.lane, kind.size))
            new.append([kind.step(builder, total, a, lanes) for total, lanes in zip(row_sums, b, strict=True)])
        sums = new
    return sums


def _prefetch(builder, at, ahead):
    for unit in at.units:
        operands = [_pointer(builder, builder.add(ahead, unit), I8), I32(0), I32(3), I32(1)]  # to read, all levels
        call(builder, "llvm.prefetch.p0", ir.VoidType(), operands)


def _emit_loop(builder, kind, at, first, end, stride, panel, ahead, sums):
    """Rounds of `stride` steps from `first` to `end`, none if they are equal; `panel`, `ahead` and `sums` after it."""
    entry, loop, done = builder.block, builder.append_basic_block("steps"), builder.append_basic_block("stepped")
    builder.cbranch(builder.icmp_signed("<", first, end), loop, done)
    before = [first, panel, ahead, *(total for row in sums for total in row)]

    builder.position_at_end(loop)
    step, here, there, *totals = carried = [builder.phi(value.type) for value in before]
    width = len(at.units)
    rows = [totals[i : i + width] for i in range(0, len(totals), width)]
    new = _emit_round(builder, kind, at, step, here, stride, rows)
    if stride > 1:
        _prefetch(builder, at, there)
    after = [
        builder.add(step, I64(stride)),
        builder.add(here, I64(kind.size * LANES * stride)),
        builder.add(there, at.pace if stride > 1 else I64(0)),
        *(total for row in new for total in row),
    ]
    builder.cbranch(builder.icmp_signed("<", after[0], end), loop, done)
    for phi, start, following in zip(carried, before, after, strict=True):
        phi.add_incoming(start, entry)
        phi.add_incoming(following, loop)

    builder.position_at_end(done)
    results = []
    for start, following in zip(before, after, strict=True):
        results.append(builder.phi(start.type))
        results[-1].add_incoming(start, entry)
        results[-1].add_incoming(following, loop)
    _, panel, ahead, *totals = results
    return panel, ahead, [totals[i : i + width] for i in range(0, len(totals), width)]


def _emit_tile(builder, kind, at, steps, chain, fresh):
    """All chains of one tile; `fresh`: the first one replaces what the result's memory holds."""
    entry, loop = builder.block, builder.append_basic_block("chain")
    add, replace = builder.append_basic_block("add"), builder.append_basic_block("replace")
    again, done = builder.append_basic_block("again"), builder.append_basic_block("tile")
    builder.branch(loop)

    builder.position_at_end(loop)
    first, panel, ahead = (builder.phi(I64) for _ in range(3))
    end = builder.add(first, chain)
    end = builder.select(builder.icmp_signed("<", end, steps), end, steps)
    rounds_end = builder.sub(end, builder.and_(builder.sub(end, first), I64(UNROLL - 1)))
    sums = [[kind.zero()] * len(at.units) for _ in at.rows]
    panel_end, ahead_end, sums = _emit_loop(builder, kind, at, first, rounds_end, UNROLL, panel, ahead, sums)
    panel_end, ahead_end, sums = _emit_loop(builder, kind, at, rounds_end, end, 1, panel_end, ahead_end, sums)
    places = [
        [
            _pointer(builder, builder.add(row, I64(kind.size * LANES * u)), total.type)
            for u, total in enumerate(row_sums)
        ]
        for row, row_sums in zip(at.results, sums, strict=True)
    ]
    builder.cbranch(builder.and_(fresh, builder.icmp_signed("==", first, I64(0))), replace, add)
    for block, adds in ((replace, False), (add, True)):
        builder.position_at_end(block)
        for row_places, row_sums in zip(places, sums, strict=True):
            for place, total in zip(row_places, row_sums, strict=True):
                value = total
                if adds:
                    held = builder.load(place)
                    held.align = kind.size
                    value = kind.add(builder, held, total)
                builder.store(value, place).align = kind.size
        builder.branch(again)
    builder.position_at_end(again)
    for phi, start, following in (
        (first, I64(0), end),
        (panel, at.panel, panel_end),
        (ahead, at.ahead, ahead_end),
    ):
        phi.add_incoming(start, entry)
        phi.add_incoming(following, again)
    builder.cbranch(builder.icmp_signed("<", end, steps), loop, done)
    builder.position_at_end(done)


# -- all rows ---------------------------------------------------------------------------------------------------------


def _tile_intrinsic(kind, transposed):
    """An intrinsic for one tile of `rows` rows, see `add_product`; rows beyond them compute the last one."""
    heights = [kind.rows, kind.rows // 2] if kind.rows > 2 else [kind.rows]

    @intrinsic
    def tile(
        typingctx, rows, units, a, a_stride, panel, panel_stride, steps, chain, fresh, out, out_stride, ahead, pace
    ):
        def codegen(context, builder, signature, args):
            rows, units, a, a_stride, panel, panel_stride, steps, chain, fresh, out, out_stride, ahead, pace = args
            fresh = builder.icmp_signed("!=", fresh, I64(0))
            last = builder.sub(rows, I64(1))
            if transposed:
                starts = [builder.add(a, I64(kind.size * r)) for r in range(kind.rows)]
                step_size = a_stride
            else:
                numbers = [
                    builder.select(builder.icmp_signed("<", I64(r), last), I64(r), last) for r in range(kind.rows)
                ]
                starts = [builder.add(a, builder.mul(a_stride, number)) for number in numbers]
                step_size = I64(kind.size)
            offsets = [builder.mul(panel_stride, I64(u)) for u in range(kind.units)]
            results = [builder.add(out, builder.mul(out_stride, I64(r))) for r in range(kind.rows)]
            fewer = builder.icmp_signed("<=", rows, I64(heights[-1])) if len(heights) > 1 else ir.Constant(I1, 0)
            end = builder.append_basic_block("tile_end")
            shape = builder.add(builder.mul(units, I64(2)), builder.zext(fewer, I64))
            switch = builder.switch(shape, end)
            for u in range(1, kind.units + 1):
                for small, height in enumerate(heights):
                    case = builder.append_basic_block(f"tile_{height}x{u}")
                    switch.add_case(I64(2 * u + small), case)
                    builder.position_at_end(case)
                    at = _Addresses(starts[:height], step_size, panel, offsets[:u], results[:height], ahead, pace)
                    _emit_tile(builder, kind, at, steps, chain, fresh)
                    builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 13), codegen

    return tile


def _rows(dtype, transposed):
    """All rows, tile by tile.

    The function has a name of its own for each product. Numba calls machine code by the name, the argument types and a
    number that counts functions from 0 in every process: of the same name, two products that different processes have
    compiled and cached may have one symbol, and whoever reads both from the cache runs one of them for the other.
    """
    kind = KINDS[dtype]
    tile, most, row_step = _tile_intrinsic(kind, transposed), kind.rows, kind.size if transposed else 0

    def rows_of_tiles(
        rows, units, a, a_stride, panel, panel_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size
    ):
        rounds = steps // UNROLL
        pace = ahead_size // max(1, rounds * -(-rows // most))
        for row in range(0, rows, most):
            start = a + row * (row_step if transposed else a_stride)
            tile(
                min(most, rows - row), units, start, a_stride, panel, panel_stride, steps, chain, fresh,
                out + row * out_stride, out_stride, ahead, pace,
            )  # fmt: skip
            ahead += pace * rounds

    rows_of_tiles.__qualname__ = f"rows_of_{dtype}{'_t' if transposed else ''}"
    return inline(rows_of_tiles)


_FLOAT32, _FLOAT32_T = _rows("float32", False), _rows("float32", True)
_BFLOAT16, _BFLOAT16_T = _rows("bfloat16", False), _rows("bfloat16", True)
_INT8, _FLOAT64 = _rows("int8", False), _rows("float64", False)

# Kernels reach these by their address (`product`, `add_product`): the code of the tiles is large, and each kernel that
# contained it would compile it again, several times.


@callback
def product_float32(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size):
    """`add_product` for float32."""
    _FLOAT32(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size)


@callback
def product_float32_t(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size):
    """`add_product` for float32, A transposed."""
    _FLOAT32_T(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size)


@callback
def product_bfloat16(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size):
    """`add_product` for bfloat16."""
    _BFLOAT16(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size)


@callback
def product_bfloat16_t(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size):
    """`add_product` for bfloat16, A transposed."""
    _BFLOAT16_T(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size)


@callback
def product_int8(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size):
    """`add_product` for int8."""
    _INT8(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size)


@callback
def product_float64(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size):
    """`add_product` for float64."""
    _FLOAT64(rows, units, a, a_stride, b, b_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size)


_PRODUCTS = {
    ("float32", False): product_float32,
    ("float32", True): product_float32_t,
    ("bfloat16", False): product_bfloat16,
    ("bfloat16", True): product_bfloat16_t,
    ("int8", False): product_int8,
    ("float64", False): product_float64,
}


@functools.cache
def product(dtype: str, transposed: bool = False) -> int:
    """The address of the machine code for `add_product`, compiled if need be.

    `transposed`. False: row r of A begins at `a + r a_stride`, its steps beside each other. True: step k of all rows
    begins at `a + k a_stride`, the rows beside each other; whole tiles are read.
    """
    return address(_PRODUCTS[dtype, transposed], types.void(*[types.intp] * 13))


@intrinsic
def add_product(
    typingctx, product, rows, units, a, a_stride, panel, panel_stride, steps, chain, fresh, out, out_stride, ahead,
    ahead_size,
):  # fmt: skip
    """out[r, c] (+)= sum of a[r, k] panel[k, c] over all steps, for r < rows and c < 16 units.

    Everything is an address or a number, strides are bytes; nothing is checked.

    Args:
        product: from `product(dtype, transposed)`, which says how A lies.
        rows: of A and the result. The result has room for whole tiles: `ROWS` times a whole number.
        units: of 16 columns, at most `UNITS`.
        panel: unit u begins at `panel + u panel_stride`; [steps, 16] lanes.
        chain: steps of one chain; the chains are added up in order.
        fresh: whether the first chain replaces what the result holds.
        ahead: address of the panels that come next, with the same stride; `ahead_size` bytes of each are brought into
            the cache meanwhile.
    """

    def codegen(context, builder, signature, args):
        numbers = [
            context.cast(builder, value, kind, types.intp) for value, kind in zip(args, signature.args, strict=True)
        ]
        function = ir.FunctionType(ir.VoidType(), [I64] * 13)
        builder.call(builder.inttoptr(numbers[0], function.as_pointer()), numbers[1:])
        return context.get_dummy_value()

    return types.void(
        product, rows, units, a, a_stride, panel, panel_stride, steps, chain, fresh, out, out_stride, ahead, ahead_size
    ), codegen
