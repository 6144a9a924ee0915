"""Loops that do nothing but one thing: what the machine can do at best.

The steps of the matrix product (`npsiglip.kernels.tile`), for each element type, on registers: as many chains at once
as the product's tile holds, but without its loads; and a sum over memory. Both are written in the same vectors as the
kernels, so that what is measured is what these vectors can reach.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from npsiglip.element_types import ELEMENT_TYPES, LANES
from npsiglip.kernels.jit import parallel_kernel
from npsiglip.kernels.llvm import F32, I32, I64, spread
from npsiglip.kernels.steps import KINDS, ROWS, UNITS
from npsiglip.kernels.vector import load, splat, sum_lanes

CHAINS = ROWS * UNITS
BLOCK = 1 << 16


def operations_per_step(dtype: str) -> int:
    """What a step of all chains does: a multiplication and an addition for each number in each lane."""
    return 2 * LANES * CHAINS * ELEMENT_TYPES[dtype].per_step


def _chains(kind):
    """An intrinsic: every chain multiplies and adds, `steps` times; one number that depends on all of them."""

    @intrinsic
    def chains(typingctx, bits, steps):
        def codegen(context, builder, signature, args):
            lanes, steps = spread(builder, builder.trunc(args[0], I32)), args[1]
            entry, loop, done = builder.block, builder.append_basic_block("steps"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            sums = ir.VectorType(kind.sum, LANES)
            step, totals = builder.phi(I64), [builder.phi(sums) for _ in range(CHAINS)]
            next_step, new = builder.add(step, I64(1)), [kind.step(builder, total, lanes, lanes) for total in totals]
            step.add_incoming(I64(0), entry)
            step.add_incoming(next_step, loop)
            for i, (total, next_total) in enumerate(zip(totals, new, strict=True)):
                # different, or LLVM would make one of them all
                total.add_incoming(ir.Constant(sums, [float(i) if kind.sum == F32 else i] * LANES), entry)
                total.add_incoming(next_total, loop)
            builder.cbranch(builder.icmp_signed("<", next_step, steps), loop, done)
            builder.position_at_end(done)
            result = new[0]
            for total in new[1:]:
                result = kind.add(builder, result, total)
            return builder.bitcast(builder.extract_element(result, I32(0)), I32)

        return types.int32(types.int64, types.int64), codegen

    return chains


_float32_chains, _bfloat16_chains, _int8_chains = (_chains(KINDS[name]) for name in ELEMENT_TYPES)


@parallel_kernel
def float32_steps(bits, steps, out):
    """`operations_per_step` * steps float32 operations in each of out.size tasks; `bits` a lane, such as 0."""
    for task in prange(out.size):
        out[task] = _float32_chains(bits, steps)


@parallel_kernel
def bfloat16_steps(bits, steps, out):
    """The same in bfloat16."""
    for task in prange(out.size):
        out[task] = _bfloat16_chains(bits, steps)


@parallel_kernel
def int8_steps(bits, steps, out):
    """The same in int8."""
    for task in prange(out.size):
        out[task] = _int8_chains(bits, steps)


STEPS = {"float32": float32_steps, "bfloat16": bfloat16_steps, "int8": int8_steps}


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
