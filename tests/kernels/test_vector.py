"""The vector operations that kernels are written in, against NumPy; vectors exist inside compiled code only.

Covers kernels/llvm.py as well.
"""

import os
import platform
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from npsiglip.element_types import LANES
from npsiglip.kernels import vector
from npsiglip.kernels.vector import load, load_n, store, store_n
from tests.helpers.arrays import guarded, normal, to_bits
from tests.helpers.golden_data import ROOT

few = settings(max_examples=30)
indices = st.integers(0, 20)
counts = st.sampled_from([0, 1, 7, 15, 16, 17, 40])
seeds = st.integers(0, 2**32 - 1)
floats = st.floats(width=32, allow_subnormal=False)

# array read, array written; the lanes between them are float32, float64 or int32
MEMORY = [
    (np.float32, np.float32),
    (np.float64, np.float64),
    (np.int32, np.int32),
    (np.uint16, np.uint16),
    (np.float32, np.uint16),
    (np.uint16, np.float32),
    (np.int32, np.uint8),
]


@njit
def copy(x, i, out, j):
    store(out, j, load(x, i))


@njit
def copy_n(x, i, n, out, j, m):
    store_n(out, j, load_n(x, i, n), m)


def numbers(seed, size, dtype):
    """Numbers of the type, or bits of bfloat16; whole ones of any size that int32 holds."""
    rng = np.random.default_rng(seed)
    if dtype == np.int32:
        return rng.integers(-(2**31), 2**31, size, dtype)
    x = rng.standard_normal(size) * 10.0 ** rng.integers(-30, 30, size)
    return to_bits(x) if dtype == np.uint16 else x.astype(dtype)


def converted(x, dtype):
    """Lanes in memory of another type."""
    if x.dtype == dtype:
        return x
    if dtype == np.uint16:
        return to_bits(x)
    if x.dtype == np.uint16:
        return x.view(ml_dtypes.bfloat16).astype(dtype)
    return (x & 0xFF).astype(dtype)


@pytest.mark.parametrize(("source", "target"), MEMORY)
def test_load_and_store(source, target):
    @few
    @given(indices, indices, seeds)
    def check(i, j, seed):
        x = numbers(seed, i + LANES, source)
        out, check_guards = guarded(j + LANES, dtype=target)
        expected = out.copy()
        expected[j:] = converted(x[i:], target)
        copy(x, i, out, j)
        check_guards()
        np.testing.assert_array_equal(out, expected)

    check()


@pytest.mark.parametrize(("source", "target"), MEMORY)
def test_load_n_and_store_n_touch_only_what_they_name(source, target):
    @few
    @given(indices, counts, indices, counts, seeds)
    def check(i, n, j, m, seed):
        x = numbers(seed, i + LANES, source)
        lanes = x[i:].copy()
        lanes[min(n, LANES) :] = 0
        out, check_guards = guarded(j + min(m, LANES), dtype=target)
        expected = out.copy()
        expected[j:] = converted(lanes, target)[:m]
        copy_n(x, i, n, out, j, m)
        check_guards()
        np.testing.assert_array_equal(out, expected)

    check()


@pytest.mark.parametrize(("source", "target"), [(np.float32, np.int32), (np.int32, np.float32), (np.float32, np.uint8)])
def test_store_refuses_lanes_of_another_type(source, target):
    with pytest.raises(TypeError, match=r"an array of .* stores .*, got"):
        copy(np.zeros(LANES, source), 0, np.zeros(LANES, target), 0)


# -- bfloat16 -----------------------------------------------------------------------------------------------------


def rounded(x):
    """Float32 numbers of any count as the kernels round them."""
    x = np.asarray(x, np.float32)
    padded = np.pad(x, (0, -len(x) % LANES))
    out = np.empty(len(padded), np.uint16)
    for i in range(0, len(padded), LANES):
        copy(padded, i, out, i)
    return out[: len(x)]


@given(st.lists(floats, min_size=1, max_size=LANES))
def test_rounding_to_bfloat16(values):
    x = np.array(values, np.float32)
    out, expected = rounded(x), to_bits(x)
    nan = np.isnan(x)
    np.testing.assert_array_equal(out[~nan], expected[~nan])
    assert np.isnan(out[nan].view(ml_dtypes.bfloat16).astype(np.float32)).all()


