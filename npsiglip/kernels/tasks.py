"""Spreading work over threads, with nothing between one piece of work and the next.

An operation is a row of whole numbers: the address of a worker, a counter, the number of tasks, and what the worker
needs: addresses of arrays, sizes. `run` lets all threads work on one row after the other. Every thread takes the next
task that nobody has taken, so that a thread that the system holds up, or a slower core, takes fewer tasks, where equal
shares would make all wait. Which thread computes a task must not matter for its result.

    @callback
    def worker(row, threads):
        task = take(row)
        while task < tasks: ...; task = take(row)

A row knows no types and holds no reference: the functions that make rows (`launch`) keep the arrays alive, and choose
the worker by the arrays' types. Python's part of a forward pass is so done once for a shape: `Program` keeps the rows.
"""

import contextlib

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from npsiglip.kernels.jit import address, call_address, current, inline, parallel_kernel

CACHE_LINE = 16  # lanes
WIDTH = 32  # numbers of a row: the worker, the counter, the tasks, and up to 29 more
FIRST = 3
SIGNATURE = types.void(types.int64, types.int64)

# -- in workers -------------------------------------------------------------------------------------------------------


def _number(builder, row, i):
    return builder.inttoptr(builder.add(row, builder.mul(i, ir.IntType(64)(8))), ir.IntType(64).as_pointer())


@intrinsic
def number(typingctx, row, i):
    """Number i of what the worker needs."""

    def codegen(context, builder, signature, args):
        place = builder.add(context.cast(builder, args[1], i, types.int64), ir.IntType(64)(FIRST))
        return builder.load(_number(builder, args[0], place))

    return types.int64(row, i), codegen


@intrinsic
def real_number(typingctx, row, i):
    """Number i of what the worker needs, the bits of a float64."""

    def codegen(context, builder, signature, args):
        place = builder.add(context.cast(builder, args[1], i, types.int64), ir.IntType(64)(FIRST))
        return builder.bitcast(builder.load(_number(builder, args[0], place)), ir.DoubleType())

    return types.float64(row, i), codegen


@intrinsic
def take(typingctx, row):
    """The next task of this row; atomic."""

    def codegen(context, builder, signature, args):
        one = ir.IntType(64)(1)
        return builder.atomic_rmw("add", _number(builder, args[0], one), one, "monotonic")

    return types.int64(row), codegen


@intrinsic
def array_at(typingctx, place, size, like):
    """The flat array at an address, of the type of the number `like`; it owns nothing."""
    kind = types.Array(like, 1, "C")

    def codegen(context, builder, signature, args):
        array = context.make_array(kind)(context, builder)
        element = context.get_data_type(like)
        item_size = ir.IntType(64)(context.get_abi_sizeof(element))
        data = builder.inttoptr(args[0], element.as_pointer())
        shape, strides = cgutils.pack_array(builder, [args[1]]), cgutils.pack_array(builder, [item_size])
        arrayobj.populate_array(array, data, shape, strides, item_size, None)
        return array._getvalue()

    return kind(types.int64, types.int64, like), codegen


@inline
def scratch(size):
    """Uninitialised uint32 [size] that begin with a cache line; views of it are float32 and int32.

    A vector that lies across two cache lines costs two accesses.
    """
    lanes = np.empty(size + CACHE_LINE, np.uint32)
    start = -(lanes.ctypes.data // 4) % CACHE_LINE
    return lanes[start : start + size]


# -- rows -------------------------------------------------------------------------------------------------------------


@parallel_kernel
def run(threads, rows):
    """Do what the rows [operations, WIDTH] int64 say, one after the other, each on as many threads as it has tasks."""
    for i in range(rows.shape[0]):
        rows[i, 1] = 0
        worker, place = rows[i, 0], rows.ctypes.data + i * WIDTH * 8
        if threads == 1 or rows[i, 2] == 1:
            call_address(worker, place, np.int64(1))
        else:
            for _ in prange(threads):
                call_address(worker, place, threads)


class Program:
    """Operations in their order, and the arrays that they work on.

    `rows` [operations, WIDTH] int64.
    """

    def __init__(self):
        self._rows, self._arrays = [], []
        self.rows = None

    def add(self, row, arrays):
        """Append an operation."""
        self._rows.append(row)
        self._arrays.append(arrays)

    def run(self):
        """Do everything."""
        if self.rows is None:
            self.rows = np.zeros((len(self._rows), WIDTH), np.int64)
            for i, row in enumerate(self._rows):
                self.rows[i, : len(row)] = row
        run(current(), self.rows)


_recorders: list[Program] = []


@contextlib.contextmanager
def recording(program):
    """Add operations to a program instead of doing them; under `RUN_LOCK`."""
    _recorders.append(program)
    try:
        yield
    finally:
        _recorders.pop()


def bits(x):
    """A float64 as a number of a row."""
    return int(np.float64(x).view(np.int64))


def launch(worker, tasks, numbers, arrays):
    """Do an operation, or record it: a worker's address, its number of tasks, what it needs, and the arrays in that."""
    row = (worker, 0, tasks, *numbers)
    if _recorders:
        _recorders[-1].add(row, arrays)
        return
    rows = np.zeros((1, WIDTH), np.int64)
    rows[0, : len(row)] = row
    run(current(), rows)


def worker_address(worker):
    """Where a worker's machine code lies, compiled if need be."""
    return address(worker, SIGNATURE)
