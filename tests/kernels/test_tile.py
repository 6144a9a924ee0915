"""The innermost loop of all products, `tile.add_product`, by itself.

Whole numbers small enough that every sum is exact show which numbers it multiplies and where the result goes. Random
numbers show in which order it adds them up: the bits must be those of the order that tile.py documents.
Covers kernels/steps.py as well.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from npsiglip.element_types import ELEMENT_TYPES, LANES
from npsiglip.kernels import quantize, tile
from npsiglip.kernels.steps import KINDS as STEPS
from npsiglip.kernels.steps import UNITS
from tests.helpers.arrays import fma32, guarded, in_chains, number, stored, to_bits
from tests.helpers.golden_data import ROOT

A_DTYPE = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.uint8, "float64": np.float64}
PANEL_DTYPE = A_DTYPE | {"int8": np.int8}
SUM_DTYPE = {"float32": np.float32, "bfloat16": np.float32, "int8": np.int32, "float64": np.float64}
PER_STEP = {name: kind.per_step for name, kind in ELEMENT_TYPES.items()} | {"float64": 1}
KINDS = [(kind, False) for kind in A_DTYPE] + [("float32", True), ("bfloat16", True)]

few = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)


@njit
def run(product, rows, units, a, row, panels, panel_row, steps, chain, fresh, out, out_row, ahead, ahead_size):
    """`add_product` with strides from arrays."""
    tile.add_product(
        product, rows, units, a.ctypes.data, row, panels.ctypes.data, panel_row, steps, chain, fresh,
        out.ctypes.data, out_row, ahead, ahead_size,
    )  # fmt: skip


def lanes_of_a(a, kind, transposed, spare):
    """A [rows, steps * per] as the product reads it, with `spare` lanes behind each row, and the stride in bytes."""
    per = PER_STEP[kind]
    lanes = a.reshape(len(a), -1, per)
    if transposed:  # whole tiles are read
        lanes = np.pad(lanes.transpose(1, 0, 2), ((0, 0), (0, STEPS[kind].rows + spare), (0, 0)))
    else:
        lanes = np.pad(lanes, ((0, 0), (0, spare), (0, 0)))
    lanes = np.ascontiguousarray(lanes)
    return lanes, lanes.strides[0]


def panels_of_units(b, kind):
    """b [steps * per, 16 * units] -> [units, steps, 16, per]."""
    per = PER_STEP[kind]
    return np.ascontiguousarray(b.reshape(-1, per, b.shape[1] // LANES, LANES).transpose(2, 0, 3, 1))


def product(a, b, kind, transposed=False, chain=64, fresh=True, spare=0, out=None, ahead=(0, 0)):
    """What `add_product` leaves [rows, 16 * units]; only that is written, and what fills the last tile below it."""
    rows, most, columns = len(a), STEPS[kind].rows, b.shape[1]
    height = -(-rows // most) * most
    whole, check = guarded(height, columns + spare, dtype=SUM_DTYPE[kind])
    beside = whole[:, columns:].copy()
    if out is not None:
        whole[:rows, :columns] = out
    lanes, row = lanes_of_a(a, kind, transposed, spare)
    panels = panels_of_units(b, kind)
    address = tile.product(kind, transposed) if transposed else tile.product(kind)
    steps = panels.shape[1]
    numbers = (row, panels, panels.strides[0], steps, chain, fresh, whole, whole.strides[0], *ahead)
    run(address, rows, panels.shape[0], lanes, *numbers)
    check()
    np.testing.assert_array_equal(whole[:, columns:], beside)
    return whole[:rows, :columns].copy()


def of_type(x, dtype):
    """Whole numbers as an array of the type."""
    return to_bits(x) if dtype == np.uint16 else x.astype(dtype)


@pytest.mark.parametrize(("kind", "transposed"), KINDS)
def test_exact_on_small_whole_numbers(kind, transposed):
    @few
    @given(
        st.integers(1, 20), st.integers(1, STEPS[kind].units), st.integers(1, 40), st.integers(1, 40),
        st.booleans(), st.integers(0, 20), seeds,
    )  # fmt: skip
    def check(rows, units, steps, chain, fresh, spare, seed):
        rng = np.random.default_rng(seed)
        k = steps * PER_STEP[kind]
        a = rng.integers(0 if kind == "int8" else -8, 9, (rows, k))
        b, held = rng.integers(-8, 9, (k, LANES * units)), rng.integers(-8, 9, (rows, LANES * units))
        arrays = of_type(a, A_DTYPE[kind]), of_type(b, PANEL_DTYPE[kind])
        out = product(*arrays, kind, transposed, chain, fresh, spare, held)
        np.testing.assert_array_equal(out, a @ b + (0 if fresh else held))

    check()


@pytest.mark.parametrize(("kind", "transposed"), [k for k in KINDS if k[0] in ELEMENT_TYPES and k[0] != "int8"])
def test_order_of_the_sum_is_the_documented_one(kind, transposed):
    @few
    @given(st.integers(1, 20), st.integers(1, UNITS), st.integers(1, 90), st.integers(1, 100), seeds)
    def check(rows, units, steps, chain, seed):
        rng, dtype = np.random.default_rng(seed), A_DTYPE[kind]
        k = steps * PER_STEP[kind]
        a = stored(rng.standard_normal((rows, k), np.float32), dtype)
        b = stored(rng.standard_normal((k, LANES * units), np.float32), dtype)
        expected = in_chains(number(a), number(b), kind, chain)
        np.testing.assert_array_equal(product(a, b, kind, transposed, chain), expected)
        # to what is there already, chains are added one by one
        held = expected
        for step in range(0, steps, chain):
            part = slice(step * PER_STEP[kind], (step + chain) * PER_STEP[kind])
            held = held + in_chains(number(a[:, part]), number(b[part]), kind, chain)
        np.testing.assert_array_equal(product(a, b, kind, transposed, chain, False, out=expected), held)

    check()


@few
@given(st.integers(1, 20), st.integers(1, 300), st.integers(1, 300), seeds)
def test_float64(rows, k, chain, seed):
    """At most a rounding for each multiply-add and each chain, of the magnitudes."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((rows, k)), rng.standard_normal((k, LANES))
    expected = (a.astype(np.longdouble) @ b).astype(np.float64)
    bound = 2.0**-53 * (min(k, chain) + -(-k // chain) + 1) * (np.abs(a) @ np.abs(b))
    assert np.all(np.abs(product(a, b, "float64", chain=chain) - expected) <= bound)


@pytest.mark.parametrize(("kind", "transposed"), KINDS)
def test_a_row_has_the_same_bits_in_a_tile_of_any_height(kind, transposed):
    rng = np.random.default_rng(0)
    most = STEPS[kind].rows
    a, b = rng.standard_normal((2 * most + 1, 160)), rng.standard_normal((160, LANES * STEPS[kind].units))
    if kind == "int8":
        a, b = 50 * np.abs(a), 30 * b
    a, b = of_type(a, A_DTYPE[kind]), of_type(b, PANEL_DTYPE[kind])
    whole = product(a, b, kind, transposed)
    for rows in range(1, len(a)):
        np.testing.assert_array_equal(product(a[-rows:], b, kind, transposed), whole[-rows:])


@pytest.mark.parametrize(("x", "w"), [(255, -127), (255, 127), (255, "mixed"), ("mixed", -127)])
def test_int8_sums_are_exact_up_to_the_largest_k(x, w):
    """There the extremes come near 2^31; and some instructions for 8 bits stop at 2^15 on their way."""
    k = quantize.MAX_K // 4 * 4
    rng = np.random.default_rng(0)
    a = np.full((9, k), x, np.uint8) if x != "mixed" else rng.integers(0, 256, (9, k), np.uint8)
    b = np.full((k, LANES), w, np.int8) if w != "mixed" else rng.choice(np.array([-127, 127], np.int8), (k, LANES))
    expected = a.astype(np.int64) @ b.astype(np.int64)
    assert np.abs(expected).max() > (0.99 * 2**31 if "mixed" not in (x, w) else 2**20)
    np.testing.assert_array_equal(product(a, b, "int8", chain=1 << 30), expected)


def test_int8_takes_every_byte():
    a, b = np.arange(256, dtype=np.uint8)[:, None], np.arange(-128, 128).astype(np.int8)[None]
    for start in range(0, 256, LANES):
        columns = np.pad(b[:, start : start + LANES], ((0, 3), (0, 0)))
        expected = a.astype(np.int64) * b[0, start : start + LANES]
        np.testing.assert_array_equal(product(np.pad(a, ((0, 0), (0, 3))), columns, "int8"), expected)


@pytest.mark.parametrize("kind", A_DTYPE)
def test_prefetch_changes_nothing(kind):
    """Nor is it an access: the address need not be anybody's memory."""
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 100, (21, 400)), rng.integers(-100, 100, (400, LANES * STEPS[kind].units))
    a, b = of_type(a, A_DTYPE[kind]), of_type(b, PANEL_DTYPE[kind])
    expected = product(a, b, kind)
    other = np.full(1 << 16, 7, np.uint8)
    for ahead in ((other.ctypes.data, 1 << 16), (other.ctypes.data + 3, 77), (1, 1 << 40), (0, 1)):
        np.testing.assert_array_equal(product(a, b, kind, ahead=ahead), expected)
    assert np.all(other == 7)


def test_the_oracle_rounds_once():
    """Just below the middle of two float32 numbers: float64 rounds it to the middle, and then it would go up."""
    a, b, c = (np.array([x]) for x in (2.0**-12 * (1 + 2.0**-23), 2.0**-12 * (1 - 2.0**-23), 1 + 2.0**-23))
    assert np.float32(a * b + c)[0] == 1 + 2.0**-22
    assert fma32(a, b, c)[0] == 1 + 2.0**-23
    assert fma32(-a, b, -c)[0] == -1 - 2.0**-23


# -- the cache --------------------------------------------------------------------------------------------------------

COMPILE = "import sys; from npsiglip.kernels import tile; tile.product(sys.argv[1])"
USE = """
import sys; sys.path.insert(0, ".")
import numpy as np
from tests.kernels.test_tile import product
a, b = np.arange(24.0).reshape(3, 8), np.arange(128.0).reshape(8, 16)
np.testing.assert_array_equal(product(a, b, "float64"), a @ b)
a, b = a.astype(np.uint8), b.astype(np.int8)
np.testing.assert_array_equal(product(a, b, "int8"), a.astype(np.int32) @ b.astype(np.int32))
"""


@pytest.mark.slow
def test_products_that_different_processes_compiled_stay_apart(tmp_path):
    """Each process counts its functions from 0, and that number is a part of their symbols."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for arguments in ((COMPILE, "float64"), (COMPILE, "int8"), (USE,)):
        command = [sys.executable, "-c", *arguments]
        result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_every_product_has_a_name_of_its_own():
    products = (tile._FLOAT32, tile._FLOAT32_T, tile._BFLOAT16, tile._BFLOAT16_T, tile._INT8, tile._FLOAT64)
    assert len({function.py_func.__qualname__ for function in products}) == len(products)
