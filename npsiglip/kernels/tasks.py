"""Spreading work over threads, with nothing between one piece of work and the next.

An operation is a row of numbers: the address of a worker, a counter, the number of tasks, and what the worker is told
(rows.py): addresses of arrays, sizes. `run` lets all threads work on one row after the other. Every thread takes the
next task that nobody has taken, so that a thread that the system holds up, or a slower core, takes fewer tasks, where
equal shares would make all wait. Which thread computes a task must not matter for its result.

    @callback
    def worker(address, threads):
        row = read(address, Row)
        task = take(address)
        while task < row.m: ...; task = take(address)

A row knows no types and holds no reference: `launch` keeps the arrays alive, and whoever makes a row chooses the worker
by the arrays' types (`workers`). Python's part of a forward pass is so done once for a shape: `Program` keeps the rows.
"""

import contextlib

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from npsiglip.kernels.jit import address, call_address, callback, current, inline, parallel_kernel
from npsiglip.kernels.rows import NUMBER_SIZE, WIDTH, layout, number_at

CACHE_LINE = 16  # lanes
WORKER, COUNTER, TASKS = 0, 1, 2  # what a row begins with
TYPE_NAMES = {"f": "f32", "H": "bf16", "B": "int8"}  # by the characters of the arrays' dtypes
SIGNATURE = types.void(types.int64, types.int64)

# -- in workers -------------------------------------------------------------------------------------------------------


@intrinsic
def take(typingctx, address):
    """The next task of the row at this address; atomic."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", number_at(builder, args[0], COUNTER), ir.IntType(64)(1), "monotonic")

    return types.int64(address), codegen


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


def workers(tasks, kinds):
    """Workers that differ in element types only, by the characters of their arrays' dtypes: "fH" is float32, bfloat16.

    `tasks(address, threads, like, ...)` does an operation's tasks until none is left; `like` is a number of the type of
    an array. A row knows no types: so each choice of them is machine code of its own, and its address is in the row.
    """
    return {chars: _worker(tasks, chars) for chars in kinds.split()}


def _worker(tasks, chars):
    likes = tuple(np.dtype(char).type(0) for char in chars)

    def worker(address, threads):
        tasks(address, threads, *likes)

    # A name of its own, always the same: by which it is cached, and by which machine code calls it (see tile.py).
    worker.__module__ = tasks.py_func.__module__
    worker.__name__ = worker.__qualname__ = "_".join([tasks.py_func.__name__, *(TYPE_NAMES[char] for char in chars)])
    return callback(worker)


# -- running them -----------------------------------------------------------------------------------------------------


@parallel_kernel
def run(threads, rows):
    """Do what the rows [operations, WIDTH] int64 say, one after the other; one that has a single task on one thread."""
    for i in range(rows.shape[0]):
        rows[i, COUNTER] = 0
        worker, row = rows[i, WORKER], rows.ctypes.data + i * WIDTH * NUMBER_SIZE
        if threads == 1 or rows[i, TASKS] == 1:
            call_address(worker, row, np.int64(1))
        else:
            for _ in prange(threads):
                call_address(worker, row, threads)


class Program:
    """Operations in their order, and the arrays that they work on.

    `rows` [operations, WIDTH] int64.
    """

    def __init__(self):
        self._rows, self._arrays = [], []
        self.rows = None

    def add(self, row, arrays):
        """Append an operation: its row as it lies in memory (`layout`), and its arrays."""
        self._rows.append(row)
        self._arrays.append(arrays)

    def run(self):
        """Do everything."""
        if self.rows is None:
            self.rows = np.frombuffer(b"".join(self._rows), np.int64).reshape(-1, WIDTH).copy()
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


def launch(worker, tasks, row, arrays):
    """Do an operation, or record it: a worker's address, its number of tasks, its row, and the arrays in that."""
    form = layout(type(row))
    if _recorders:
        _recorders[-1].add(form.pack(worker, 0, tasks, *row), arrays)
        return
    rows = np.empty((1, WIDTH), np.int64)
    form.pack_into(rows, 0, worker, 0, tasks, *row)
    run(current(), rows)


def optional(a):
    """The address of an array; 0 of one without elements, which is never read: NumPy takes a microsecond to tell it."""
    return a.ctypes.data if a.size else 0


def worker_address(worker):
    """Where a worker's machine code lies, compiled if need be."""
    return address(worker, SIGNATURE)
