"""The table of element types: the same everywhere, and what each row says fits the others."""

import numpy as np
import pytest

from npsiglip.element_types import BFLOAT16, DTYPES, ELEMENT_TYPES, INT8, STEP_SIZE, of_memory
from npsiglip.formats.stored import TYPES
from npsiglip.kernels.gemm import PRODUCTS
from npsiglip.kernels.steps import KINDS

kinds = pytest.mark.parametrize("kind", ELEMENT_TYPES.values(), ids=lambda kind: kind.name)


def test_names():
    assert tuple(ELEMENT_TYPES) == DTYPES
    assert {name for pair in PRODUCTS for name in pair} == set(DTYPES)
    assert set(KINDS) == {*DTYPES, "float64"}


@kinds
def test_a_step_is_full(kind):
    assert np.dtype(kind.memory).itemsize * kind.per_step == STEP_SIZE == KINDS[kind.name].size
    assert kind.tensor in TYPES
    assert of_memory(np.dtype(kind.memory).char) is kind


@kinds
def test_the_edges_of_a_model_are_no_narrower(kind):
    outer = ELEMENT_TYPES[kind.outer]
    assert outer.per_step <= kind.per_step
    assert outer.outer == outer.name


def test_steps():
    assert [BFLOAT16.steps(k) for k in (1, 2, 3)] == [1, 1, 2]
    assert [INT8.padded(k) for k in (1, 4, 5)] == [4, 4, 8]


def test_arrays_of_no_element_type_are_refused():
    with pytest.raises(TypeError, match=r"uint16 \(bfloat16\), uint8 \(int8\); got int64"):
        of_memory("l")
