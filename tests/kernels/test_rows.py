"""Rows: numbers that have the same names in Python and in compiled code."""

import struct
from typing import NamedTuple

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from npsiglip.kernels import rows, tasks


class Row(NamedTuple):
    eps: float
    first: int
    out: int
    rate: float
    last: int


@njit(nogil=True, error_model="numpy")
def copy_worker(address, threads):
    row = rows.read(address, Row)
    out = tasks.array_at(row.out, 4, np.float64(0))
    tasks.take(address)
    out[0], out[1], out[2], out[3] = row.first, row.last, row.eps, row.rate


@pytest.mark.parametrize("recorded", [False, True])
def test_numbers_arrive_under_their_names(recorded):
    out, program = np.zeros(4), tasks.Program()
    row = Row(last=-3, first=2**52 + 1, rate=-0.1, eps=1e-300, out=out.ctypes.data)
    if recorded:
        with tasks.recording(program):
            tasks.launch(tasks.worker_address(copy_worker), 1, row, (out,))
        program.run()
    else:
        tasks.launch(tasks.worker_address(copy_worker), 1, row, (out,))
    np.testing.assert_array_equal(out, [2**52 + 1, -3, 1e-300, -0.1])


def test_every_name_and_no_other():
    with pytest.raises(TypeError, match="'last'"):
        Row(eps=1e-6, first=1, out=2, rate=0.5)
    with pytest.raises(TypeError, match="'length'"):
        Row(eps=1e-6, first=1, out=2, rate=0.5, last=3, length=4)

    @njit
    def reads_another(address):
        return rows.read(address, Row).length

    with pytest.raises(TypingError, match="length"):
        reads_another.compile("int64(int64)")


def test_a_float_is_no_whole_number():
    """It would lose what is behind the point, and an address its last digits."""
    with pytest.raises(struct.error):
        tasks.launch(0, 1, Row(eps=1e-6, first=1.0, out=2, rate=0.5, last=3), ())


def test_what_a_row_has_no_place_for_is_refused():
    names = [f"n{i}" for i in range(rows.WIDTH - rows.HEAD + 1)]
    full, too_many, strange = (
        NamedTuple("Numbers", fields)
        for fields in ([(n, int) for n in names[1:]], [(n, int) for n in names], [("x", int), ("name", str)])
    )
    assert rows.layout(full).size == rows.layout(Row).size == rows.NUMBER_SIZE * rows.WIDTH
    with pytest.raises(TypeError, match="room for 29 numbers; got 30"):
        rows.layout(too_many)
    with pytest.raises(TypeError, match="fields of int and float; got name"):
        rows.layout(strange)
