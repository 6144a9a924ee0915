"""The loops that measure what the machine can do at most do the work that they say.

Covers bench/limit_kernels.py as well.
"""

import numpy as np
import pytest

from npsiglip.bench.engines import limits
from npsiglip.element_types import DTYPES, LANES
from npsiglip.errors import InputError


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits_do_what_they_say(monkeypatch, dtype):
    """Twos in every place: each step of a chain adds 4 for each number that it takes."""
    monkeypatch.setattr(limits, "STEPS", 10)
    kernels = limits.limit_kernels
    work = limits.load("", dtype, 1, print).prepare("multiply_add:1", None).work
    assert work == 10 * kernels.operations_per_step(dtype)
    twos = {"float32": 0x40000000, "bfloat16": 0x40004000, "int8": 0x02020202}[dtype]
    out = np.zeros(3, np.int32)
    kernels.STEPS[dtype](twos, 10, out)
    sums = out.view(np.float32) if dtype != "int8" else out
    added = sums - sum(range(kernels.CHAINS))  # chain i starts at i
    np.testing.assert_array_equal(added, 4 * work / (2 * LANES))


def test_memory_is_read(monkeypatch):
    monkeypatch.setattr(limits, "BLOCKS", 2)
    block = limits.limit_kernels.BLOCK
    assert limits.load("", "int8", 1, print).prepare("read:1", None).work == 2 * 4 * block
    x = np.arange(2 * block, dtype=np.float32) % 7
    sums = np.empty(2, np.float32)
    limits.limit_kernels.read(x, sums)
    np.testing.assert_array_equal(sums, x.reshape(2, -1).sum(1, dtype=np.float64))


def test_limits_refuse_another_dtype():
    with pytest.raises(InputError, match="'float8'"):
        limits.load("", "float8", 1, print)