def test_rounding_to_bfloat16_at_its_borders():
    bits = np.arange(0x80, 0x7F80, 0x33, np.uint32) << 16  # normal numbers
    below, half, above = ((bits | rest).view(np.float32) for rest in (0x7FFF, 0x8000, 0x8001))
    for sign in (1, -1):
        for x in (below, half, above):
            np.testing.assert_array_equal(rounded(sign * x), to_bits(sign * x))
    even, odd = 1 + 2.0**-8, 1 + 3 * 2.0**-8  # halves between neighbours: down to 1, up to 1 + 2^-6
    np.testing.assert_array_equal(rounded([even, odd]), to_bits([1, 1 + 2.0**-6]))
    largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    borders = [largest, largest + 2.0**118, largest + 2.0**119, np.inf, -np.inf, 0.0, -0.0]
    np.testing.assert_array_equal(rounded(borders), to_bits([largest, largest, np.inf, np.inf, -np.inf, 0.0, -0.0]))


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0x7F80FFFF])
def test_rounding_keeps_nan(bits):
    """Also where all its bits are in the half that is cut off, or rounding would carry into the sign."""
    x = np.full(LANES, bits, np.uint32).view(np.float32)
    assert np.isnan(rounded(x).view(ml_dtypes.bfloat16).astype(np.float32)).all()


def test_rounding_of_subnormal_numbers():
    """Some instructions take them for zero: what is lost is below the least normal number, and no sign is."""
    x = np.linspace(-(2.0**-126), 2.0**-126, 1000).astype(np.float32)
    out = rounded(x).view(ml_dtypes.bfloat16).astype(np.float32)
    assert np.all(np.abs(out - x) < 2.0**-126)
    np.testing.assert_array_equal(np.signbit(out), np.signbit(x))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names features of x86")
def test_rounding_and_scaling_without_the_instructions(tmp_path):
    """The tests of what has two ways, on a CPU that has neither AVX512-BF16 nor AVX512F, whichever this one is."""
    lesser = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+sse2", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-x", __file__, "-k", "test_rounding_ and not without or power or pairs"]
    result = subprocess.run(command, env=os.environ | lesser, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_widening_is_exact_for_all_numbers():
    bits = np.arange(1 << 16, dtype=np.uint16)
    out = np.empty(1 << 16, np.float32)
    for i in range(0, 1 << 16, LANES):
        copy(bits, i, out, i)
    np.testing.assert_array_equal(out.view(np.uint32), bits.astype(np.uint32) << 16)


@njit
def pairs(x, y, out, i):
    vector.store_pairs(out, i, load(x, 0), load(y, 0))


@few
@given(indices, seeds)
def test_store_pairs(i, seed):
    x, y = numbers(seed, LANES, np.float32), numbers(seed + 1, LANES, np.float32)
    out, check = guarded(i + LANES, dtype=np.uint32)
    pairs(x, y, out, i)
    check()
    np.testing.assert_array_equal(out[i:].view(np.uint16).reshape(-1, 2), np.stack([to_bits(x), to_bits(y)], axis=1))


# -- arithmetic ---------------------------------------------------------------------------------------------------


@njit
def float_operators(x, y, number, out):
    a, b = load(x, 0), load(y, 0)
    store(out, 0, a + b)
    store(out, 16, a - b)
    store(out, 32, a * b)
    store(out, 48, a / b)
    store(out, 64, a + number)
    store(out, 80, number + a)
    store(out, 96, a - number)
    store(out, 112, number - a)
    store(out, 128, a * number)
    store(out, 144, number * a)
    store(out, 160, a / number)
    store(out, 176, number / a)
    store(out, 192, vector.minimum(a, b))
    store(out, 208, vector.maximum(a, b))
    store(out, 224, vector.minimum(a, number))
    store(out, 240, vector.maximum(number, a))
    store(out, 256, vector.rint(a))
    store(out, 272, vector.absolute(a))
    store(out, 288, vector.splat(x[3]))


@njit
def whole_operators(x, y, number, out):
    a, b = load(x, 0), load(y, 0)
    store(out, 0, a + b)
    store(out, 16, a - b)
    store(out, 32, a * b)
    store(out, 48, a + number)
    store(out, 64, number - a)
    store(out, 80, a * number)
    store(out, 96, vector.minimum(a, b))
    store(out, 112, vector.maximum(a, b))
    store(out, 128, vector.splat(x[3]))


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 2.5, -3.5, 1e30]


@few
@given(st.sampled_from([np.float32, np.float64]), seeds)
def test_operators_on_floats(dtype, seed):
    """Minimum and maximum give the second operand unless the first is smaller (larger): so they pass its NaN on."""
    x, y = normal(seed, LANES).astype(dtype), normal(seed + 1, LANES).astype(dtype)
    rng = np.random.default_rng(seed)
    for values in (x, y):
        values[rng.integers(0, LANES, 5)] = rng.choice(SPECIAL, 5)
    number, out = dtype(rng.choice([3.0, -0.3, 2.5])), np.empty(19 * LANES, dtype)
    float_operators(x, y, number, out)
    with np.errstate(all="ignore"):
        expected = [
            *(x + y, x - y, x * y, x / y),
            *(x + number, number + x, x - number, number - x, x * number, number * x, x / number, number / x),
            *(np.where(x < y, x, y), np.where(x > y, x, y), np.where(x < number, x, number)),
            *(np.where(number > x, number, x), np.rint(x), np.abs(x), np.full_like(x, x[3])),
        ]
    np.testing.assert_array_equal(out, np.concatenate(expected))
    assert np.array_equal(np.signbit(out[256:288]), np.signbit(np.concatenate(expected[16:18])))


