"""Loops that do nothing but one thing: what the machine can do at best.

Multiply-adds on registers, as many chains at once as the tile of the matrix product holds (`npsiglip.kernels.tile`),
but without its loads; and a sum over memory. Both are written in the same vectors as the kernels, so that what is
measured is what these vectors can reach.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from npsiglip.kernels.jit import parallel_kernel
from npsiglip.kernels.tile import ROWS_F32, UNITS_F32
from npsiglip.kernels.vector import F32X, I64, LANES, _splat, load, splat, sum_lanes

CHAINS = ROWS_F32 * UNITS_F32
FLOP_PER_STEP = 2 * LANES * CHAINS
BLOCK = 1 << 16


@intrinsic
def _emit_chains(typingctx, a, b, steps):
    """Every chain adds a b to itself, `steps` times; the vector is the sum of all, so that none can be left out."""

    def codegen(context, builder, signature, args):
        a, b, steps = args
        a, b = _splat(builder, a), _splat(builder, b)
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(a.type, [a.type] * 3), f"llvm.fma.v{LANES}f32"
        )
        entry, loop, done = builder.block, builder.append_basic_block("steps"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, chains = builder.phi(I64), [builder.phi(a.type) for _ in range(CHAINS)]
        next_step, next_chains = builder.add(step, I64(1)), [builder.call(fma, [a, b, chain]) for chain in chains]
        step.add_incoming(I64(0), entry)
        step.add_incoming(next_step, loop)
        for i, (chain, next_chain) in enumerate(zip(chains, next_chains, strict=True)):
            start = ir.Constant(a.type, [float(i)] * LANES)  # different, or LLVM would make one of them all
            chain.add_incoming(start, entry)
            chain.add_incoming(next_chain, loop)
        builder.cbranch(builder.icmp_signed("<", next_step, steps), loop, done)
        builder.position_at_end(done)
        total = next_chains[0]
        for chain in next_chains[1:]:
            total = builder.fadd(total, chain)
        return total

    return F32X(types.float32, types.float32, types.intp), codegen


@parallel_kernel
def multiply_add(a, b, steps, out):
    """FLOP_PER_STEP * steps float32 operations in each of out.size tasks; a, b float32."""
    for task in prange(out.size):
        out[task] = sum_lanes(_emit_chains(a, b, steps))


@parallel_kernel
def read(x, out):
    """out[i] = the sum of block i of x, all float32; x has out.size * BLOCK elements."""
    for task in prange(out.size):
        start = task * BLOCK
        sum0 = splat(np.float32(0))
        sum1, sum2, sum3 = sum0, sum0, sum0
        for i in range(start, start + BLOCK, 4 * LANES):
            sum0 = sum0 + load(x, i)
            sum1 = sum1 + load(x, i + LANES)
            sum2 = sum2 + load(x, i + 2 * LANES)
            sum3 = sum3 + load(x, i + 3 * LANES)
        out[task] = sum_lanes((sum0 + sum1) + (sum2 + sum3))
