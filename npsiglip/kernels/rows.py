"""Rows: what an operation is told, as numbers that have the same names in Python and in compiled code.

The names are declared once, as a tuple class:

    class Row(NamedTuple):
        m: int       # a whole number, or the address of an array
        eps: float   # a float64

Python makes a row with all of the names and no other, `Row(m=.., eps=..)`; anything else is an error. `layout` says how
it lies in memory, 8 bytes for each number, behind what `npsiglip.kernels.tasks` needs. Compiled code gets the same
tuple back, `row = read(address, Row)`: all numbers are loaded at once, since LLVM could not know of a later load that
no store changed it. Numba tells such classes apart by their module and name, so these must be unique.
"""

import functools
import struct
import typing

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

HEAD = 3  # numbers that every row begins with: the worker, the counter, the tasks
WIDTH = 32  # of a row, with its head
NUMBER_SIZE = 8  # bytes
_CODES = {int: "q", float: "d"}  # in the words of `struct`


@functools.cache
def layout(kind: type) -> struct.Struct:
    """How a head and the numbers of a row of this class lie in memory, `WIDTH` numbers in all.

    Raises:
        TypeError: a field is neither an `int` nor a `float`, or there are more than a row has room for.
    """
    fields = typing.get_type_hints(kind)
    if wrong := [name for name, field in fields.items() if field not in _CODES]:
        raise TypeError(f"{kind.__name__}: a row has fields of int and float; got {', '.join(wrong)}")
    left = WIDTH - HEAD - len(fields)
    if left < 0:
        raise TypeError(f"{kind.__name__}: a row has room for {WIDTH - HEAD} numbers; got {len(fields)}")
    codes = "".join(_CODES[field] for field in fields.values())
    return struct.Struct(f"={HEAD}q{codes}{NUMBER_SIZE * left}x")


def number_at(builder, address, i):
    """The LLVM pointer to number i, a constant, behind an address."""
    return builder.inttoptr(builder.add(address, ir.IntType(64)(NUMBER_SIZE * i)), ir.IntType(64).as_pointer())


@intrinsic
def read(typingctx, address, kind):
    """The row at an address, a tuple of the class `kind`; only inside compiled code."""
    fields = typing.get_type_hints(kind.instance_class).values()
    numbers = [types.int64 if field is int else types.float64 for field in fields]
    row = types.BaseTuple.from_types(numbers, kind.instance_class)

    def codegen(context, builder, signature, args):
        values = []
        for i, number in enumerate(numbers):
            bits = builder.load(number_at(builder, args[0], HEAD + i))
            values.append(bits if number == types.int64 else builder.bitcast(bits, ir.DoubleType()))
        return context.make_tuple(builder, row, values)

    return row(types.int64, kind), codegen