@few
@given(seeds)
def test_operators_on_whole_numbers(seed):
    x, y = (numbers(s, LANES, np.int32) for s in (seed, seed + 1))
    y[::3] = x[::3]
    number, out = np.int32(y[0]), np.empty(9 * LANES, np.int32)
    whole_operators(x, y, number, out)
    expected = [x + y, x - y, x * y, x + number, number - x, x * number, np.minimum(x, y), np.maximum(x, y)]
    np.testing.assert_array_equal(out, np.concatenate([*expected, np.full_like(x, x[3])]))


@njit
def fused(x, y, z, out):
    store(out, 0, vector.fma(load(x, 0), load(y, 0), load(z, 0)))
    store(out, LANES, vector.fma(load(x, 0), y[0], z[0]))


@few
@given(seeds)
def test_fma_rounds_once(seed):
    """Whole numbers whose product has 48 bits: int64 holds the exact result, which NumPy rounds once."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(-(2**24), 2**24, (2, LANES))
    z = rng.integers(-(2**24), 2**24, LANES) << 20
    out = np.empty(2 * LANES, np.float32)
    fused(*(v.astype(np.float32) for v in (x, y, z)), out)
    np.testing.assert_array_equal(out, np.concatenate([x * y + z, x * y[0] + z[0]]).astype(np.float32))


@njit
def scaled(x, n, out):
    store(out, 0, vector.scale_by_power_of_two(load(x, 0), load(n, 0)))


@settings(max_examples=60)
@given(st.sampled_from([(np.float32, 250), (np.float64, 2000)]), seeds)
def test_scale_by_power_of_two(kind, seed):
    """Numbers near 1, as in exp: subnormal results are rounded once, large ones overflow."""
    dtype, most = kind
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    x = (rng.uniform(0.5, 2.0, LANES) * rng.choice([-1, 1], LANES)).astype(dtype)
    n = rng.integers(-most, most + 1, LANES)
    n[:6] = info.minexp - rng.integers(-1, info.nmant + 3, 6)  # around and in the subnormal numbers
    n[6:8] = info.maxexp - 1, info.maxexp
    x[8:12], n[12:16] = [0.0, -0.0, np.inf, np.nan], [0, 1, most, -most]
    out = np.empty(LANES, dtype)
    scaled(x, n.astype(dtype), out)
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_array_equal(out, np.ldexp(x.astype(np.float64), n).astype(dtype))


# -- conversions, reductions, blocks ------------------------------------------------------------------------------


@njit
def conversions(x, y, z, single, double, whole):
    store(double, 0, vector.to_f64(load(x, 0)))
    store(single, 0, vector.to_f32(load(y, 0)))
    store(single, LANES, vector.to_f32(load(z, 0)))
    store(whole, 0, vector.to_i32(load(x, 0)))


@few
@given(seeds)
def test_conversions(seed):
    rng = np.random.default_rng(seed)
    x = (rng.uniform(-1, 1, LANES) * 2.0 ** rng.integers(0, 31, LANES)).astype(np.float32)
    y, z = rng.standard_normal(LANES), numbers(seed, LANES, np.int32)
    single, double, whole = np.empty(2 * LANES, np.float32), np.empty(LANES), np.empty(LANES, np.int32)
    conversions(x, y, z, single, double, whole)
    np.testing.assert_array_equal(double, x.astype(np.float64))
    np.testing.assert_array_equal(single, np.concatenate([y.astype(np.float32), z.astype(np.float32)]))
    np.testing.assert_array_equal(whole, np.trunc(x).astype(np.int32))


@njit
def reduced(x, out):
    out[0] = vector.sum_lanes(load(x, 0))
    out[1] = vector.max_lanes(load(x, 0))
    out[2] = vector.min_lanes(load(x, 0))


@few
@given(st.sampled_from([np.float32, np.float64]), seeds)
def test_reductions_fold_the_upper_half_on_the_lower(dtype, seed):
    x = numbers(seed, LANES, dtype)
    out = np.empty(3, dtype)
    reduced(x, out)
    total = x
    while len(total) > 1:
        total = total[: len(total) // 2] + total[len(total) // 2 :]
    np.testing.assert_array_equal(out, [total[0], x.max(), x.min()])


@njit
def some(x, n, fill, out):
    store(out, 0, vector.first_lanes(load(x, 0), n, fill))


@pytest.mark.parametrize("n", [0, 1, 7, 16, 20])
def test_first_lanes(n):
    x, out = normal(n, LANES), np.empty(LANES, np.float32)
    some(x, n, np.float32(-2), out)
    np.testing.assert_array_equal(out, np.where(np.arange(LANES) < n, x, -2))
