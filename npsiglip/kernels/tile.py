"""The innermost loop of every matrix product: one tile of the result, kept in registers over the whole loop.

    tile [rows, 16 * units]  +=  A [rows, steps]  @  panels [units, steps, 16]

A step (steps.py) loads one vector of each of `units` panels, which serves all rows, and spreads one lane of each row of
A over a vector: rows * units multiply-adds for rows + units loads. So the tile must be as large as the registers hold:
8 x 48 on AVX-512 (24 of 32 registers hold results), 6 x 16 with half the vector or half the registers. LLVM splits the
16-lane vectors into what the CPU has.

The order of the sum is the order of the steps for every element, whatever the tile: chains of `chain` steps, each from
zero, added up in order. So a row gives the same bits in a tile of 8 rows as in a tile of 1.
"""

import functools
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npsiglip.element_types import LANES
from npsiglip.kernels.jit import address, callback, inline
from npsiglip.kernels.llvm import I1, I8, I32, I64, call, spread
from npsiglip.kernels.steps import KINDS

UNROLL = 4  # steps of one round of the loop

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
