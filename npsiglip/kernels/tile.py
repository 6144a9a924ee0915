"""The innermost loop of every matrix product: one tile of the result, kept in registers over the whole loop.

    tile [rows, 16 * units]  +=  A [rows, k]  @  panel [k, 16 * units]

For each step of k, `units` vectors of the panel are loaded once and serve all rows, and one number of each row of A
is spread over a vector: rows * units multiply-adds for rows + units loads. So the tile must be as large as the
registers hold: 8 x 48 on AVX-512 (24 of 32 registers hold results), 6 x 16 with half the vector or half the
registers. LLVM splits the 16-lane vectors into what the CPU has.

The order of the sum is the order of k for every element, whatever the tile: one chain of fused multiply-adds from
zero, added to what the tile holds. So a row gives the same bits in a tile of 8 rows as in a tile of 1.
"""

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from npsiglip.kernels.jit import inline
from npsiglip.kernels.vector import I64, LANES, _splat


def _has(*features: str) -> bool:
    """Whether the CPU that Numba compiles for (NUMBA_CPU_FEATURES, or the host) has all of these LLVM features."""
    asked = numba.config.CPU_FEATURES
    if asked is not None:
        return all(f"+{feature}" in asked.split(",") for feature in features)
    host = llvmlite.binding.get_host_cpu_features()
    return all(host.get(feature, False) for feature in features)


# rows and 16-lane units of the largest tile, by element type
if _has("avx512f"):
    ROWS_F32, UNITS_F32, ROWS_F64, UNITS_F64 = 8, 3, 8, 1
elif _has("avx2", "fma") or _has("neon"):
    ROWS_F32, UNITS_F32, ROWS_F64, UNITS_F64 = 6, 1, 3, 1
else:
    ROWS_F32, UNITS_F32, ROWS_F64, UNITS_F64 = 2, 1, 1, 1
PANEL_F32, PANEL_F64 = UNITS_F32 * LANES, UNITS_F64 * LANES


def _emit_tile(builder, rows, units, a, row_stride, k_stride, panel, k_end, tile, tile_stride):
    """Emit the loop for one tile shape; a, panel and tile are pointers to their first element, strides in elements."""
    element = a.type.pointee
    vector = ir.VectorType(element, LANES)
    suffix = "f32" if element == ir.FloatType() else "f64"
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}{suffix}"
    )

    def lanes_at(pointer, offset):
        return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())

    def unaligned(instruction):
        instruction.align = 4 if element == ir.FloatType() else 8
        return instruction

    row_starts = [builder.gep(a, [builder.mul(row_stride, I64(r))]) for r in range(rows)]
    entry, loop, done = builder.block, builder.append_basic_block("k"), builder.append_basic_block("tile")
    builder.branch(loop)

    builder.position_at_end(loop)
    k = builder.phi(I64)
    sums = [[builder.phi(vector) for _ in range(units)] for _ in range(rows)]
    k_next = builder.add(k, I64(1))
    panel_row = builder.mul(k, I64(units * LANES))
    b = [unaligned(builder.load(lanes_at(panel, builder.add(panel_row, I64(u * LANES))))) for u in range(units)]
    new_sums = []
    for r in range(rows):
        number = builder.load(builder.gep(row_starts[r], [builder.mul(k, k_stride)]))
        spread = _splat(builder, number)
        new_sums.append([builder.call(fma, [spread, b[u], sums[r][u]]) for u in range(units)])
    zero = ir.Constant(vector, [0.0] * LANES)
    k.add_incoming(I64(0), entry)
    k.add_incoming(k_next, loop)
    for phis, values in zip(sums, new_sums, strict=True):
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(zero, entry)
            phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", k_next, k_end), loop, done)

    builder.position_at_end(done)
    for r in range(rows):
        for u in range(units):
            place = lanes_at(tile, builder.add(builder.mul(tile_stride, I64(r)), I64(u * LANES)))
            held = unaligned(builder.load(place))
            unaligned(builder.store(builder.fadd(held, new_sums[r][u]), place))


def _row_counts(most):
    """The tile heights that are compiled: a block of any number of rows is made of these."""
    return [most, *(r for r in (4, 2, 1) if r < most)]


def _tiles(kind, max_rows, max_units):
    """An intrinsic that adds one tile's product for a chain of k; addresses and strides as in `_product`."""
    element = ir.FloatType() if kind == types.float32 else ir.DoubleType()

    @intrinsic
    def tiles(typingctx, rows, units, a, row_stride, k_stride, panel, k, tile, tile_stride):
        def codegen(context, builder, signature, args):
            rows, units, a, row_stride, k_stride, panel, k, tile, tile_stride = args
            # One copy of this code for all callers: it is large, and compiling it is what a first run waits for.
            builder.function.attributes.add("noinline")
            a, panel, tile = (builder.inttoptr(address, element.as_pointer()) for address in (a, panel, tile))
            end = builder.append_basic_block("tile_end")
            switch = builder.switch(builder.add(builder.mul(units, I64(64)), rows), end)
            for u in range(1, max_units + 1):
                for r in _row_counts(max_rows):
                    block = builder.append_basic_block(f"tile_{r}x{u}")
                    switch.add_case(I64(u * 64 + r), block)
                    builder.position_at_end(block)
                    _emit_tile(builder, r, u, a, row_stride, k_stride, panel, k, tile, tile_stride)
                    builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 9), codegen

    return tiles


def _product(kind, most, max_units):
    """`add_product` for one element type, on addresses: any number of rows as tiles, k in chains."""
    tiles, size = _tiles(kind, most, max_units), kind.bitwidth // 8

    @inline
    def product(rows, units, a, row_stride, k_stride, panel, k, k_block, tile, tile_stride):
        done = 0
        while done < rows:
            left = rows - done
            step = most if left >= most else 4 if left >= 4 else 2 if left >= 2 else 1
            for k0 in range(0, k, k_block):
                tiles(
                    step, units, a + size * (done * row_stride + k0 * k_stride), row_stride, k_stride,
                    panel + size * k0 * units * LANES, min(k_block, k - k0),
                    tile + size * done * tile_stride, tile_stride,
                )  # fmt: skip
            done += step

    return product


_product_f32 = _product(types.float32, ROWS_F32, UNITS_F32)
_product_f64 = _product(types.float64, ROWS_F64, UNITS_F64)


def add_product(
    rows, units, a, a_start, row_stride, k_stride, panel, panel_start, k, k_block, tile, tile_start, tile_stride
):
    """tile[r, c] += sum_k a[r, k] panel[k, c] for r < rows, c < 16 units; k in chains of `k_block`, added in order.

    a.flat[a_start + r * row_stride + k * k_stride], panel.flat[panel_start + k * 16 * units + c],
    tile.flat[tile_start + r * tile_stride + c]; all float32 or all float64; accumulated in that type.
    """
    raise NotImplementedError("only inside compiled code")


@overload(add_product)
def _overload_add_product(
    rows, units, a, a_start, row_stride, k_stride, panel, panel_start, k, k_block, tile, tile_start, tile_stride
):
    product, size = (_product_f32, 4) if a.dtype == types.float32 else (_product_f64, 8)

    def compiled(
        rows, units, a, a_start, row_stride, k_stride, panel, panel_start, k, k_block, tile, tile_start, tile_stride
    ):
        product(
            rows, units, a.ctypes.data + size * a_start, row_stride, k_stride,
            panel.ctypes.data + size * panel_start, k, k_block,
            tile.ctypes.data + size * tile_start, tile_stride,
        )  # fmt: skip

    return compiled
