"""Numbers in a page. Covers explain/weights.py, explain/source.py and explain/static.py as well."""

import base64
import inspect
import io

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from npsiglip.explain.arrays import restored, stored
from npsiglip.explain.panels import PANELS
from npsiglip.explain.source import lines_of
from npsiglip.explain.static import chart, heat, number, probability, round_ticks
from npsiglip.explain.weights import pack, unpack
from npsiglip.reference.model import logits
from tests.helpers.golden_data import ROOT


def test_few_numbers_are_float32():
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    np.testing.assert_array_equal(restored(stored(x)), x.astype(np.float32))


def test_many_are_within_half_a_step_of_their_row():
    x = np.random.default_rng(0).random((300, 400)) * np.arange(300)[:, None]
    entry = stored(x)
    assert entry["kind"] == "u1"
    off = np.abs(restored(entry) - x).max(axis=1)
    assert (off <= x.max(axis=1) / 255 * 0.501).all()


def test_weights_in_bfloat16_or_float32_lose_nothing():
    rng = np.random.default_rng(0)
    for kind, width in ((ml_dtypes.bfloat16, 2), (np.float32, 4)):
        params = {"a.w": rng.normal(size=(3, 4)).astype(kind), "b": rng.normal(size=()).astype(kind)}
        names, found, text = pack(params)
        assert found == width
        for name, values in unpack(names, found, text).items():
            np.testing.assert_array_equal(values, params[name].astype(np.float32))


@pytest.mark.parametrize("function", [function for panel in PANELS for function in panel.functions])
def test_lines_are_the_source(function):
    file, first, text = lines_of(function)
    source = (ROOT / file).read_text(encoding="utf-8").splitlines()
    assert source[first - 1].lstrip().startswith(("def ", "@"))
    assert '"""' not in text
    kept = [line for line in text.splitlines() if line]
    assert kept and all(line in source for line in kept)
    assert len(kept) < len(inspect.getsourcelines(function)[0])


def test_the_number_of_a_line():
    assert lines_of(logits).text.splitlines()[-1] == "    return np.exp(t_prime) * zimg @ ztxt.T + bias"


@pytest.mark.parametrize(
    ("p", "text"), [(0.86983, "0.8698"), (0.001, "0.0010"), (0.00099, "9.9e-4"), (1.06e-19, "1.1e-19"), (0.0, "0.0000")]
)
def test_probabilities(p, text):
    assert probability(p) == text


def test_numbers_have_a_true_minus():
    assert number(-1.234) == "\N{MINUS SIGN}1.23"
    assert number(-0.001) == "0.00"  # zero has no sign


def test_heat():
    picture = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(heat(np.array([0, 2.0, -4, 4]), 2, 2, signed=True)[22:])))
    )
    assert picture[..., 3].ravel().tolist() == [0, round(255 * 0.5**0.8), 255, 255]
    assert (picture[1, 0, :3] != picture[1, 1, :3]).any()


@pytest.mark.parametrize(("low", "high"), [(26.9, 86.7), (0.0, 1.0), (-3.2, 0.001), (2.38, 5.26)])
def test_ticks_are_round_and_hold_all(low, high):
    ticks = round_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 3 <= len(ticks) <= 7
    assert all(len(f"{tick:.6g}".strip("-0.")) <= 3 for tick in ticks)


def test_a_chart_of_zeros_and_of_a_constant():
    assert "nan" not in chart({"x": ([0, 1], [0.0, 1e-3])}, "a", log=True)
    assert "nan" not in chart({"x": ([0, 1], [2.0, 2.0])}, "a")
