"""Spreading work over threads: every thread takes the next task that nobody has taken.

So a thread that the system holds up, or a slower core, takes fewer tasks, where equal shares would make all wait.
A kernel loops `for _ in prange(threads)` over workers, which share a counter:

    task = take(counter)
    while task < tasks:
        ...
        task = take(counter)

Which thread computes a task must not matter for its result.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def take(typingctx, counter):
    """The number in counter [1] int64, which is then one more; atomic."""

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.atomic_rmw("add", array.data, ir.IntType(64)(1), "monotonic")

    return types.int64(counter), codegen
